"""Temperatures: found again where they were put in; reliability: against torchmetrics and by hand.

Covers: `ecor.probability.factors`.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from torchmetrics.functional.classification import binary_calibration_error

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import FACTORS, Factor, MethodName, ScoringConfig, Temperatures
from ecor.data.predictions.schema import origins_table
from ecor.probability.decoders import joint_probability
from ecor.probability.factors import (
    category_given_rationale_log_prob,
    category_log_prob,
    rationale_given_category_log_prob,
    rationale_log_prob,
)
from ecor.probability.temperature_scaling import COLDEST, HOTTEST, fit_temperature, fit_temperatures, reliability
from tests.support.tiny_models import tiny_recognizer


def drawn(log_prob: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
    """Labels of these chances, the same on every processor: how `multinomial` draws depends on it."""
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(len(log_prob), 1, dtype=torch.float64, generator=generator)
    sums = log_prob.double().exp().cumsum(dim=-1)
    return torch.searchsorted(sums / sums[:, -1:], where, right=True).squeeze(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits = 5 * torch.randn(20_000, 6, generator=torch.Generator().manual_seed(1))
    targets = drawn((logits / temperature).log_softmax(-1))
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.05)
    shifted = logits - logits.amax(dim=-1, keepdim=True)  # exact in single precision only to its last digit
    assert fit_temperature(shifted, targets) == pytest.approx(fit_temperature(logits, targets), rel=1e-6)


def test_the_minimum_is_found_to_six_digits():
    """The slope of the loss, by its formula E_p[z] - z_target, changes its sign at the fitted temperature."""
    logits = 5 * torch.randn(5_000, 6, generator=torch.Generator().manual_seed(1))
    targets = drawn((logits / 0.7).log_softmax(-1))
    found = fit_temperature(logits, targets)
    z = logits.double()

    def slope(temperature: float) -> float:
        expected = ((z / temperature).softmax(-1) * z).sum(-1)
        return float((z.gather(1, targets[:, None])[:, 0] - expected).mean())

    assert slope(found * (1 - 1e-6)) * slope(found * (1 + 1e-6)) < 0


def root_of_the_slope(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Where the loss has no slope in 1/T, by another search over NumPy's doubles."""
    values, rows = logits.double().numpy(), np.arange(len(logits))

    def slope(inverse: float) -> float:
        chances = softmax(values * inverse, axis=1)
        return float(((chances * values).sum(axis=1) - values[rows, targets.numpy()]).mean())

    return 1 / brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-14)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_minimum_is_found_to_a_millionth_from_floats_and_doubles(temperature):
    logits = 5 * torch.randn(20_000, 6, generator=torch.Generator().manual_seed(1))
    targets = drawn((logits / temperature).log_softmax(-1))
    expected = root_of_the_slope(logits, targets)
    assert fit_temperature(logits, targets) == pytest.approx(expected, rel=1e-6)
    assert fit_temperature(logits.double(), targets) == fit_temperature(logits, targets)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(2))
    assert fit_temperature(logits[order], targets[order]) == pytest.approx(expected, rel=1e-6)


def test_every_factor_is_fitted_in_doubles():
    image, text = random_features(3_000), Text()
    categories, rationales = labels_of("pairs", image, text)
    labels = {"categories": categories, "rationales": rationales, "logit_scale": 8.0, "methods": tuple(FACTORS)}
    wide = ImageFeatures(rationale=image.rationale.double(), category=image.category.double())
    floats, doubles = (fit_temperatures(each, text, **labels).to_record() for each in (image, wide))
    assert floats == pytest.approx(doubles, rel=1e-6)
    backwards = ImageFeatures(rationale=image.rationale.flip(0), category=image.category.flip(0))
    turned = labels | {"categories": categories.flip(0), "rationales": rationales.flip(0)}
    assert fit_temperatures(backwards, text, **turned).to_record() == pytest.approx(floats, rel=1e-6)


def test_no_other_temperature_is_better():
    logits = 5 * torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    targets = drawn(logits.log_softmax(-1) / 2)
    found = fit_temperature(logits, targets)

    def nll(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits / temperature, targets).item()

    assert all(nll(found) <= nll(other) + 1e-6 for other in np.geomspace(COLDEST, HOTTEST, 200))


