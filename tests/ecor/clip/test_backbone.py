"""Laws of the backbone: it is open_clip's model to the bit, frozen, the same from wherever it was loaded.

Covers: `ecor.clip.construction`, `ecor.clip.towers.text_tokenizer`.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import BertConfig, PreTrainedTokenizerFast

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.config.model import BackboneConfig, TemplateConfig
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.storage import filesystem

VISION = {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 3}
TEXT = {"context_length": 40, "width": 48, "heads": 4, "layers": 2}
TINY = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
RESNET = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 4},
    "text_cfg": TEXT,
}
CUSTOM_TEXT = TINY | {"custom_text": True}
BIDIRECTIONAL = TINY | {"custom_text": True, "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last"}}
COCA = TINY | {
    "custom_text": True,
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "vision_cfg": VISION
    | {"output_tokens": True, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4},
    "multimodal_cfg": {"context_length": 40, "width": 48, "heads": 4, "layers": 1},
}
TEXTS = ["a dog", "This is a photo of a dog because there is a wet nose.", "word " * 60]


def tiny(folder: Path, *, settings: dict = TINY, stem: str = "tiny", **config: object) -> Backbone:
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(settings))
    return load_backbone(BackboneConfig(name=str(path), pretrained="random", **config))


def photos(num: int = 3, *, seed: int = 0, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return tiny(tmp_path)


def test_image_features_are_open_clips_on_its_own_transform(backbone: Backbone) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    facts = open_clip.transform.PreprocessCfg(**backbone.model.visual.preprocess_cfg)
    theirs = backbone.model.encode_image(
        open_clip.transform.image_transform_v2(facts, is_train=False)(Image.fromarray(pixels))[None], normalize=True
    )
    ours = backbone.encode_image(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert_close(ours, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("settings", [TINY, RESNET, CUSTOM_TEXT, BIDIRECTIONAL, COCA])
def test_text_features_are_open_clips(tmp_path: Path, settings: dict) -> None:
    backbone = tiny(tmp_path, settings=settings)
    ids = open_clip.SimpleTokenizer(context_length=40)(TEXTS)
    theirs = torch.nn.functional.normalize(backbone.model.encode_text(ids), dim=-1)
    assert_close(backbone.encode_text(TEXTS), theirs, rtol=0, atol=1e-6)
    assert backbone.text_tokenizer.token_counts(TEXTS) == [4, 16, 62]
    assert backbone.encode_image(photos()).shape == (3, 32)


def test_everything_is_frozen_and_stays_in_evaluation_mode(backbone: Backbone) -> None:
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)


def test_a_saved_backbone_loads_again_with_the_same_digest(tmp_path: Path, backbone: Backbone) -> None:
    architecture, weights = backbone.save(tmp_path / "elsewhere", stem="packed")
    again = load_backbone(BackboneConfig(name=str(architecture), pretrained=str(weights)))
    assert again.digest == backbone.digest
    assert again.preprocess == backbone.preprocess
    assert_close(again.encode_image(photos()), backbone.encode_image(photos()), rtol=0, atol=0)


def test_the_digest_follows_weights_and_architecture(tmp_path: Path, backbone: Backbone) -> None:
    other = tiny(tmp_path, stem="other")
    assert other.digest == backbone.digest
    with torch.no_grad():
        other.model.visual.proj[0, 0] += 1
    assert tiny(tmp_path, settings=TINY | {"quick_gelu": True}).digest != backbone.digest
    del other.__dict__["digest"]
    assert other.digest != backbone.digest


def test_random_weights_are_the_same_each_time(tmp_path: Path) -> None:
    """Also where open_clip leaves a tensor uninitialised: the projection of CoCa's decoder."""
    empty = torch.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(float("nan")))
        found = tiny(tmp_path, settings=COCA)
    assert not any(bool(each.isnan().any()) for each in found.model.state_dict().values())
    assert tiny(tmp_path, settings=COCA).digest == tiny(tmp_path, settings=COCA).digest


