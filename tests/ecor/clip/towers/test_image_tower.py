"""Laws of the trace: it computes what the tower computes, and leaves the tower as it was.

Covers: `ecor.clip.towers.text_tower`.
"""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from ecor.clip.towers.image_tower import ImageTower
from ecor.clip.towers.text_tower import trace_text
from ecor.explain import CosineForward
from tests.support.tiny_towers import (
    COCA,
    PLAIN,
    RESNET,
    TEXT,
    TEXT_TOWERS,
    TIMM,
    VISION,
    VITS,
    backbone_of,
    pixels_for,
    prompts_for,
    texts_for,
    tower_of,
)

IMAGE_TOWERS = VITS | {"resnet": RESNET, "coca": COCA}
SENTENCES = ["a dog", "pointed ears and a bushy tail", "word " * 30]


@pytest.mark.parametrize("kind", IMAGE_TOWERS)
@pytest.mark.parametrize("gradients", [False, True])
def test_image_trace_ends_in_the_towers_feature(tmp_path: Path, kind: str, gradients: bool) -> None:
    tower = tower_of(tmp_path, IMAGE_TOWERS[kind])
    pixels = pixels_for(tower)
    trace = tower.trace(pixels, gradients=gradients)
    assert_close(trace.feature, tower.backbone.encode_image(pixels), atol=1e-5, rtol=0)
    assert trace.feature.requires_grad == gradients


@pytest.mark.parametrize("kind", [*VITS, "coca"])
@pytest.mark.parametrize("depth", [1, 3])
def test_image_trace_with_visual_prompts_is_the_tuned_tower(tmp_path: Path, kind: str, depth: int) -> None:
    backbone = backbone_of(tmp_path, IMAGE_TOWERS[kind])
    tower = ImageTower(backbone=backbone, tokens=prompts_for(backbone, depth=depth))
    pixels = pixels_for(tower)
    trace = tower.trace(pixels)
    assert_close(trace.feature, backbone.encode_image(pixels, tokens=tower.tokens), atol=1e-5, rtol=0)
    assert not torch.allclose(trace.feature, backbone.encode_image(pixels), atol=1e-3)
    height, width = trace.grid
    assert trace.patches(trace.blocks[-1].left).shape[1] == height * width
    assert trace.blocks[0].left.shape[1] == 1 + 3 + height * width


@pytest.mark.parametrize("kind", IMAGE_TOWERS)
def test_patches_of_a_trace_are_where_the_picture_is(tmp_path: Path, kind: str) -> None:
    """A change of the picture's bottom right corner reaches the last patch's token first, whatever the grid."""
    tower = tower_of(tmp_path, IMAGE_TOWERS[kind])
    if kind == "resnet":
        pytest.skip("convolutions see neighbours")
    pixels = pixels_for(tower, num=1)
    changed = pixels.clone()
    changed[..., -8:, -8:] += 1
    before, after = (tower.trace(each) for each in (pixels, changed))
    moved = (before.patches(before.blocks[0].entered) - after.patches(after.blocks[0].entered)).abs().sum(dim=-1)[0]
    assert moved.nonzero().flatten().tolist() == [len(moved) - 1]


def test_attention_is_the_modules_own(tmp_path: Path) -> None:
    """torch's MultiheadAttention tells its weights when asked: head by head they are those of the trace."""
    tower = tower_of(tmp_path)
    for resblock, block in zip(
        tower.backbone.vit.transformer.resblocks, tower.trace(pixels_for(tower)).blocks, strict=True
    ):
        normed = resblock.ln_1(block.entered)
        output, weights = resblock.attn(normed, normed, normed, average_attn_weights=False)
        assert_close(block.attention, weights, atol=1e-6, rtol=0)
        assert_close(block.out_proj(block.attended), output, atol=1e-5, rtol=0)


