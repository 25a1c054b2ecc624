"""Test for drift between two sets of labels without truth, with a stated rate of false alarms.

Labels of the same images are compared image by image: under the null hypothesis an image's two labels can be exchanged,
so the differences are compared with those after random exchanges (sign flips). Where the labels cannot be exchanged but
are distributed alike, the same test is a wild bootstrap with Rademacher weights, which holds for many images. Labels of
different images are compared as two samples: scipy's Kolmogorov-Smirnov test for values, and its chi-square test with
Monte Carlo tables of the same margins for names. Holm's correction makes the rate hold for all tests together.

With many labels every difference is significant. A drift is therefore reported only if its effect also reaches a stated
smallest one. Not in the sources: this second condition, the measures of effect, and the quantile bins of paired values.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.stats import MonteCarloMethod, chi2_contingency, ks_2samp

from ecor.config.checks import require

DEFAULT_FALSE_ALARMS, DEFAULT_SMALLEST_EFFECT = 0.05, 0.02
_NUM_BINS = 100
"""Quantile bins of paired values; equal values share a bin."""
_AT_ONCE = 4_000_000
"""Random numbers in memory at once."""
_FEW = 1000
"""Values from which the asymptotic distribution of the Kolmogorov-Smirnov statistic is used."""
_SEED = 0
_TOLERANCE = 1e-9
Differences = Float[np.ndarray, "S K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLimits:
    """When a difference is reported as a drift."""

    false_alarms: float = DEFAULT_FALSE_ALARMS
    """Largest probability of any drift when nothing has changed, over all tests together."""
    smallest_effect: float = DEFAULT_SMALLEST_EFFECT
    """Smallest effect (0 to 1) that is reported."""

    def __post_init__(self) -> None:
        require(
            0.001 <= self.false_alarms < 1,
            f"false_alarms is a probability from 0.001 to below 1, got {self.false_alarms}",
        )
        require(0 <= self.smallest_effect < 1, f"smallest_effect lies between 0 and 1, got {self.smallest_effect}")

    @property
    def num_resamples(self) -> int:
        """Random exchanges or tables of one test: their smallest p-value is well below any corrected level."""
        return max(999, round(40 / self.false_alarms) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftTest:
    """The comparison of one quantity."""

    quantity: str
    """`confidence`, `ood_score`, `category`, `rationale`, or the score of an audit."""
    method: str
    num_before: int
    num_after: int
    effect: float
    """Values: largest difference between the shares of labels below a value (Kolmogorov-Smirnov distance). Names: half
    the sum of the differences of shares (total variation): the share of labels that would have to change."""
    p_value: float
    adjusted_p_value: float
    """After Holm's correction over all tests of the comparison."""
    is_drift: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One property of the labels on both sides; in a paired comparison, row i of both is of the same image."""

    name: str
    before: np.ndarray
    after: np.ndarray
    is_name: bool
    """The arrays hold ids of names, not values."""


def compare(quantities: Iterator[Quantity], *, paired: bool, limits: DriftLimits) -> tuple[DriftTest, ...]:
    """Test each quantity, and correct the p-values for their number.

    Args:
        quantities: to compare; those without labels on one side are left out.
        paired: both sides are of the same images, row by row.
        limits: rate of false alarms and smallest effect.
    """
    tests = [_test(each, paired=paired, limits=limits) for each in quantities if len(each.before) and len(each.after)]
    adjusted = holm([each.p_value for each in tests])
    return tuple(
        replace(
            each,
            adjusted_p_value=p_value,
            is_drift=p_value <= limits.false_alarms and each.effect >= limits.smallest_effect,
        )
        for each, p_value in zip(tests, adjusted, strict=True)
    )


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those at or below a level errs, over all of them, at most at that rate."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _test(quantity: Quantity, *, paired: bool, limits: DriftLimits) -> DriftTest:
    before, after = quantity.before, quantity.after
    effect = total_variation(before, after) if quantity.is_name else ks_distance(before, after)
    if paired:
        method = f"sign flips of {limits.num_resamples:,} exchanges, paired by image"
        p_value = paired_p_value(before, after, is_name=quantity.is_name, num_resamples=limits.num_resamples)
    elif quantity.is_name:
        method = f"chi-square, {limits.num_resamples:,} Monte Carlo tables"
        p_value = _chi_square_p_value(before, after, num_resamples=limits.num_resamples)
    else:
        method = "two-sample Kolmogorov-Smirnov"
        p_value = _ks_p_value(before, after)
    return DriftTest(
        quantity=quantity.name,
        method=method,
        num_before=len(before),
        num_after=len(after),
        effect=effect,
        p_value=p_value,
        adjusted_p_value=p_value,
        is_drift=False,
    )


def ks_distance(before: Float[np.ndarray, " N"], after: Float[np.ndarray, " M"]) -> float:
    """Largest difference between the two empirical distribution functions."""
    before, after = np.sort(before), np.sort(after)
    values = np.concatenate([before, after])
    below = (np.searchsorted(each, values, side="right") / len(each) for each in (before, after))
    return float(np.abs(np.subtract(*below)).max())


def total_variation(before: Int[np.ndarray, " N"], after: Int[np.ndarray, " M"]) -> float:
    """Half the sum of the differences between the shares of all names."""
    num = 1 + max(before.max(), after.max())
    shares = [np.bincount(each, minlength=num) / len(each) for each in (before, after)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def paired_p_value(before: np.ndarray, after: np.ndarray, *, is_name: bool, num_resamples: int) -> float:
    """Sign-flip test of equal distributions on the two sides of the same images.

    The statistic is the largest difference of the two distribution functions (values), or the sum over names of the
    squared difference of counts, each divided by the number of images that gained or lost the name: for two names,
    McNemar's statistic.

    Args:
        before: ids of names, or values, one per image.
        after: the same, of the same images in the same order.
        is_name: whether they are ids of names.
        num_resamples: random exchanges.
    """
    first, second = (before, after) if is_name else _quantile_bins(before, after)
    differ = first != second
    first, second = first[differ].astype(np.int64), second[differ].astype(np.int64)
    if not len(first):
        return 1.0
    names, ids = np.unique(np.concatenate([first, second]), return_inverse=True)
    first, second = ids[: len(first)], ids[len(first) :]
    pairs, place, totals = np.unique(
        np.minimum(first, second) * len(names) + np.maximum(first, second), return_inverse=True, return_counts=True
    )
    signed = np.bincount(place, weights=np.where(first < second, 1.0, -1.0), minlength=len(pairs))
    low, high, rows = pairs // len(names), pairs % len(names), np.arange(len(pairs))
    ends = coo_array(
        (np.repeat([1.0, -1.0], len(pairs)), (np.concatenate([low, high]), np.tile(rows, 2))),
        shape=(len(names), len(pairs)),
    ).tocsr()
    num_changed = np.bincount(ids, minlength=len(names))

    def statistic(signed_SP: np.ndarray) -> Float[np.ndarray, " S"]:
        differences = (ends @ signed_SP.T).T
        if is_name:
            return (differences**2 / num_changed).sum(axis=1)
        return np.abs(np.cumsum(differences, axis=1)).max(axis=1)

    return _p_value(statistic, observed=signed, totals=totals, num_resamples=num_resamples)


def _p_value(
    statistic: Callable[[np.ndarray], np.ndarray], *, observed: np.ndarray, totals: np.ndarray, num_resamples: int
) -> float:
    """Share of random exchanges, and of the observed one, with a statistic as large as observed."""
    generator, limit = np.random.default_rng(_SEED), float(statistic(observed[None])[0]) * (1 - _TOLERANCE)
    at_once, num_as_large = max(1, _AT_ONCE // len(totals)), 0
    for start in range(0, num_resamples, at_once):
        size = (min(at_once, num_resamples - start), len(totals))
        num_as_large += int((statistic(2.0 * generator.binomial(totals, 0.5, size=size) - totals) >= limit).sum())
    return (1 + num_as_large) / (1 + num_resamples)


def _quantile_bins(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as bins of equal shares of all their values: independent of which side a value is on."""
    edges = np.unique(np.quantile(np.concatenate([before, after]), np.arange(1, _NUM_BINS) / _NUM_BINS))
    return np.searchsorted(edges, before, side="right"), np.searchsorted(edges, after, side="right")


