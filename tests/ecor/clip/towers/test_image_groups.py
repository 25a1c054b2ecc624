"""Encoding in groups: the same features as at once, in their order, and gradients as before."""

from pathlib import Path

import pytest
import torch

from ecor.clip.towers.image_groups import IMAGES_PER_GROUP, encode_in_groups
from tests.ecor.clip.test_backbone import tiny


@pytest.mark.parametrize("precision", IMAGES_PER_GROUP)
def test_groups_are_joined_in_their_order(precision: str) -> None:
    size = IMAGES_PER_GROUP[precision]
    images = torch.arange(float(2 * size + 3)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    sizes: list[int] = []

    def encode(group: torch.Tensor) -> torch.Tensor:
        sizes.append(len(group))
        return group[:, :2, 0, 0]

    found = encode_in_groups(encode, images, precision=precision)
    assert torch.equal(found, images[:, :2, 0, 0]) and sizes == [size, size, 3]
    sizes.clear()
    encode_in_groups(encode, images[:size], precision=precision)
    assert sizes == [size]


def test_a_tower_gives_the_same_features_in_groups(tmp_path: Path) -> None:
    backbone = tiny(tmp_path).double()
    size = backbone.preprocess.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((IMAGES_PER_GROUP["fp32"] + 5, 3, *size), generator=generator, dtype=torch.float64)
    tokens = torch.randn(2, 3, backbone.visual_width, generator=generator, dtype=torch.float64)
    at_once = backbone.encode_image(images, tokens=tokens)
    with torch.no_grad():
        in_groups = backbone.encode_image(images, tokens=tokens)
    torch.testing.assert_close(in_groups, at_once.detach(), atol=1e-6, rtol=0)
