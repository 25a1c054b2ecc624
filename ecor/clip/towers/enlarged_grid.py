"""An image tower that takes larger pictures than it was trained on: its position embeddings, interpolated.

As ViTs are fine-tuned at a higher resolution (arXiv:2010.11929, section 3.2); here nothing is tuned.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ecor.clip.towers.image_tower import ImageTower


def with_enlarged_grid(tower: ImageTower, *, factor: int) -> ImageTower:
    """A tower whose grid of patches has `factor` times as many rows and columns; weights are shared, not copied.

    Args:
        tower: an open_clip ViT; it stays as it is.
        factor: 1 gives the tower itself.
    """
    if factor == 1:
        return tower
    backbone = tower.backbone
    vit = _with_modules(backbone.model.visual)
    height, width = vit.grid_size
    larger = _interpolate_positions(vit.positional_embedding.detach(), grid=(height, width), factor=factor)
    vit._parameters = {**vit._parameters, "positional_embedding": nn.Parameter(larger, requires_grad=False)}
    vit.grid_size = (factor * height, factor * width)
    enlarged = _with_modules(backbone, model=_with_modules(backbone.model, visual=vit))
    return replace(tower, backbone=enlarged)


def _with_modules(module: Any, **children: nn.Module) -> Any:
    """A copy of a module that shares all but some children."""
    copied = copy.copy(module)
    copied._modules = {**module._modules, **children}
    return copied


def _interpolate_positions(positions: Tensor, *, grid: tuple[int, int], factor: int) -> Tensor:
    """Position embeddings [1 + P, W], that of the class token first, of a larger grid."""
    own, cells = positions[:1], positions[1:].T.unflatten(1, grid)[None]
    size = (factor * grid[0], factor * grid[1])
    larger = interpolate(cells, size=size, mode="bicubic", antialias=True, align_corners=False)[0]  # as open_clip does
    return torch.cat([own, larger.flatten(1).T])
