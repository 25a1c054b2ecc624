"""Perturbation-based attribution: RISE and occlusion, which need only the image feature of a tower."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ecor.clip.towers.image_tower import Capability, ImageTower
from ecor.config.checks import require, require_at_least
from ecor.config.choices import Compat
from ecor.explain.methods.captum_adapter import paired_cosines

FeatureScore = Callable[[Tensor], Tensor]
"""Scores [N T] of altered copies [N 3 H W] of one image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """RISE (arXiv:1806.07421): the mean of random masks, each weighted by the score of what it leaves visible.

    Masks multiply normalised pixels, so that what is hidden has the mean colour of the training images.
    """

    num_masks: int = 1000
    cells: int = 7
    """Cells of the random grid per side, before it is enlarged and shifted."""
    keep: float = 0.5
    """Probability of a cell to be visible."""
    seed: int = 0
    batch_size: int = 64
    """Altered pictures per forward pass."""
    compat: Compat | None = None
    """2000 masks of 8 x 8 cells, as Grad-ECLIP's repository compares with."""
    requires: ClassVar[Capability | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"perturbation"})

    def __post_init__(self) -> None:
        for name in ("num_masks", "cells", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        require(0 < self.keep < 1, f"keep must lie between 0 and 1, got {self.keep}")

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        masks = self.masks((pixels.shape[-2], pixels.shape[-1])).to(pixels.device)
        return torch.stack(
            [
                rise_map(score, image, masks, keep=self.keep, batch_size=self.batch_size)
                for score, image in _image_scores(tower, pixels, texts)
            ]
        )

    def masks(self, size: tuple[int, int]) -> Float[Tensor, "N H W"]:
        """Draw the masks, the same for all pictures of a size."""
        num_masks, cells = (2000, 8) if self.compat else (self.num_masks, self.cells)
        generator = torch.Generator().manual_seed(self.seed)
        return random_masks(num_masks, size=size, cells=cells, keep=self.keep, generator=generator)

    def map_of(self, score: FeatureScore, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "T H W"]:
        """Make maps of any score of altered pictures.

        Args:
            score: of altered copies of the image.
            image: normalised.
        """
        masks = self.masks((image.shape[-2], image.shape[-1])).to(image.device)
        return rise_map(score, image, masks, keep=self.keep, batch_size=self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Occlusion:
    """Occlusion (arXiv:1311.2901): how much the score falls where a sliding window hides the picture.

    A pixel's value is the mean over the windows that cover it.
    """

    window: int = 16
    """Side in pixels."""
    stride: int = 8
    """Pixels between windows; at most `window`, so that every pixel is covered."""
    fill: float = 0.0
    """Normalised value of hidden pixels: 0 is the mean colour of the training images."""
    batch_size: int = 64
    """Altered pictures per forward pass."""
    requires: ClassVar[Capability | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"perturbation"})

    def __post_init__(self) -> None:
        for name in ("window", "stride", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        require(self.stride <= self.window, f"stride {self.stride} leaves gaps between windows of {self.window} pixels")

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        return torch.stack([self.map_of(score, image) for score, image in _image_scores(tower, pixels, texts)])

    def map_of(self, score: FeatureScore, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "T H W"]:
        """Make maps of any score of altered pictures.

        Args:
            score: of altered copies of the image.
            image: normalised.
        """
        size = (image.shape[-2], image.shape[-1])
        windows = sliding_windows(size, window=self.window, stride=self.stride).to(image.device)
        return occlusion_map(score, image, windows, fill=self.fill, batch_size=self.batch_size)


def random_masks(
    num_masks: int, *, size: tuple[int, int], cells: int, keep: float, generator: torch.Generator
) -> Float[Tensor, "N H W"]:
    """Draw RISE's masks: a random binary grid, enlarged bilinearly, and cut at a random place.

    The enlarged grid is one cell larger than the picture, per side.

    Args:
        num_masks: N.
        size: H and W.
        cells: of the grid, per side.
        keep: probability of a cell to be visible.
        generator: of grids and places, on the CPU.
    """
    height, width = size
    cell_height, cell_width = -(-height // cells), -(-width // cells)
    grid = (torch.rand(num_masks, 1, cells, cells, generator=generator) < keep).float()
    large_size = ((cells + 1) * cell_height, (cells + 1) * cell_width)
    large = interpolate(grid, size=large_size, mode="bilinear", align_corners=False)[:, 0]
    tops = torch.randint(cell_height, (num_masks,), generator=generator).tolist()
    lefts = torch.randint(cell_width, (num_masks,), generator=generator).tolist()
    return torch.stack(
        [mask[top : top + height, left : left + width] for mask, top, left in zip(large, tops, lefts, strict=True)]
    )


def rise_map(
    score: FeatureScore,
    image: Float[Tensor, "3 H W"],
    masks: Float[Tensor, "N H W"],
    *,
    keep: float,
    batch_size: int = 64,
) -> Float[Tensor, "T H W"]:
    """Sum of score * mask over all masks, divided by N * keep.

    Args:
        score: of altered copies of the image.
        image: normalised.
        masks: 1 where the image stays visible.
        keep: probability of a cell to be visible.
        batch_size: altered copies per pass.
    """
    total: Tensor | float = 0.0
    for part in masks.split(batch_size):
        total = total + torch.einsum("nt,nhw->thw", score(image * part[:, None]), part)
    assert isinstance(total, Tensor)
    return total / (len(masks) * keep)


def sliding_windows(size: tuple[int, int], *, window: int, stride: int) -> Float[Tensor, "N H W"]:
    """Masks that are 1 inside each window; the last of a row or column is cut off at the border.

    Args:
        size: H and W.
        window: side in pixels.
        stride: pixels between windows.
    """
    axes = []
    for length in size:
        num_steps = 1 + max(0, -(-(length - window) // stride))
        places = torch.arange(length)
        starts = torch.arange(num_steps)[:, None] * stride
        axes.append(((places >= starts) & (places < starts + window)).float())
    return torch.einsum("ah,bw->abhw", axes[0], axes[1]).flatten(0, 1)


def occlusion_map(
    score: FeatureScore,
    image: Float[Tensor, "3 H W"],
    windows: Float[Tensor, "N H W"],
    *,
    fill: float,
    batch_size: int = 64,
) -> Float[Tensor, "T H W"]:
    """Mean, over the windows that cover a pixel, of score(image) - score(image with the window filled).

    Args:
        score: of altered copies of the image.
        image: normalised.
        windows: 1 inside each window.
        fill: normalised value of hidden pixels.
        batch_size: altered copies per pass.
    """
    whole = score(image[None])[0]
    total: Tensor | float = 0.0
    for part in windows.split(batch_size):
        drops = whole - score(torch.where(part[:, None] > 0, fill, image))
        total = total + torch.einsum("nt,nhw->thw", drops, part)
    assert isinstance(total, Tensor)
    return total / windows.sum(dim=0).clamp(min=1)


def _image_scores(tower: ImageTower, pixels: Tensor, texts: Tensor) -> Iterator[tuple[FeatureScore, Tensor]]:
    for image, own in zip(pixels, texts, strict=True):

        def score(altered: Tensor, own: Tensor = own) -> Tensor:
            return paired_cosines(tower, altered, own.expand(len(altered), -1, -1))

        yield score, image
