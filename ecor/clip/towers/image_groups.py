"""Encode many images in groups whose intermediate results stay in a processor's cache."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

IMAGES_PER_GROUP: Final = {"fp32": 32, "bf16": 64}
"""The fastest sizes for ViT-B/32 on two cores (`benchmarks/README.md`): in fp32, 64 images take a quarter longer."""


def encode_in_groups(
    encode: Callable[[Tensor], Float[Tensor, "G D"]], images: Shaped[Tensor, "B 3 H W"], *, precision: str
) -> Float[Tensor, "B D"]:
    """Features of images on a CPU, in groups; the same as of all at once but for the last bits. Not in the paper.

    Args:
        encode: features of a group.
        images: at least one, in any form that `encode` takes.
        precision: of the tower's weights, which halves or doubles what fits into the cache.
    """
    groups = images.split(IMAGES_PER_GROUP[precision])
    return encode(images) if len(groups) == 1 else torch.cat([encode(group) for group in groups])
