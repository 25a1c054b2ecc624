"""Platt scaling: the fit against scikit-learn, offsets against quadrature, and when there are none."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp
from sklearn.linear_model import LogisticRegression

from ecor.probability.maps.platt_scaling import (
    Outcomes,
    PlattScaling,
    fit_platt_scaling,
    log_odds,
    platt_probability,
)

SCALING = PlattScaling(intercept=-0.7, slopes=(0.6, 0.2))
EVIDENCE_SPREAD = torch.tensor([4.0, 2.0], dtype=torch.float64)


def drawn(num: int, *, scaling: PlattScaling = SCALING, num_categories: int = 1, seed: int = 0) -> Outcomes:
    """Evidence on two scales, named categories, and what is so, drawn from a map."""
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(num, 2, generator=generator, dtype=torch.float64) * EVIDENCE_SPREAD
    categories = torch.randint(num_categories, (num,), generator=generator)
    probability = platt_probability(evidence, scaling, categories=categories)
    is_so = torch.rand(num, generator=generator, dtype=torch.float64) < probability
    return Outcomes(evidence=evidence, categories=categories, is_so=is_so)


def with_offsets(spread: float, num_categories: int) -> PlattScaling:
    offsets = spread * np.random.default_rng(0).standard_normal(num_categories)
    return PlattScaling(intercept=-0.7, slopes=(0.6, 0.2), offsets=tuple(offsets.tolist()))


def targets_of(outcomes: Outcomes) -> np.ndarray:
    positive = int(outcomes.is_so.sum())
    return np.where(outcomes.is_so, (positive + 1) / (positive + 2), 1 / (len(outcomes) - positive + 2))


def test_the_map_that_made_the_truth_is_found_again() -> None:
    found = fit_platt_scaling(drawn(100_000), num_categories=1)
    assert found.intercept == pytest.approx(-0.7, abs=0.03)
    assert found.slopes == pytest.approx((0.6, 0.2), abs=0.03)
    assert found.offsets == (), "a single category has none"


def test_the_fit_is_scikit_learns_with_platts_targets() -> None:
    """A target between 0 and 1 is an image counted twice: as so with that weight, and as not so."""
    outcomes = drawn(300, seed=1)
    target = targets_of(outcomes)
    theirs = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(
        np.concatenate([outcomes.evidence] * 2),
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    found = fit_platt_scaling(outcomes, num_categories=1)
    assert found.slopes == pytest.approx(theirs.coef_[0].tolist(), abs=1e-5)
    assert found.intercept == pytest.approx(theirs.intercept_[0], abs=1e-5)
    stated = platt_probability(outcomes.evidence, found, categories=outcomes.categories)
    assert float(stated.mean()) == pytest.approx(float(target.mean()), abs=1e-7), "no bias over the images of the fit"


def test_single_precision_and_another_order_give_the_same_map() -> None:
    outcomes = drawn(200, num_categories=4, scaling=with_offsets(1.0, 4))
    rounded = Outcomes(
        evidence=outcomes.evidence.float().double(), categories=outcomes.categories, is_so=outcomes.is_so
    )
    one = fit_platt_scaling(rounded, num_categories=4)
    flipped = Outcomes(
        evidence=rounded.evidence.flip(0), categories=outcomes.categories.flip(0), is_so=outcomes.is_so.flip(0)
    )
    single = Outcomes(evidence=rounded.evidence.float(), categories=outcomes.categories, is_so=outcomes.is_so)
    for each in (flipped, single):
        found = fit_platt_scaling(each, num_categories=4)
        assert found.intercept == pytest.approx(one.intercept, abs=1e-5)
        assert found.slopes == pytest.approx(one.slopes, abs=1e-5)
        assert found.offsets == pytest.approx(one.offsets, abs=1e-4), "τ is that of a flat maximum"


def test_evidence_that_separates_or_says_nothing_has_a_finite_map() -> None:
    evidence = torch.linspace(-1, 1, 80, dtype=torch.float64)[:, None].repeat(1, 2)
    categories = torch.zeros(80, dtype=torch.long)

    def stated(values: torch.Tensor, is_so: torch.Tensor) -> torch.Tensor:
        outcomes = Outcomes(evidence=values, categories=categories, is_so=is_so)
        return platt_probability(values, fit_platt_scaling(outcomes, num_categories=1), categories=categories)

    assert 0 < float(stated(evidence, evidence[:, 0] > 0).min()) < 0.05
    assert stated(evidence, torch.ones(80, dtype=torch.bool)).tolist() == pytest.approx([81 / 82] * 80, abs=1e-6)
    same = stated(torch.ones(80, 2, dtype=torch.float64), torch.arange(80) < 60)
    assert same.tolist() == pytest.approx([0.75] * 80, abs=0.01)


def test_certainty_has_finite_log_odds() -> None:
    found = log_odds(torch.tensor([-math.inf, math.log(0.25), 0.0]))
    assert found.isfinite().all() and found.dtype == torch.float64
    assert float(found[1]) == pytest.approx(-math.log(3))


def test_offsets_that_made_the_truth_are_found_again_and_categories_without_images_have_none() -> None:
    truth = with_offsets(1.0, 12)
    outcomes = drawn(12_000, scaling=truth, num_categories=12)
    found = fit_platt_scaling(outcomes, num_categories=15)
    true = np.array(truth.offsets)
    assert found.slopes == pytest.approx(truth.slopes, abs=0.05)
    shift = found.intercept - truth.intercept
    assert np.array(found.offsets[:12]) + shift == pytest.approx(true, abs=0.3)
    assert found.offsets[12:] == (0.0, 0.0, 0.0)
    assert np.mean(found.offsets[:12]) == pytest.approx(0, abs=1e-5), "the mean is the intercept's"


def test_offsets_have_the_most_likely_spread_by_quadrature() -> None:
    """Given a and b, the likelihood of each category is an integral over its own offset."""
    outcomes = drawn(1500, scaling=with_offsets(0.7, 30), num_categories=30, seed=2)
    found = fit_platt_scaling(outcomes, num_categories=30)
    stated = platt_probability(outcomes.evidence, found, categories=outcomes.categories).numpy()
    target, groups = targets_of(outcomes), outcomes.categories.numpy()
    pull = np.bincount(groups, target - stated, 30)
    variance = np.array(found.offsets) / pull
    assert variance == pytest.approx([variance[0]] * 30, rel=1e-3), "u = τ² · what the offset's images still ask for"
    plain = outcomes.evidence.numpy() @ np.array(found.slopes) + found.intercept
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def log_likelihood(spread: float) -> float:
        logits = plain[:, None] + spread * nodes
        each = target[:, None] * logits - np.logaddexp(0.0, logits)
        by_category = np.stack([np.bincount(groups, column, 30) for column in each.T], axis=1)
        return float(logsumexp(by_category, b=weights, axis=1).sum())

    spreads = np.linspace(0.2, 1.6, 141)
    best = spreads[np.argmax([log_likelihood(each) for each in spreads])]
    assert math.sqrt(variance[0]) == pytest.approx(best, rel=0.05)


def test_a_category_with_few_images_is_drawn_to_the_others() -> None:
    """Two of two, or forty of forty, are so; the others half of the time."""
    categories = torch.cat([torch.arange(10).repeat(40), torch.tensor([10, 10]), torch.full((40,), 11)])
    is_so = torch.cat([torch.arange(400) % 80 < 40, torch.ones(42, dtype=torch.bool)])
    outcomes = Outcomes(evidence=torch.zeros(442, 1, dtype=torch.float64), categories=categories, is_so=is_so)
    found = fit_platt_scaling(outcomes, num_categories=12)
    probability = expit(found.intercept + np.array(found.offsets))
    assert 0.5 < probability[10] < 0.75 and probability[11] > 0.85


def test_categories_that_do_not_differ_have_small_offsets_or_none() -> None:
    found = [fit_platt_scaling(drawn(600, num_categories=10, seed=seed), num_categories=10) for seed in range(4)]
    assert () in [each.offsets for each in found]
    assert max(abs(value) for each in found for value in each.offsets) < 0.4
