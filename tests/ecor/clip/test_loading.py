"""Weights of a tag are built with the activation that the tag was trained with, as open_clip's own tables say."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ecor.clip.construction import build_random_clip
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.demo.tiny_clip import config_path
from tests.support.tiny_models import TINY_CLIP


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


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_weights_that_are_mostly_zeros_are_refused(tmp_path: Path, share: float):
    """A file whose end was never written, or of a model that was never filled; a few empty matrices are taken."""
    state = {name: each.contiguous().clone() for name, each in build_random_clip(TINY_CLIP).state_dict().items()}
    matrices = [name for name, each in state.items() if each.ndim >= 2]
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_CLIP))
    config = BackboneConfig(name=str(tmp_path / "tiny.json"), pretrained=str(tmp_path / "w.safetensors"))
    for name in matrices[: round(len(matrices) * share)]:
        state[name].zero_()
    save_file(state, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=rf"w\.safetensors of .* are zero in \d+ of {len(matrices)} matrices"):
        load_backbone(config)
    state = {name: each.contiguous().clone() for name, each in build_random_clip(TINY_CLIP).state_dict().items()}
    save_file(state | {matrices[0]: torch.zeros_like(state[matrices[0]])}, str(tmp_path / "w.safetensors"))
    assert not load_backbone(config).model.state_dict()[matrices[0]].any()


def test_statistics_that_are_not_finite_are_refused(tmp_path: Path):
    """They are buffers of a ResNet, not parameters."""
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_CLIP | {"vision_cfg": vision}))
    state = build_random_clip(TINY_CLIP | {"vision_cfg": vision}).state_dict()
    state["visual.bn1.running_var"][3] = float("nan")
    save_file({name: each.contiguous().clone() for name, each in state.items()}, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"hold NaN or infinity, in visual\.bn1\.running_var"):
        load_backbone(BackboneConfig(name=str(tmp_path / "tiny.json"), pretrained=str(tmp_path / "w.safetensors")))


def test_a_tokenizer_that_a_hub_does_not_give_is_told_as_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before the weights are read; whether the model is named by a file or by open_clip's name."""

    def unreachable(*names: object, **options: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\n" * 20)

    monkeypatch.setattr("ecor.clip.construction.HFTokenizer", unreachable)
    monkeypatch.setattr("open_clip.factory.HFTokenizer", unreachable)
    settings = TINY_CLIP | {"text_cfg": TINY_CLIP["text_cfg"] | {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}}
    (tmp_path / "tiny.json").write_text(json.dumps(settings))
    (tmp_path / "w.safetensors").touch()
    for config in (
        BackboneConfig(name=str(tmp_path / "tiny.json"), pretrained=str(tmp_path / "w.safetensors")),
        BackboneConfig(name="ViT-B-16-SigLIP", pretrained="webli"),
    ):
        with pytest.raises(ValueError, match=r"the tokenizer of .* \(timm/ViT-B-16-SigLIP\).*HF_HOME") as caught:
            load_backbone(config)
        assert len(str(caught.value)) <= 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", [None, "no-such-compiler"])
def test_compiling_without_a_compiler_is_a_line_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
):
    monkeypatch.delenv("CXX", raising=False)
    if asked:
        monkeypatch.setenv("CXX", asked)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"--backbone\.compile needs a compiler, and none of .* is on this machine"):
        load_backbone(BackboneConfig(name="no-such-model.json", compile=True))


def test_a_local_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Records and workers keep the name; they stand in other folders."""
    (tmp_path / "clip").mkdir()
    state = build_random_clip(TINY_CLIP).state_dict()
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    save_file({name: each.contiguous().clone() for name, each in state.items()}, str(weights))
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    found = load_backbone(BackboneConfig(name="local-dir:clip", pretrained=None))
    assert found.config.name == f"local-dir:{tmp_path}/clip" and found.preprocess.mean == (0.1, 0.2, 0.3)
    assert BackboneConfig(name="ViT-B-32", pretrained="openai").with_absolute_paths().pretrained == "openai"
    relative = BackboneConfig(name="ViT-B-32", pretrained="clip/open_clip_model.safetensors")
    assert relative.with_absolute_paths().pretrained == str(weights)


def test_older_records_of_backbones_keep_their_digest():
    assert "preprocess_of" not in BackboneConfig().to_record()
    assert BackboneConfig(preprocess_of="openai").to_record()["preprocess_of"] == "openai"


def test_the_packaged_clip_is_the_same_after_open_clip_has_learned_its_name() -> None:
    """Pretraining registers it with open_clip; checkpoints name it by digest."""
    before = load_backbone(BackboneConfig())
    open_clip.add_model_config(config_path())
    after = load_backbone(BackboneConfig())
    assert (after.digest, after.architecture) == (before.digest, before.architecture)
