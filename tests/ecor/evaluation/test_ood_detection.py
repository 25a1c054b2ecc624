"""Laws of telling the unknown: against torchmetrics and scipy, by hand, and on classes that are easy to tell.

Covers: `ecor.evaluation.linear_probe`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torchmetrics.functional.classification import binary_auroc, binary_roc

from ecor.config.model import TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.records import iterate_predictions
from ecor.data.predictions.schema import PREDICTION_SCHEMA, origins_table, schema_for
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.linear_probe import LinearProbe, fit_probe, select_probe
from ecor.evaluation.ood_detection import auroc, detection_measures, fpr_at_tpr, max_logit
from ecor.probability.factors import max_cosine
from pipelines.config.infrastructure import TrackingConfig
from pipelines.scoring.decoder import decode_unit
from pipelines.scoring.inputs import read_input
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.tracking import model_registry
from tests.support.tiny_models import tiny_checkpoint, tiny_recognizer, write_pictures

scores = st.lists(st.integers(-4, 4), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=np.float64))


@given(scores, scores)
def test_auroc_is_torchmetrics_and_scipys(positive: np.ndarray, negative: np.ndarray) -> None:
    found = auroc(positive, negative)
    wins = mannwhitneyu(positive, negative).statistic
    assert found == pytest.approx(wins / (len(positive) * len(negative)))
    values = torch.from_numpy(np.concatenate([positive, negative])) / 10 + 0.5  # torchmetrics takes probabilities
    target = torch.tensor([1] * len(positive) + [0] * len(negative))
    assert found == pytest.approx(float(binary_auroc(values, target)), abs=1e-6)
    assert auroc(negative, positive) == pytest.approx(1 - found)


@given(scores, scores, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_fpr_is_where_torchmetrics_curve_reaches_the_tpr(
    positive: np.ndarray, negative: np.ndarray, tpr: float
) -> None:
    values = torch.from_numpy(np.concatenate([positive, negative])) / 10 + 0.5
    target = torch.tensor([1] * len(positive) + [0] * len(negative))
    false, true, _ = binary_roc(values, target)
    assert fpr_at_tpr(positive, negative, tpr=tpr) == pytest.approx(float(false[true >= tpr - 1e-6].min()), abs=1e-6)


def test_fpr_by_hand_depends_on_who_is_positive() -> None:
    known = np.array([*range(1, 20), 100.0])
    unknown = np.array([0.0, 0.5, 1.5, 2.5])
    assert fpr_at_tpr(known, unknown) == 0.25, "19 of 20 known are at least 2, as is 1 of 4 unknown"
    assert fpr_at_tpr(-unknown, -known) == 0.1, "all unknown are at most 2.5, as are 2 of 20 known"
    found = detection_measures(known, unknown, resampling=Resampling(num_resamples=200))
    assert (found.fpr95_known.value, found.fpr95_unknown.value) == (0.25, 0.1)
    assert found.auroc.value == auroc(known, unknown) == (80 - 1 - 2) / 80
    for each in (found.auroc, found.fpr95_known, found.fpr95_unknown):
        assert each.low <= each.value <= each.high and each.num_images == 24


@given(scores, scores, st.integers(0, 100))
def test_resampled_rates_are_those_of_the_drawn_pictures(known: np.ndarray, unknown: np.ndarray, seed: int) -> None:
    """Counts of each picture, or as many copies of it: one interval, computed twice."""
    found = detection_measures(known, unknown, resampling=Resampling(num_resamples=1, seed=seed))
    drawn = np.random.default_rng(seed).integers(len(known) + len(unknown), size=len(known) + len(unknown))
    kept, lost = known[drawn[drawn < len(known)]], unknown[drawn[drawn >= len(known)] - len(known)]
    if not len(kept) or not len(lost):
        return
    assert found.auroc.low == pytest.approx(auroc(kept, lost))
    assert found.fpr95_known.low == pytest.approx(fpr_at_tpr(kept, lost))
    assert found.fpr95_unknown.low == pytest.approx(fpr_at_tpr(-lost, -kept))


def test_scores_are_the_largest_of_all() -> None:
    features, texts = torch.eye(3)[:2], torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]])
    torch.testing.assert_close(max_cosine(features, texts), torch.tensor([0.6, 0.8]))
    probe = LinearProbe(weight=torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), bias=torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(max_logit(features, probe), torch.tensor([1.0, 0.0]))
    for score in (max_cosine(features, texts.flip(0)), max_cosine(features.flip(0), texts).flip(0)):
        torch.testing.assert_close(score, max_cosine(features, texts))


def test_a_probe_is_at_its_losss_minimum_and_its_penalty_is_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(4, 5, generator=generator)
    labels = torch.arange(80) % 4
    features = centres[labels] + torch.randn(80, 5, generator=generator)
    probe = fit_probe(features, labels, penalty=0.01)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    prob = (features @ weight.T + bias).softmax(-1)
    loss = -prob[torch.arange(80), labels].log().mean() + 0.01 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3
    wrong = select_probe(features, labels, validation=(features, labels), penalties=(1e6, 0.01))
    assert torch.equal(wrong.weight, probe.weight), "a penalty that flattens everything gets less right"


def test_scores_of_one_class_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 0 scores"):
        auroc(np.ones(3), np.ones(0))
    with pytest.raises(ValueError, match="no finite number"):
        detection_measures(np.array([np.nan]), np.ones(2))


def test_rows_tell_how_unlike_all_categories_an_image_is(tmp_path: Path) -> None:
    """When asked for; nothing else of the rows changes."""
    model = tiny_recognizer(tmp_path)
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    origins, asked = origins_table(["a", "b", "c"]), ScoringConfig(ood_score=True)
    plain, scored = (model.label(images, origins=origins, scoring=each) for each in (ScoringConfig(), asked))
    assert plain.schema.equals(PREDICTION_SCHEMA) and scored.schema.equals(schema_for(asked))
    assert scored.drop_columns(["ood_score"]).equals(plain)
    features = model.image_features(images).category
    for feature, each in zip(features, iterate_predictions(scored), strict=True):
        nearest = min(1 - float(feature @ text) for text in model.text.categories)
        assert each.ood_score == pytest.approx(nearest, abs=1e-6)
    assert [each.ood_score for each in iterate_predictions(plain)] == [None] * 3
    assert "ood_score" in model.predict([], scoring=asked).to_arrow().column_names
    pictures = [image.permute(1, 2, 0).numpy() for image in images]
    found = model.predict(pictures, scoring=asked, batch_size=2).to_arrow()["ood_score"]
    assert found.to_numpy() == pytest.approx(model.ood_score(images).numpy(), abs=1e-5)


def test_a_scoring_actor_gives_the_column_to_every_row(tmp_path: Path) -> None:
    version = model_registry.resolve_model(str(tiny_checkpoint(tmp_path).folder), tracking=TrackingConfig())
    actor = Scorer(
        ScorerSettings(
            model=version,
            tracking=TrackingConfig(),
            vocabulary=None,
            scoring=ScoringConfig(ood_score=True),
            text=TextConfig(),
            batch_size=2,
            precision="fp32",
            use_gpu=False,
            num_threads=1,
        )
    )
    write_pictures(tmp_path / "in", num=5)
    [unit] = read_input(str(tmp_path / "in"), unit_size=9).units
    for part in decode_unit(unit, preprocess=actor.recognizer.backbone.preprocess, num_images=9):
        rows = actor.score(part).rows
        wanted = actor.recognizer.ood_score(torch.from_numpy(part.pixels))
        assert rows["ood_score"].to_numpy() == pytest.approx(wanted.numpy(), abs=1e-5) and rows.num_rows == 5