def test_resnet_trace_attends_from_every_token(tmp_path: Path) -> None:
    """With a token put in the mean's place as query, the pool's own forward gives that token's row."""
    tower = tower_of(tmp_path, RESNET)
    pool, trace = tower.backbone.resnet.attnpool, tower.trace(pixels_for(tower, num=1))
    tokens = trace.blocks[0].entered.transpose(0, 1)
    theirs, _ = torch.nn.functional.multi_head_attention_forward(
        query=tokens, key=tokens, value=tokens, embed_dim_to_check=tokens.shape[-1], num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
        in_proj_weight=None, in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0, out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias, use_separate_proj_weight=True, need_weights=False,
    )  # fmt: skip
    assert_close(trace.blocks[0].left, theirs.transpose(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
@pytest.mark.parametrize("num_learned", [0, 2])
def test_text_trace_ends_in_the_towers_feature(tmp_path: Path, kind: str, num_learned: int) -> None:
    backbone = backbone_of(tmp_path, TEXT_TOWERS[kind])
    context = torch.randn(num_learned, backbone.text_width, generator=torch.Generator().manual_seed(0))
    trace = trace_text(backbone, SENTENCES, context=context if num_learned else None)
    theirs = backbone.encode_text(SENTENCES, context=context if num_learned else None)
    assert_close(trace.feature, theirs, atol=1e-5, rtol=0)
    words = trace.ids[:, trace.words]
    assert words[0, :2].tolist() == [*backbone.text_tokenizer.tokenize(["a dog"])[0][1:3]]


def test_gradients_reach_what_the_trace_keeps(tmp_path: Path) -> None:
    """The gradient by the picture, through the trace, is that of the tower's own forward by finite differences."""
    tower = tower_of(tmp_path, prompted=True)
    pixels, text = pixels_for(tower, num=1), texts_for(tower, num=1)[0]
    direction = torch.randn_like(pixels)
    wanted = pixels.clone().requires_grad_()
    trace = tower.trace(wanted, gradients=True)
    (gradient,) = torch.autograd.grad((trace.feature @ text).sum(), wanted)
    double = [tower.features(pixels + sign * 1e-2 * direction) @ text for sign in (1, -1)]
    assert_close((gradient * direction).sum(), ((double[0] - double[1]) / 2e-2)[0], rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("kind", ["class_token", "resnet"])
def test_scorer_is_the_cosine_and_differentiable(tmp_path: Path, kind: str) -> None:
    tower = tower_of(tmp_path, IMAGE_TOWERS[kind])
    texts, pixels = texts_for(tower), pixels_for(tower).requires_grad_()
    scores = CosineForward(tower, texts)(pixels)
    assert_close(scores, tower.backbone.encode_image(pixels.detach()) @ texts.T)
    assert torch.autograd.grad(scores.sum(), pixels)[0].abs().sum() > 0


def test_a_tower_says_what_it_cannot_give(tmp_path: Path) -> None:
    assert tower_of(tmp_path / "a").capabilities == {"patch_tokens", "class_token", "attention", "activations"}
    assert "class_token" not in tower_of(tmp_path / "b", VITS["average"]).capabilities
    assert tower_of(tmp_path / "c", COCA).capabilities == {"activations"}
    timm = tower_of(tmp_path / "d", TIMM)
    assert not timm.capabilities
    with pytest.raises(ValueError, match=r"a trace needs a map of activations.*TimmModel"):
        timm.trace(pixels_for(timm))
    with pytest.raises(ValueError, match="normalises or scales each head"):
        custom = tower_of(tmp_path / "e", VITS["custom_blocks"])
        custom.trace(pixels_for(custom), single_head_blocks=1)


def test_towers_that_no_trace_can_open_are_refused(tmp_path: Path) -> None:
    scaled = tower_of(tmp_path / "scaled", PLAIN | {"vision_cfg": VISION | {"scaled_cosine_attn": True}})
    with pytest.raises(ValueError, match="scaled cosine attention cannot be traced"):
        scaled.trace(pixels_for(scaled))
    resnet = tower_of(tmp_path / "resnet", RESNET)
    with pytest.raises(ValueError, match="an attention pool is traced with its own heads only"):
        resnet.trace(pixels_for(resnet), single_head_blocks=1)


def test_text_towers_that_no_trace_can_open_are_refused(tmp_path: Path) -> None:
    """One that reads its feature at no token, as open_clip builds it; and one that is another library's."""
    pooled_nowhere = PLAIN | {"custom_text": True, "text_cfg": TEXT | {"pool_type": "none"}}
    with pytest.raises(ValueError, match="pools by 'none' reads its feature at no token"):
        trace_text(backbone_of(tmp_path / "none", pooled_nowhere), SENTENCES)
    foreign = backbone_of(tmp_path / "foreign", TEXT_TOWERS["custom"])
    foreign.model.text = torch.nn.TransformerEncoderLayer(32, nhead=2)
    with pytest.raises(ValueError, match=r"\(TransformerEncoderLayer\) is not open_clip's own: no trace of it"):
        trace_text(foreign, SENTENCES)


def test_single_head_is_another_model(tmp_path: Path) -> None:
    """As Grad-ECLIP's reference attends: softmax(q kᵀ / √width) v over all channels at once."""
    tower = tower_of(tmp_path)
    block = tower.trace(pixels_for(tower), single_head_blocks=1).blocks[-1]
    plain = tower.trace(pixels_for(tower)).blocks[-1]
    query, key, value = (each.transpose(1, 2).flatten(2) for each in (plain.query, plain.key, plain.value))
    weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    assert_close(block.attended, weights @ value)
    assert not torch.allclose(normalize(block.left, dim=-1), normalize(plain.left, dim=-1), atol=1e-3)
