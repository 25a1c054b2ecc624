"""Faithfulness of heat maps: deletion, insertion, confidence drop, weight randomisation and flip equivariance.

The caller chooses the score [N 3 H W] -> [N], one text per picture: a cosine, or a probability among labels. Say which.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity

from ecor.clip.towers.image_forward import last_tensors
from ecor.clip.towers.image_tower import ImageTower
from ecor.config.checks import require
from ecor.data.heatmap import minmax

PictureScore = Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, " N"]]
Maps = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B h w"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A score while pixels are changed, most salient first."""

    share: Float[Tensor, " K"]
    """Of pixels changed, from 0 to 1."""
    scores: Float[Tensor, "B K"]

    @property
    def area(self) -> Float[Tensor, " B"]:
        """Area under the curve (trapezoids)."""
        return torch.trapezoid(self.scores, self.share.to(self.scores), dim=1)


def deletion(
    score: PictureScore,
    pixels: Float[Tensor, "B 3 H W"],
    maps: Float[Tensor, "B h w"],
    *,
    step: float = 0.036,
    fill: float = 0.0,
) -> Curve:
    """The score while the most salient pixels are replaced by `fill` (RISE, arXiv:1806.07421): low area is good.

    Args:
        score: of altered pictures, B at a time.
        pixels: normalised.
        maps: of the pictures' own size.
        step: share of pixels per step; the default is RISE's 224 x 8 of 224².
        fill: normalised value; 0 is the mean colour.

    Raises:
        ValueError: when the maps are of another size, or the step is outside (0, 1].
    """
    return _perturbation_curve(score, pixels, torch.full_like(pixels, fill), maps, step=step)


def insertion(
    score: PictureScore, pixels: Float[Tensor, "B 3 H W"], maps: Float[Tensor, "B h w"], *, step: float = 0.036
) -> Curve:
    """The score while the most salient pixels of a blurred picture become sharp (RISE): high area is good.

    Args:
        score: of altered pictures, B at a time.
        pixels: normalised.
        maps: of the pictures' own size.
        step: share of pixels per step.

    Raises:
        ValueError: when the maps are of another size, or the step is outside (0, 1].
    """
    return _perturbation_curve(score, blur(pixels), pixels, maps, step=step)


def blur(pixels: Float[Tensor, "B 3 H W"], *, size: int = 11, sigma: float = 5.0) -> Float[Tensor, "B 3 H W"]:
    """A Gaussian blur, zeros beyond the border, as RISE starts its insertion from."""
    offsets = torch.arange(size, device=pixels.device, dtype=pixels.dtype) - size // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    return conv2d(pixels, kernel.expand(pixels.shape[1], 1, -1, -1), padding=size // 2, groups=pixels.shape[1])


def saliency_order(maps: Float[Tensor, "B H W"]) -> Tensor:
    """[B H*W] pixels, most salient first; equal ones from the top left (ours)."""
    return maps.flatten(1).argsort(dim=1, descending=True, stable=True)


