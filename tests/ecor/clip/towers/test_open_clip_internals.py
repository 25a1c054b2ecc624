"""Our forward passes give what open_clip's own `encode_image` and `encode_text` give, for every kind of tower.

All that `ecor.clip` knows of open_clip's insides is held to the installed version here, in double precision.

Covers: `ecor.clip.towers.causal_text`, `ecor.clip.towers.image_forward`, `ecor.clip.towers.text_forward`,
`ecor.clip.towers.transformer_block`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.testing import assert_close

from ecor.clip.backbone import Backbone
from ecor.clip.towers.causal_text import CausalText, cache_continuations, cache_prefix, last_features, token_features
from ecor.clip.towers.image_forward import (
    encode_pixels,
    feature_maps,
    last_tensors,
    project_tokens,
    run_resnet,
    run_vit,
)
from ecor.clip.towers.text_forward import encode_captions, run_text_tower
from tests.support.tiny_towers import COCA, CONVNEXT, RESNET, SIGLIP, TEXT_TOWERS, TIMM, VITS, backbone_of, prompts_for

VITS_AND_COCA = VITS | {"coca": COCA}
IMAGE_TOWERS = VITS_AND_COCA | {"resnet": RESNET, "timm_resnet": TIMM, "convnext": CONVNEXT, "siglip": SIGLIP}
CAUSAL = ("clip", "custom", "end_token", "no_projection", "biased_projection", "quick_gelu", "layer_scale")
SENTENCES = ["a dog", "pointed ears and a bushy tail", "word " * 30]


def double(folder: Path, settings: dict) -> Backbone:
    return backbone_of(folder, settings).double()


def pixels_of(backbone: Backbone, *, num: int = 2) -> Tensor:
    size = backbone.preprocess.image_size
    return torch.randn(num, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def encode_image(backbone: Backbone, pixels: Tensor) -> Tensor:
    """open_clip's own; CoCa normalises unless it is asked not to."""
    return backbone.model.encode_image(pixels, normalize=False)


def encode_text(backbone: Backbone, ids: Tensor) -> Tensor:
    return backbone.model.encode_text(ids, normalize=False)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype == torch.float64
    assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", IMAGE_TOWERS)
def test_image_features(tmp_path: Path, kind: str) -> None:
    """Unit length is ours; a batch of two holds two different images."""
    backbone = double(tmp_path, IMAGE_TOWERS[kind])
    pixels = pixels_of(backbone)
    found = backbone.encode_image(pixels)
    assert_same(found, backbone.model.encode_image(pixels, normalize=True))
    assert not torch.allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("kind", VITS_AND_COCA)
def test_vit_block_by_block(tmp_path: Path, kind: str) -> None:
    backbone = double(tmp_path, VITS_AND_COCA[kind])
    pixels = pixels_of(backbone)
    assert_same(run_vit(backbone.vit, pixels).feature, encode_image(backbone, pixels))


def test_resnet_up_to_its_pool_and_the_pool(tmp_path: Path) -> None:
    backbone = double(tmp_path, RESNET)
    pixels = pixels_of(backbone)
    assert_same(run_resnet(backbone.resnet, pixels).feature, encode_image(backbone, pixels))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", VITS_AND_COCA)
def test_visual_prompts(tmp_path: Path, kind: str, depth: int) -> None:
    """Both passes with prompts are open_clip's own forward in which hooks put the prompts among the tokens."""
    backbone = double(tmp_path, VITS_AND_COCA[kind])
    pixels, prompts = pixels_of(backbone), prompts_for(backbone, depth=depth).double()
    with prompted_by_hooks(backbone.vit, prompts):
        theirs = encode_image(backbone, pixels)
    assert_same(encode_pixels(backbone.model, pixels, prompts), theirs)
    assert_same(run_vit(backbone.vit, pixels, prompts=prompts).feature, theirs)
    assert not torch.allclose(theirs, encode_image(backbone, pixels), atol=1e-3)


