"""Pretraining's loss is what a loop over pairs says, and its text route is open_clip's."""

import math
from collections.abc import Iterator

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ecor.demo.model import config_path, create_clip, tokenized
from ecor.pretraining import (
    Pretrainer,
    PretrainingBatch,
    attribute_loss,
    contrastive_loss,
    encode_captions,
    pretraining_optimizer,
    pretraining_step,
    same_text,
    warmup_cosine,
)


def _naive(logits: Tensor, own: Tensor, true: Tensor) -> float:
    num_images, num_texts = logits.shape
    by_image, by_text = [], []
    for b in range(num_images):
        for t in range(num_texts):
            if own[b, t]:
                rivals = [logits[b, u] for u in range(num_texts) if not (true[b, u] or own[b, u])]
                columns = [logits[a, t] for a in range(num_images) if not (true[a, t] or own[a, t])]
                for terms, negatives in ((by_image, rivals), (by_text, columns)):
                    total = sum(math.exp(x) for x in [logits[b, t], *negatives])
                    terms.append(-float(logits[b, t]) + math.log(total))
    return (sum(by_image) / len(by_image) + sum(by_text) / len(by_text)) / 2


def test_contrastive_loss_equals_the_loop_with_duplicates_and_contradictions() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        logits = torch.randn(5, 9, generator=generator) * 3
        own = torch.rand(5, 9, generator=generator) < 0.2
        own[:, -2:] = False
        own[0, 0] = True
        true = own | (torch.rand(5, 9, generator=generator) < 0.2)
        true[:, -2:] = False
        assert float(contrastive_loss(logits, own=own, true=true)) == pytest.approx(_naive(logits, own, true), abs=1e-5)


def test_with_distinct_captions_it_is_clip_s_loss() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    own = torch.eye(6, dtype=torch.bool)
    target = torch.arange(6)
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(logits, own=own, true=own), expected)


def test_a_duplicate_caption_is_no_false_negative() -> None:
    distinct, own = same_text(["a cat", "a dog", "a cat"])
    assert distinct == ["a cat", "a dog"]
    assert own.tolist() == [[True, False], [False, True], [True, False]]
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]], requires_grad=True)
    contrastive_loss(logits, own=own, true=own).backward()
    assert logits.grad is not None
    assert (logits.grad[own] < 0).all()
    assert (logits.grad[~own] > 0).all()


def test_attribute_loss_equals_the_loop() -> None:
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.1]])
    present = torch.tensor([[True, False], [False, False]])
    terms = [
        math.log1p(math.exp(-x if p else x))
        for x, p in zip(logits.ravel().tolist(), present.ravel().tolist(), strict=True)
    ]
    assert float(attribute_loss(logits, present=present)) == pytest.approx(sum(terms) / 2)


def test_cut_captions_give_open_clip_s_features() -> None:
    torch.manual_seed(0)
    clip = create_clip(weights=None)
    captions = ["a zebra", "This is a photo of a zebra because there is a long trunk."]
    tokens, ends = tokenized(captions)
    assert tokens.shape[1] < 77
    open_clip.add_model_config(config_path())
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer("ecor-demo")(captions))
        torch.testing.assert_close(encode_captions(clip, tokens, ends=ends), expected, atol=1e-5, rtol=1e-5)


def test_warmup_cosine_rises_then_falls() -> None:
    assert warmup_cosine(0.0, warmup=0.1) == 0.0
    assert warmup_cosine(0.1, warmup=0.1) == pytest.approx(1.0)
    assert warmup_cosine(1.0, warmup=0.1) == pytest.approx(0.0)
    falling = [warmup_cosine(0.1 + k / 20, warmup=0.1) for k in range(18)]
    assert falling == sorted(falling, reverse=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny steps on several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_steps_lower_the_loss_and_repeat_exactly() -> None:
    def losses() -> list[float]:
        torch.manual_seed(0)
        clip = create_clip(weights=None).train()
        clip.token_embedding.requires_grad_(False)
        pretrainer = Pretrainer(clip, embed_dim=128, num_attributes=3)
        tokens, ends = tokenized(["a cat", "a dog", "a cat with wings"])
        own = torch.tensor([[True, False, False], [False, True, False]])
        batch = PretrainingBatch(
            images=torch.randn(2, 3, 64, 64),
            tokens=tokens,
            ends=ends,
            own=own,
            true=own,
            attributes=torch.tensor([[True, False, True], [False, True, False]]),
        )
        optimizer = pretraining_optimizer(pretrainer, learning_rate=1e-3, weight_decay=0.05)
        steps = [
            pretraining_step(pretrainer, optimizer, batch, learning_rate=1e-3, attribute_weight=0.1) for _ in range(6)
        ]
        return [terms["contrastive"] for terms in steps]

    first, second = losses(), losses()
    assert first == second
    assert first[-1] < 0.7 * first[0]