def test_a_store_gives_the_backbone_that_a_disk_gives(tmp_path: Path) -> None:
    """What it is does not depend on where it lies; errors name the address, and no copy stays."""
    folder = f"memory://{tmp_path.name}"
    on_disk = tiny(tmp_path, settings=TINY | {"quick_gelu": True})
    with torch.no_grad():
        on_disk.model.visual.proj[0, 0] += 1
    for path in on_disk.save(tmp_path, stem="packed"):
        filesystem.write(f"{folder}/{path.name}", path.read_bytes())
    name, weights = f"{folder}/packed.json", f"{folder}/packed.safetensors"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        found = load_backbone(BackboneConfig(name=name, pretrained=weights))
    assert not list(scratch.iterdir())
    assert found.digest == on_disk.digest
    assert_close(found.encode_image(photos()), on_disk.encode_image(photos()), rtol=0, atol=0)
    assert load_backbone(BackboneConfig(name=name, pretrained="random")).digest != found.digest
    data = bytearray(filesystem.read(weights))
    data[-1] ^= 1
    filesystem.write(f"{folder}/other.safetensors", bytes(data))
    other = load_backbone(BackboneConfig(name=name, pretrained=f"{folder}/other.safetensors"))
    assert other.digest != found.digest
    filesystem.write(f"{folder}/short.safetensors", bytes(data[:-9]))
    for config, told in (
        ({"name": f"{folder}/none.json"}, f"no model config at {folder}/none.json"),
        ({"pretrained": f"{folder}/none.safetensors"}, f"no weights file at {folder}/none.safetensors"),
        ({"pretrained": f"{folder}/short.safetensors"}, f"{folder}/short.safetensors does not fit the architecture"),
    ):
        with pytest.raises(ValueError, match=told):
            load_backbone(BackboneConfig(**({"name": name, "pretrained": weights} | config)))


def test_weights_in_a_store_for_a_name_of_open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are a file while open_clip builds the model; a small architecture stands under a name of its own here."""
    open_clip.add_model_config(_added(tmp_path, name="tiny-of-the-tests"))
    on_disk = tiny(tmp_path)
    with torch.no_grad():
        on_disk.model.visual.proj[0, 0] += 1
    _, weights = on_disk.save(tmp_path, stem="packed")
    address = f"memory://{tmp_path.name}/packed.safetensors"
    filesystem.write(address, weights.read_bytes())
    found = load_backbone(BackboneConfig(name="tiny-of-the-tests", pretrained=address))
    assert found.digest == on_disk.digest
    with pytest.raises(ValueError, match="neither a tag of tiny-of-the-tests nor a file"):
        load_backbone(BackboneConfig(name="tiny-of-the-tests", pretrained=f"{address}.none"))


def _added(folder: Path, *, name: str) -> Path:
    path = folder / "configs" / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(TINY))
    return path


@pytest.mark.slow
def test_open_clip_names_and_weight_files_agree_with_open_clip(tmp_path: Path) -> None:
    theirs = open_clip.create_model("RN50", pretrained=None, force_quick_gelu=True)  # as all tags of the name say
    torch.save(theirs.state_dict(), tmp_path / "rn50.pt")
    ours = load_backbone(BackboneConfig(name="RN50", pretrained=str(tmp_path / "rn50.pt")))
    images = torch.randn(1, 3, 224, 224)
    assert_close(ours.encode_image(images), theirs.eval().encode_image(images, normalize=True), rtol=0, atol=1e-6)
    assert ours.vit is None and ours.visual_width is None and ours.context_length == 77


def test_no_visual_tokens_leave_the_features_as_they_are(backbone: Backbone) -> None:
    expected = backbone.encode_image(photos())
    assert torch.equal(backbone.encode_image(photos(), tokens=torch.zeros(1, 0, 64)), expected)


@pytest.mark.parametrize("pool", [{}, {"pool_type": "avg"}, {"attentional_pool": True, "attn_pooler_heads": 4}])
def test_visual_tokens_that_cannot_be_attended_change_nothing(tmp_path: Path, pool: dict) -> None:
    """Keys pushed to minus infinity take no part: what is left is the plain forward, whatever the pool."""
    backbone = tiny(tmp_path, settings=TINY | {"vision_cfg": VISION | pool})
    expected = backbone.encode_image(photos())
    blocks = backbone.model.visual.transformer.resblocks
    tokens = torch.randn(len(blocks), 2, 64, generator=torch.Generator().manual_seed(1))
    hooks = [block.attn.register_forward_pre_hook(_mask_tokens, with_kwargs=True) for block in blocks]
    try:
        masked = backbone.encode_image(photos(), tokens=tokens)
    finally:
        for hook in hooks:
            hook.remove()
    assert_close(masked, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(backbone.encode_image(photos(), tokens=tokens), expected, atol=1e-3)


def _mask_tokens(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    mask = torch.zeros(args[0].shape[1], args[0].shape[1])
    mask[:, 1:3] = float("-inf")
    return args, kwargs | {"attn_mask": mask}


def test_visual_tokens_get_gradients_and_the_tower_does_not(backbone: Backbone) -> None:
    tokens = torch.randn(2, 3, 64, requires_grad=True)
    backbone.encode_image(photos(), tokens=tokens)[:, 0].sum().backward()
    assert tokens.grad is not None and bool((tokens.grad.abs().sum(dim=(1, 2)) > 0).all())
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("settings", [TINY, BIDIRECTIONAL, COCA])
def test_context_made_of_word_embeddings_equals_the_words(tmp_path: Path, settings: dict) -> None:
    backbone = tiny(tmp_path, settings=settings)
    context = backbone.word_embeddings("a photo of")
    expected = backbone.encode_text(["a photo of a dog", "a photo of my cat ."])
    assert_close(backbone.encode_text(["a dog", "my cat ."], context=context), expected, rtol=0, atol=1e-6)
    assert not backbone.token_embedding._forward_hooks


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def hugging_face(folder: Path) -> dict:
    """Settings of a CLIP whose text tower and tokenizer are transformers' own, from files."""
    words = {
        word: number
        for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "dog", "my", "cat", "."])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=len(words), max_position_embeddings=40, **sizes).save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "context_length": 40}
    return TINY | {"text_cfg": text | {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}}


