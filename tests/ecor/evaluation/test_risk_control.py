"""Risk control: exact tails, the fixed sequence, and promises that are broken at most as often as allowed."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, FWERFixedSequenceTesting
from scipy.stats import binomtest

from ecor.evaluation.risk_control import (
    Promise,
    certify,
    count_above,
    make_test_sequence,
    num_judged_needed,
    p_value,
    risk_coverage,
)

PROMISE = Promise(right=0.9, sure=0.9)
NUM_LABELS = 1000


@given(st.integers(1, 60), st.data())
def test_the_p_value_is_the_exact_tail_of_drawing_without_replacement(num_labels, data):
    judged = data.draw(st.integers(0, num_labels))
    wrong = data.draw(st.integers(0, judged))
    bad = num_labels // 10 + 1  # one more than a tenth
    ways = sum(comb(bad, k) * comb(num_labels - bad, judged - k) for k in range(min(wrong, bad) + 1) if judged >= k)
    exact = Fraction(ways, comb(num_labels, judged))
    counts = {"num_wrong": wrong, "num_judged": judged, "num_labels": num_labels}
    found = p_value(**{name: np.array([value]) for name, value in counts.items()}, promise=PROMISE)
    assert found[0] == pytest.approx(float(exact), abs=1e-12)


def test_how_many_must_be_judged():
    promise = Promise(right=0.95, sure=0.95)
    assert num_judged_needed(10**9, promise=promise) == 59  # 0.95 ** 59 < 0.05: the binomial limit
    assert num_judged_needed(100, promise=promise) < 59
    assert num_judged_needed(10, promise=promise) == 10  # one wrong label breaks it: all must be seen
    assert num_judged_needed(0, promise=promise) == 0


def test_the_sequence_stops_at_the_first_test_that_fails():
    scores = np.linspace(1, 0, 1000)
    sampled = np.ones(1000, dtype=bool)  # all are judged: the tests are certain
    sequence = make_test_sequence(scores, is_sampled=sampled, predicted_right=None, promise=PROMISE, num_thresholds=10)
    assert sequence.num_labels.tolist() == [100 * step for step in range(1, 11)]
    wrong = np.array([5, 10, 20, 31, 80, 81, 82, 83, 84, 85])  # 80 of 500 break it, 85 of 1,000 would not
    found = certify(sequence, num_wrong=wrong, promise=PROMISE)
    assert found is not None
    assert (found.num_labels, found.num_wrong, found.threshold) == (400, 31, scores[399])
    assert certify(sequence, num_wrong=np.full(10, 100), promise=PROMISE) is None


def test_equal_scores_are_accepted_together_or_not_at_all():
    scores = np.repeat([0.9, 0.5], [300, 700])
    sequence = make_test_sequence(
        scores, is_sampled=np.ones(1000, dtype=bool), predicted_right=scores, promise=PROMISE, num_thresholds=100
    )
    assert sequence.num_labels.tolist() == [300, 1000]
    assert count_above(sequence, np.array([0.95, 0.9, 0.6, 0.1])).tolist() == [2, 3]


def test_a_sample_too_small_certifies_nothing():
    few = np.zeros(1000, dtype=bool)
    few[-10:] = True
    for scores in (np.linspace(1, 0, 1000), np.zeros(0)):
        sampled = few[len(few) - len(scores) :]
        sequence = make_test_sequence(scores, is_sampled=sampled, predicted_right=None, promise=PROMISE)
        assert sequence.start is None
        assert certify(sequence, num_wrong=np.zeros(len(sequence.thresholds), dtype=int), promise=PROMISE) is None


def test_the_band_covers_the_true_risk():
    scores, wrong = job(0)
    inside = []
    for seed in range(100):
        sampled = draw(len(scores), size=200, seed=seed)
        sequence = make_test_sequence(
            scores, is_sampled=sampled, predicted_right=None, promise=PROMISE, num_thresholds=10
        )
        curve = risk_coverage(sequence, num_wrong=count_above(sequence, scores[sampled & wrong]), sure=0.9)
        true = count_above(sequence, scores[wrong]) / sequence.num_labels
        inside.append((curve.low[5] <= true[5]) & (true[5] <= curve.high[5]))
    assert sum(inside) >= 84  # 90 expected; below 84 in fewer than 2 of 100 such tests


@pytest.mark.parametrize("calibrated", [True, False])
def test_promises_are_broken_at_most_as_often_as_allowed(calibrated):
    """400 jobs with calibrated confidences, and 400 whose confidence says nothing and whose risk is at the limit."""
    broken = accepted = best = 0
    for seed in range(400):
        scores, wrong = job(seed) if calibrated else job_at_the_limit(seed)
        sampled = draw(len(scores), size=200, seed=seed)
        sequence = make_test_sequence(
            scores, is_sampled=sampled, predicted_right=scores, promise=PROMISE, num_thresholds=25
        )
        found = certify(sequence, num_wrong=count_above(sequence, scores[sampled & wrong]), promise=PROMISE)
        if found is not None:
            broken += wrong[scores >= found.threshold].sum() > (1 - PROMISE.right) * found.num_labels
            accepted += found.num_labels
        right = count_above(sequence, scores[wrong]) <= PROMISE.max_wrong(sequence.num_labels)
        best += sequence.num_labels[right].max(initial=0)
    assert binomtest(int(broken), 400, 1 - PROMISE.sure, alternative="greater").pvalue > 0.01
    if calibrated:
        assert accepted > 0.5 * best
    else:
        assert broken > 0, "such jobs are the hardest ones"


@pytest.mark.filterwarnings("ignore:Fixed sequence testing requires")
def test_mapie_certifies_about_the_same_and_never_more():
    """Its binomial tail is a little larger than the exact one, so that its sequence may end some steps earlier."""
    promise, gaps = Promise(right=0.95, sure=0.95), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scores = rng.beta(8, 0.8, size=200_000)
        right = rng.random(len(scores)) < scores
        sampled = np.zeros(len(scores), dtype=bool)
        sampled[rng.choice(len(scores), size=1000, replace=False)] = True
        sequence = make_test_sequence(scores, is_sampled=sampled, predicted_right=scores, promise=promise)
        found = certify(sequence, num_wrong=count_above(sequence, scores[sampled & ~right]), promise=promise)
        controller = BinaryClassificationController(
            predict_function=lambda values: np.stack([1 - values, values], axis=1),
            risk="precision",
            target_level=promise.right,
            confidence_level=promise.sure,
            list_predict_params=sequence.thresholds[sequence.start :],
            fwer_method=FWERFixedSequenceTesting(n_starts=1),
        )
        controller.calibrate(scores[sampled], right[sampled].astype(int))
        theirs = controller.valid_predict_params.min()
        assert found is not None and found.threshold <= theirs
        gaps.append(found.num_labels / len(scores) - (scores >= theirs).mean())
    assert np.median(gaps) < 0.01 and np.mean(gaps) < 0.03


def test_shares_are_checked():
    for values in ({"right": 1.0, "sure": 0.9}, {"right": 0.9, "sure": 0.0}):
        with pytest.raises(ValueError, match="both excluded"):
            Promise(**values)


def job(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are probabilities of being right, and which labels are wrong."""
    generator = np.random.default_rng((1, seed))
    scores = generator.beta(6, 0.8, size=NUM_LABELS)
    return scores, generator.random(NUM_LABELS) > scores


def job_at_the_limit(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Just more wrong labels than the promise allows, whatever the score."""
    generator = np.random.default_rng((2, seed))
    wrong = np.zeros(NUM_LABELS, dtype=bool)
    wrong[generator.choice(NUM_LABELS, size=101, replace=False)] = True
    return generator.beta(6, 0.8, size=NUM_LABELS), wrong


def draw(num: int, *, size: int, seed: int) -> np.ndarray:
    """A simple random sample without replacement."""
    sampled = np.zeros(num, dtype=bool)
    sampled[np.random.default_rng((3, seed)).choice(num, size=size, replace=False)] = True
    return sampled
