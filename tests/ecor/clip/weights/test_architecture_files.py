"""A file that describes a model is checked before a model is built of it, and against the weights beside it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from ecor.clip.construction import build_random_clip
from ecor.clip.loading import load_backbone
from ecor.clip.weights.architecture_files import find_difference, read_architecture
from ecor.clip.weights.tag_facts import file_facts
from ecor.config.model import BackboneConfig

TINY: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An architecture file, with weights beside it."""
    state = build_random_clip(TINY).state_dict()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, str(tmp_path / "w.safetensors"))
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return tmp_path / "tiny.json"


def settings_of(place: Path, **settings: Any) -> BackboneConfig:
    return BackboneConfig(name=str(place), pretrained=str(place.with_name("w.safetensors")), **settings)


def refusal_of(place: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_backbone(settings_of(place))
    message = str(caught.value)
    assert str(place) in message and "\n" not in message and len(message) <= 500
    return message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
        (b" \n", "is empty"),
        (b'{"embed_dim": "\xfc"}', "is no JSON in UTF-8"),
        (b'{"embed_dim": 8', "is no JSON in UTF-8"),
        (b"[1]", r"must be a JSON object, got [1]"),
        (b"null", "must be a JSON object, got null"),
        (b'{"model_cfg": []}', "model_cfg must be a JSON object, got []"),
        (b'{"model_type": "clip"}', "lacks embed_dim, text_cfg, vision_cfg"),
        (b'{"embed_dim": 8, "vision_cfg": 1, "text_cfg": {}}', "vision_cfg must be a JSON object, got 1"),
    ],
)
def test_what_is_no_architecture_is_told_with_the_name_of_the_file(place: Path, content: bytes, told: str):
    place.write_bytes(content)
    assert told in refusal_of(place)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"foo": 1}, "foo"),
        ({"embed_dim": "x"}, "of the settings of"),
        ({"vision_cfg": TINY["vision_cfg"] | {"bar": 2}}, "bar"),
        ({"vision_cfg": TINY["vision_cfg"] | {"patch_size": 0}}, "of the settings of"),
        ({"text_cfg": TINY["text_cfg"] | {"heads": 3}}, "of the settings of"),
    ],
)
def test_settings_of_which_no_model_can_be_built_are_told(place: Path, change: dict[str, Any], told: str):
    place.write_text(json.dumps(TINY | change))
    message = refusal_of(place)
    assert "open_clip builds no model of the settings of" in message and told in message


@pytest.mark.parametrize(
    "change",
    [
        {"mean": 0.5},
        {"mean": None},
        {"std": [0.5, 0.5]},
        {"std": [0, 0, 0]},
        {"mean": [127.5, 127.5, 127.5]},
        {"mean": ["0.5", 0.5, 0.5]},
        {"mean": [float("nan"), 0.5, 0.5]},
        {"interpolation": "nearest"},
        {"resize_mode": ["squash"]},
        {"image_mean": [0.5, 0.5, 0.5]},
    ],
)
def test_preprocessing_is_checked_in_both_files(place: Path, change: dict[str, Any]):
    (name,) = change
    settings = {"model_cfg": TINY, "preprocess_cfg": PREPROCESS | change}
    beside = place.with_name("open_clip_config.json")
    beside.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"open_clip_config\.json .*{name}") as caught:
        load_backbone(settings_of(place))
    assert len(str(caught.value)) <= 500
    beside.unlink()
    place.write_text(json.dumps(settings))
    assert name in refusal_of(place)


def test_the_config_beside_weights_counts_for_an_architecture_file_too(place: Path):
    plain = load_backbone(settings_of(place))
    assert plain.preprocess.mean != (0.1, 0.2, 0.3)
    beside = place.with_name("open_clip_config.json")
    beside.write_text(json.dumps({"model_cfg": TINY | {"quick_gelu": True}, "preprocess_cfg": PREPROCESS}))
    found = load_backbone(settings_of(place))
    assert found.preprocess.mean == (0.1, 0.2, 0.3) and found.preprocess.resize_mode == "squash"
    assert found.architecture["model_cfg"]["quick_gelu"]
    assert load_backbone(settings_of(place), digest=plain.digest).digest == plain.digest  # a record of before
    own = PREPROCESS | {"mean": [0.4, 0.4, 0.4]}
    place.write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": own}))
    assert load_backbone(settings_of(place)).preprocess.mean == (0.4, 0.4, 0.4)


def test_a_config_of_another_model_beside_weights_is_refused(place: Path):
    """As in a folder of downloads."""
    siglip = {"embed_dim": 8, "vision_cfg": {"image_size": 16, "timm_model_name": "vit_base_patch16_siglip_224"}}
    beside = place.with_name("open_clip_config.json")
    beside.write_text(json.dumps({"model_cfg": siglip, "preprocess_cfg": PREPROCESS}))
    with pytest.raises(ValueError, match=r"of another model .*timm_model_name vit_base_patch16_siglip_224, not none"):
        load_backbone(settings_of(place))
    with pytest.raises(ValueError, match=r"it says embed_dim 8, not 512; put the weights into a folder of their own"):
        file_facts("ViT-B-32", weights=str(place.with_name("w.safetensors")), tag=None)
    assert file_facts("ViT-B-32", weights=str(place.with_name("w.safetensors")), tag="openai").quick_gelu


def test_two_architectures_are_compared_by_their_sizes():
    assert find_difference(TINY, copy.deepcopy(TINY)) is find_difference(TINY, {}) is None
    other = copy.deepcopy(TINY)
    other["text_cfg"]["layers"] = 2
    assert find_difference(TINY, other) == "text_cfg.layers 2, not 1"
    other["text_cfg"].pop("layers")
    assert find_difference(TINY, other) is None


def test_an_architecture_is_read_in_both_forms(place: Path):
    bare = read_architecture(str(place))
    place.write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": PREPROCESS}))
    full = read_architecture(str(place))
    assert bare.model_cfg == full.model_cfg == TINY
    assert bare.preprocess is None and full.preprocess == PREPROCESS