def _chi_square_p_value(before: np.ndarray, after: np.ndarray, *, num_resamples: int) -> float:
    num = 1 + max(before.max(), after.max())
    table = np.stack([np.bincount(each, minlength=num) for each in (before, after)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] == 1:
        return 1.0
    batch = max(1, _AT_ONCE // table.size)
    method = MonteCarloMethod(n_resamples=num_resamples, batch=batch, rng=np.random.default_rng(_SEED))
    return float(chi2_contingency(table, correction=False, method=method).pvalue)


def _ks_p_value(before: np.ndarray, after: np.ndarray) -> float:
    is_small = max(len(before), len(after)) <= _FEW
    return float(ks_2samp(before, after, method="exact" if is_small else "asymp").pvalue)


def describe_drift(tests: tuple[DriftTest, ...], *, limits: DriftLimits, words: Mapping[str, str]) -> str:
    """One line for the terminal: which quantities have drifted, or that none has.

    Args:
        tests: result of `compare`.
        limits: of the comparison.
        words: name of each quantity for people.
    """
    chance = f"false alarms at most {100 * limits.false_alarms:.6g} %"
    drifted = [
        f"{words.get(each.quantity, each.quantity)} (effect {each.effect:.3f}, p {each.adjusted_p_value:.2g})"
        for each in tests
        if each.is_drift
    ]
    if drifted:
        return f"drift: {', '.join(drifted)}; {chance}"
    tested = ", ".join(words.get(each.quantity, each.quantity) for each in tests) or "nothing to compare"
    return f"no drift of an effect of {limits.smallest_effect:.6g} or more ({tested}); {chance}"
