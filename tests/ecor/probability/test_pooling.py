"""Pooled decoding: against naive loops, sums to one, bounds, exact pairs, sets; T found again where it was put in.

Covers: `ecor.probability.pooling_temperature`.
"""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.data.predictions.schema import origins_table
from ecor.probability import pair_logits, pooling_temperature
from ecor.probability.decoders import joint_probability
from ecor.probability.factors import category_log_prob, rationale_log_prob
from ecor.probability.joint import Joint, ranked_pairs
from ecor.probability.pooling_temperature import POOLING_WEIGHT, pooling_nll
from ecor.probability.rationale_sets import ranked_sets
from ecor.probability.temperature_scaling import fit_temperatures, minimize_nll
from tests.ecor.probability.test_rationale_sets import naive_set_prob
from tests.support.random_features import TableRows, world
from tests.support.tiny_models import tiny_recognizer

SCALE = 20.0
TEMPERATURES = Temperatures(rationale=1.7, category_given_rationale=0.6, category=0.8)


def pooled(
    features: ImageFeatures, text: TableRows, *, weight: float = 1.5, hot: float = 1.0, scale=SCALE, **kept: int
) -> Joint:
    """With λ and T of a model."""
    scoring = ScoringConfig(method="pooled", **kept)
    fitted = replace(TEMPERATURES, pooling_weight=weight, pooling_temperature=hot)
    return joint_probability(features, text, scoring=scoring, logit_scale=scale, temperatures=fitted)


def everything(features: ImageFeatures, text: TableRows, **given_settings: float) -> Tensor:
    """log P [B R C] with all rationales looked at."""
    joint = pooled(features, text, keep_rationales=10**6, max_keep_rationales=10**6, top_k=10**6, **given_settings)
    ids = joint.rationales.unsqueeze(-1).expand_as(joint.log_prob)
    return torch.empty_like(joint.log_prob).scatter(1, ids, joint.log_prob)


def fit_pooling_temperature(features: ImageFeatures, text: TableRows, **labels) -> float:
    return minimize_nll(pooling_nll(features, text, **labels))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def naive(features: ImageFeatures, text: TableRows, *, weight: float, hot: float) -> list[list[list[float]]]:
    """P(c, r | I) by image, rationale and category, number by number as the formula is written."""
    num_rationales, num_categories = text.table.shape[:2]
    table, found = text.table.double(), []
    for b in range(len(features)):
        v_r, v_c = features.rationale[b].double(), features.category[b].double()
        alone_r = softmax([SCALE / 1.7 * float(v_r @ each.double()) for each in text.rationales])
        alone_c = softmax([SCALE / 0.8 * float(v_c @ each.double()) for each in text.categories])
        scores = []
        for r in range(num_rationales):
            given_r = softmax([SCALE / 0.6 * float(v_c @ table[r, c]) for c in range(num_categories)])
            scores.append(
                [(alone_r[r] * given_r[c] * alone_c[c] ** weight) ** (1 / hot) for c in range(num_categories)]
            )
        total = sum(map(sum, scores))
        found.append([[score / total for score in row] for row in scores])
    return found


