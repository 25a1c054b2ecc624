"""Probability that a rationale is visible: evidence by a loop, rows by hand, and when it is null."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecor.checkpoint import load, save_checkpoint
from ecor.config.scoring import FACTORS, MethodName, ScoringConfig, Temperatures, VisibilityMap
from ecor.data.predictions.records import iterate_predictions
from ecor.data.predictions.schema import PREDICTION_SCHEMA, origins_table, schema_for
from ecor.model import Recognizer
from ecor.probability.joint import ranked_pairs
from ecor.probability.maps.platt_scaling import LEAST_IMAGES, Outcomes, fit_platt_scaling
from ecor.probability.maps.visibility import fit_visibility_map, visibility_evidence, visible_probability
from ecor.storage.model_records import read_checkpoint
from tests.support.tiny_models import OTHER_NAMES, tiny_recognizer

PLAIN = ScoringConfig(method="joint")
ASKED = ScoringConfig(method="joint", visible_probability=True)
MAP = VisibilityMap(intercept=0.5, rationale_log_odds=0.1, category_log_odds=0.3, num_images=60)
NEEDED = Temperatures(rationale=0.5, category_given_rationale=0.25, category=0.4, pooling_weight=0.7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    plain = tiny_recognizer(tmp_path_factory.mktemp("model"))
    return plain.with_temperatures(NEEDED, visibility={"joint": MAP, "pooled": replace(MAP, intercept=-1.0)})


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_fit_is_platt_scaling() -> None:
    generator = torch.Generator().manual_seed(0)
    outcomes = Outcomes(
        evidence=torch.randn(300, 2, generator=generator, dtype=torch.float64),
        categories=torch.randint(6, (300,), generator=generator),
        is_so=torch.arange(300) % 3 > 0,
    )
    found, plain = fit_visibility_map(outcomes, num_categories=6), fit_platt_scaling(outcomes, num_categories=6)
    assert (found.rationale_log_odds, found.category_log_odds) == plain.slopes
    assert (found.intercept, found.category_offsets, found.num_images) == (plain.intercept, plain.offsets, 300)
    few = outcomes.select(torch.arange(300) < 49)
    with pytest.raises(ValueError, match=f"needs {LEAST_IMAGES} images with visible_rationales, got 49"):
        fit_visibility_map(few, num_categories=6)


@pytest.mark.parametrize("method", FACTORS)
def test_evidence_is_the_log_odds_of_the_named_rationale_and_category(
    model: Recognizer, images: torch.Tensor, method: MethodName
) -> None:
    """As a row of labels states them, where its lists reach as far as the best pair."""
    scoring = ScoringConfig(method=method, top_k=50, keep_rationales=50, max_keep_rationales=50)
    found = visibility_evidence(model.joint(images, scoring=scoring))
    rows = model.label(images, origins=origins_table(list("abcde")), scoring=scoring)
    for evidence, row in zip(found.tolist(), iterate_predictions(rows), strict=True):
        log_probs = [
            {each.rationale: each.log_prob for each in row.rationales}[row.rationale],
            {each.category: each.log_prob for each in row.categories}[row.category],
        ]
        expected = [log_prob - math.log(-math.expm1(log_prob)) for log_prob in log_probs]
        assert evidence == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_certainty_has_finite_log_odds(model: Recognizer, images: torch.Tensor) -> None:
    joint = model.joint(images)
    sure = replace(joint, category_log_prob=torch.where(joint.category_log_prob > -1, 0.0, -math.inf))
    assert visibility_evidence(sure).isfinite().all()


def test_rows_state_it_when_asked_for_and_nothing_else_changes(model: Recognizer, images: torch.Tensor) -> None:
    origins = origins_table(list("abcde"))
    plain, asked = (model.label(images, origins=origins, scoring=each) for each in (PLAIN, ASKED))
    assert plain.schema.equals(PREDICTION_SCHEMA) and asked.schema.equals(schema_for(ASKED))
    assert asked.drop_columns(["rationale_visible_probability"]).equals(plain)
    evidence = visibility_evidence(model.joint(images, scoring=PLAIN))
    for (rationale, category), row in zip(evidence.tolist(), iterate_predictions(asked), strict=True):
        expected = 1 / (1 + math.exp(-(0.5 + 0.1 * rationale + 0.3 * category)))
        assert row.rationale_visible_probability == pytest.approx(expected, abs=1e-5)
    joint = model.joint(images, scoring=PLAIN)
    offsets = tuple(0.1 * number for number in range(len(model.vocabulary.categories)))
    shifted, plainly = (visible_probability(joint, each) for each in (replace(MAP, category_offsets=offsets), MAP))
    named = [offsets[each] for each in ranked_pairs(joint, 1).categories[:, 0].tolist()]
    assert (shifted.logit() - plainly.logit()).tolist() == pytest.approx(named, abs=1e-9)
    both = model.label(images, origins=origins, scoring=replace(ASKED, ood_score=True))
    assert both.column_names[-2:] == ["ood_score", "rationale_visible_probability"]


def stated(model: Recognizer, images: torch.Tensor, **scoring: object) -> list[float | None]:
    asked = replace(ASKED, **scoring)  # type: ignore[arg-type]
    table = model.label(images, origins=origins_table(list("abcde")), scoring=asked)
    found: list[float | None] = table["rationale_visible_probability"].to_pylist()
    return found


def test_it_is_null_without_a_map_for_the_method_and_vocabulary(model: Recognizer, images: torch.Tensor) -> None:
    null = [None] * 5
    assert None not in stated(model, images) + stated(model, images, method="pooled")
    assert stated(model, images, method="pooled") != stated(model, images)
    assert stated(model, images, method="pairs") == null, "no map was fitted for it"
    assert stated(model, images, method="pooled", pooling_weight=3.0) == null, "the map is of another weight"
    assert stated(model.with_vocabulary(OTHER_NAMES), images) == null
    assert stated(model.with_temperatures(NEEDED), images) == null, "other temperatures, and no map with them"


def test_a_checkpoint_keeps_the_maps_and_one_without_reads_as_before(
    model: Recognizer, images: torch.Tensor, tmp_path: Path
) -> None:
    save_checkpoint(model, tmp_path / "new")
    loaded = load(tmp_path / "new")
    assert (loaded.visibility, loaded.digest) == (model.visibility, model.digest)
    assert stated(loaded, images) == stated(model, images)
    record = read_checkpoint(tmp_path / "new")
    path = tmp_path / "new" / "checkpoint.json"
    values = json.loads(path.read_text())
    values["visibility"]["joint"]["intercept"] = 9.0
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="was altered"):
        load(tmp_path / "new")
    without = model.with_temperatures(NEEDED)
    save_checkpoint(without, tmp_path / "old")
    assert "visibility" not in json.loads((tmp_path / "old" / "checkpoint.json").read_text())
    assert load(tmp_path / "old").visibility == {} and without.digest != model.digest
    assert read_checkpoint(tmp_path / "old").digest != record.digest


def test_a_map_of_numbers_that_are_none_is_refused() -> None:
    with pytest.raises(ValueError, match="intercept must be a finite number, got nan"):
        replace(MAP, intercept=math.nan)
    with pytest.raises(ValueError, match="category_offsets must be finite numbers, got inf"):
        replace(MAP, category_offsets=(0.0, math.inf))
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        replace(MAP, num_images=0)
