"""A tower for larger pictures: its position embeddings are those that open_clip would load, and all else is shared."""

import copy
from pathlib import Path

import pytest
import torch
from open_clip.model import resize_pos_embed
from torch.nn.functional import interpolate
from torch.testing import assert_close

from ecor.clip.towers.enlarged_grid import with_enlarged_grid
from tests.support.tiny_towers import VITS, pixels_for, tower_of


@pytest.mark.parametrize("factor", [2, 3])
def test_positions_are_those_of_open_clip(tmp_path: Path, factor: int) -> None:
    tower = tower_of(tmp_path)
    model = tower.backbone.model
    larger = copy.deepcopy(model)
    larger.visual.grid_size = (4 * factor, 4 * factor)
    state = model.state_dict()
    resize_pos_embed(state, larger)
    found = with_enlarged_grid(tower, factor=factor).backbone.model.visual
    assert found.grid_size == (4 * factor, 4 * factor)
    assert_close(found.positional_embedding, state["visual.positional_embedding"])


def test_all_but_the_positions_is_shared_and_the_tower_stays(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, prompted=True)
    before = {name: value.clone() for name, value in tower.backbone.model.state_dict().items()}
    pixels = pixels_for(tower)
    features = tower.features(pixels)
    enlarged = with_enlarged_grid(tower, factor=2)
    larger = interpolate(pixels, scale_factor=2, mode="bicubic", align_corners=False)
    assert enlarged.features(larger).shape == features.shape
    assert enlarged.trace(larger).grid == (8, 8) and enlarged.tokens is tower.tokens
    assert torch.equal(tower.features(pixels), features)
    own, others = (dict(each.backbone.named_parameters()) for each in (tower, enlarged))
    assert {name for name in own if own[name] is not others[name]} == {"model.visual.positional_embedding"}
    assert all(torch.equal(value, before[name]) for name, value in tower.backbone.model.state_dict().items())


def test_the_grid_of_once_the_size_is_the_towers(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, VITS["wide"])
    assert with_enlarged_grid(tower, factor=1) is tower
