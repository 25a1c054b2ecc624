"""Every pair of open_clip's list is built with its own activation and preprocessing: from tag, file and packed model.

Nothing is downloaded: a tiny architecture stands under each name, and tags lead to tiny weights.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
from open_clip.model import QuickGELU
from safetensors.torch import save_file
from torch import nn

from ecor.clip import loading
from ecor.clip.backbone import Backbone
from ecor.clip.construction import build_random_clip
from ecor.clip.loading import load_backbone
from ecor.clip.weights.tag_facts import file_facts, tag_facts
from ecor.config.model import BackboneConfig, Preprocess
from ecor.storage import filesystem

PAIRS = open_clip.list_pretrained()
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 8, "heads": 1, "layers": 1},
}
TOKENIZER = open_clip.SimpleTokenizer(context_length=8)
NAMES = sorted({name for name, _ in PAIRS})
QUICK_NAMES = {name for name in NAMES if open_clip.get_model_config(name).get("quick_gelu", False)}


def published(name: str, tag: str) -> tuple[bool, Preprocess]:
    """What open_clip's own tables say of a pair, read here without our code."""
    facts = open_clip.get_pretrained_cfg(name, tag)
    side = TINY["vision_cfg"]["image_size"]
    default = open_clip.transform.PreprocessCfg()
    given = {key: facts[key] for key in ("mean", "std", "interpolation", "resize_mode") if facts.get(key)}
    preprocess = Preprocess(
        image_size=(side, side),
        **{
            "mean": default.mean,
            "std": default.std,
            "interpolation": default.interpolation,
            "resize_mode": default.resize_mode,
        }
        | {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()},
    )
    is_quick = name in QUICK_NAMES or bool(facts.get("quick_gelu"))  # of roberta-ViT-B-32 only the name says it
    return is_quick, preprocess


def built(backbone: Backbone) -> tuple[bool, Preprocess]:
    """What a model was really built with: its modules, and the preprocessing that images get."""
    kinds = {type(module) for module in backbone.model.modules() if isinstance(module, QuickGELU | nn.GELU)}
    assert len(kinds) == 1, kinds
    return kinds == {QuickGELU}, backbone.preprocess


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tiny weights, and a tiny architecture under every name; the activation stays the name's own."""
    path = str(tmp_path / "weights.safetensors")
    state = build_random_clip(TINY).state_dict()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    for name in NAMES:
        own = {key: value for key, value in open_clip.get_model_config(name).items() if key == "quick_gelu"}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, json.loads(json.dumps(TINY)) | own)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: path)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *_, **__: TOKENIZER)  # slow to make, and not looked at here
    monkeypatch.setattr(loading, "build_tokenizer", lambda *_, **__: TOKENIZER)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_is_built_as_its_tag_says(name: str, weights: str, tmp_path: Path):
    for tag in open_clip.list_pretrained_tags_by_model(name):
        with warnings.catch_warnings():
            if name != "roberta-ViT-B-32":
                warnings.filterwarnings("error", message="QuickGELU mismatch")
            by_tag = load_backbone(BackboneConfig(name=name, pretrained=tag))
            by_file = load_backbone(BackboneConfig(name=name, pretrained=weights, preprocess_of=tag))
        config, packed = by_tag.save(tmp_path, stem=f"packed-{tag}")
        from_pack = load_backbone(BackboneConfig(name=str(config), pretrained=str(packed)))
        assert built(by_tag) == built(by_file) == built(from_pack) == published(name, tag), tag
        assert by_tag.digest == by_file.digest == from_pack.digest


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_a_tag_is_built_as_all_tags_say_or_asks(name: str, weights: str):
    config = BackboneConfig(name=name, pretrained=weights)
    expected = {published(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    if len(expected) == 1:
        assert {built(load_backbone(config))} == expected
        return
    with pytest.raises(ValueError, match=r"add --backbone\.preprocess-of TAG, as \w+ \(") as caught:
        load_backbone(config)
    assert len(str(caught.value)) <= 500 and "weights.safetensors" in str(caught.value)


def test_the_list_has_pairs_that_a_plain_name_would_build_wrong():
    """Otherwise the tests above would prove nothing."""
    assert len(PAIRS) > 150
    wrong = [pair for pair in PAIRS if published(*pair)[0] and pair[0] not in QUICK_NAMES]
    assert {("ViT-B-32", "openai"), ("ViT-L-14", "openai"), ("ViT-L-14", "metaclip_400m")} <= set(wrong)
    assert published("ViT-L-14", "laion2b_s32b_b82k")[1] != published("ViT-L-14", "openai")[1]
    assert tag_facts("MobileCLIP-S1", "datacompdr").preprocess["mean"] == [0.0, 0.0, 0.0]
    assert file_facts("MobileCLIP-S1", weights="w.pt", tag=None) == tag_facts("MobileCLIP-S1", "datacompdr")


def test_the_config_beside_a_file_says_what_it_was_trained_with(weights: str):
    """A tag that is asked for goes before it; a damaged one is not passed over."""
    beside = Path(weights).with_name("open_clip_config.json")
    said = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}
    beside.write_text(json.dumps({"model_cfg": TINY | {"quick_gelu": True}, "preprocess_cfg": said}))
    is_quick, preprocess = built(load_backbone(BackboneConfig(name="ViT-B-32", pretrained=weights)))
    assert is_quick and preprocess.mean == (0.1, 0.2, 0.3) and preprocess.resize_mode == "squash"
    asked = BackboneConfig(name="ViT-B-32", pretrained=weights, preprocess_of="laion2b_e16")
    assert built(load_backbone(asked)) == published("ViT-B-32", "laion2b_e16")
    for text in ('{"model_cfg": {}}', "{", "[]"):
        beside.write_text(text)
        with pytest.raises(ValueError, match=r"open_clip_config\.json has no preprocess_cfg that can be read"):
            load_backbone(BackboneConfig(name="ViT-B-32", pretrained=weights))


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "MobileCLIP-S1"])  # its tags differ; QuickGELU; other pixels
def test_a_record_of_an_earlier_version_opens_as_it_was_built(name: str, weights: str):
    """Earlier versions built every file as the name alone says; their records have the digest of that."""
    config = BackboneConfig(name=name, pretrained=weights)
    earlier = load_backbone(replace(config, preprocess_of="none"))
    kind, preprocess = built(earlier)
    assert kind == (name in QUICK_NAMES) and preprocess.mean == open_clip.OPENAI_DATASET_MEAN
    assert load_backbone(config, digest=earlier.digest).digest == earlier.digest
    tag = open_clip.list_pretrained_tags_by_model(name)[0]
    tagged = load_backbone(replace(config, preprocess_of=tag))
    assert load_backbone(replace(config, preprocess_of=tag), digest=earlier.digest).digest == tagged.digest
    if name == "ViT-B-32":
        with pytest.raises(ValueError, match="preprocess-of TAG"):
            load_backbone(config, digest="of other weights")


