"""Calibration metrics: against naive loops and scikit-learn, unbiased where probabilities are right, and covered."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from ecor.data.predictions.records import predictions_table
from ecor.evaluation.calibration import Stated, calibration_of, corrected_error, stated_probabilities
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.label_columns import read_labels
from ecor.evaluation.record import Evaluation
from ecor.evaluation.table_evaluation import evaluate
from tests.support.prediction_rows import random_table, row

FEW = Resampling(num_resamples=60)


def stated(num: int, *, gap: float, seed: int) -> Stated:
    """Probabilities from 0.25 to 0.95; what they are of is so more seldom by `gap`."""
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.25, 0.95, num)
    return Stated(probability=probability, is_so=rng.random(num) < probability - gap)


def naive_square(given: Stated, *, num_bins: int) -> float:
    """Corrected mean square gap, one bin after another."""
    order = np.argsort(given.probability, kind="stable")
    total = 0.0
    for number in range(num_bins):
        members = [order[i] for i in range(len(order)) if i * num_bins // len(order) == number]
        gaps = [given.probability[i] - given.is_so[i] for i in members]
        total += len(members) * (np.mean(gaps) ** 2 - np.var(gaps, ddof=1) / len(members))
    return total / len(order)


@pytest.mark.parametrize("gap, num", [(0.2, 150), (0.25, 61)])
def test_the_corrected_error_equals_a_naive_loop(gap: float, num: int) -> None:
    given = stated(num, gap=gap, seed=1)
    square = naive_square(given, num_bins=7)
    found = corrected_error(given, num_bins=7, resampling=FEW)
    assert square > 0
    assert found.value == pytest.approx(np.sqrt(square), abs=1e-12)
    assert found.low <= found.value <= found.high and found.num_images == num


def test_brier_score_and_likelihood_are_scikit_learns() -> None:
    given = stated(200, gap=0.1, seed=2)
    found = calibration_of(given, num_bins=15, resampling=FEW)
    assert found["brier"].value == pytest.approx(brier_score_loss(given.is_so, given.probability), abs=1e-12)
    assert found["nll"].value == pytest.approx(log_loss(given.is_so, given.probability), abs=1e-9)


def test_a_certain_error_has_a_finite_likelihood() -> None:
    given = Stated(probability=np.array([1.0, 0.0]), is_so=np.array([False, True]))
    assert calibration_of(given, num_bins=15, resampling=FEW)["nll"].value == pytest.approx(-np.log(2.0**-24), rel=1e-6)


def test_calibrated_probabilities_have_an_expected_error_and_no_corrected_one() -> None:
    """400 images in 15 bins: the plain error is some 6 % of noise; the corrected square is zero on average."""
    squares, plain, num = [], [], 400
    once = Resampling(num_resamples=1)
    for seed in range(300):
        given = stated(num, gap=0.0, seed=seed)
        squares.append(naive_square_fast(given))
        plain.append(calibration_of(given, num_bins=15, resampling=once)["ece"].value)
    assert np.mean(plain) > 0.05
    assert abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(len(squares))


def naive_square_fast(given: Stated) -> float:
    """As `naive_square`, with 15 bins of equal size at once."""
    order = np.argsort(given.probability)[: len(given.probability) // 15 * 15]
    gaps = (given.probability - given.is_so)[order].reshape(15, -1)
    return float((gaps.mean(axis=1) ** 2 - gaps.var(axis=1, ddof=1) / gaps.shape[1]).mean())


def test_intervals_hold_the_true_error_about_as_often_as_they_say() -> None:
    """90 % intervals of 200 sets whose probabilities are 0.15 too high: the binomial bounds of 90 % at 1 in 1,000."""
    resampling = Resampling(confidence=0.9, num_resamples=150)
    found = [corrected_error(stated(400, gap=0.15, seed=s), num_bins=15, resampling=resampling) for s in range(200)]
    assert np.mean([each.value for each in found]) == pytest.approx(0.15, abs=0.01)
    assert 164 <= sum(each.low <= 0.15 <= each.high for each in found) <= 194


def test_pair_category_and_visible_rationale_are_judged_each_by_its_own_truth() -> None:
    table = predictions_table(
        [
            row("a", ("fox", "ears"), category="fox", rationales=("ears",), visible=("ears", "tail"), confidence=0.9),
            row("b", ("fox", "ears"), category="fox", rationales=("tail",), visible=("tail",), confidence=0.6),
            row("c", ("fox", "ears"), category="owl", confidence=0.5),
            row("d", ("fox", "ears"), confidence=0.4),
        ]
    )
    labels = read_labels(table)
    found = stated_probabilities(labels.answers, labels.truth)
    assert found["pair"].is_so.tolist() == [True, False]
    assert found["pair"].probability == pytest.approx([0.9, 0.6], abs=1e-6)
    assert found["category"].is_so.tolist() == [True, True, False]
    assert found["visible"].is_so.tolist() == [True, False]
    logs = [table[name].to_pylist()[0][0]["log_prob"] for name in ("categories", "rationales")]
    assert found["category"].probability[0] == pytest.approx(np.exp(logs[0]))
    assert found["visible"].probability[0] == pytest.approx(np.exp(logs[1]))


def test_the_probability_of_a_visible_rationale_is_judged_where_it_is_stated_and_truth_is_known() -> None:
    """It is of the best pair's rationale, whatever the most probable rationale is."""
    rows = [
        row("a", ("fox", "ears"), category="fox", visible=("ears", "tail"), said=("tail", "ears")),
        row("b", ("fox", "ears"), category="fox", visible=("tail",)),
        row("c", ("fox", "ears"), category="owl"),
        row("d", ("fox", "ears"), category="fox", visible=("ears",)),
    ]
    stated = [0.75, 0.5, 0.25, None]
    table = predictions_table(
        replace(each, rationale_visible_probability=value) for each, value in zip(rows, stated, strict=True)
    )
    result = evaluate(table, name="a", resampling=FEW, num_bins=4)
    assert result.metrics["calibration/rationale_visible/brier"].value == pytest.approx((0.25**2 + 0.5**2) / 2)
    assert result.metrics["calibration/rationale_visible/nll"].value == pytest.approx(-np.log([0.75, 0.5]).mean())
    assert result.metrics["calibration/rationale_visible/ece"].num_images == 2
    assert [each.accuracy for each in result.visible_reliability] == [None, 0.0, 1.0, None]
    record = Evaluation(results=(result,), comparisons=(), resampling=FEW, num_bins=4)
    assert Evaluation.from_json(record.to_json()) == record


def test_rows_that_do_not_state_it_give_the_record_they_gave_before() -> None:
    result = evaluate(random_table(20), name="a", resampling=FEW)
    assert not [name for name in result.metrics if "rationale_visible" in name] and result.visible_reliability == ()
    text = Evaluation(results=(result,), comparisons=(), resampling=FEW, num_bins=4).to_json()
    assert "visible_reliability" not in text and Evaluation.from_json(text).results == (result,)