def test_transformers_towers_take_context_too(tmp_path: Path) -> None:
    backbone = tiny(tmp_path, settings=hugging_face(tmp_path / "bert"))
    assert backbone.causal_text is None and backbone.text_width == 48
    assert backbone.text_tokenizer.token_counts(["a dog", "my cat ."]) == [4, 5]
    expected = backbone.encode_text(["a photo of a dog", "a photo of my cat ."])
    context = backbone.word_embeddings("a photo of").requires_grad_()
    features = backbone.encode_text(["a dog", "my cat ."], context=context)
    assert_close(features, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(features[0], features[1], atol=1e-2)
    features[:, 0].sum().backward()
    assert bool(context.grad.abs().sum() > 0)
    with pytest.raises(ValueError, match="its own tokenizer"):
        backbone.text_tokenizer.tokenize(["a dog"])
    pairs = SentenceEncoder(
        backbone,
        vocabulary=vocabulary_from_mapping({"dog": ["my cat"], "cat": ["a photo"]}),
        templates=TemplateConfig(category_given_rationale="{category} of {rationale}"),
        category_context=context,
    )
    expected = backbone.encode_text(["dog of a photo", "cat of a photo"], context=context)
    assert_close(pairs.category_features(torch.tensor([1]))[0], expected, rtol=0, atol=1e-6)
    assert pairs.num_truncated == 0


def test_a_long_sentence_keeps_its_end_token(backbone: Backbone) -> None:
    context = torch.randn(5, 48)
    long, cut = "word " * 60, "word " * (40 - 5 - 2)
    assert_close(*[backbone.encode_text([text], context=context) for text in (long, cut)], rtol=0, atol=1e-6)
    assert backbone.text_tokenizer.token_counts([long, cut]) == [62, 35]


def test_plain_causal_towers_are_known(tmp_path: Path) -> None:
    plain = {
        name: tiny(tmp_path, settings=each).causal_text is not None
        for name, each in {"clip": TINY, "custom": CUSTOM_TEXT, "both ways": BIDIRECTIONAL, "coca": COCA}.items()
    }
    assert plain == {"clip": True, "custom": True, "both ways": False, "coca": False}


def test_lower_precision_gives_fp32_features_that_are_near(tmp_path: Path, backbone: Backbone) -> None:
    low = tiny(tmp_path, precision="bf16")
    features = low.encode_image(photos())
    assert features.dtype == torch.float32
    assert float((features * backbone.encode_image(photos())).sum(-1).min()) > 0.99


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig(name="ViT-B-23", pretrained="openai"), "nearest are"),
        (BackboneConfig(name="ViT-B-32", pretrained="nowhere"), "laion2b_s34b_b79k"),
        (BackboneConfig(name="ViT-B-32", pretrained=None), "neither a tag"),
        (BackboneConfig(name="missing.json", pretrained="random"), "no model config at"),
        (BackboneConfig(name="nobody", pretrained="embedded"), "no embedded model"),
    ],
)
def test_what_cannot_be_opened_is_named(config: BackboneConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone(config)


def test_without_a_network_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, tag in (("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:nobody/nothing", None)):
        with pytest.raises(ValueError, match="set pretrained to the path of the file"):
            load_backbone(BackboneConfig(name=name, pretrained=tag))


def test_weights_of_another_architecture_are_refused(tmp_path: Path, backbone: Backbone) -> None:
    _, weights = backbone.save(tmp_path / "saved")
    (tmp_path / "other.json").write_text(json.dumps(RESNET))
    with pytest.raises(ValueError, match="does not fit the architecture"):
        load_backbone(BackboneConfig(name=str(tmp_path / "other.json"), pretrained=str(weights)))


@pytest.mark.slow
def test_a_compiled_tower_gives_the_same_features(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as a whole; writing machine code (half a minute of a C++ compiler) is torch's part."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setenv("CXX", sys.executable)  # no compiler is called: any program will do
    compiled = tiny(tmp_path, compile=True)
    tokens = torch.randn(2, 3, 64)
    for each in (None, tokens):
        expected = backbone.encode_image(photos(), tokens=each)
        assert_close(compiled.encode_image(photos(), tokens=each), expected, rtol=0, atol=1e-5)
