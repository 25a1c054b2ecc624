"""CLIP's loss equals loops over pairs, whichever pairs are negatives; with distinct texts it is two cross-entropies."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ecor.training.caption_batches import match_captions
from ecor.training.losses.clip_loss import clip_loss, shared_text_loss


def naive_pairs(logits: Tensor, own: Tensor, true: Tensor) -> float:
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


def naive_shared(logits: Tensor, targets: list[int]) -> float:
    labelled = [b for b, t in enumerate(targets) if t >= 0]
    to_text = [float(functional.cross_entropy(logits[b], torch.tensor(targets[b]))) for b in labelled]
    to_image = []
    for t in range(logits.shape[1]):
        log_prob = logits[labelled, t].log_softmax(0)
        mine = [-float(log_prob[place]) for place, b in enumerate(labelled) if targets[b] == t]
        to_image.append(sum(mine) / len(mine))
    return (sum(to_text) / len(to_text) + sum(to_image) / len(to_image)) / 2


def test_it_equals_the_loop_with_duplicates_and_contradictions() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        logits = torch.randn(5, 9, generator=generator) * 3
        own = torch.rand(5, 9, generator=generator) < 0.2
        own[:, -2:] = False
        own[0, 0] = True
        true = own | (torch.rand(5, 9, generator=generator) < 0.2)
        true[:, -2:] = False
        assert float(clip_loss(logits, own=own, ignored=true)) == pytest.approx(
            naive_pairs(logits, own, true), abs=1e-5
        )


def test_shared_texts_equal_the_loop_with_duplicates_and_images_without_a_text() -> None:
    logits = 3 * torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    targets = [0, 2, 0, -1, 1, 0, -1]
    found = float(shared_text_loss(logits, torch.tensor(targets)))
    assert found == pytest.approx(naive_shared(logits, targets), abs=1e-5)


@pytest.mark.parametrize("sharing_images_compete", [False, True])
def test_with_distinct_texts_it_is_two_cross_entropies(sharing_images_compete: bool) -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    own, target = torch.eye(6, dtype=torch.bool), torch.arange(6)
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    found = clip_loss(logits, own=own, ignored=own, sharing_images_compete=sharing_images_compete)
    torch.testing.assert_close(found, expected)


def test_without_any_text_it_is_zero_with_a_graph() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = shared_text_loss(logits, torch.full((3,), -1))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_a_duplicate_caption_is_no_false_negative() -> None:
    distinct, own = match_captions(["a cat", "a dog", "a cat"])
    assert distinct == ["a cat", "a dog"]
    assert own.tolist() == [[True, False], [False, True], [True, False]]
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]], requires_grad=True)
    clip_loss(logits, own=own, ignored=own).backward()
    assert logits.grad is not None
    assert (logits.grad[own] < 0).all()
    assert (logits.grad[~own] > 0).all()
