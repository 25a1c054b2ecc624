"""Intervals against scipy's and by hand, sums, products, and what remains of a stage."""

import time

import numpy as np
import pytest
from scipy import stats

from pipelines.stages.planning.estimates import (
    Cost,
    Estimate,
    Spent,
    Stopwatch,
    cost_per_image,
    exact,
    fixed_cost,
    mean_of,
    measured_once,
    share_of,
    total,
)


def test_a_mean_has_the_t_interval_of_scipy():
    values = [1.0, 1.5, 1.2, 0.9, 1.4]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    found = mean_of(values)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_a_mean_of_one_is_a_measurement_and_of_none_is_refused():
    assert mean_of([2.0]) == measured_once(2.0) == Estimate(value=2.0, low=1.7, high=2.3)
    with pytest.raises(ValueError, match="at least one measurement"):
        mean_of([])


def test_an_interval_of_time_does_not_go_below_zero():
    assert mean_of([0.1, 5.0]).low == 0.0
    assert measured_once(-1.0) == exact(0.0)


@pytest.mark.parametrize(("num", "total_"), [(0, 200), (7, 200), (200, 200)])
def test_a_share_has_the_clopper_pearson_interval(num: int, total_: int):
    low = stats.beta.ppf(0.025, num, total_ - num + 1) if num else 0.0
    high = stats.beta.ppf(0.975, num + 1, total_ - num) if num < total_ else 1.0
    found = share_of(num, total=total_)
    assert (found.value, found.low, found.high) == pytest.approx((num / total_, low, high))


def test_the_share_of_nothing_is_unknown():
    assert share_of(0, total=0) == Estimate(value=0.0, low=0.0, high=1.0)


def test_ends_are_added_and_multiplied():
    one, two = Estimate(value=2, low=1, high=4), Estimate(value=3, low=2, high=5)
    assert one + two == Estimate(value=5, low=3, high=9)
    assert one.times(two) == Estimate(value=6, low=2, high=20)
    assert one.times(2) == Estimate(value=4, low=2, high=8)
    assert one.at_least(exact(3.0)) == Estimate(value=3, low=3, high=4)
    cost = Cost(wall_s=one, cpu_s=two)
    assert total([cost, cost]) == cost.times(2) and total([]).wall_s == exact(0.0)


def test_a_cost_per_image_is_the_mean_over_portions_of_any_size():
    portions = [Spent(wall_s=10.0, cpu_s=20.0, num_images=10), Spent(wall_s=15.0, cpu_s=30.0, num_images=5)]
    found = cost_per_image(portions)
    assert (found.wall_s.value, found.cpu_s.value) == (2.0, 4.0)


def test_a_fixed_cost_is_what_remains_and_not_negative():
    image = Cost(wall_s=exact(0.1), cpu_s=exact(0.5))
    found = fixed_cost(Spent(wall_s=3.0, cpu_s=4.0), variable=image.times(10))
    assert (found.wall_s.value, found.cpu_s.value) == (2.0, 0.0)


def test_a_stopwatch_begins_anew_at_each_reading():
    watch = Stopwatch()
    time.sleep(0.05)
    first, second = watch.read(num_images=3), watch.read()
    assert first.wall_s >= 0.05 and first.num_images == 3
    assert second.wall_s < first.wall_s
