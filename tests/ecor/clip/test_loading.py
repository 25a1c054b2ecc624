"""Weights of a tag are built with the activation that the tag was trained with, as open_clip's own tables say."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ecor.clip.construction import build_random_clip
from ecor.clip.loading import load_backbone, needs_quick_gelu
from ecor.config import BackboneConfig
from tests.support.tiny_models import TINY_CLIP

QUICK = [
    (name, tag)
    for name, tag in open_clip.list_pretrained()
    if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
]


def test_open_clips_tables_have_pairs_that_a_plain_name_would_build_wrong():
    wrong = [pair for pair in QUICK if not open_clip.get_model_config(pair[0]).get("quick_gelu", False)]
    assert {("ViT-B-32", "openai"), ("ViT-L-14", "openai")} <= set(wrong) and len(wrong) < len(QUICK)
    assert all(needs_quick_gelu(name, tag=tag) for name, tag in wrong)


def test_every_pair_of_the_list_is_built_with_its_activation():
    for name, tag in open_clip.list_pretrained():
        settings = open_clip.get_model_config(name)
        assert settings.get("quick_gelu", False) or needs_quick_gelu(name, tag=tag) == ((name, tag) in QUICK)
        if needs_quick_gelu(name, tag=tag) and f"{name}-quickgelu" in open_clip.list_models():
            assert {**settings, "quick_gelu": True} == open_clip.get_model_config(f"{name}-quickgelu")


@pytest.fixture
def tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model that open_clip knows by name, with two tags: its weights, trained with either activation."""
    settings = json.loads(json.dumps(TINY_CLIP))
    (tmp_path / "tiny-quick-test.json").write_text(json.dumps(settings))
    open_clip.add_model_config(tmp_path / "tiny-quick-test.json")
    weights = tmp_path / "weights.safetensors"
    state = build_random_clip(settings).state_dict()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, str(weights))
    facts = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    tags = {
        "plain": {"url": "http://none/plain", **facts},
        "quick": {"url": "http://none/quick", "quick_gelu": True, **facts},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-quick-test", tags)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))
    return "tiny-quick-test"


def test_a_tag_of_quick_gelu_gives_other_features_and_another_digest(tagged: str, recwarn: pytest.WarningsRecorder):
    plain, quick = (load_backbone(BackboneConfig(name=tagged, pretrained=tag)) for tag in ("plain", "quick"))
    assert not [each for each in recwarn if "QuickGELU" in str(each.message)]
    assert quick.architecture["model_cfg"]["quick_gelu"] and "quick_gelu" not in plain.architecture["model_cfg"]
    assert plain.digest != quick.digest
    activations = {type(module).__name__ for module in quick.model.modules() if "GELU" in type(module).__name__}
    assert activations == {"QuickGELU"}
    pixels = torch.randint(0, 256, (2, 3, *plain.preprocess.image_size), dtype=torch.uint8)
    assert not torch.allclose(plain.encode_image(pixels), quick.encode_image(pixels), atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    state = build_random_clip(TINY_CLIP).state_dict()
    state["visual.proj"][1, 2] = value
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_CLIP))
    save_file({name: each.contiguous().clone() for name, each in state.items()}, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"w\.safetensors of .*tiny\.json hold NaN or infinity, in visual\.proj"):
        load_backbone(BackboneConfig(name=str(tmp_path / "tiny.json"), pretrained=str(tmp_path / "w.safetensors")))
