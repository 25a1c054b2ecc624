"""Localization of heat maps against masks: mIoU, score contrast, pointing games, energy and PxAP, in fp32.

Maps [N H W] are of N pairs (image, present name), masks [N H W] say which pixels show it. Each map is taken from 0 to
1 (`minmax`), so that a constant map is all zeros.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import conv2d

from ecor.config.checks import require
from ecor.data.heatmap import minmax

THRESHOLDS = tuple(step / 100 for step in range(101))
"""The grid that a threshold is searched on (ours: the papers' step is not known)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtThreshold:
    """The best value over a grid of thresholds, and where it is."""

    value: float
    threshold: float


def intersection_over_union(
    maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"], *, thresholds: tuple[float, ...] = THRESHOLDS
) -> Float[Tensor, "N K"]:
    """IoU of map >= threshold with the mask, per pair and threshold.

    Args:
        maps: of N pairs, of any range.
        masks: of the same pairs.
        thresholds: K of them, of maps taken from 0 to 1.

    Raises:
        ValueError: when there are no maps, or a mask has no pixel.
    """
    _check(maps, masks)
    normed = minmax(maps)
    columns = []
    for threshold in thresholds:
        found = normed >= threshold
        shared, either = (found & masks).sum(dim=(1, 2)), (found | masks).sum(dim=(1, 2))
        columns.append(shared / either)
    return torch.stack(columns, dim=1)


def mean_iou_oracle(
    maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"], *, thresholds: tuple[float, ...] = THRESHOLDS
) -> AtThreshold:
    """mIoU as CLIP Surgery's author explains maps: the mean over pairs, at the one threshold that suits all best.

    Args:
        maps: of N pairs, of any range.
        masks: of the same pairs.
        thresholds: to choose from.

    Raises:
        ValueError: when there are no maps, or a mask has no pixel.
    """
    means = intersection_over_union(maps, masks, thresholds=thresholds).double().mean(dim=0)
    best = int(means.argmax())
    return AtThreshold(value=float(means[best]), threshold=thresholds[best])


def mean_iou_at_mean(maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"]) -> float:
    """mIoU without an oracle (Chefer et al.): at the map's mean; over {background, foreground}, pixels pooled."""
    _check(maps, masks)
    normed = minmax(maps)
    found = normed >= normed.double().mean(dim=(1, 2), keepdim=True)
    ious = [(one & other).sum() / (one | other).sum() for one, other in ((found, masks), (~found, ~masks))]
    return float(torch.stack(ious).nan_to_num(0.0).mean())


def score_contrast(maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"]) -> Float[Tensor, " N"]:
    """Mean of the map inside the mask minus its mean outside, in percent; negative is the opposite of the truth.

    Args:
        maps: of N pairs, of any range.
        masks: of the same pairs.

    Raises:
        ValueError: when there are no maps, or a mask has no pixel inside or none outside.
    """
    _check(maps, masks)
    require(not bool(masks.all(dim=(1, 2)).any()), "a mask covers its whole image: there is nothing outside to compare")
    normed = minmax(maps)
    inside, outside = ((normed * which).sum(dim=(1, 2)) / which.sum(dim=(1, 2)) for which in (masks, ~masks))
    return 100 * (inside - outside)


def mean_score_contrast(
    maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"], *, images: Int[Tensor, " N"]
) -> float:
    """mSC: the mean of the contrasts of an image's names, then the mean over images.

    Args:
        maps: of N pairs, of any range.
        masks: of the same pairs.
        images: id of the image of each pair.

    Raises:
        ValueError: as `score_contrast`.
    """
    contrast = score_contrast(maps, masks)
    _, index = images.unique(return_inverse=True)
    counts = index.bincount()
    return float((torch.zeros(len(counts)).to(contrast).index_add(0, index, contrast) / counts).mean())


def pointing_hit(
    maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"], *, tolerance: int = 0
) -> Float[Tensor, " N"]:
    """Whether the map's maximum lies in the mask, or close to it (pointing game, arXiv:1608.00507).

    Not in the paper: of several maxima, the share that hits, so that a constant map hits as often as chance.

    Args:
        maps: of N pairs, of any range.
        masks: of the same pairs.
        tolerance: pixels that a hit may lie outside the mask.

    Raises:
        ValueError: when there are no maps, or a mask has no pixel.
    """
    _check(maps, masks)
    best = maps == maps.amax(dim=(1, 2), keepdim=True)
    near = _dilate(masks, by=tolerance) if tolerance else masks
    return (best & near).sum(dim=(1, 2)) / best.sum(dim=(1, 2))


def pointing_game_multi(maps: Float[Tensor, "B k H W"], objects: Bool[Tensor, "B k H W"]) -> Float[Tensor, "B k"]:
    """For k objects side by side: whether each object's own map is highest on it (FIxLIP's recognition; chance 1/k).

    Only the maximum over the objects' pixels counts.

    Args:
        maps: of each object.
        objects: their masks.

    Raises:
        ValueError: when objects overlap, or one has no pixel.
    """
    require(bool((objects.sum(dim=1) <= 1).all()), "objects overlap: each pixel may belong to one of them")
    anywhere = objects.any(dim=1, keepdim=True).expand_as(objects)
    lowest = maps.amin(dim=(2, 3), keepdim=True) - 1
    return pointing_hit(torch.where(anywhere, maps, lowest).flatten(0, 1), objects.flatten(0, 1)).unflatten(
        0, maps.shape[:2]
    )


def energy_inside(
    maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"], *, relu: bool = False
) -> Float[Tensor, " N"]:
    """Share of the map that lies in the mask (energy pointing game, arXiv:1910.01279).

    A map without energy counts as spread evenly (ours).

    Args:
        maps: of N pairs, of any range.
        masks: of the same pairs.
        relu: cut off the negative part; otherwise `minmax` shifts maps to be positive. The two rank methods
            differently.

    Raises:
        ValueError: when there are no maps, or a mask has no pixel.
    """
    _check(maps, masks)
    energy = maps.relu() if relu else minmax(maps)
    total = energy.sum(dim=(1, 2))
    share = (energy * masks).sum(dim=(1, 2)) / total.clamp(min=torch.finfo(energy.dtype).tiny)
    return torch.where(total > 0, share, masks.float().mean(dim=(1, 2)))


def pixel_average_precision(maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"]) -> float:
    """PxAP (arXiv:2007.04178): area under the precision-recall curve of all pixels of all maps, exact, ties as one."""
    _check(maps, masks)
    scores, order = minmax(maps).flatten().sort(descending=True)
    hits = masks.flatten()[order].double()
    last_of_tie = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    found = hits.cumsum(0)[last_of_tie]
    looked_at = torch.arange(1, len(hits) + 1, device=hits.device)[last_of_tie]
    recall = found / hits.sum()
    gained = torch.diff(recall, prepend=recall.new_zeros(1))
    return float((found / looked_at * gained).sum())


def _dilate(masks: Bool[Tensor, "N H W"], *, by: int) -> Bool[Tensor, "N H W"]:
    """Pixels at most `by` away from the mask."""
    offsets = torch.arange(-by, by + 1, device=masks.device)
    disk = (offsets[:, None] ** 2 + offsets**2 <= by**2).float()
    return conv2d(masks[:, None].float(), disk[None, None], padding=by)[:, 0] > 0.5


def _check(maps: Tensor, masks: Tensor) -> None:
    require(len(maps) > 0, "no map to measure")
    empty = (~masks.any(dim=2).any(dim=1)).nonzero().flatten().tolist()
    require(not empty, f"masks {empty[:5]} have no pixel: leave out names that cannot be seen")