@pytest.mark.parametrize(("weight", "hot"), [(0.3, 1.0), (1.0, 1.0), (4.0, 1.0), (1.0, 1.8), (0.3, 0.6)])
def test_it_equals_the_formula_written_as_loops_and_sums_to_one(weight, hot):
    features, text = world()
    expected = torch.tensor(naive(features, text, weight=weight, hot=hot), dtype=torch.float64)
    found = everything(features, text, weight=weight, hot=hot).double()
    torch.testing.assert_close(found.exp(), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.flatten(1).logsumexp(-1), torch.zeros(5).double(), atol=1e-5, rtol=0)
    joint = pooled(features, text, weight=weight, hot=hot, keep_rationales=7, top_k=28)
    marginal = expected.sum(2).gather(1, joint.rationales)
    torch.testing.assert_close(joint.rationale_log_prob.double().exp(), marginal, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(joint.category_log_prob.double().exp(), expected.sum(1), atol=1e-6, rtol=1e-4)
    assert (joint.method, joint.pairs_exact.all(), joint.category_certain.all()) == ("pooled", True, True)
    torch.testing.assert_close(joint.partition_bounds, torch.zeros(5, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [0, 2**20])
def test_a_weight_of_zero_is_exactly_the_joint(budget, monkeypatch):
    monkeypatch.setitem(pair_logits.TABLE_BYTES, "cpu", budget)
    features, text = world(num_images=20, num_rationales=30)
    joint = joint_probability(
        features,
        text,
        scoring=ScoringConfig(method="joint", keep_rationales=2),
        logit_scale=SCALE,
        temperatures=TEMPERATURES,
    )
    found = pooled(features, text, weight=0.0, hot=1.7, keep_rationales=2)
    for name in Joint.__dataclass_fields__:
        expected, value = getattr(joint, name), getattr(found, name)
        assert name == "method" or value is expected is None or torch.equal(value, expected), name
    tiny = pooled(features, text, weight=1e-9, keep_rationales=2)
    torch.testing.assert_close(tiny.log_prob, joint.log_prob, atol=1e-5, rtol=1e-5)
    assert torch.equal(tiny.category_certain, joint.category_certain)


@given(
    seed=st.integers(0, 10_000),
    num_categories=st.integers(1, 5),
    num_rationales=st.integers(1, 20),
    top_k=st.integers(1, 8),
    keep=st.integers(1, 6),
    limit=st.integers(6, 20),
    weight=st.sampled_from([0.2, 1.0, 3.0]),
    hot=st.sampled_from([0.7, 1.0, 1.5]),
    scale=st.sampled_from([0.5, 10.0, 60.0]),
    budget=st.sampled_from([0, 2**20]),
)
@settings(max_examples=60, deadline=None)
def test_pairs_partition_and_category_stay_within_what_is_promised(
    seed, num_categories, num_rationales, top_k, keep, limit, weight, hot, scale, budget
):
    features, text = world(seed=seed, num_images=3, num_categories=num_categories, num_rationales=num_rationales)
    kept = {"top_k": top_k, "keep_rationales": keep, "max_keep_rationales": limit}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pair_logits.TABLE_BYTES, "cpu", budget)
        joint = pooled(features, text, weight=weight, hot=hot, scale=scale, **kept)
    truth_BRC = everything(features, text, weight=weight, hot=hot, scale=scale)
    true_BKC = truth_BRC.gather(1, joint.rationales.unsqueeze(-1).expand(-1, -1, num_categories))
    away = (joint.log_prob - true_BKC).masked_fill(~joint.evaluated.unsqueeze(-1), 0.0)  # log Z − log Z used
    rounding = max(1e-5, 2e-6 * scale * (1 + weight) / min(hot, 1))
    lowest, highest = joint.partition_bounds.unbind(1)
    assert (lowest <= rounding).all() and (highest >= -rounding).all()
    assert (away >= lowest[:, None, None] - rounding).all() and (away <= highest[:, None, None] + rounding).all()
    flat = truth_BRC.transpose(1, 2).flatten(1)
    best = ranked_pairs(joint, top_k)
    found = truth_BRC[torch.arange(3)[:, None], best.rationales, best.categories]
    expected = flat.topk(min(top_k, flat.shape[1]), dim=-1).values
    exact = joint.pairs_exact
    torch.testing.assert_close(found[exact], expected[exact], atol=rounding, rtol=1e-5)
    held = joint.log_prob.flatten(1).logsumexp(1).exp()
    torch.testing.assert_close(joint.kept_mass, held, atol=1e-4, rtol=0)
    winner = truth_BRC.logsumexp(1).argmax(-1)
    assert (joint.category_log_prob.argmax(-1) == winner)[joint.category_certain].all()


def test_a_limit_that_is_too_low_is_reported():
    features, text = world(num_rationales=50)
    joint = pooled(features, text, scale=0.1, keep_rationales=2, max_keep_rationales=4)
    assert joint.rationales.shape[1] == 4
    assert not joint.pairs_exact.any()
    assert not joint.category_certain.any()
    assert (joint.partition_bounds[:, 0] < 0).all() and (joint.partition_bounds[:, 1] > 0).all()


def test_gradients_are_finite_where_images_look_at_different_numbers_of_rationales():
    features, text = world(num_images=6, num_rationales=40, num_categories=5)
    image = torch.nn.Parameter(features.rationale.clone())
    joint = pooled(
        ImageFeatures(rationale=image, category=features.category), text, keep_rationales=2, max_keep_rationales=40,
        top_k=3,
    )  # fmt: skip
    known = joint.rationale_log_prob.isfinite()
    assert known.any() and not known.all(), "otherwise all images look at the same number"
    joint.rationale_log_prob[known].sum().backward()
    assert image.grad is not None and image.grad.isfinite().all()


def test_names_may_change_places():
    features, text = world()
    categories, rationales = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 6, 1, 0, 2, 5, 3])
    table = text.table[rationales][:, categories]
    moved = TableRows(table, text.rationales[rationales], text.categories[categories])
    torch.testing.assert_close(everything(features, moved), everything(features, text)[:, rationales][:, :, categories])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sets_of_rationales_equal_enumeration_and_sum_to_one(size):
    features, text = world(num_images=2)
    joint = pooled(features, text, scale=6.0, keep_rationales=7, top_k=28)  # flat: the naive sum subtracts from one
    full = everything(features, text, scale=6.0).exp()
    ranked = ranked_sets(joint, math.comb(7, size) * 4, size=size, beam=10**4)
    for b in range(2):
        prob = full[b].sum(-1).tolist()
        expected = {}
        for members in combinations(range(7), size):
            weights = sum(prob[r] for r in members)
            for c in range(4):
                given_set = sum(float(full[b, r, c]) for r in members) / weights
                expected[c, members] = naive_set_prob(prob, members) * given_set
        sets = [tuple(sorted(ids)) for ids in ranked.rationales[b].tolist()]
        names = zip(ranked.categories[b].tolist(), sets, strict=True)
        found = dict(zip(names, ranked.log_prob[b].exp().tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5)
        assert sum(found.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("hot", [0.6, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(hot):
    features, text = world(num_images=20_000)
    log_prob = everything(features, text, weight=POOLING_WEIGHT, hot=hot, scale=4.0)
    drawn = torch.multinomial(log_prob.flatten(1).exp(), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    labels = {"logit_scale": 4.0, "temperatures": TEMPERATURES}
    known = {"categories": drawn % 4, "rationales": drawn // 4}
    known["categories"][:50] = -1
    found = fit_pooling_temperature(features, text, **known, **labels)
    assert found == pytest.approx(hot, rel=0.05)
    with pytest.raises(ValueError, match="known pair"):
        fit_pooling_temperature(features, text, **{**known, "rationales": drawn * 0 - 1}, **labels)


def test_the_fitted_temperature_has_the_least_loss_of_pairs(monkeypatch):
    features, text = world(num_images=200)
    generator = torch.Generator().manual_seed(0)
    categories = torch.randint(4, (200,), generator=generator)
    rationales = everything(features, text, weight=POOLING_WEIGHT)[torch.arange(200), :, categories].argmax(1)
    labels = {"categories": categories, "rationales": rationales, "logit_scale": SCALE, "temperatures": TEMPERATURES}
    found = fit_pooling_temperature(features, text, **labels)

    def nll(hot: float) -> float:
        log_prob = everything(features, text, weight=POOLING_WEIGHT, hot=hot).double()
        return -float(log_prob[torch.arange(200), rationales, categories].mean())

    assert all(nll(found) <= nll(found * step) + 1e-6 for step in (0.5, 0.95, 1.05, 2.0))
    monkeypatch.setattr(pooling_temperature, "_LARGEST", 100 * 7 * 4)
    every_second = torch.arange(0, 200, 2)
    half = {**labels, "categories": categories[every_second], "rationales": rationales[every_second]}
    by_half = fit_pooling_temperature(features.select(every_second), text, **half)
    assert fit_pooling_temperature(features, text, **labels) == by_half != found


def test_where_sentences_are_not_in_memory_the_fit_reads_those_that_decoding_reads():
    features, text = world(num_images=300, num_rationales=60)
    read: set[int] = set()

    def row(rationale: int) -> Tensor:
        read.add(rationale)
        return text.row(rationale)

    encoded = SimpleNamespace(rationales=text.rationales, categories=text.categories, row=row, column=text.column)
    plain = {"logit_scale": 30.0, "temperatures": TEMPERATURES}
    best = everything(features, text, weight=POOLING_WEIGHT, scale=5.0).flatten(1).softmax(1)
    drawn = torch.multinomial(best, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    labels = {"categories": drawn % 4, "rationales": drawn // 4}
    few = features.select(torch.arange(3))
    found = fit_pooling_temperature(few, encoded, **{name: ids[:3] for name, ids in labels.items()}, **plain)
    assert found > 0 and len(read) <= 3 * (ScoringConfig().keep_rationales + 1) < 60
    found = fit_pooling_temperature(features, encoded, **labels, **plain)
    assert found == pytest.approx(fit_pooling_temperature(features, text, **labels, **plain), rel=0.05)


def test_temperatures_and_weight_are_set_together():
    features, text = world(num_images=500)
    generator = torch.Generator().manual_seed(0)
    plain = {"logit_scale": 4.0, "temperatures": Temperatures()}
    categories = torch.multinomial(category_log_prob(features, text, **plain).exp(), 1, generator=generator)[:, 0]
    rationales = torch.multinomial(rationale_log_prob(features, text, **plain).exp(), 1, generator=generator)[:, 0]
    labels = {"categories": categories, "rationales": rationales, "logit_scale": 4.0}
    fitted = fit_temperatures(features, text, methods=("pooled",), **labels)
    factors = replace(fitted, pooling_weight=None, pooling_temperature=None)
    assert fitted.pooling_weight == POOLING_WEIGHT
    assert fitted.pooling_temperature == fit_pooling_temperature(features, text, **labels, temperatures=factors) != 1
    assert fitted.cover("pooled")
    without = fit_temperatures(features, text, methods=("joint", "independent"), **labels)
    assert without.pooling_weight is without.pooling_temperature is None
    assert not without.cover("pooled")

    def decoded(temperatures: Temperatures, weight: float | None) -> Tensor:
        scoring = ScoringConfig(method="pooled", pooling_weight=weight)
        return joint_probability(features, text, scoring=scoring, logit_scale=4.0, temperatures=temperatures).log_prob

    assert torch.equal(decoded(fitted, None), decoded(fitted, POOLING_WEIGHT))
    assert torch.equal(decoded(fitted, 0.5), decoded(factors, 0.5)), "T belongs to the model's own weight"
    assert not torch.equal(decoded(fitted, None), decoded(factors, None))


def test_checkpoints_hold_the_weight_and_those_without_it_are_as_before(tmp_path: Path):
    model = tiny_recognizer(tmp_path)
    old = Temperatures(rationale=0.7, category_given_rationale=1.9)
    new = Temperatures(
        rationale=0.7, category_given_rationale=1.9, category=0.5, pooling_weight=0.0, pooling_temperature=1.4
    )
    digests = []
    for name, temperatures in (("old", old), ("new", new)):
        digests.append(save_checkpoint(model.with_temperatures(temperatures), tmp_path / name).digest)
        written = json.loads((tmp_path / name / "checkpoint.json").read_text())
        assert written["temperatures"] == temperatures.to_record()
        assert load(tmp_path / name).temperatures == temperatures
    assert {"pooling_weight", "pooling_temperature"}.isdisjoint(old.to_record())
    assert digests[0] != digests[1]


def test_rows_name_the_method_and_are_calibrated_only_with_the_fitted_weight(tmp_path: Path):
    fitted = Temperatures(rationale=0.7, category_given_rationale=1.9, category=0.5, pooling_weight=0.5)
    model = tiny_recognizer(tmp_path).with_temperatures(fitted)
    pixels, origins = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), origins_table(["0"], source=["a"])
    for weight, calibrated in ((None, True), (0.5, True), (2.0, False)):
        scoring = ScoringConfig(method="pooled", pooling_weight=weight)
        rows = model.label(pixels, origins=origins, scoring=scoring)
        assert rows["method"].to_pylist() == ["pooled"]
        assert rows["calibrated"].to_pylist() == [calibrated]


def test_settings_that_make_no_sense_are_refused_and_records_of_old_settings_stay():
    with pytest.raises(ValueError, match="pooling_weight must be at least 0, got -1"):
        ScoringConfig(method="pooled", pooling_weight=-1.0)
    with pytest.raises(ValueError, match="pooling_weight is a setting of the method pooled, not joint"):
        ScoringConfig(method="joint", pooling_weight=1.0)
    with pytest.raises(ValueError, match=r"pooling_weight must be at least 0, got -0\.5"):
        Temperatures(pooling_weight=-0.5)
    with pytest.raises(ValueError, match="pooling temperature must be positive, got 0"):
        Temperatures(pooling_temperature=0.0)
    assert "pooling_weight" not in ScoringConfig().to_record()
    assert ScoringConfig(method="pooled", pooling_weight=0.0).to_record()["pooling_weight"] == 0
