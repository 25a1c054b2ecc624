"""Exact risk control for a finite set of labels: the lowest score above which they are right as often as promised.

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei, 2021, arXiv:2110.01052) with fixed-sequence testing: the
thresholds and their order are fixed before a judgement is seen, each null hypothesis ("of the labels at or above this
threshold, fewer than the promised share are right") is tested at level 1 − sure, and the first one that is not rejected
ends the sequence. All rejected ones are then true with probability at most 1 − sure.

Where we differ: a job is finite and its sample is drawn without replacement, so the tails are hypergeometric, not
binomial. Given how many judged labels lie above each threshold, those above a threshold are again a simple random
sample of all labels above it, so every p-value is exact. The sequence begins where the labels' own probabilities
predict the most power (our choice); wrong probabilities cost accepted labels, never the promise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from scipy.stats import beta, binom, hypergeom

from ecor.config.checks import require

NUM_THRESHOLDS = 200
"""Steps of a sequence: each lets in at least a 200th of the labels (our choice)."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What is promised of the accepted labels."""

    right: float
    """Share of them that is right, at least."""
    sure: float
    """Probability that this holds, over the draw of the sample."""

    def __post_init__(self) -> None:
        for name in ("right", "sure"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} is a share between 0 and 1, both excluded, got {value}")

    def max_wrong(self, num_labels: Int[np.ndarray, " T"] | int) -> Int[np.ndarray, " T"]:
        """The largest number of wrong ones among so many labels that keeps the promise."""
        return np.floor((1 - self.right) * np.asarray(num_labels) + _ROUNDING).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSequence:
    """Thresholds of a score, from strict to loose; made before any judgement is seen."""

    __test__ = False  # no test of pytest

    thresholds: Float[np.ndarray, " T"]
    """Descending; labels with a score at or above one are its set."""
    num_labels: Int[np.ndarray, " T"]
    """In each set."""
    num_judged: Int[np.ndarray, " T"]
    """Of them, those in the sample."""
    start: int | None
    """Index of the first one to be tested; None when the sample is too small for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedSet:
    """The largest set of labels for which the promise holds."""

    threshold: float
    """Labels with a score at or above it."""
    num_labels: int
    num_judged: int
    num_wrong: int
    """Of the judged ones."""
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """Share of wrong labels against the share that is accepted, with a band."""

    coverage: Float[np.ndarray, " T"]
    """Share of all labels at or above each threshold."""
    risk: Float[np.ndarray, " T"]
    """Share of wrong ones among the judged; NaN where none is judged."""
    low: Float[np.ndarray, " T"]
    high: Float[np.ndarray, " T"]
    """Ends of the exact binomial interval of each point on its own (Clopper and Pearson)."""


def p_value(
    *,
    num_wrong: Int[np.ndarray, " T"],
    num_judged: Int[np.ndarray, " T"],
    num_labels: Int[np.ndarray, " T"],
    promise: Promise,
) -> Float[np.ndarray, " T"]:
    """P(at most so many judged are wrong) if one label more than the promise allows is wrong: exact, hypergeometric."""
    return np.asarray(hypergeom.cdf(num_wrong, num_labels, promise.max_wrong(num_labels) + 1, num_judged))


def num_judged_needed(num_labels: int, *, promise: Promise) -> int:
    """The smallest number of judged labels, all right, that certifies a set of so many; all of them at most."""
    low, high = 0, num_labels
    while low < high:
        middle = (low + high) // 2
        counts = (np.array([0]), np.array([middle]), np.array([num_labels]))
        tail = p_value(num_wrong=counts[0], num_judged=counts[1], num_labels=counts[2], promise=promise)[0]
        low, high = (low, middle) if tail <= 1 - promise.sure else (middle + 1, high)
    return low


def make_test_sequence(
    scores: Float[np.ndarray, " N"],
    *,
    is_sampled: Bool[np.ndarray, " N"],
    predicted_right: Float[np.ndarray, " N"] | None,
    promise: Promise,
    num_thresholds: int = NUM_THRESHOLDS,
) -> TestSequence:
    """The thresholds to test, in order, from what is known before the sample is judged.

    Args:
        scores: of all labels; high is trusted.
        is_sampled: which of them were drawn, at random without replacement.
        predicted_right: the model's probability that each label is right, to choose the first threshold; None: the
            first one at which one wrong judgement does not end the test.
        promise: what is to be promised.
        num_thresholds: at most so many.
    """
    num = len(scores)
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    ranks = np.unique(np.ceil(np.arange(1, num_thresholds + 1) * num / num_thresholds).astype(np.int64)).clip(1)
    thresholds = np.unique(descending[ranks - 1])[::-1] if num else descending
    num_labels = np.searchsorted(-descending, -thresholds, side="right")
    num_judged = np.concatenate([[0], np.cumsum(is_sampled[order])])[num_labels]
    risk = None
    if predicted_right is not None and num:
        risk = (np.cumsum(1 - predicted_right[order])[num_labels - 1] / num_labels).clip(0, 1)
    start = _choose_start(num_labels, num_judged, risk=risk, promise=promise)
    return TestSequence(thresholds=thresholds, num_labels=num_labels, num_judged=num_judged, start=start)


def certify(sequence: TestSequence, *, num_wrong: Int[np.ndarray, " T"], promise: Promise) -> CertifiedSet | None:
    """Test in the fixed order; the last set before the first test that fails, or None if the first one fails.

    Args:
        sequence: made before the judgements.
        num_wrong: of the judged labels of each set, those that are wrong.
        promise: the one that the sequence was made for.
    """
    if sequence.start is None:
        return None
    found = None
    for index in range(sequence.start, len(sequence.thresholds)):
        counts = {"num_judged": sequence.num_judged[[index]], "num_labels": sequence.num_labels[[index]]}
        tail = float(p_value(num_wrong=num_wrong[[index]], **counts, promise=promise)[0])
        if tail > 1 - promise.sure:
            break
        found = CertifiedSet(
            threshold=float(sequence.thresholds[index]),
            num_labels=int(sequence.num_labels[index]),
            num_judged=int(sequence.num_judged[index]),
            num_wrong=int(num_wrong[index]),
            p_value=tail,
        )
    return found


def count_above(sequence: TestSequence, scores: Float[np.ndarray, " M"]) -> Int[np.ndarray, " T"]:
    """How many of some scores lie at or above each threshold."""
    return np.searchsorted(-np.sort(scores)[::-1], -sequence.thresholds, side="right")


def risk_coverage(sequence: TestSequence, *, num_wrong: Int[np.ndarray, " T"], sure: float) -> RiskCoverage:
    """The curve of a sequence's sets; `sure` is the level of the band, for each point on its own."""
    judged, wrong, tail = sequence.num_judged, num_wrong, (1 - sure) / 2
    total = max(1, int(sequence.num_labels[-1])) if len(sequence.num_labels) else 1
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(wrong > 0, beta.ppf(tail, wrong, judged - wrong + 1), 0.0)
        high = np.where(wrong < judged, beta.ppf(1 - tail, wrong + 1, judged - wrong), 1.0)
        risk = wrong / judged
    return RiskCoverage(coverage=sequence.num_labels / total, risk=risk, low=low, high=high)


def _choose_start(
    num_labels: np.ndarray, num_judged: np.ndarray, *, risk: np.ndarray | None, promise: Promise
) -> int | None:
    """The threshold whose test most probably passes if the labels are wrong as often as predicted."""
    # A test can pass where it passes without a wrong judgement: log of choose(N − W, n) / choose(N, n), in floats
    good = num_labels - promise.max_wrong(num_labels) - 1
    left = np.maximum(good - num_judged, 0)
    log_tail = gammaln(good + 1) - gammaln(left + 1) + gammaln(num_labels - num_judged + 1) - gammaln(num_labels + 1)
    possible = np.flatnonzero((good < num_judged) | (log_tail <= np.log(1 - promise.sure)))
    if not len(possible):
        return None
    judged = num_judged[possible]
    # The binomial limit is near enough to compare power
    num_allowed = (binom.ppf(1 - promise.sure, judged, 1 - promise.right) - 1).clip(0)
    if risk is None:
        return int(possible[np.argmax(num_allowed >= min(1, num_allowed[-1]))])
    return int(possible[np.argmax(binom.cdf(num_allowed, judged, risk[possible]))])
