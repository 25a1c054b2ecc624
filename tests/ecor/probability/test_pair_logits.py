"""Logits of pairs: blocks equal the whole table and single products; the number of operations stays small."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.config.scoring import MethodName, ScoringConfig, Temperatures
from ecor.probability import pair_logits
from ecor.probability.decoders import joint_probability
from ecor.probability.factors import category_given_rationale_log_prob, rationale_given_category_log_prob
from ecor.probability.joint import ranked_pairs
from ecor.probability.pair_logits import block_borders, equal_blocks, fits_at_once
from tests.support.random_features import TableRows, world

METHODS: tuple[MethodName, ...] = ("joint", "inverted", "independent", "pairs")


@dataclass
class RowsOnly:
    """Text features that are read row by row, as from a file: no table in memory."""

    text: TableRows

    @property
    def rationales(self) -> Tensor:
        return self.text.rationales

    @property
    def categories(self) -> Tensor:
        return self.text.categories

    def row(self, rationale: int) -> Tensor:
        return self.text.row(rationale)

    def column(self, category: int) -> Tensor:
        return self.text.column(category)


def decode(features: ImageFeatures, text: TextFeatureTable, *, method: MethodName, **settings: int):
    scoring = ScoringConfig(method=method, **settings)
    temperatures = Temperatures(rationale=1.7, category_given_rationale=0.6)
    return joint_probability(features, text, scoring=scoring, logit_scale=20.0, temperatures=temperatures)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [{"keep_rationales": 2}, {"keep_rationales": 3, "max_keep_rationales": 7, "top_k": 9}])
@pytest.mark.parametrize("block_bytes", [1, 2_000, 2**25])
def test_blocks_of_any_size_decode_as_the_whole_table_does(method, keep, block_bytes, monkeypatch):
    # In float32 the logarithm of a small rest hangs on the processor's rounding.
    features, text = world(num_images=40, num_categories=5, num_rationales=30, seed=3, dtype=torch.float64)
    whole = decode(features, text, method=method, **keep)
    monkeypatch.setattr(pair_logits, "BLOCK_BYTES", block_bytes)
    for other in (RowsOnly(text), text):
        monkeypatch.setitem(pair_logits.TABLE_BYTES, "cpu", 0)
        assert not fits_at_once(features, other)
        blocks = decode(features, other, method=method, **keep)
        assert torch.equal(blocks.rationales, whole.rationales)
        assert torch.equal(blocks.pairs_exact, whole.pairs_exact)
        assert torch.equal(blocks.category_certain, whole.category_certain)
        assert torch.equal(blocks.evaluated, whole.evaluated)
        for name in ("log_prob", "rationale_log_prob", "category_log_prob", "rest_log_prob"):
            torch.testing.assert_close(getattr(blocks, name), getattr(whole, name), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("method", [*METHODS, "pooled"])
def test_gradients_of_blocks_equal_those_of_the_whole_table(method, monkeypatch):
    features, text = world(num_images=6, num_rationales=12)
    found = []
    for budget in (2**20, 0):
        monkeypatch.setitem(pair_logits.TABLE_BYTES, "cpu", budget)
        image = features.category.clone().requires_grad_()
        joint = decode(ImageFeatures(rationale=image, category=image), text, method=method, keep_rationales=3)
        (gradient,) = torch.autograd.grad(ranked_pairs(joint, 1).log_prob.sum(), image)
        found.append(gradient)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert found[0].abs().max() > 0.1


@pytest.mark.parametrize("budget", [0, 2**20])
def test_conditional_factors_equal_one_product_per_name(budget, monkeypatch):
    monkeypatch.setitem(pair_logits.TABLE_BYTES, "cpu", budget)
    features, text = world(num_images=30, num_categories=4, num_rationales=9)
    generator = torch.Generator().manual_seed(0)
    rationales = torch.randint(-1, 9, (30, 3), generator=generator)
    rationales[:20, 0] = 5  # much more frequent than the others
    categories = torch.randint(-1, 4, (30, 2), generator=generator)
    plain = {"logit_scale": 20.0, "temperatures": Temperatures()}
    given_r = category_given_rationale_log_prob(features, text, rationales=rationales, **plain)
    given_c = rationale_given_category_log_prob(features, text, categories=categories, **plain)
    for found, held, rows in ((given_r, rationales, text.table), (given_c, categories, text.table.transpose(0, 1))):
        for b in range(30):
            for k, name in enumerate(held[b].tolist()):
                expected = (20 * rows[name] @ features.category[b]).log_softmax(-1)
                if name < 0:
                    assert found[b, k].isnan().all()
                else:
                    torch.testing.assert_close(found[b, k], expected)


def test_blocks_hold_every_known_id_once_and_are_padded_with_its_own_slots():
    ids = torch.tensor([3, -1, 3, 0, 7, 3, 7, -1, 1])
    held = {}
    for block in equal_blocks(ids, width=2, dim=2):
        for name, slots, used in zip(block.names, block.slots, block.is_used, strict=True):
            assert (ids[slots] == name).all()
            assert name not in held
            held[name] = sorted(slots[used].tolist())
    assert held == {3: [0, 2, 5], 7: [4, 6], 0: [3], 1: [8]}
    assert list(equal_blocks(torch.tensor([-1, -1]), width=2, dim=2)) == []


def test_the_number_of_blocks_grows_with_memory_and_spread_not_with_names(monkeypatch):
    assert len(list(block_borders([8] * 1000, row_bytes=1, logit_bytes=1))) == 1
    assert len(list(block_borders([64, 16, 15, *[1] * 500], row_bytes=1, logit_bytes=1))) == 3
    monkeypatch.setattr(pair_logits, "BLOCK_BYTES", 100)
    assert list(block_borders([2] * 25, row_bytes=10, logit_bytes=1)) == [(0, 10), (10, 20), (20, 25)]
    assert list(block_borders([5, 5], row_bytes=200, logit_bytes=1)) == [(0, 1), (1, 2)]


def count_operations(features: ImageFeatures, text: TextFeatureTable, *, method: MethodName) -> int:
    """Operators that decoding calls; those that PyTorch's operators call themselves are left out."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        decode(features, text, method=method)
    ours = [event for event in profiled.events() if event.name.startswith("aten::")]
    return sum(event.cpu_parent is None or not event.cpu_parent.name.startswith("aten::") for event in ours)


@pytest.mark.parametrize("method", [*METHODS, "pooled"])
def test_operations_do_not_depend_on_the_number_of_rationales(method):
    counts = []
    for num_rationales in (80, 89, 140):
        features, text = world(num_images=256, num_categories=30, num_rationales=num_rationales, dim=16)
        assert fits_at_once(features, text)
        counts.append(count_operations(features, text, method=method))
    assert max(counts) <= 80
    assert len(set(counts)) == 1