@contextmanager
def prompted_by_hooks(vit: nn.Module, prompts: Tensor) -> Iterator[None]:
    """Prompts enter before a block that has its own, and leave after the last block."""
    depth, num, _ = prompts.shape

    def enter(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            tokens = args[0] if index == 0 else without(args[0])
            own = prompts[index].expand(len(tokens), -1, -1)
            return torch.cat([tokens[:, :1], own, tokens[:, 1:]], dim=1), *args[1:]

        return hook

    def without(tokens: Tensor) -> Tensor:
        return tokens[:, [0, *range(1 + num, tokens.shape[1])]]

    blocks = vit.transformer.resblocks
    hooks = [blocks[index].register_forward_pre_hook(enter(index)) for index in range(depth)]
    hooks.append(vit.transformer.register_forward_hook(lambda module, args, output: without(output)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("kind", VITS_AND_COCA)
def test_last_maps_of_a_vit(tmp_path: Path, kind: str) -> None:
    """open_clip's intermediates, normed where the norm stands before the pool's projection."""
    backbone = double(tmp_path, VITS_AND_COCA[kind])
    pixels = pixels_of(backbone)
    theirs = backbone.vit.forward_intermediates(pixels, normalize_intermediates=kind != "coca", intermediates_only=True)
    assert_same(feature_maps(backbone.vit, pixels), theirs["image_intermediates"][-1])


def test_last_maps_of_a_resnet(tmp_path: Path) -> None:
    backbone = double(tmp_path, RESNET)
    pixels = pixels_of(backbone)
    pooled = backbone.resnet.attnpool(feature_maps(backbone.resnet, pixels))
    assert_same(pooled, encode_image(backbone, pixels))


@pytest.mark.parametrize("kind", [kind for kind in VITS if kind != "average_normed_after"])
def test_projected_tokens_pool_to_the_feature(tmp_path: Path, kind: str) -> None:
    backbone = double(tmp_path, VITS[kind])
    pixels = pixels_of(backbone)
    tokens = project_tokens(backbone.vit, run_vit(backbone.vit, pixels).blocks[-1].left)
    pooled = tokens[:, 1:].mean(dim=1) if kind == "average" else tokens[:, 0]
    assert_same(pooled, encode_image(backbone, pixels))


def test_last_tensors_are_all_behind_a_block(tmp_path: Path) -> None:
    """What enters the last block does not depend on them, and nothing else stands behind it."""
    backbone = double(tmp_path, VITS["class_token"])
    pixels = pixels_of(backbone, num=1)
    backbone.requires_grad_(True)
    passed = run_vit(backbone.vit, pixels)
    (entered,) = torch.autograd.grad(passed.feature.sum(), passed.blocks[-1].entered, retain_graph=True)
    own = {id(each) for each in last_tensors(backbone.vit, num_blocks=1)}
    others = [each for each in backbone.vit.parameters() if id(each) not in own]
    through = torch.autograd.grad(passed.blocks[-1].entered, others, grad_outputs=entered, retain_graph=True)
    whole = torch.autograd.grad(passed.feature.sum(), others, retain_graph=True)
    for one, other in zip(through, whole, strict=True):
        assert_same(one, other)
    behind = torch.autograd.grad(
        passed.blocks[-1].entered.sum(), last_tensors(backbone.vit, num_blocks=1), allow_unused=True
    )
    assert behind == (None,) * len(own)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_text_features(tmp_path: Path, kind: str) -> None:
    """Padded by open_clip's own forward, and block by block."""
    backbone = double(tmp_path, TEXT_TOWERS[kind])
    ids = backbone.text_tokenizer.padded_ids(SENTENCES)
    theirs = encode_text(backbone, ids)
    assert_same(backbone.encode_text(SENTENCES), normalize(theirs, dim=-1))
    assert_same(run_text_tower(backbone.text, ids).feature, theirs)
    differ = not torch.allclose(theirs[0], theirs[1], atol=1e-6)
    assert differ == (kind != "first"), "the first token of a causal tower sees no word"


@pytest.mark.parametrize(("kind", "flag"), [("bidirectional", "use_pad_mask"), ("coca", "correct_cls_mask")])
def test_masks_of_padding(tmp_path: Path, kind: str, flag: str) -> None:
    """Two kinds of mask that open_clip's classes have, but no config asks for."""
    backbone = double(tmp_path, TEXT_TOWERS[kind])
    ids = backbone.text_tokenizer.padded_ids(SENTENCES)
    without = encode_text(backbone, ids)
    setattr(backbone.text, flag, True)
    theirs = encode_text(backbone, ids)
    assert not torch.allclose(theirs, without, atol=1e-6)
    assert_same(run_text_tower(backbone.text, ids).feature, theirs)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_learned_embeddings_of_words_are_the_words(tmp_path: Path, kind: str) -> None:
    backbone = double(tmp_path, TEXT_TOWERS[kind])
    words = backbone.tokenizer.encode("a photo of")
    context = backbone.token_embedding(torch.tensor(words))
    theirs = encode_text(backbone, backbone.text_tokenizer.padded_ids(["a photo of a dog", "a photo of my cat"]))
    ids = backbone.text_tokenizer.padded_ids(["a dog", "my cat"], num_learned=len(words))
    assert_same(run_text_tower(backbone.text, ids, context=context).feature, theirs)
    assert_same(backbone.encode_text(["a dog", "my cat"], context=context), normalize(theirs, dim=-1))


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_causal_towers_read_in_parts(tmp_path: Path, kind: str) -> None:
    """In three parts, the second and third for several sentences at once, and at each token."""
    backbone = double(tmp_path, TEXT_TOWERS[kind])
    tower = backbone.causal_text
    assert (tower is not None) == (kind in CAUSAL)
    if tower is None:
        return
    heads, tails = ["a dog with", "my cat with"], ["a wet nose", "a red tail"]
    texts = [f"this is {head} {tail}" for head in heads for tail in tails]
    theirs = encode_text(backbone, backbone.text_tokenizer.padded_ids(texts))
    assert_same(in_three_parts(backbone, tower, heads=heads, tails=tails), normalize(theirs, dim=-1))
    ids = torch.tensor(backbone.text_tokenizer.tokenize(texts))
    at_every_token = token_features(tower, tower.token_embedding(ids))
    assert_same(at_every_token[:, -1], theirs)


def in_three_parts(backbone: Backbone, tower: CausalText, *, heads: list[str], tails: list[str]) -> Tensor:
    words = [tuple(ids[1:-1]) for ids in backbone.text_tokenizer.tokenize(heads + tails)]
    start = cache_prefix(tower, (tower.start_token, *backbone.tokenizer.encode("this is")), context=None)
    before = (start, cache_continuations(tower, words[: len(heads)], before=(start,)))
    endings = [(*each, tower.end_token) for each in words[len(heads) :]]
    return last_features(tower, endings, before=before, num_heads=len(heads)).flatten(0, 1)


@pytest.mark.parametrize("kind", ["clip", "quick_gelu"])
def test_captions_without_padding(tmp_path: Path, kind: str) -> None:
    backbone = double(tmp_path, TEXT_TOWERS[kind])
    ids = backbone.text_tokenizer.padded_ids(SENTENCES[:2])
    ends = ids.argmax(dim=-1)
    cut = ids[:, : int(ends.max()) + 1]
    assert cut.shape[1] < ids.shape[1]
    assert_same(encode_captions(backbone.model, cut, ends=ends), encode_text(backbone, ids))