@torch.no_grad()
def _perturbation_curve(score: PictureScore, start: Tensor, end: Tensor, maps: Tensor, *, step: float) -> Curve:
    require(maps.shape[1:] == start.shape[2:], f"maps of {tuple(maps.shape[1:])} for pixels {tuple(start.shape[2:])}")
    require(0 < step <= 1, f"step must be a share of pixels above 0 and at most 1, got {step}")
    order = saliency_order(maps)
    num_pixels = order.shape[1]
    per_step = max(1, round(step * num_pixels))
    counts = [*range(0, num_pixels, per_step), num_pixels]
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(num_pixels, device=order.device).expand_as(order))
    rank = rank.view(len(start), 1, *start.shape[2:])
    scores = [score(torch.where(rank < count, end, start)) for count in counts]
    return Curve(share=torch.tensor(counts) / num_pixels, scores=torch.stack(scores, dim=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """A score of whole pictures and of what a map leaves of them."""

    whole: Float[Tensor, " B"]
    left: Float[Tensor, " B"]

    @property
    def drop(self) -> float:
        """Mean of max(0, (whole - left) / whole): low is good (Grad-CAM++, arXiv:1710.11063); of positive scores."""
        require(bool((self.whole > 0).all()), "drop is a share of positive scores: give probabilities, not cosines")
        return float(((self.whole - self.left) / self.whole).clamp(min=0).mean())

    @property
    def increase(self) -> float:
        """Share of pictures whose score rises: high is good."""
        return float((self.left > self.whole).float().mean())


@torch.no_grad()
def confidence(score: PictureScore, pixels: Float[Tensor, "B 3 H W"], maps: Float[Tensor, "B H W"]) -> Confidence:
    """Score pictures, and normalised pixels times the map taken from 0 to 1.

    Args:
        score: of B pictures.
        pixels: normalised.
        maps: of the pictures' own size.
    """
    return Confidence(whole=score(pixels), left=score(pixels * minmax(maps)[:, None]))


def rank_correlation(one: Float[Tensor, "N H W"], other: Float[Tensor, "N H W"]) -> Float[Tensor, " N"]:
    """Spearman's correlation of pairs of maps; ties share their mean rank; 0 where a map is constant.

    Args:
        one: N maps.
        other: N maps of the same size.
    """
    return _pearson(_ranks(one.flatten(1)), _ranks(other.flatten(1)))


def randomise_weights(tower: ImageTower, *, num_blocks: int, seed: int = 0) -> ImageTower:
    """Return a copy of the tower whose last blocks, and all behind them, have random weights (arXiv:1810.03292).

    The sanity check: maps of a method that reads the weights must change. Not in the paper: each tensor's numbers are
    drawn from a normal distribution with their own mean and standard deviation, so that activations keep their size.

    Args:
        tower: of a ViT; left unchanged.
        num_blocks: blocks to randomise, counted from the end.
        seed: of the drawn weights.

    Raises:
        ValueError: when the tower has no blocks, or fewer than asked for.
    """
    backbone = deepcopy(tower.backbone)
    vit = backbone.vit
    require(vit is not None, "weights are randomised block by block: the image tower has no transformer blocks")
    assert vit is not None
    num_all = len(backbone.visual_blocks)
    require(0 <= num_blocks <= num_all, f"the tower has {num_all} blocks, not {num_blocks}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in last_tensors(vit, num_blocks=num_blocks):
            drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
            tensor.copy_(tensor.mean() + tensor.std() * drawn)
    return replace(tower, backbone=backbone)


def flip_equivariance(maps_of: Maps, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
    """Cosine of the map of the mirrored picture with the mirrored map: 1 where a method follows the picture.

    Both maps are taken from 0 to 1; two constant maps agree (1), a constant one and another do not (0).

    Args:
        maps_of: makes maps of pictures.
        pixels: normalised.
    """
    ours, theirs = (minmax(each).flatten(1) for each in (maps_of(pixels.flip(-1)), maps_of(pixels).flip(-1)))
    both_constant = (ours.amax(dim=1) == 0) & (theirs.amax(dim=1) == 0)
    return torch.where(both_constant, 1.0, cosine_similarity(ours, theirs, dim=1))


def _ranks(values: Float[Tensor, "N P"]) -> Float[Tensor, "N P"]:
    rows = []
    for row in values:
        _, index, counts = row.unique(sorted=True, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        rows.append((last - (counts - 1) / 2)[index])
    return torch.stack(rows).float()


def _pearson(one: Float[Tensor, "N P"], other: Float[Tensor, "N P"]) -> Float[Tensor, " N"]:
    one, other = (each - each.mean(dim=1, keepdim=True) for each in (one, other))
    norms = one.norm(dim=1) * other.norm(dim=1)
    return torch.where(norms > 0, (one * other).sum(dim=1) / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0)
