"""Numbers with an interval: means of repeated portions, shares of a sample, and sums of them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from scipy.stats import binomtest, t

CONFIDENCE = 0.95
"""Of every interval."""
ONE_MEASUREMENT = 0.15
"""Half width, as a share, that is given to what was measured once (our choice, not statistics)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number that is not below 0, and the interval it is expected in."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Estimate") -> "Estimate":
        """The sum. Ends are added too: all parts are then low at once, so the interval is wide rather than narrow."""
        return Estimate(value=self.value + other.value, low=self.low + other.low, high=self.high + other.high)

    def times(self, factor: "Estimate | float") -> "Estimate":
        """The product; of two estimates, the ends are multiplied."""
        other = factor if isinstance(factor, Estimate) else exact(factor)
        return Estimate(value=self.value * other.value, low=self.low * other.low, high=self.high * other.high)

    def at_least(self, other: "Estimate") -> "Estimate":
        """The larger one of two, end by end."""
        return Estimate(
            value=max(self.value, other.value), low=max(self.low, other.low), high=max(self.high, other.high)
        )


def exact(value: float) -> Estimate:
    """A number that is known."""
    return Estimate(value=value, low=value, high=value)


def measured_once(value: float) -> Estimate:
    """A single measurement, plus or minus `ONE_MEASUREMENT`."""
    value = max(0.0, value)
    return Estimate(value=value, low=value * (1 - ONE_MEASUREMENT), high=value * (1 + ONE_MEASUREMENT))


def mean_of(values: Sequence[float]) -> Estimate:
    """Mean of repeated measurements, with Student's t interval of the mean; ValueError where there are none."""
    if not len(values):
        raise ValueError("a mean needs at least one measurement, got none")
    mean = float(np.mean(values))
    if len(values) == 1:
        return measured_once(mean)
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Estimate(value=mean, low=max(0.0, mean - half), high=mean + half)


def share_of(num: int, *, total: int) -> Estimate:
    """Share of a sample, with the exact (Clopper-Pearson) interval of the share of all.

    Args:
        num: cases in the sample.
        total: size of the sample; for 0 nothing is known, and the interval is 0 to 1.
    """
    if total == 0:
        return Estimate(value=0.0, low=0.0, high=1.0)
    interval = binomtest(num, total).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(value=num / total, low=float(interval.low), high=float(interval.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Time that some work took here."""

    wall_s: float
    cpu_s: float
    """CPU seconds of all threads of this process; what runs in Ray's processes is not in it."""
    num_images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Estimated time of some work."""

    wall_s: Estimate
    cpu_s: Estimate

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(wall_s=self.wall_s + other.wall_s, cpu_s=self.cpu_s + other.cpu_s)

    def times(self, factor: Estimate | float) -> "Cost":
        """The cost of `factor` times the work."""
        return Cost(wall_s=self.wall_s.times(factor), cpu_s=self.cpu_s.times(factor))


NOTHING = Cost(wall_s=exact(0.0), cpu_s=exact(0.0))


def total(costs: Sequence[Cost]) -> Cost:
    """The sum of costs."""
    return reduce(add, costs, NOTHING)


def cost_once(spent: Spent) -> Cost:
    """The cost of work that was measured once."""
    return Cost(wall_s=measured_once(spent.wall_s), cpu_s=measured_once(spent.cpu_s))


def cost_per_image(portions: Sequence[Spent]) -> Cost:
    """Mean time per image of repeated portions, each of at least one image."""
    return Cost(
        wall_s=mean_of([each.wall_s / each.num_images for each in portions]),
        cpu_s=mean_of([each.cpu_s / each.num_images for each in portions]),
    )


def first_use(portions: Sequence[Spent]) -> tuple[Cost, Cost]:
    """What the first of repeated portions took beyond the others, and the mean cost per image of these.

    Libraries that are imported and buffers that are filled at their first use make the first portion slower.
    """
    first, *others = portions
    image = cost_per_image(others or portions)
    return fixed_cost(first, variable=image.times(first.num_images)), image


def fixed_cost(whole: Spent, *, variable: Cost) -> Cost:
    """What is left of a measured stage without the part that grows with the number of images; never below 0."""
    return cost_once(
        Spent(
            wall_s=whole.wall_s - variable.wall_s.value,
            cpu_s=whole.cpu_s - variable.cpu_s.value,
        )
    )


class Stopwatch:
    """Wall-clock and CPU time since it was made or read."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, *, num_images: int = 0) -> Spent:
        """Time since the last reading, and begin anew."""
        wall, cpu = time.perf_counter(), time.process_time()
        spent = Spent(wall_s=wall - self._wall, cpu_s=cpu - self._cpu, num_images=num_images)
        self._wall, self._cpu = wall, cpu
        return spent


@contextmanager
def timed(into: list[Spent], *, num_images: int = 0) -> Iterator[None]:
    """Append the time of the block to a list."""
    watch = Stopwatch()
    yield
    into.append(watch.read(num_images=num_images))
