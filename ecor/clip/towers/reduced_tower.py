"""A CLIP whose image tower's weights are held in a lower precision, for features without gradients."""

import copy
from typing import Any

import torch


def with_reduced_image_tower(model: Any, *, dtype: torch.dtype) -> Any:
    """A copy of a CLIP with an image tower of another type; all else is shared with `model`, not copied.

    On a processor with bf16 units such a tower is 2 to 3 times as fast as in fp32; autocast, which converts the weights
    in each pass, gains less than half of that (`benchmarks/README.md`).

    Args:
        model: an open_clip CLIP; it stays as it is.
        dtype: of the copied weights. Pixels must have it too.
    """
    reduced = copy.copy(model)
    reduced._modules = {**model._modules, "visual": copy.deepcopy(model.visual).to(dtype)}
    return reduced