def test_the_activation_that_a_model_config_says_is_kept(weights: str, tmp_path: Path):
    path = tmp_path / "MobileCLIP-S1.json"
    path.write_text(json.dumps(TINY | {"quick_gelu": True}))
    is_quick, preprocess = built(load_backbone(BackboneConfig(name=str(path), pretrained=weights)))
    assert is_quick and preprocess.mean == (0.0, 0.0, 0.0)


def test_the_config_beside_a_file_is_found_in_a_store(weights: str, tmp_path: Path):
    folder = f"memory://{tmp_path.name}"
    filesystem.write(f"{folder}/w.safetensors", Path(weights).read_bytes())
    said = {"mean": [0.1, 0.2, 0.3]}
    filesystem.write_json(f"{folder}/open_clip_config.json", {"model_cfg": TINY, "preprocess_cfg": said})
    found = load_backbone(BackboneConfig(name="ViT-L-14", pretrained=f"{folder}/w.safetensors"))
    assert found.preprocess.mean == (0.1, 0.2, 0.3)


def test_a_copy_of_open_clips_settings_is_the_name_that_it_has(weights: str, tmp_path: Path):
    """Such a file says nothing of preprocessing; its name does."""
    path = tmp_path / "ViT-B-16-SigLIP.json"
    path.write_text(json.dumps(TINY))
    found = load_backbone(BackboneConfig(name=str(path), pretrained=weights))
    assert found.preprocess.mean == (0.5, 0.5, 0.5) and found.preprocess.resize_mode == "squash"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"name": "ViT-B-32", "preprocess_of": "none_such"}, r"preprocess_of: ViT-B-32 has no tag 'none_such'; it has"),
        ({"name": "ViT-B-32", "pretrained": "openai", "preprocess_of": "openai"}, "is for files of weights"),
        (
            {"name": "ViT-B-32", "pretrained": "opnai"},
            r"neither a tag of ViT-B-32 nor a file; tags: openai and 21 more",
        ),
        ({"name": "hf-hub:org/name"}, "has weights of its own"),
        ({"name": "local-dir:clip", "pretrained": "openai"}, "has weights of its own"),
    ],
)
def test_what_cannot_be_meant_is_refused(config: dict[str, str], told: str, weights: str):
    with pytest.raises(ValueError, match=told) as caught:
        load_backbone(BackboneConfig(**({"pretrained": weights} | config)))
    assert len(str(caught.value)) <= 500
