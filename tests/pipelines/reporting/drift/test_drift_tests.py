"""Laws of the tests for drift: against scipy, against exact tests, and their rate of false alarms."""

import numpy as np
import pytest
from scipy import stats

from pipelines.reporting.drift.drift_tests import (
    DriftLimits,
    Quantity,
    compare,
    describe_drift,
    holm,
    ks_distance,
    paired_p_value,
    total_variation,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_effects_are_those_of_scipy_and_of_a_loop(generator):
    first, second = generator.beta(3, 1, 400), generator.beta(3, 1.3, 250)
    assert ks_distance(first, second) == pytest.approx(stats.ks_2samp(first, second).statistic)
    names, others = generator.integers(5, size=80), generator.integers(7, size=60)
    by_loop = sum(abs((names == each).mean() - (others == each).mean()) for each in range(7)) / 2
    assert total_variation(names, others) == pytest.approx(by_loop)


@pytest.mark.parametrize(("num_gained", "num_lost"), [(30, 12), (9, 9), (14, 5), (3, 0)])
def test_two_names_of_the_same_images_give_the_exact_test_of_mcnemar(num_gained, num_lost):
    before = np.array([0] * num_gained + [1] * num_lost + [0] * 40 + [1] * 20)
    after = np.array([1] * num_gained + [0] * num_lost + [0] * 40 + [1] * 20)
    exact = stats.binomtest(num_gained, num_gained + num_lost, 0.5).pvalue
    found = paired_p_value(before, after, is_name=True, num_resamples=20_000)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_values_of_the_same_images_agree_with_the_permutation_test_of_scipy(generator):
    before = generator.normal(size=60).round(1)
    after = before + generator.normal(0.12, 0.4, size=60).round(1)
    found = paired_p_value(before, after, is_name=False, num_resamples=5000)

    def largest_difference(x, y, axis):
        edges = np.unique(np.concatenate([before, after]))
        below = [(each[..., None] <= edges).mean(axis=-2) for each in (x, y)]
        return np.abs(below[0] - below[1]).max(axis=-1)

    expected = stats.permutation_test(
        (before, after), largest_difference, permutation_type="samples", n_resamples=3000, alternative="greater",
        vectorized=True, rng=np.random.default_rng(1), axis=-1,
    ).pvalue  # fmt: skip
    assert found == pytest.approx(expected, abs=0.04)


def test_the_side_does_not_matter_and_equal_labels_give_one(generator):
    before, after = generator.integers(6, size=300), generator.integers(6, size=300)
    for is_name in (True, False):
        one, other = (
            paired_p_value(*sides, is_name=is_name, num_resamples=999) for sides in ((before, after), (after, before))
        )
        assert one == pytest.approx(other, abs=0.06)
        assert paired_p_value(before, before, is_name=is_name, num_resamples=99) == 1.0


def test_holm_is_the_definition():
    p_values = [0.01, 0.04, 0.03, 0.5]
    assert holm(p_values) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def quantities(generator: np.random.Generator, *, num: int, shift: float = 0.0, paired: bool) -> list[Quantity]:
    """Equal jobs, except that a share `shift` of the labels gets the first category and a lower confidence."""
    category, confidence = generator.integers(12, size=num), generator.beta(6, 1, size=num)
    others = category.copy() if paired else generator.integers(12, size=num)
    confidences = confidence.copy() if paired else generator.beta(6, 1, size=num)
    changed = generator.random(num) < 0.2
    others[changed], confidences[changed] = (
        generator.integers(12, size=num)[changed],
        generator.beta(6, 1, num)[changed],
    )
    moved = generator.random(num) < shift
    others[moved], confidences[moved] = 0, 0.3
    return [
        Quantity(name="category", before=category, after=others, is_name=True),
        Quantity(name="confidence", before=confidence, after=confidences, is_name=False),
    ]


@pytest.mark.parametrize("paired", [True, False])
def test_equal_jobs_are_false_alarms_at_most_as_often_as_stated(paired):
    """Of 150 pairs, 5 % are 7.5; more than 14 have a probability of 1 %."""
    limits = DriftLimits(smallest_effect=0.0)
    alarms = sum(
        any(
            each.is_drift
            for each in compare(
                iter(quantities(np.random.default_rng(number), num=300, paired=paired)), paired=paired, limits=limits
            )
        )
        for number in range(150)
    )
    assert alarms <= stats.binom.ppf(0.99, 150, 0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_a_planted_shift_is_found_and_a_small_one_is_not_reported(paired, generator):
    found = compare(
        iter(quantities(generator, num=3000, shift=0.1, paired=paired)), paired=paired, limits=DriftLimits()
    )
    assert all(each.is_drift and each.effect > 0.05 for each in found)
    assert describe_drift(found, limits=DriftLimits(), words={"category": "shares"}).startswith("drift: shares (effect")
    small = quantities(generator, num=200_000, shift=0.01, paired=paired)
    found = compare(iter(small), paired=paired, limits=DriftLimits())
    assert all(each.adjusted_p_value < 0.05 and not each.is_drift for each in found), "significant, but small"
    assert all(each.is_drift for each in compare(iter(small), paired=paired, limits=DriftLimits(smallest_effect=0.005)))


def test_limits_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="false_alarms is a probability"):
        DriftLimits(false_alarms=0)
    with pytest.raises(ValueError, match="smallest_effect lies between 0 and 1, got 2"):
        DriftLimits(smallest_effect=2)


def test_one_name_and_empty_sides_are_no_drift():
    same = Quantity(name="category", before=np.zeros(9, int), after=np.zeros(5, int), is_name=True)
    none = Quantity(name="rationale", before=np.zeros(0, int), after=np.zeros(5, int), is_name=True)
    (only,) = compare(iter([same, none]), paired=False, limits=DriftLimits())
    assert (only.p_value, only.effect, only.is_drift) == (1.0, 0.0, False)
