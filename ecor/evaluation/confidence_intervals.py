"""Confidence intervals: percentile bootstrap over images, and Student's t over repetitions."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from ecor.config.checks import require, require_at_least

Statistic = Callable[[Float[np.ndarray, "S N"]], Float[np.ndarray, "S M"]]
"""Maps the counts of N images in S samples to M numbers per sample."""

COUNTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number measured on images, with its confidence interval."""

    value: float
    low: float
    high: float
    """Percentile bootstrap over images, at the level of the evaluation."""
    num_images: int
    """Number of images it was measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """Settings of the bootstrap."""

    confidence: float = 0.95
    num_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.confidence < 1, f"confidence lies between 0 and 1, got {self.confidence}")
        require_at_least("num_resamples", self.num_resamples, 1)


def bootstrap(
    statistic: Statistic, *, num_images: int, resampling: Resampling
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Values of a statistic, with the ends of their percentile intervals over images drawn with replacement.

    One draw serves all numbers of the statistic, as counts per image: a mean is then a row of a matrix product, and
    numbers that are compared are compared on the same draws. Samples in which a number is not defined (NaN) are left
    out of its interval. Source: Efron, 1979; percentile intervals are our choice, for they cost no leave-one-out pass.

    Args:
        statistic: maps counts of images to M numbers.
        num_images: N of these counts.
        resampling: level, number and seed.

    Returns:
        Values, lower ends, upper ends.

    Raises:
        ValueError: when there are no images.
    """
    require_at_least("the number of images", num_images, 1)
    value = statistic(np.ones((1, num_images)))[0]
    samples = np.concatenate([statistic(counts) for counts in resampled_counts(num_images, resampling=resampling)])
    ends = (1 - resampling.confidence) / 2
    undefined = np.isnan(samples).all(axis=0)
    samples[:, undefined] = 0.0  # replaced below; a column of NaN alone would warn
    low, high = np.nanquantile(samples, [ends, 1 - ends], axis=0)
    return value, np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def estimates(statistic: Statistic, *, num_images: int, sizes: Sequence[int], resampling: Resampling) -> list[Estimate]:
    """Return the numbers of a statistic with their intervals.

    Args:
        statistic: maps counts of images to numbers.
        num_images: to draw from.
        sizes: number of images that each number was measured on.
        resampling: level, number and seed.

    Raises:
        ValueError: when there are no images.
    """
    ends = bootstrap(statistic, num_images=num_images, resampling=resampling)
    return [
        Estimate(value=value, low=low, high=high, num_images=size)
        for value, low, high, size in zip(*(each.tolist() for each in ends), sizes, strict=True)
    ]


def resampled_counts(num_images: int, *, resampling: Resampling) -> Iterator[Float[np.ndarray, "S N"]]:
    """Yield bootstrap counts per image, one block of samples at a time; the same seed gives the same draws."""
    generator = np.random.default_rng(resampling.seed)
    block = max(1, COUNTS_AT_ONCE // num_images)
    for first in range(0, resampling.num_resamples, block):
        size = min(block, resampling.num_resamples - first)
        drawn = generator.integers(num_images, size=(size, num_images))
        drawn += np.arange(size)[:, None] * num_images
        yield np.bincount(drawn.ravel(), minlength=size * num_images).reshape(size, num_images).astype(np.float64)


def mean_statistic(values: Float[np.ndarray, "M N"]) -> Statistic:
    """The mean of each row over the images where it is defined, NaN being undefined."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0).T
    weights = known.T.astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (counts @ filled) / (counts @ weights)

    return statistic


def mean_estimates(values: dict[str, Float[np.ndarray, " N"]], *, resampling: Resampling) -> dict[str, Estimate]:
    """Named means over images, each over those where it is defined (not NaN); names defined nowhere are left out.

    Args:
        values: one per image, by name.
        resampling: level, number and seed.
    """
    defined = {name: each for name, each in values.items() if not np.isnan(each).all()}
    if not defined:
        return {}
    stacked = np.stack(list(defined.values())).astype(np.float64)
    sizes = (~np.isnan(stacked)).sum(axis=1).tolist()
    found = estimates(mean_statistic(stacked), num_images=stacked.shape[1], sizes=sizes, resampling=resampling)
    return dict(zip(defined, found, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedMean:
    """Mean over repetitions of an experiment, with its confidence interval."""

    value: float
    half_width: float
    """Of the 95 % interval, Student's t over repetitions; NaN for a single one."""
    num_repetitions: int


def mean_over_repetitions(values: Float[np.ndarray, " N"]) -> RepeatedMean:
    """The mean of one value per repetition, with its interval.

    Args:
        values: of repetitions that differ in everything that the interval should cover (seeds, images).

    Raises:
        ValueError: when there are no values.
    """
    num = len(values)
    require_at_least("the number of repetitions", num, 1)
    half = float("nan")
    if num > 1:
        half = float(stdtrit(num - 1, 0.975) * values.std(ddof=1) / math.sqrt(num))
    return RepeatedMean(value=float(values.mean()), half_width=half, num_repetitions=num)
