"""Laws of the methods: each is its formula, written out again from the tower's modules, or another library's number.

Covers: `ecor.explain.methods.attention`, `ecor.explain.methods.captum_adapter`, `ecor.explain.methods.gradients`,
`ecor.explain.methods.perturbation`, `ecor.explain.methods.similarity`.
"""

from collections.abc import Callable
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from torch.testing import assert_close

from ecor.clip.towers.enlarged_grid import with_enlarged_grid
from ecor.clip.towers.image_tower import ImageTower
from ecor.clip.towers.text_tower import trace_text
from ecor.convis import ConceptFeatures, ListLexicon
from ecor.data.heatmap import minmax, resize_maps
from ecor.explain import METHODS, CosineForward, attribute, build_method
from ecor.explain.methods.attention import word_relevance
from ecor.explain.methods.captum_adapter import reshape_transform
from ecor.explain.methods.perturbation import occlusion_map, random_masks, rise_map, sliding_windows
from ecor.explain.methods.similarity import ClipSurgery, feature_surgery
from tests.support.tiny_towers import (
    COCA,
    RESNET,
    TEXT_TOWERS,
    TIMM,
    VITS,
    backbone_of,
    pixels_for,
    prompts_for,
    texts_for,
    tower_of,
)

QUICK = {
    "rise": {"num_masks": 8, "cells": 3},
    "occlusion": {"window": 16, "stride": 16},
    "convis": {"steps": 4, "patches": (0.5,)},
}
TOYS = ListLexicon({"toy": "a thing to play with", "ball": "a round toy"}, parents={"ball": ["toy"]})


def quick(name: str, tower: ImageTower) -> object:
    projection = torch.randn(tower.backbone.embed_dim, 12, generator=torch.Generator().manual_seed(5))
    trained = {"projection": projection, "text_projection": projection} if name == "eclip" else {}
    toys = ConceptFeatures(lexicon=TOYS, features=texts_for(tower, num=2, seed=3))
    lexical = {"concepts": toys} if name == "convis" else {}
    return build_method(name, **QUICK.get(name, {}), **trained, **lexical)


def maps_of(name: str, tower: ImageTower, pixels: Tensor, texts: Tensor, **settings: object) -> Tensor:
    return attribute(tower, pixels, texts, method=build_method(name, **settings)).scores


def entering(tower: ImageTower, pixels: Tensor) -> list[Tensor]:
    """The tokens that enter each block, and those that leave the last, by open_clip's own modules."""
    vit = tower.backbone.vit
    x = vit._embeds(pixels)
    states = []
    for index, resblock in enumerate(vit.transformer.resblocks):
        states.append(prompted_at(tower, x, index=index))
        x = resblock(states[-1])
    return [*states, x]


def patches_of(tower: ImageTower, tokens: Tensor) -> Tensor:
    """Without the class token and prompt tokens, which stand before them [B L W]."""
    rows, columns = tower.backbone.vit.grid_size
    return tokens[:, tokens.shape[1] - rows * columns :]


def unprompted(tower: ImageTower, tokens: Tensor) -> Tensor:
    return torch.cat([tokens[:, :1], patches_of(tower, tokens)], dim=1)


def prompted_at(tower: ImageTower, x: Tensor, *, index: int) -> Tensor:
    """Tokens on their way into a block, behind the class token the prompt tokens that this block has of its own."""
    if tower.tokens is None or index >= len(tower.tokens):
        return x
    return torch.cat([x[:, :1], tower.tokens[index].expand(len(x), -1, -1), patches_of(tower, x)], dim=1)