def test_rows_without_a_target_do_not_count_and_are_needed_somewhere():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(50) % 4
    with_unknown = torch.cat([logits, 100 * logits])
    found = fit_temperature(with_unknown, torch.cat([targets, torch.full((50,), -1)]))
    assert found == pytest.approx(fit_temperature(logits, targets))
    with pytest.raises(ValueError, match="known target"):
        fit_temperature(logits, torch.full((50,), -1))


def test_data_that_is_always_right_or_noise_stays_within_bounds():
    assert COLDEST <= fit_temperature(torch.eye(4), torch.arange(4)) < 0.1
    assert 50 < fit_temperature(torch.eye(4), 3 - torch.arange(4)) <= HOTTEST


class Text:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.table = torch.nn.functional.normalize(torch.randn(5, 4, 8, generator=generator), dim=-1)
        self.rationales = self.table[:, 0]
        self.categories = torch.nn.functional.normalize(self.table[0] + self.table[1], dim=-1)

    def row(self, rationale: int) -> torch.Tensor:
        return self.table[rationale]

    def column(self, category: int) -> torch.Tensor:
        return self.table[:, category]


def test_each_factor_finds_its_own_temperature():
    features = torch.nn.functional.normalize(torch.randn(20_000, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    image, text = ImageFeatures(rationale=features, category=features), Text()
    true = Temperatures(rationale=0.7, category_given_rationale=1.9)
    rationales = drawn(rationale_log_prob(image, text, logit_scale=8.0, temperatures=true))
    given = category_given_rationale_log_prob(
        image, text, rationales=rationales.unsqueeze(1), logit_scale=8.0, temperatures=true
    )
    categories = drawn(given.squeeze(1))
    rationales[:50] = categories[30:80] = -1
    found = fit_temperatures(image, text, categories=categories, rationales=rationales, logit_scale=8.0)
    assert found.rationale == pytest.approx(0.7, rel=0.05)
    assert found.category_given_rationale == pytest.approx(1.9, rel=0.05)
    with pytest.raises(ValueError, match="known rationale"):
        fit_temperatures(image, text, categories=categories, rationales=rationales * 0 - 1, logit_scale=8.0)


def random_features(num: int) -> ImageFeatures:
    features = torch.nn.functional.normalize(torch.randn(num, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    return ImageFeatures(rationale=features, category=features)


TRUE = Temperatures(rationale=0.7, category_given_rationale=1.9, category=0.5, rationale_given_category=1.4, pair=0.8)


def labels_of(method: MethodName, image: ImageFeatures, text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """Categories and rationales drawn as the decoding says, at the temperatures `TRUE`."""
    chances = {"logit_scale": 8.0, "temperatures": TRUE}
    if method == "inverted":
        categories = drawn(category_log_prob(image, text, **chances))
        given = rationale_given_category_log_prob(image, text, categories=categories[:, None], **chances)
        return categories, drawn(given.squeeze(1), seed=1)
    if method == "independent":
        rationales = drawn(rationale_log_prob(image, text, **chances), seed=1)
        return drawn(category_log_prob(image, text, **chances)), rationales
    joint = joint_probability(image, text, scoring=ScoringConfig(method=method, keep_rationales=5), **chances)
    position = drawn(joint.log_prob.flatten(1))
    return position % 4, joint.rationales.gather(1, position[:, None] // 4).squeeze(1)


@pytest.mark.parametrize("method", ["joint", "inverted", "independent", "pairs"])
def test_each_decoding_finds_the_temperatures_that_made_its_labels(method: MethodName):
    image, text = random_features(20_000), Text()
    categories, rationales = labels_of(method, image, text)
    categories[:50] = rationales[30:80] = -1
    labels = {"categories": categories, "rationales": rationales, "logit_scale": 8.0}
    found = fit_temperatures(image, text, methods=(method,), **labels)
    assert found.to_record().keys() == {"rationale", "category_given_rationale", *FACTORS[method]}
    for factor in FACTORS[method]:
        assert found.of(factor) == pytest.approx(TRUE.of(factor), rel=0.07)
    every = fit_temperatures(image, text, **labels)
    assert every.to_record().keys() == {*get_args(Factor), "pooling_weight", "pooling_temperature"}
    assert {factor: every.of(factor) for factor in found.to_record()} == found.to_record()


@pytest.mark.parametrize("method", get_args(MethodName))
def test_a_decoding_reads_its_own_temperatures_and_no_others(method: MethodName):
    image, text = random_features(7), Text()

    def log_prob(temperatures: Temperatures) -> torch.Tensor:
        scoring = ScoringConfig(method=method, keep_rationales=5)
        joint = joint_probability(image, text, scoring=scoring, logit_scale=8.0, temperatures=temperatures)
        return joint.log_prob.gather(1, joint.rationales.argsort(dim=1)[:, :, None].expand(-1, -1, 4))

    as_it_is = log_prob(TRUE)
    assert as_it_is.flatten(1).logsumexp(dim=-1).tolist() == pytest.approx([0.0] * 7, abs=1e-5)
    for factor in get_args(Factor):
        changed = log_prob(replace(TRUE, **{factor: 3.0}))
        assert torch.allclose(changed, as_it_is) == (factor not in FACTORS[method])


def test_temperatures_that_were_not_fitted_have_stand_ins():
    old = Temperatures(rationale=0.7, category_given_rationale=1.9)
    assert old.to_record() == {"rationale": 0.7, "category_given_rationale": 1.9}
    assert [old.of(factor) for factor in get_args(Factor)] == [0.7, 1.9, 1.9, 0.7, 1.9]
    assert [method for method in get_args(MethodName) if old.cover(method)] == ["joint"]
    with pytest.raises(ValueError, match="pair temperature must be positive, got 0"):
        Temperatures(pair=0.0)


def test_checkpoints_hold_the_temperatures_that_were_fitted(tmp_path: Path):
    """Two of them, as before there were more: records of that time have the same digests and are read."""
    model = tiny_recognizer(tmp_path)
    for name, temperatures in (("old", model.temperatures), ("new", TRUE)):
        save_checkpoint(model.with_temperatures(temperatures), tmp_path / name)
        written = json.loads((tmp_path / name / "checkpoint.json").read_text())
        assert written["temperatures"] == temperatures.to_record()
        assert load(tmp_path / name).temperatures == temperatures
    assert json.loads((tmp_path / "old" / "checkpoint.json").read_text())["temperatures"].keys() == {
        "rationale",
        "category_given_rationale",
    }


def test_rows_say_whether_their_decoding_was_calibrated(tmp_path: Path):
    model = tiny_recognizer(tmp_path)
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    whole = replace(TRUE, pooling_weight=0.5)
    for temperatures, calibrated in ((model.temperatures, {"joint"}), (whole, set(get_args(MethodName)))):
        fitted = model.with_temperatures(temperatures)
        for method in get_args(MethodName):
            rows = fitted.label(
                pixels, origins=origins_table(["0"], source=["a"]), scoring=ScoringConfig(method=method)
            )
            assert rows["calibrated"].to_pylist() == [method in calibrated]


@pytest.mark.parametrize("num_bins", [2, 10, 15])
def test_expected_calibration_error_equals_torchmetrics(num_bins):
    rng = np.random.default_rng(0)
    confidence = rng.random(500)
    right = rng.random(500) < confidence**2
    theirs = binary_calibration_error(torch.tensor(confidence), torch.tensor(right).int(), n_bins=num_bins, norm="l1")
    assert reliability(confidence, right, num_bins=num_bins).error == pytest.approx(theirs.item(), abs=1e-6)


def test_reliability_by_hand():
    found = reliability(np.array([0.0, 0.1, 0.5, 0.9, 1.0]), np.array([False, True, True, True, True]), num_bins=2)
    assert found.num_images.tolist() == [3, 2]
    assert found.confidence.tolist() == pytest.approx([0.2, 0.95])
    assert found.accuracy.tolist() == pytest.approx([2 / 3, 1.0])
    assert found.error == pytest.approx((3 * (2 / 3 - 0.2) + 2 * 0.05) / 5)
    empty = reliability(np.array([0.9]), np.array([True]), num_bins=4)
    assert empty.num_images.tolist() == [0, 0, 0, 1]
    assert math.isnan(empty.accuracy[0])
    assert empty.error == pytest.approx(0.1)
