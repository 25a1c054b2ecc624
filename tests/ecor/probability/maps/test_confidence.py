"""Calibrated confidence: evidence and rows by hand, and when the decoded probability stays."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ecor.checkpoint import load, save_checkpoint
from ecor.config.scoring import FACTORS, ConfidenceMap, MethodName, ScoringConfig, Temperatures, VisibilityMap
from ecor.data.predictions.records import iterate_predictions
from ecor.data.predictions.schema import PREDICTION_SCHEMA, origins_table
from ecor.model import Recognizer
from ecor.probability.joint import ranked_pairs
from ecor.probability.maps.confidence import (
    LEAST_WRONG,
    fit_confidence_map,
    fit_others_temperature,
    pair_log_odds,
    pair_probability,
    with_calibrated_category,
)
from ecor.probability.maps.platt_scaling import LEAST_IMAGES, Outcomes, fit_platt_scaling
from tests.support.tiny_models import OTHER_NAMES, tiny_recognizer

ASKED = ScoringConfig(calibrated_confidence=True)
MAP = ConfidenceMap(intercept=-0.7, pair_log_odds=0.6, num_images=60)
SHOWN = VisibilityMap(intercept=0.5, rationale_log_odds=0.1, category_log_odds=0.3, num_images=60)
NEEDED = Temperatures(rationale=0.5, category_given_rationale=0.25, category=0.4, pooling_weight=0.7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    plain = tiny_recognizer(tmp_path_factory.mktemp("model"))
    maps = {"joint": MAP, "pooled": replace(MAP, intercept=-2.0)}
    return plain.with_temperatures(NEEDED, visibility={"joint": SHOWN}, confidence_maps=maps)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def labels(model: Recognizer, images: torch.Tensor, scoring: ScoringConfig):
    return model.label(images, origins=origins_table(list("abcde")), scoring=scoring)


def outcomes_of(num: int, *, seed: int = 0) -> Outcomes:
    """Evidence and what is so at random, in four categories."""
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(num, 1, generator=generator, dtype=torch.float64)
    is_so = torch.rand(num, generator=generator, dtype=torch.float64) < evidence[:, 0].sigmoid()
    return Outcomes(evidence=evidence, categories=torch.arange(num) % 4, is_so=is_so)


def test_both_fits_are_platt_scaling() -> None:
    pair, category = outcomes_of(300), outcomes_of(200, seed=1)
    found = fit_confidence_map(pair, category=category, others_temperature=2.5, num_categories=4)
    of_pair, of_category = (fit_platt_scaling(each, num_categories=4) for each in (pair, category))
    assert (found.intercept, (found.pair_log_odds,), found.pair_offsets) == (
        of_pair.intercept,
        of_pair.slopes,
        of_pair.offsets,
    )
    assert (found.category_intercept, (found.category_log_odds,), found.category_offsets) == (
        of_category.intercept,
        of_category.slopes,
        of_category.offsets,
    )
    assert (found.num_images, found.others_temperature) == (300, 2.5)
    few = outcomes_of(49)
    with pytest.raises(ValueError, match=f"needs {LEAST_IMAGES} images with category and rationale, got 49"):
        fit_confidence_map(few, category=category, others_temperature=None, num_categories=4)
    with pytest.raises(ValueError, match=f"needs {LEAST_IMAGES} images with a category, got 49"):
        fit_confidence_map(pair, category=few, others_temperature=None, num_categories=4)


def test_the_temperature_of_the_others_is_that_of_the_images_whose_first_category_is_wrong() -> None:
    """Truths drawn from the others at T = 3; the first category says nothing about them."""
    generator = torch.Generator().manual_seed(0)
    log_prob = (4 * torch.randn(20_000, 6, generator=generator, dtype=torch.float64)).log_softmax(dim=1)
    others = log_prob.scatter(1, log_prob.argmax(dim=1, keepdim=True), -math.inf)
    truth = torch.multinomial((others / 3).softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_others_temperature(log_prob, truth) == pytest.approx(3, rel=0.05)
    assert fit_others_temperature(log_prob[: LEAST_WRONG - 1], truth[: LEAST_WRONG - 1]) is None


def test_a_few_images_with_the_truth_in_second_place_do_not_make_the_second_certain() -> None:
    log_prob = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0]], dtype=torch.float64).log().repeat(LEAST_WRONG, 1)
    second = torch.ones(LEAST_WRONG, dtype=torch.long)
    found = fit_others_temperature(log_prob, second)
    assert found is not None and 0.2 < found < 1
    assert fit_others_temperature(log_prob, torch.full((LEAST_WRONG,), 4)) is None, "decoding had ruled it out"


@pytest.mark.parametrize("method", FACTORS)
def test_evidence_is_the_log_odds_of_the_confidence(
    model: Recognizer, images: torch.Tensor, method: MethodName
) -> None:
    scoring = ScoringConfig(method=method, calibrated_confidence=False)
    confidence = labels(model, images, scoring)["confidence"].to_pylist()
    found = pair_log_odds(model.joint(images, scoring=scoring)).tolist()
    assert found == pytest.approx([math.log(each / (1 - each)) for each in confidence], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("method", "intercept"), [("joint", -0.7), ("pooled", -2.0)])
def test_rows_state_the_mapped_confidence_and_nothing_else_changes(
    model: Recognizer, images: torch.Tensor, method: MethodName, intercept: float
) -> None:
    plain = labels(model, images, ScoringConfig(method=method, calibrated_confidence=False))
    asked = labels(model, images, replace(ASKED, method=method))
    assert labels(model, images, ScoringConfig(method=method)).equals(asked), "the map is the default"
    assert asked.schema.equals(PREDICTION_SCHEMA)
    assert asked.drop_columns(["confidence"]).equals(plain.drop_columns(["confidence"]))
    for decoded, row in zip(plain["confidence"].to_pylist(), iterate_predictions(asked), strict=True):
        expected = 1 / (1 + math.exp(-(intercept + 0.6 * math.log(decoded / (1 - decoded)))))
        assert row.confidence == pytest.approx(expected, rel=1e-3) and row.calibrated
        assert math.exp(row.pairs[0].log_prob) == pytest.approx(decoded, rel=1e-5), "pairs keep what decoding states"


def test_the_offset_is_that_of_the_category_of_the_best_pair(model: Recognizer, images: torch.Tensor) -> None:
    joint = model.joint(images, scoring=ScoringConfig(method="joint"))
    offsets = tuple(0.1 * number for number in range(len(model.vocabulary.categories)))
    shifted, plainly = (pair_probability(joint, each) for each in (replace(MAP, pair_offsets=offsets), MAP))
    named = [offsets[each] for each in ranked_pairs(joint, 1).categories[:, 0].tolist()]
    assert (shifted.logit() - plainly.logit()).tolist() == pytest.approx(named, abs=1e-9)


@pytest.mark.parametrize("method", FACTORS)
@pytest.mark.parametrize("intercept", [-8.0, -0.3, 0.6])
@pytest.mark.parametrize("warmth", [None, 1.7])
def test_the_category_is_stated_by_its_map_and_nothing_else_changes(
    model: Recognizer, images: torch.Tensor, method: MethodName, warmth: float | None, intercept: float
) -> None:
    temperatures = replace(NEEDED, rationale_given_category=0.5, pair=0.3)
    offsets = tuple(0.2 * number for number in range(len(model.vocabulary.categories)))
    own = replace(MAP, category_intercept=intercept, category_log_odds=0.8, category_offsets=offsets)
    with_map = {method: replace(own, others_temperature=warmth)}
    states, plain = (
        labels(model.with_temperatures(temperatures, confidence_maps=maps), images, ScoringConfig(method=method))
        for maps in (with_map, {method: MAP})
    )
    stated = ("category_log_prob", "categories", "model_digest")
    assert states.drop_columns(list(stated)).equals(plain.drop_columns(list(stated)))
    for row, other in zip(iterate_predictions(states), iterate_predictions(plain), strict=True):
        before = np.exp([each.log_prob for each in other.categories])
        assert len(before) == len(model.vocabulary.categories), "all are kept, so they sum to one"
        offset = offsets[model.vocabulary.category_id(other.categories[0].category)]
        first = 1 / (1 + math.exp(-(intercept + 0.8 * math.log(before[0] / (1 - before[0])) + offset)))
        shares = before[1:] ** (1 / (warmth or 1)) / (before[1:] ** (1 / (warmth or 1))).sum()
        first = max(first, shares[0] / (1 + shares[0]))
        expected = [first, *(shares * (1 - first))]
        assert np.exp([each.log_prob for each in row.categories]) == pytest.approx(expected, rel=1e-4)
        by_name = {each.category: each.log_prob for each in row.categories}
        assert by_name[other.categories[0].category] == pytest.approx(max(by_name.values()), abs=1e-6)
        assert row.category_log_prob == pytest.approx(by_name[row.category], abs=1e-6)


def test_without_a_fitted_map_the_category_stays(model: Recognizer, images: torch.Tensor) -> None:
    joint = model.joint(images)
    assert with_calibrated_category(joint, None) is joint
    assert with_calibrated_category(joint, MAP) is joint
    one = replace(joint, category_log_prob=torch.zeros(5, 1), log_prob=joint.log_prob[:, :, :1])
    mapped = with_calibrated_category(one, replace(MAP, category_intercept=-1.0, category_log_odds=0.5))
    assert mapped.category_log_prob.equal(one.category_log_prob), "a single category is certain"
    with pytest.raises(ValueError, match="category_log_odds must be a finite number, got nan"):
        replace(MAP, category_intercept=0.0, category_log_odds=math.nan)


def test_both_maps_are_stated_together(model: Recognizer, images: torch.Tensor) -> None:
    both = labels(model, images, replace(ASKED, visible_probability=True))
    shown = labels(model, images, ScoringConfig(visible_probability=True))
    assert both["confidence"].equals(labels(model, images, ASKED)["confidence"])
    assert both["rationale_visible_probability"].equals(shown["rationale_visible_probability"])


def test_without_a_map_the_decoded_probability_stays_and_the_row_says_so(
    model: Recognizer, images: torch.Tensor
) -> None:
    without = model.with_temperatures(NEEDED)
    cases = [
        (without, ScoringConfig()),
        (model, ScoringConfig(method="independent")),
        (model, ScoringConfig(method="pooled", pooling_weight=3.0)),
        (model.with_vocabulary(OTHER_NAMES), ScoringConfig()),
    ]
    for each, scoring in cases:
        plain, asked = (labels(each, images, one) for one in (scoring, replace(scoring, calibrated_confidence=True)))
        assert asked["confidence"].equals(plain["confidence"])
        assert asked["calibrated"].to_pylist() == [False] * 5
    assert labels(without, images, ScoringConfig())["calibrated"].to_pylist() == [True] * 5, "by its temperatures"


def test_the_confidence_hardly_depends_on_how_many_pairs_are_kept(model: Recognizer, images: torch.Tensor) -> None:
    few, many = (labels(model, images, ScoringConfig(top_k=number))["confidence"].to_pylist() for number in (1, 5))
    assert few == pytest.approx(many, rel=1e-6), "decoded for it as it was for the fit"


def test_older_records_have_the_decoded_probability() -> None:
    decoded = ScoringConfig(method="joint", calibrated_confidence=False)
    assert "calibrated_confidence" not in decoded.to_record(), "as it was written before"
    assert ScoringConfig().to_record()["calibrated_confidence"] is None
    assert ASKED.to_record()["calibrated_confidence"] is True


def test_a_checkpoint_keeps_the_maps_and_one_without_reads_as_before(
    model: Recognizer, images: torch.Tensor, tmp_path: Path
) -> None:
    assert set(MAP.to_record()) == {"intercept", "pair_log_odds", "num_images"}, "as it was written before"
    whole = replace(
        MAP, category_intercept=0.2, category_log_odds=0.9, category_offsets=(0.1, -0.1), others_temperature=2.0
    )
    warm = {**model.confidence_maps, "independent": whole}
    model = model.with_temperatures(NEEDED, confidence_maps=warm)
    save_checkpoint(model, tmp_path / "new")
    loaded = load(tmp_path / "new")
    assert (loaded.confidence_maps, loaded.digest) == (model.confidence_maps, model.digest)
    assert labels(loaded, images, ASKED)["confidence"].equals(labels(model, images, ASKED)["confidence"])
    path = tmp_path / "new" / "checkpoint.json"
    values = json.loads(path.read_text())
    values["confidence_maps"]["joint"]["intercept"] = 9.0
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="was altered"):
        load(tmp_path / "new")
    without = model.with_temperatures(NEEDED)
    save_checkpoint(without, tmp_path / "old")
    assert "confidence_maps" not in json.loads((tmp_path / "old" / "checkpoint.json").read_text())
    assert load(tmp_path / "old").confidence_maps == {} and without.digest != model.digest


def test_a_map_of_numbers_that_are_none_is_refused() -> None:
    with pytest.raises(ValueError, match="pair_log_odds must be a finite number, got inf"):
        replace(MAP, pair_log_odds=math.inf)
    with pytest.raises(ValueError, match="pair_offsets must be finite numbers, got nan"):
        replace(MAP, pair_offsets=(math.nan,))
    with pytest.raises(ValueError, match="others_temperature must be positive, got 0"):
        replace(MAP, others_temperature=0.0)
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        replace(MAP, num_images=0)
