"""An image tower in bf16 on a CPU: near to fp32, for every kind of tower; nothing else changes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecor.clip.backbone import Backbone
from ecor.clip.towers.reduced_tower import with_reduced_image_tower
from tests.ecor.clip.test_backbone import BIDIRECTIONAL, COCA, CUSTOM_TEXT, RESNET, TINY, photos, tiny

TOWERS = {"clip": TINY, "resnet": RESNET, "custom": CUSTOM_TEXT, "bidirectional": BIDIRECTIONAL, "coca": COCA}


def in_bf16(backbone: Backbone) -> Backbone:
    """The same towers, in bf16."""
    backbone.config = replace(backbone.config, precision="bf16")
    return backbone


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_features_are_near_those_of_fp32(tmp_path: Path, kind: str) -> None:
    backbone = tiny(tmp_path, settings=TOWERS[kind])
    expected = backbone.encode_image(photos())
    features = in_bf16(backbone).encode_image(photos())
    assert features.dtype == torch.float32 and not torch.equal(features, expected)
    assert float((features * expected).sum(-1).min()) > 0.995
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_visual_tokens_are_used(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    tokens = torch.randn(2, 3, backbone.visual_width, generator=torch.Generator().manual_seed(0))
    expected, without = backbone.encode_image(photos(), tokens=tokens), backbone.encode_image(photos())
    found = in_bf16(backbone).encode_image(photos(), tokens=tokens)
    assert float((found * expected).sum(-1).min()) > 0.995
    assert float((found - expected).norm()) < 0.2 * float((found - without).norm())


@torch.no_grad()
def test_weights_and_sentences_stay_in_fp32(tmp_path: Path) -> None:
    backbone = tiny(tmp_path)
    digest, texts = backbone.digest, backbone.encode_text(["a hat", "a shoe"])
    in_bf16(backbone).encode_image(photos())
    assert torch.equal(backbone.encode_text(["a hat", "a shoe"]), texts)
    assert {each.dtype for each in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.encode_image(photos(), fp32=True), tiny(tmp_path).encode_image(photos()))
    del backbone.digest  # computed anew
    assert backbone.digest == digest and "_reduced_model" not in dict(backbone.named_modules())


def test_gradients_go_through_the_weights_that_are_there(tmp_path: Path) -> None:
    backbone = in_bf16(tiny(tmp_path))
    tokens = torch.zeros(1, 2, backbone.visual_width, requires_grad=True)
    backbone.encode_image(photos(), tokens=tokens).sum().backward()
    assert tokens.grad is not None and float(tokens.grad.abs().sum()) > 0


def test_the_copy_shares_all_but_the_image_tower(tmp_path: Path) -> None:
    model = tiny(tmp_path).model
    reduced = with_reduced_image_tower(model, dtype=torch.bfloat16)
    assert reduced.token_embedding is model.token_embedding and reduced.logit_scale is model.logit_scale
    assert {each.dtype for each in reduced.visual.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in model.visual.parameters()} == {torch.float32}
