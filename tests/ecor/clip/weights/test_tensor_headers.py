"""Weights for another image size or context length, or quantised ones, are refused before their values are loaded."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ecor.clip.construction import build_random_clip
from ecor.clip.loading import load_backbone
from ecor.clip.weights.tensor_headers import read_headers
from ecor.config.model import BackboneConfig

SETTINGS = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def state_of(tower: str = "", **changes: int) -> dict[str, Tensor]:
    settings = copy.deepcopy(SETTINGS)
    if tower:
        settings[tower] |= changes
    state = build_random_clip(settings).state_dict()
    return {name: value.contiguous().clone() for name, value in state.items()}


def opened(folder: Path, state: dict[str, Tensor], *, kind: str, **settings: bool) -> dict[str, Tensor]:
    """The state that a model has after it was opened from a file of `state`."""
    (folder / "tiny.json").write_text(json.dumps(SETTINGS | settings))
    path = folder / "weights"
    if kind == "safetensors":
        save_file(state, str(path))
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=kind == "torch")
    return load_backbone(BackboneConfig(name=str(folder / "tiny.json"), pretrained=str(path))).model.state_dict()


KINDS = pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])


@KINDS
@pytest.mark.parametrize("custom_text", [False, True])
def test_weights_of_the_same_sizes_are_loaded_as_they_are(tmp_path: Path, kind: str, custom_text: bool):
    state = state_of()
    found = opened(tmp_path, state, kind=kind, custom_text=custom_text)
    assert sum(value.numel() for value in found.values()) == sum(value.numel() for value in state.values())
    assert torch.equal(found["visual.positional_embedding"], state["visual.positional_embedding"])
    half = {name: value.half() for name, value in state.items()}
    assert torch.equal(opened(tmp_path, half, kind=kind)["visual.proj"], half["visual.proj"].float())


@KINDS
@pytest.mark.parametrize(
    ("tower", "changes", "told"),
    [
        (
            "vision_cfg",
            {"image_size": 32},
            r"is for images of 32x32 pixels .*, and the .* of 16x16",
        ),
        ("text_cfg", {"context_length": 5}, r"is for texts of 5 tokens .*, and the architecture for 8 "),
        ("text_cfg", {"width": 16}, r"is for texts of 8 tokens \(width 16\), and the architecture for 8 \(width 8\)"),
    ],
)
def test_positions_are_not_interpolated(tmp_path: Path, kind: str, tower: str, changes: dict[str, int], told: str):
    for custom_text in (False, True):
        with pytest.raises(ValueError, match=told) as caught:
            opened(tmp_path, state_of(tower, **changes), kind=kind, custom_text=custom_text)
        assert str(caught.value).startswith(str(tmp_path / "weights")) and "\n" not in str(caught.value)


@KINDS
def test_quantised_weights_are_refused(tmp_path: Path, kind: str):
    state = state_of()
    state["visual.proj"] = (state["visual.proj"] * 100).to(torch.int8)
    with pytest.raises(ValueError, match=r"holds integers \((int8|I8)\) in visual\.proj: quantised"):
        opened(tmp_path, state, kind=kind)


def test_headers_say_what_the_file_holds(tmp_path: Path):
    state = state_of() | {"count": torch.tensor(3)}
    save_file(state, str(tmp_path / "w.safetensors"))
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        headers = read_headers(tmp_path / name)
        assert {key: header.shape for key, header in headers.items()} == {k: tuple(v.shape) for k, v in state.items()}
        assert [key for key, header in headers.items() if not header.is_floating] == ["count"]
    assert read_headers(tmp_path / "w.npz") == {}