def heads(tower: ImageTower, x: Tensor, *, index: int) -> tuple[Tensor, ...]:
    """Query, key and value [B A L E] by one slice of the weights after the other."""
    block = tower.backbone.vit.transformer.resblocks[index]
    width, num = x.shape[-1], block.attn.num_heads
    each = [
        block.ln_1(x) @ block.attn.in_proj_weight[k * width : (k + 1) * width].T
        + block.attn.in_proj_bias[k * width : (k + 1) * width]
        for k in range(3)
    ]
    return tuple(part.view(*x.shape[:2], num, width // num).permute(0, 2, 1, 3) for part in each)


def after_attention(tower: ImageTower, x: Tensor, attended: Tensor, *, index: int) -> Tensor:
    block = tower.backbone.vit.transformer.resblocks[index]
    x = x + block.attn.out_proj(attended)
    return x + block.mlp(block.ln_2(x))


def with_attention(tower: ImageTower, x: Tensor, attention: Tensor, *, index: int) -> Tensor:
    """What leaves a block whose attention is replaced."""
    attended = (attention @ heads(tower, x, index=index)[2]).permute(0, 2, 1, 3).flatten(2)
    return after_attention(tower, x, attended, index=index)


def score_of(tower: ImageTower, x: Tensor, text: Tensor, *, index: int) -> Tensor:
    """Cosine of the feature that tokens x, leaving block `index`, end in."""
    vit = tower.backbone.vit
    for later, resblock in list(enumerate(vit.transformer.resblocks))[index + 1 :]:
        x = resblock(prompted_at(tower, x, index=later))
    return normalize(vit._pool(unprompted(tower, x))[0] @ vit.proj, dim=-1) @ text


def attention_gradient(
    tower: ImageTower, x: Tensor, score: Callable[[Tensor], Tensor], *, index: int
) -> tuple[Tensor, Tensor]:
    query, key, _ = heads(tower, x, index=index)
    attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(with_attention(tower, x, attention, index=index)).sum(), attention)
    return attention.detach(), gradient


def open_clips_tokens(tower: ImageTower, pixels: Tensor) -> Tensor:
    """Patch tokens in the space of the texts [B D h w], as open_clip gives them."""
    vit = tower.backbone.vit
    output = vit.forward_intermediates(pixels, indices=1, normalize_intermediates=True, intermediates_only=True)
    return torch.einsum("bchw,cd->bdhw", output["image_intermediates"][0], vit.proj)


@pytest.mark.parametrize("kind", ["class_token", "wide", "average"])
def test_itsm_is_the_cosine_of_open_clips_own_tokens(tmp_path: Path, kind: str) -> None:
    tower = tower_of(tmp_path, VITS[kind])
    pixels, texts = pixels_for(tower), texts_for(tower)
    tokens = open_clips_tokens(tower, pixels)
    wanted = torch.einsum("bdhw,td->bthw", normalize(tokens, dim=1), texts)
    assert_close(maps_of("itsm", tower, pixels, texts), wanted, atol=1e-5, rtol=0)
    assert_close(maps_of("reversed_itsm", tower, pixels, texts), 1 - minmax(wanted), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["class_token", "wide", "average"])
def test_itsm_compares_patches_and_never_prompt_tokens(tmp_path: Path, kind: str) -> None:
    tower = tower_of(tmp_path, VITS[kind], prompted=True)
    pixels, texts, vit = pixels_for(tower), texts_for(tower), tower.backbone.vit
    tokens = patches_of(tower, vit.ln_post(entering(tower, pixels)[-1]) @ vit.proj)
    found = maps_of("itsm", tower, pixels, texts)
    wanted = torch.einsum("bpd,td->btp", normalize(tokens, dim=-1), texts)
    assert_close(found.flatten(2), wanted, atol=1e-5, rtol=0)
    unprompted_tower = ImageTower(backbone=tower.backbone)
    assert not torch.allclose(found, maps_of("itsm", unprompted_tower, pixels, texts), atol=1e-2)


def test_itsm_of_a_resnet_puts_each_token_through_the_pool(tmp_path: Path) -> None:
    """Tested on the pool in `test_explain_trace`; here: the map is that of its tokens, in the grid's order."""
    tower = tower_of(tmp_path, RESNET)
    pixels, texts = pixels_for(tower), texts_for(tower)
    tokens = tower.trace(pixels).blocks[0].left[:, 1:]
    wanted = [[[float(normalize(tokens[b, i], dim=0) @ t) for i in range(4)] for t in texts] for b in range(2)]
    assert_close(maps_of("itsm", tower, pixels, texts).flatten(2), torch.tensor(wanted), atol=1e-5, rtol=0)


def test_eclip_is_itsm_behind_a_projection(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, texts, size = pixels_for(tower), texts_for(tower), tower.backbone.embed_dim
    assert_close(
        maps_of("eclip", tower, pixels, texts, projection=torch.eye(size)), maps_of("itsm", tower, pixels, texts)
    )
    flipped = maps_of("eclip", tower, pixels, texts, projection=-torch.eye(size))
    assert_close(flipped, -maps_of("itsm", tower, pixels, texts))
    with pytest.raises(ValueError, match="needs a trained projection"):
        maps_of("eclip", tower, pixels, texts)


@pytest.mark.parametrize("of_texts", [False, True])
def test_eclip_is_the_cosine_of_projected_patches_and_texts(tmp_path: Path, of_texts: bool) -> None:
    """Neither projection is orthogonal, so that where the lengths are taken shows; both lead into a smaller space."""
    tower = tower_of(tmp_path, VITS["wide"])
    pixels, texts, generator = pixels_for(tower), texts_for(tower), torch.Generator().manual_seed(7)
    size = 12 if of_texts else 24
    image_side, text_side = (torch.randn(24, size, generator=generator) for _ in range(2))
    patches = normalize(torch.einsum("bdhw,df->bfhw", open_clips_tokens(tower, pixels), image_side), dim=1)
    wanted = torch.einsum("bfhw,tf->bthw", patches, normalize(texts @ text_side, dim=-1) if of_texts else texts)
    given = {"projection": image_side} | ({"text_projection": text_side} if of_texts else {})
    assert_close(maps_of("eclip", tower, pixels, texts, **given), wanted, atol=1e-5, rtol=0)


def test_feature_surgery_is_the_papers_sum(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    image, patches, texts = (
        normalize(torch.randn(shape, generator=generator), dim=-1) for shape in [(2, 6), (2, 5, 6), (2, 4, 6)]
    )
    prob = (2 * torch.einsum("be,bte->bt", image, texts)).softmax(-1)
    features = torch.einsum("bie,bte,bt->bite", patches, texts, prob / prob.mean(-1, keepdim=True))
    wanted = (features - features.mean(2, keepdim=True)).sum(-1).mT
    assert_close(feature_surgery(image, patches, texts, sharpness=2.0), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("num_blocks", [1, 2, 6])
def test_clip_surgery_attends_by_values_on_a_second_path(tmp_path: Path, num_blocks: int, prompted: bool) -> None:
    tower = tower_of(tmp_path, prompted=prompted)
    pixels, texts, vit = pixels_for(tower), texts_for(tower), tower.backbone.vit
    states = entering(tower, pixels)
    start = max(0, 3 - num_blocks)
    new = states[start]
    for index in range(start, 3):
        value = heads(tower, states[index], index=index)[2]
        mixed = torch.stack([(value[:, a] @ value[:, a].mT / 4).softmax(-1) @ value[:, a] for a in range(2)], dim=2)
        new = new + vit.transformer.resblocks[index].attn.out_proj(mixed.flatten(2))
    patches = normalize(patches_of(tower, vit.ln_post(new) @ vit.proj), dim=-1)
    image = tower.features(pixels)
    both = feature_surgery(image, patches, texts.expand(2, -1, -1), sharpness=2.0)
    found = maps_of("clip_surgery", tower, pixels, texts[:2], num_blocks=num_blocks, distractors=texts[2:])
    assert_close(found.flatten(2), both[:, :2], atol=1e-5, rtol=1e-4)


def test_clip_surgery_of_one_text_subtracts_the_empty_one(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, texts = pixels_for(tower), texts_for(tower)
    with pytest.raises(ValueError, match="would be all zero"):
        maps_of("clip_surgery", tower, pixels, texts[:1])
    one, other = (
        maps_of("clip_surgery", tower, pixels, texts[:1], redundant=redundant)
        for redundant in (texts[1], torch.zeros_like(texts[1]))
    )
    against = maps_of("clip_surgery", tower, pixels, texts[1:2], redundant=torch.zeros_like(texts[1]))
    assert_close(one, other - against, atol=1e-5, rtol=1e-4)
    assert not maps_of("clip_surgery", tower, pixels, texts[[0, 0]]).abs().max() > 1e-6


def test_clip_surgery_of_a_resnet(tmp_path: Path) -> None:
    """The scale and the values' length are settings; as in the code, the image's token is a value-value one too."""
    tower = tower_of(tmp_path, RESNET)
    pixels, texts = pixels_for(tower), texts_for(tower)
    value, out = tower.trace(pixels).blocks[0].value, tower.backbone.resnet.attnpool.c_proj
    unit = normalize(value, dim=-1)
    tokens = out(((unit @ unit.mT * 8 / value.shape[-1] ** 0.5).softmax(-1) @ value).permute(0, 2, 1, 3).flatten(2))
    tokens = tokens / tokens.norm(dim=1, keepdim=True)
    wanted = feature_surgery(tokens[:, 0], tokens[:, 1:], texts.expand(2, -1, -1), sharpness=2.0)
    found = maps_of("clip_surgery", tower, pixels, texts, scale=8.0, normalize_qk=True, compat="reference")
    assert_close(found.flatten(2), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("loosened", [True, False])
def test_grad_eclip_weighs_values_by_the_class_tokens_gradient(tmp_path: Path, loosened: bool, prompted: bool) -> None:
    tower = tower_of(tmp_path, prompted=prompted)
    pixels, texts = pixels_for(tower), texts_for(tower)
    x = entering(tower, pixels)[2]
    query, key, value = heads(tower, x, index=2)
    attended = ((query @ key.mT / 4).softmax(-1) @ value).permute(0, 2, 1, 3).flatten(2).detach()
    side = [each.permute(0, 2, 1, 3).flatten(2) for each in (query, key, value)]
    out = tower.backbone.vit.transformer.resblocks[2].attn.out_proj
    cosine = torch.cosine_similarity(out(side[0][:, :1]), out(patches_of(tower, side[1])), dim=-1)
    weight = (cosine - cosine.amin(1, keepdim=True)) / (cosine.amax(1, keepdim=True) - cosine.amin(1, keepdim=True))
    for t, text in enumerate(texts):
        gradient = torch.func.grad(
            lambda o, text=text: score_of(tower, after_attention(tower, x, o, index=2), text, index=2).sum()
        )(attended)
        wanted = torch.einsum("bc,bic->bi", gradient[:, 0], patches_of(tower, side[2])) * (weight if loosened else 1)
        found = maps_of("grad_eclip", tower, pixels, texts, loosened=loosened, signed=True)
        assert_close(found[:, t].flatten(1), wanted, atol=1e-6, rtol=1e-3)
        assert gradient[:, 1:].abs().max() == 0, "in the last block the feature is read at the class token alone"
    assert_close(maps_of("grad_eclip", tower, pixels, texts, loosened=loosened), found.relu())


def test_grad_eclip_sums_blocks_before_the_relu(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, texts = pixels_for(tower), texts_for(tower)
    two, last = (maps_of("grad_eclip", tower, pixels, texts, num_blocks=n, signed=True) for n in (2, 1))
    assert (two - last).abs().max() > 1e-4
    assert_close(maps_of("grad_eclip", tower, pixels, texts, num_blocks=2), two.relu())
    one_head = maps_of("grad_eclip", tower, pixels, texts, compat="reference", signed=True)
    assert not torch.allclose(one_head, last, rtol=1e-2)


def test_grad_eclips_compat_is_the_formula_with_one_head(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, text = pixels_for(tower), texts_for(tower)[0]
    x = entering(tower, pixels)[2]
    query, key, value = (each.permute(0, 2, 1, 3).flatten(2) for each in heads(tower, x, index=2))
    attended = ((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value).detach()
    out = tower.backbone.vit.transformer.resblocks[2].attn.out_proj
    gradient = torch.func.grad(lambda o: score_of(tower, after_attention(tower, x, o, index=2), text, index=2).sum())(
        attended
    )
    weight = minmax(torch.cosine_similarity(out(query[:, :1]), out(key[:, 1:]), dim=-1).view(2, 4, 4)).flatten(1)
    wanted = torch.einsum("bc,bic->bi", gradient[:, 0], value[:, 1:]) * weight
    found = maps_of("grad_eclip", tower, pixels, text[None], compat="reference", signed=True)
    assert_close(found.flatten(1), wanted, atol=1e-6, rtol=1e-3)


def test_clip_surgerys_compat_normalises_over_tokens(tmp_path: Path) -> None:
    """All 17 of them, the image's own among them: the reference's wrong axis."""
    tower = tower_of(tmp_path)
    pixels, texts = pixels_for(tower), texts_for(tower)
    image, patches = ClipSurgery(num_blocks=2)._vit_tokens(tower, tower.trace(pixels))
    lengths = torch.stack([torch.cat([image[:, None], patches], dim=1)[..., d].norm(dim=1) for d in range(24)], dim=-1)
    wanted = feature_surgery(image / lengths, patches / lengths[:, None], texts.expand(2, -1, -1), sharpness=2.0)
    found = maps_of("clip_surgery", tower, pixels, texts, num_blocks=2, compat="reference")
    assert_close(found.flatten(2), wanted.detach(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, maps_of("clip_surgery", tower, pixels, texts, num_blocks=2), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("legrad", {"num_blocks": 2}),
        ("transformer_attribution", {"num_blocks": 1}),
        ("attention_rollout", {"first_block": 1}),
        ("rise", {"num_masks": 2000, "cells": 8}),
    ],
)
def test_compat_has_the_settings_of_the_references(tmp_path: Path, name: str, settings: dict) -> None:
    tower = tower_of(tmp_path)
    pixels, texts = pixels_for(tower), texts_for(tower)
    found = maps_of(name, tower, pixels, texts, compat="reference")
    assert torch.equal(found, maps_of(name, tower, pixels, texts, **settings))
    assert not torch.allclose(found, maps_of(name, tower, pixels, texts))


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("kind", ["class_token", "average"])
def test_legrad_is_the_positive_gradient_of_each_blocks_own_score(tmp_path: Path, kind: str, prompted: bool) -> None:
    """Prompt tokens count neither in the mean of a block's tokens nor as queries."""
    tower = tower_of(tmp_path, VITS[kind], prompted=prompted)
    pixels, texts, vit = pixels_for(tower), texts_for(tower), tower.backbone.vit
    states = entering(tower, pixels)
    wanted = torch.zeros(2, 3, 16)
    for index in range(3):
        for t, text in enumerate(texts):

            def own_score(left: Tensor, text: Tensor = text) -> Tensor:
                return normalize(vit.ln_post(unprompted(tower, left).mean(1)) @ vit.proj, dim=-1) @ text

            _, gradient = attention_gradient(tower, states[index], own_score, index=index)
            over_queries = unprompted(tower, gradient.relu().mean(1)).mean(1, keepdim=True)
            wanted[:, t] += patches_of(tower, over_queries.mT)[..., 0]
    found = maps_of("legrad", tower, pixels, texts)
    assert_close(found.flatten(2), wanted, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("kind", ["class_token", "average"])
@pytest.mark.parametrize("num_blocks", [1, 3])
def test_transformer_attribution_is_chefers_recursion(
    tmp_path: Path, kind: str, num_blocks: int, prompted: bool
) -> None:
    """With prompts, by a column of its own for each prompt token of each block.

    The texts are long, for of short ones the products of blocks are too small to be seen beside their sum.
    """
    tower = tower_of(tmp_path, VITS[kind], prompted=prompted)
    pixels, texts = pixels_for(tower), 1000 * texts_for(tower)
    states = entering(tower, pixels)
    found = build_method("transformer_attribution", num_blocks=num_blocks)(tower, pixels, texts.expand(2, -1, -1))
    for t, text in enumerate(texts):
        num_tokens, num_prompts = (20, 3) if prompted else (17, 0)
        sources = torch.eye(num_tokens + num_prompts)  # the second block's own prompts stand last
        relevance = sources[:num_tokens].expand(2, -1, -1)
        for index in range(3 - num_blocks, 3):
            if index == 1 and prompted:
                fresh = sources[num_tokens:].expand(2, -1, -1)
                relevance = torch.cat([relevance[:, :1], fresh, patches_of(tower, relevance)], dim=1)

            def whole_score(left: Tensor, text: Tensor = text, index: int = index) -> Tensor:
                return score_of(tower, left, text, index=index)

            attention, gradient = attention_gradient(tower, states[index], whole_score, index=index)
            relevance = relevance + (attention * gradient).relu().mean(1) @ relevance
        row = relevance[:, 0] if kind == "class_token" else patches_of(tower, relevance).mean(1)
        assert_close(found[:, t].flatten(1), row[:, num_tokens - 16 : num_tokens], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("prompted", [False, True])
def test_contrastive_attribution_is_that_of_the_gradient_of_the_log_odds(tmp_path: Path, prompted: bool) -> None:
    tower = tower_of(tmp_path, VITS["wide"], prompted=prompted)
    pixels, texts = pixels_for(tower), texts_for(tower, num=2)
    others = torch.stack([texts_for(tower, num=5, seed=1), texts_for(tower, num=5, seed=2)])
    scale, wanted = tower.backbone.logit_scale, []
    for image in range(2):
        feature = tower.features(pixels[image : image + 1])[0].detach().requires_grad_()
        rest = (scale * others[image] @ feature).logsumexp(dim=0)
        slopes = [torch.autograd.grad(scale * text @ feature - rest, feature, retain_graph=True)[0] for text in texts]
        enlarged, size = with_enlarged_grid(tower, factor=3), (72, 120)  # 24 x 40 pixels in 3 x 5 patches
        larger = interpolate(pixels[image : image + 1], size=size, mode="bicubic", align_corners=False)
        wanted.append(maps_of("transformer_attribution", enlarged, larger, torch.stack(slopes)))
    found = maps_of("contrastive_attribution", tower, pixels, texts, distractors=others)
    assert found.shape == (2, 2, 9, 15)
    assert_close(found, torch.cat(wanted), atol=1e-7, rtol=1e-3)


def test_contrastive_attribution_of_one_text_alone_is_told_apart_from_the_empty_one(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, texts, empty = pixels_for(tower), texts_for(tower, num=1), texts_for(tower, num=1, seed=4)[0]
    found = maps_of("contrastive_attribution", tower, pixels, texts, redundant=empty, largest_grid=4)
    assert_close(found, maps_of("transformer_attribution", tower, pixels, texts - empty), atol=1e-7, rtol=1e-4)
    plain = maps_of("contrastive_attribution", tower, pixels, texts, largest_grid=7)
    assert_close(plain, maps_of("transformer_attribution", tower, pixels, texts))
    each = [
        maps_of("contrastive_attribution", tower, pixels, texts, redundant=empty, largest_grid=4 * factor)
        for factor in (1, 2, 3)
    ]
    mean = torch.stack([resize_maps(minmax(scores), (12, 12)) for scores in each]).mean(dim=0)
    settings = {"redundant": empty, "largest_grid": 12, "all_grids": True}
    assert_close(maps_of("contrastive_attribution", tower, pixels, texts, **settings), mean)
    with pytest.raises(ValueError, match="largest_grid must be at least 1, got 0"):
        build_method("contrastive_attribution", largest_grid=0)


def test_rollout_traces_every_source_through_deep_prompts(tmp_path: Path) -> None:
    """Against bookkeeping with a column of its own for each prompt token of each block."""
    tower = tower_of(tmp_path, prompted=True)
    pixels = pixels_for(tower)
    trace = tower.trace(pixels)
    sources = torch.eye(20 + 3)  # class, 3 prompts, 16 patches, then the second block's 3 prompts
    held = sources[:20].expand(2, -1, -1)
    for index, block in enumerate(trace.blocks):
        if index == 1:
            held = torch.cat([held[:, :1], sources[20:].expand(2, -1, -1), held[:, 4:]], dim=1)
        held = (block.attention.mean(1) + torch.eye(20)) / 2 @ held
    found = maps_of("attention_rollout", tower, pixels, texts_for(tower))
    assert_close(found[:, 0].flatten(1), held[:, 0, 4:20], atol=1e-6, rtol=1e-4)
    assert_close(found[:, 0], found[:, 2])
    assert_close(held.sum(-1), torch.ones(2, 20))


def pool_of(tower: ImageTower, pixels: Tensor) -> tuple[Tensor, ...]:
    """Query, key, value and attention [B A L ...] of a ResNet's attention pool, by its own weights."""
    visual, pool = tower.backbone.resnet, tower.backbone.resnet.attnpool
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    patches = maps.flatten(2).mT
    tokens = torch.cat([patches.mean(1, keepdim=True), patches], dim=1) + pool.positional_embedding
    query, key, value = (
        torch.stack(each(tokens).chunk(pool.num_heads, dim=-1), dim=1)
        for each in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    return query, key, value, (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


def side_by_side(heads: Tensor) -> Tensor:
    return torch.cat(list(heads.unbind(1)), dim=-1)


def test_attention_rollout_of_a_resnet_is_its_pools_one_step(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, RESNET)
    pixels, texts = pixels_for(tower), texts_for(tower)
    attention = pool_of(tower, pixels)[3]
    row = (attention.mean(1) + torch.eye(5))[:, 0] / 2
    wanted = row[:, None, 1:].expand(-1, 3, -1)
    assert_close(maps_of("attention_rollout", tower, pixels, texts).flatten(2), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["transformer_attribution", "legrad"])
def test_attention_gradients_of_a_resnet_are_its_pools(tmp_path: Path, name: str) -> None:
    """Attribution asks of the image's feature, at its row; LeGrad of the mean over all tokens, at all rows."""
    tower = tower_of(tmp_path, RESNET)
    pixels, texts = pixels_for(tower), texts_for(tower)
    *_, value, attention = (each.detach() for each in pool_of(tower, pixels))

    def score(attention: Tensor, text: Tensor) -> Tensor:
        tokens = tower.backbone.resnet.attnpool.c_proj(side_by_side(attention @ value))
        return (normalize(tokens[:, 0] if name == "transformer_attribution" else tokens.mean(1), dim=-1) @ text).sum()

    for t, text in enumerate(texts):
        gradient = torch.func.grad(score)(attention, text)
        rows = {"transformer_attribution": (attention * gradient)[:, :, :1], "legrad": gradient}[name]
        wanted = rows.relu().mean((1, 2))[:, 1:]
        found = maps_of(name, tower, pixels, texts)[:, t].flatten(1)
        assert found.max() > 1e-6
        assert_close(found, wanted, atol=1e-9, rtol=1e-3)


@pytest.mark.parametrize("loosened", [True, False])
def test_grad_eclip_of_a_resnet_weighs_its_pools_values(tmp_path: Path, loosened: bool) -> None:
    tower = tower_of(tmp_path, RESNET)
    pixels, texts, out = pixels_for(tower), texts_for(tower), tower.backbone.resnet.attnpool.c_proj
    query, key, value, attention = (each.detach() for each in pool_of(tower, pixels))
    first, keys, values = side_by_side(query)[:, :1], side_by_side(key)[:, 1:], side_by_side(value)[:, 1:]
    cosine = torch.cosine_similarity(out(first), out(keys), dim=-1)
    weight = (cosine - cosine.amin(1, keepdim=True)) / (cosine.amax(1, keepdim=True) - cosine.amin(1, keepdim=True))
    found = maps_of("grad_eclip", tower, pixels, texts, loosened=loosened, signed=True)
    for t, text in enumerate(texts):
        gradient = torch.func.grad(lambda o, text=text: (normalize(out(o), dim=-1) @ text).sum())(
            side_by_side(attention @ value)[:, 0]
        )
        wanted = torch.einsum("bc,bic->bi", gradient, values) * (weight if loosened else 1)
        assert_close(found[:, t].flatten(1), wanted, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "prompted"),
    [
        *((kind, False) for kind in ("class_token", "wide", "average", "resnet", "coca")),
        *((kind, True) for kind in ("class_token", "wide", "average", "coca")),
    ],
)
def test_grad_cam_is_captums_and_pytorch_grad_cams(tmp_path: Path, kind: str, prompted: bool) -> None:
    tower = tower_of(tmp_path, (VITS | {"resnet": RESNET, "coca": COCA})[kind], prompted=prompted)
    scorer, visual = CosineForward(tower, texts_for(tower)), tower.backbone.model.visual
    pixels = pixels_for(tower).requires_grad_()
    found = maps_of("grad_cam", tower, pixels.detach(), scorer.texts)
    if kind == "resnet":
        layer, reshape = visual.layer4, None
        theirs = captum.attr.LayerGradCam(scorer, layer).attribute(pixels, target=1, relu_attributions=True)
        # captum averages the weights over a map's pixels, as the paper does, and sums over channels, as we do
        assert_close(found[:, 1:2], theirs, atol=1e-6, rtol=1e-3)
    else:
        layer, reshape = visual.transformer.resblocks[-1].ln_1, lambda tokens: reshape_transform(tower, tokens)
    size = (pixels.shape[-1], pixels.shape[-2])
    with pytorch_grad_cam.GradCAM(scorer, [layer], reshape_transform=reshape) as cam:
        cam.get_target_width_height = lambda _: None  # its resizing to pixels is another matter
        theirs = cam(pixels, [ClassifierOutputTarget(1)] * 2)
    assert size and theirs.shape[1:] == found.shape[2:]
    assert_close(minmax(found)[:, 1], torch.from_numpy(theirs).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["wide", "resnet"])
def test_grad_cam_is_pytorch_grad_cams_as_it_comes(tmp_path: Path, kind: str) -> None:
    """Its resizing to pixels included: it is bilinear, of maps from 0 to 1."""
    tower = tower_of(tmp_path, {"wide": VITS["wide"], "resnet": RESNET}[kind])
    scorer, visual, pixels = CosineForward(tower, texts_for(tower)), tower.backbone.model.visual, pixels_for(tower)
    layer = visual.layer4 if kind == "resnet" else visual.transformer.resblocks[-1].ln_1
    reshape = None if kind == "resnet" else lambda tokens: reshape_transform(tower, tokens)
    with pytorch_grad_cam.GradCAM(scorer, [layer], reshape_transform=reshape) as cam:
        theirs = cam(pixels.clone().requires_grad_(), [ClassifierOutputTarget(1)] * 2)
    found = minmax(maps_of("grad_cam", tower, pixels, scorer.texts))
    assert found[:, 1].amax() > 0.9
    enlarged = minmax(interpolate(found, size=theirs.shape[1:], mode="bilinear", align_corners=False))[:, 1]
    assert_close(enlarged, torch.from_numpy(theirs).float(), atol=2e-3, rtol=0)


def test_grad_cams_compat_averages_over_the_class_token_too(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, text = pixels_for(tower), texts_for(tower)[:1]
    x = entering(tower, pixels)[2].detach()
    last = tower.backbone.vit.transformer.resblocks[2]
    gradient = torch.func.grad(lambda x: score_of(tower, last(x), text[0], index=2).sum())(x)
    wanted = torch.einsum("bc,bic->bi", gradient.mean(1), x[:, 1:])
    found = maps_of("grad_cam", tower, pixels, text, compat="reference", signed=True)
    assert_close(found.flatten(1), wanted, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (12, 12), (40, 40)])
def test_occlusion_is_captums(tmp_path: Path, window: int, stride: int) -> None:
    tower = tower_of(tmp_path, VITS["wide"])
    scorer, pixels = CosineForward(tower, texts_for(tower)), pixels_for(tower)
    found = maps_of("occlusion", tower, pixels, scorer.texts, window=window, stride=stride, fill=0.3, batch_size=5)
    side = (3, min(window, 24), min(window, 40))
    theirs = captum.attr.Occlusion(scorer).attribute(
        pixels, side, strides=(3, stride, stride), baselines=0.3, target=2, perturbations_per_eval=1
    )
    assert_close(found[:, 2], theirs[:, 0], atol=1e-6, rtol=1e-3)


def test_occlusion_of_a_sum_by_hand() -> None:
    """Score: the sum of the pixels. One-pixel windows give each pixel's own value."""
    image = torch.arange(12.0).view(1, 3, 4).expand(3, -1, -1)
    windows = sliding_windows((3, 4), window=1, stride=1)
    found = occlusion_map(lambda x: x[:, :1].sum((2, 3)), image, windows, fill=0.0)
    assert_close(found[0], image[0])
    assert sliding_windows((5, 5), window=2, stride=2).sum(0).tolist() == torch.ones(5, 5).tolist()


def test_rise_is_the_weighted_mean_of_masks() -> None:
    image, generator = torch.ones(3, 6, 8), torch.Generator().manual_seed(0)
    masks = random_masks(300, size=(6, 8), cells=3, keep=0.5, generator=generator)
    assert masks.shape == (300, 6, 8) and masks.min() >= 0 and masks.max() <= 1
    assert abs(float(masks.mean()) - 0.5) < 0.03

    def corner(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 1, 1], x[:, 0].mean((1, 2))], dim=1)

    wanted = sum(corner((image * mask)[None])[0][:, None, None] * mask for mask in masks) / (300 * 0.5)
    found = rise_map(corner, image, masks, keep=0.5, batch_size=7)
    assert_close(found, wanted)
    assert divmod(int(found[0].argmax()), 8) in {(row, column) for row in range(3) for column in range(3)}


def test_rise_of_a_tower_is_a_loop_over_its_scorer(tmp_path: Path) -> None:
    tower = tower_of(tmp_path, VITS["wide"], prompted=True)
    pixels, texts = pixels_for(tower), texts_for(tower)
    found = maps_of("rise", tower, pixels, texts, num_masks=5, cells=3, keep=0.4, seed=9, batch_size=2)
    generator, scorer = torch.Generator().manual_seed(9), CosineForward(tower, texts)
    masks = random_masks(5, size=(24, 40), cells=3, keep=0.4, generator=generator)
    for b, image in enumerate(pixels):
        scores = [scorer((mask * image)[None])[0] for mask in masks]
        for t in range(3):
            wanted = sum(scores[n][t] * masks[n] for n in range(5)) / (5 * 0.4)
            assert_close(found[b, t], wanted, atol=1e-5, rtol=1e-4)


def test_a_mask_of_rise_is_cut_out_of_the_enlarged_grid() -> None:
    """Grid, top and left are drawn in this order; between the centres of two cells, values go straight."""
    height, width, cells = 7, 10, 3
    masks = random_masks(4, size=(height, width), cells=cells, keep=0.5, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    grids = (torch.rand(4, cells, cells, generator=generator) < 0.5).double().numpy()
    tops, lefts = (torch.randint(side, (4,), generator=generator).tolist() for side in (3, 4))
    assert len(set(tops)) > 1 and len(set(lefts)) > 1
    for mask, grid, top, left in zip(masks, grids, tops, lefts, strict=True):
        rows, columns = (((np.arange(4 * side) + 0.5) * cells / (4 * side) - 0.5) for side in (3, 4))
        tall = np.stack([np.interp(rows, range(cells), column) for column in grid.T], axis=1)
        large = np.stack([np.interp(columns, range(cells), row) for row in tall])
        wanted = torch.from_numpy(large[top : top + height, left : left + width]).float()
        assert_close(mask, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["clip", "custom", "bidirectional"])
def test_word_relevance_is_chefers_recursion_over_words(tmp_path: Path, kind: str) -> None:
    """In a tower of two blocks, by the gradient of the trace, written out; nothing flows from what follows."""
    backbone = backbone_of(tmp_path, TEXT_TOWERS[kind])
    image = normalize(torch.randn(2, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    sentences = ["a dog", "a cat with pointed ears"]
    found = word_relevance(backbone, sentences, image)
    trace = trace_text(backbone, sentences, gradients=True)
    attentions = [block.attention for block in trace.blocks]
    gradients = torch.autograd.grad((trace.feature * image).sum(), attentions)
    first, second = ((a * gradient).relu().mean(1) for a, gradient in zip(attentions, gradients, strict=True))
    whole = torch.eye(first.shape[-1]) + first + second + second @ first
    for n, at in enumerate(trace.read_at.tolist()):
        assert_close(found[n], whole[n, at, 1:at].detach())
    if kind != "bidirectional":
        assert [len(each) for each in found] == [len(ids) - 2 for ids in backbone.text_tokenizer.tokenize(sentences)]


def applicable() -> list[tuple[str, str, bool]]:
    kinds = {name: {"patch_tokens", "class_token", "attention", "activations"} for name in VITS}
    kinds["average"] = kinds["average_normed_after"] = kinds["average"] - {"class_token"}
    kinds |= {"resnet": kinds["class_token"], "coca": {"activations"}, "timm": set()}
    return [
        (name, kind, prompted)
        for name, each in METHODS.items()
        for kind in ("wide", "average", "average_normed_after", "custom_blocks", "resnet", "coca", "timm")
        for prompted in ([False, True] if kind in VITS else [False])
        if each.requires is None or each.requires in kinds[kind]
    ]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageTower]:
    kinds = VITS | {"resnet": RESNET, "coca": COCA, "timm": TIMM}
    return {kind: tower_of(tmp_path_factory.mktemp(kind), settings) for kind, settings in kinds.items()}


@pytest.mark.parametrize(("name", "kind", "prompted"), applicable())
def test_every_method_gives_maps_and_leaves_the_tower_alone(
    towers: dict[str, ImageTower], name: str, kind: str, prompted: bool
) -> None:
    backbone = towers[kind].backbone
    tower = ImageTower(backbone=backbone, tokens=prompts_for(backbone).requires_grad_() if prompted else None)
    pixels, texts = pixels_for(tower), texts_for(tower)
    before = snapshot(backbone)
    chosen = quick(name, tower)
    heatmap = attribute(tower, pixels, texts, method=chosen)
    rows, columns = heatmap.scores.shape[2:]
    assert heatmap.scores.shape[:2] == (2, 3) and heatmap.scores.isfinite().all()
    assert rows * tower.backbone.preprocess.image_size[1] == columns * tower.backbone.preprocess.image_size[0]
    assert heatmap.scores.dtype == torch.float32 and not heatmap.scores.requires_grad
    singly = [attribute(tower, pixels[b : b + 1], texts, method=chosen).scores for b in range(2)]
    assert_close(heatmap.scores, torch.cat(singly), atol=1e-5, rtol=1e-3)
    own = attribute(tower, pixels, torch.stack([texts, texts.flip(0)]), method=chosen, batch_size=1).scores
    assert_close(own[0], heatmap.scores[0], atol=1e-5, rtol=1e-3)
    assert_close(own[1], heatmap.scores[1].flip(0), atol=1e-5, rtol=1e-3)
    assert_same(before, snapshot(backbone))
    assert tower.tokens is None or tower.tokens.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_the_tower_is_unchanged_after_an_error(tmp_path: Path, name: str) -> None:
    """Early, by pixels that hold no number, and late, by texts of another width, which only a rollout does not read."""
    tower = tower_of(tmp_path, prompted=True)
    before = snapshot(tower.backbone)
    chosen = quick(name, tower)
    with pytest.raises(Exception):  # noqa: B017 — whatever torch says of pixels that hold no number
        attribute(tower, torch.full((1, 3, 7, 7), torch.nan), texts_for(tower), method=chosen)
    assert_same(before, snapshot(tower.backbone))
    if name != "attention_rollout":
        with pytest.raises(Exception):  # noqa: B017 — whatever torch says of shapes that do not fit
            attribute(tower, pixels_for(tower), torch.ones(3, tower.backbone.embed_dim + 1), method=chosen)
    assert_same(before, snapshot(tower.backbone))


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if "gradients" in each.needs])
def test_the_tower_is_unchanged_after_a_backward_pass_that_fails(tmp_path: Path, name: str) -> None:
    """The second text's: a hook on what a layer norm gives, which lies behind all that methods differentiate by."""
    tower = tower_of(tmp_path, prompted=True)
    passes: list[Tensor] = []

    def fails_at_the_second(gradient: Tensor) -> None:
        passes.append(gradient)
        if len(passes) == 2:
            raise RuntimeError("the second text")

    def watch(module: torch.nn.Module, given: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fails_at_the_second)

    tower.backbone.vit.transformer.resblocks[-1].ln_2.register_forward_hook(watch)
    before = snapshot(tower.backbone)
    with pytest.raises(RuntimeError, match="the second text"):
        attribute(tower, pixels_for(tower), texts_for(tower), method=quick(name, tower))
    assert len(passes) == 2
    assert_same(before, snapshot(tower.backbone))


def snapshot(backbone: torch.nn.Module) -> tuple[dict[str, Tensor], list[object]]:
    """What a caller would miss: numbers, modes, hooks of every kind, and what is global to torch and numpy."""
    _, drawn, *place = np.random.get_state()
    facts: list[object] = [torch.is_grad_enabled(), torch.get_rng_state().tolist(), drawn.tolist(), place]
    for module in backbone.modules():
        hooks = {name: list(each.items()) for name, each in vars(module).items() if "hooks" in name}
        facts.append((module.training, "forward" in vars(module), hooks))
    facts += [(each.requires_grad, each.grad, each._backward_hooks) for each in backbone.parameters()]
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}, facts


def assert_same(before: tuple, after: tuple) -> None:
    assert before[1] == after[1]
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())


def test_maps_of_a_caller_without_gradients_are_the_same(tmp_path: Path) -> None:
    tower = tower_of(tmp_path)
    pixels, texts = pixels_for(tower), texts_for(tower)
    for name in ("grad_eclip", "legrad", "grad_cam", "transformer_attribution"):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found = maps_of(name, tower, pixels, texts)
        assert_close(found, maps_of(name, tower, pixels, texts))


def test_methods_are_chosen_by_name_with_settings_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown method 'gradcam': choose from itsm, .*occlusion"):
        build_method("gradcam")
    with pytest.raises(ValueError, match="grad_cam has no setting layer; it has: compat, signed"):
        build_method("grad_cam", layer=3)
    with pytest.raises(ValueError, match=r"keep must lie between 0 and 1, got 1\.0"):
        build_method("rise", keep=1.0)
    with pytest.raises(ValueError, match="compat is 'reference' or None, got True"):
        build_method("rise", compat=True)
    with pytest.raises(ValueError, match="stride 9 leaves gaps"):
        build_method("occlusion", window=8, stride=9)
    tower = tower_of(tmp_path, VITS["average"])
    with pytest.raises(ValueError, match="grad_eclip needs a feature that is read at one token"):
        maps_of("grad_eclip", tower, pixels_for(tower), texts_for(tower))
