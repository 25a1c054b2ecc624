"""Probability that a rationale is visible: the fit against scikit-learn, evidence by a loop, and when it is null."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ecor.checkpoint import load, save_checkpoint
from ecor.config.scoring import FACTORS, MethodName, ScoringConfig, Temperatures, VisibilityMap
from ecor.data.predictions.records import iterate_predictions
from ecor.data.predictions.schema import PREDICTION_SCHEMA, origins_table, schema_for
from ecor.model import Recognizer
from ecor.probability.platt_scaling import LEAST_IMAGES
from ecor.probability.rationale_visibility import (
    fit_visibility_map,
    visibility_evidence,
    visible_probability,
)
from ecor.storage.model_records import read_checkpoint
from tests.support.tiny_models import OTHER_NAMES, tiny_recognizer

PLAIN = ScoringConfig(method="joint")
ASKED = ScoringConfig(method="joint", visible_probability=True)
MAP = VisibilityMap(intercept=0.5, rationale_log_odds=0.1, category_log_odds=0.3, num_images=60)
NEEDED = Temperatures(rationale=0.5, category_given_rationale=0.25, category=0.4, pooling_weight=0.7)


def drawn(num: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Evidence on two scales, and visibility drawn from `MAP`."""
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(num, 2, generator=generator, dtype=torch.float64) * torch.tensor([4.0, 2.0]) + 20
    is_visible = torch.rand(num, generator=generator, dtype=torch.float64) < visible_probability(evidence - 20, MAP)
    return evidence - 20, is_visible


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    plain = tiny_recognizer(tmp_path_factory.mktemp("model"))
    return plain.with_temperatures(NEEDED, visibility={"joint": MAP, "pooled": replace(MAP, intercept=-1.0)})


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_map_that_made_the_truth_is_found_again() -> None:
    found = fit_visibility_map(*drawn(100_000))
    for name in ("intercept", "rationale_log_odds", "category_log_odds"):
        assert getattr(found, name) == pytest.approx(getattr(MAP, name), abs=0.03)
    assert found.num_images == 100_000


def test_the_fit_is_scikit_learns_with_platts_targets() -> None:
    """A target between 0 and 1 is an image counted twice: as visible with that weight, and as not visible."""
    evidence, is_visible = drawn(300, seed=1)
    positive = int(is_visible.sum())
    target = np.where(is_visible, (positive + 1) / (positive + 2), 1 / (300 - positive + 2))
    theirs = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(
        np.concatenate([evidence, evidence]),
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    found = fit_visibility_map(evidence, is_visible)
    assert [found.rationale_log_odds, found.category_log_odds] == pytest.approx(theirs.coef_[0].tolist(), abs=1e-5)
    assert found.intercept == pytest.approx(theirs.intercept_[0], abs=1e-5)
    stated = visible_probability(evidence, found)
    assert float(stated.mean()) == pytest.approx(float(target.mean()), abs=1e-8), "no bias over the images of the fit"


def test_single_precision_and_another_order_give_the_same_map() -> None:
    evidence, is_visible = drawn(200)
    rounded = evidence.float().double()
    found = [fit_visibility_map(rounded, is_visible), fit_visibility_map(rounded.flip(0), is_visible.flip(0))]
    found.append(fit_visibility_map(rounded.float(), is_visible))
    for each in found[1:]:
        assert each.intercept == pytest.approx(found[0].intercept, rel=1e-7)
        assert each.rationale_log_odds == pytest.approx(found[0].rationale_log_odds, rel=1e-7)


def test_evidence_that_separates_or_says_nothing_has_a_finite_map() -> None:
    evidence = torch.linspace(-1, 1, 80, dtype=torch.float64)[:, None].repeat(1, 2)
    apart = fit_visibility_map(evidence, evidence[:, 0] > 0)
    assert 0 < float(visible_probability(evidence, apart).min()) < 0.05
    every = fit_visibility_map(evidence, torch.ones(80, dtype=torch.bool))
    assert visible_probability(evidence, every).tolist() == pytest.approx([81 / 82] * 80, abs=1e-6)
    same = fit_visibility_map(torch.ones(80, 2), torch.arange(80) < 60)
    assert float(visible_probability(torch.ones(1, 2, dtype=torch.float64), same)) == pytest.approx(0.75, abs=0.01)
    with pytest.raises(ValueError, match=f"needs {LEAST_IMAGES} images with visible_rationales, got 49"):
        fit_visibility_map(evidence[:49], evidence[:49, 0] > 0)


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
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        replace(MAP, num_images=0)
