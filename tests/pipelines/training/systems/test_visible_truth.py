"""Validation images give maps of confidence and, with visible rationales, of visibility, as `ecor train` saves them.

Covers: `pipelines.training.systems.probability_maps`.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecor.clip.feature_types import ImageFeatures
from ecor.config.model import BackboneConfig
from ecor.config.scoring import FACTORS, ScoringConfig
from ecor.probability.joint import ranked_pairs
from ecor.probability.maps.confidence import (
    category_log_odds,
    fit_confidence_map,
    fit_others_temperature,
    pair_log_odds,
)
from ecor.probability.maps.platt_scaling import LEAST_IMAGES, Outcomes
from ecor.probability.maps.visibility import fit_visibility_map, visibility_evidence
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.systems.probability_maps import fit_probability_maps
from pipelines.training.systems.visible_truth import read_visible_rationales
from tests.support.in_process_training import finished, tuning_of
from tests.support.tiny_models import TINY_CLIP
from tests.support.tiny_splits import NUM_TRAIN, VOCABULARY, sample, write_split

NUM_VISIBLE, NUM_UNKNOWN = LEAST_IMAGES + 10, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation images of which all but a few list what they show: their first label, and a name that nobody knows."""
    folder = tmp_path_factory.mktemp("visible")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    write_split(folder / "shards", [sample(n) for n in range(NUM_TRAIN)], split="train")
    known = [sample(n) for n in range(100, 100 + NUM_VISIBLE)]
    shown = [replace(each, visible_rationales=(each.rationales[0].upper(), "a third eye")) for each in known]
    unknown = [sample(n) for n in range(300, 300 + NUM_UNKNOWN)]
    write_split(folder / "shards", [*shown, *unknown], split="validation", per_shard=20)
    write_split(folder / "plain", [sample(n) for n in range(NUM_TRAIN)], split="train")
    write_split(folder / "plain", known, split="validation", per_shard=20)
    return folder


def config_of(world: Path, shards: str) -> TrainConfig:
    return TrainConfig(
        shards=str(world / shards),
        output=str(world / "run"),
        backbone=BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"),
        num_epochs=1,
        batch_size=8,
        cache_dir=str(world / f"cache-{shards}"),
    )


def test_visible_rationales_are_read_by_position(world: Path) -> None:
    split = read_split(str(world / "shards" / "validation"), vocabulary=VOCABULARY)
    positions = torch.tensor([NUM_VISIBLE, 25, 0])
    found = read_visible_rationales(split, positions=positions, vocabulary=VOCABULARY)
    labels = [VOCABULARY.rationale_id(sample(100 + n).rationales[0]) for n in (25, 0)]
    assert found == [None, frozenset(labels[:1]), frozenset(labels[1:])]


def test_training_saves_both_maps_per_calibrated_method(world: Path) -> None:
    trainer = tuning_of(config_of(world, "shards"))
    recognizer = trainer.best_recognizer(finished(trainer))
    assert set(recognizer.visibility) == set(recognizer.confidence_maps) == set(FACTORS)
    assert {each.num_images for each in recognizer.visibility.values()} == {NUM_VISIBLE}
    assert {each.num_images for each in recognizer.confidence_maps.values()} == {NUM_VISIBLE + NUM_UNKNOWN}
    visibility, confidence = naive_maps(recognizer, trainer)
    found = recognizer.confidence_maps["pairs"]
    assert found.category_intercept == pytest.approx(confidence.category_intercept, rel=1e-3, abs=1e-3)
    assert found.others_temperature == pytest.approx(confidence.others_temperature, rel=1e-3)
    assert found.category_offsets == pytest.approx(confidence.category_offsets, abs=1e-3)
    assert found.pair_offsets == pytest.approx(confidence.pair_offsets, abs=1e-3)
    assert found.category_log_odds == pytest.approx(confidence.category_log_odds, rel=1e-3, abs=1e-3)
    assert recognizer.visibility["pairs"].intercept == pytest.approx(visibility.intercept, rel=1e-4, abs=1e-4)
    assert recognizer.visibility["pairs"].rationale_log_odds == pytest.approx(
        visibility.rationale_log_odds, rel=1e-3, abs=1e-4
    )
    assert recognizer.confidence_maps["pairs"].intercept == pytest.approx(confidence.intercept, rel=1e-3, abs=1e-3)


def naive_maps(recognizer, trainer):
    """The maps of `pairs`, image by image."""
    pairs, categories, shown, wrong = [], [], [], []
    for features, positions in trainer._validation_batches():
        for number, position in enumerate(positions.tolist()):
            joint = recognizer.joint(features.select(torch.tensor([number])), scoring=ScoringConfig(method="pairs"))
            best, alone = ranked_pairs(joint, 1), int(joint.category_log_prob.argmax())
            category, named = int(best.categories[0, 0]), VOCABULARY.rationales[int(best.rationales[0, 0])]
            truth = sample(100 + position if position < NUM_VISIBLE else 300 + position - NUM_VISIBLE)
            true = VOCABULARY.category_id(truth.category)
            is_right = category == true and named == truth.rationales[0]
            pairs.append((pair_log_odds(joint).tolist(), category, is_right))
            categories.append((category_log_odds(joint).tolist(), alone, alone == true))
            if alone != true:
                wrong.append((joint.category_log_prob[0].tolist(), true))
            if position < NUM_VISIBLE:
                shown.append((visibility_evidence(joint)[0].tolist(), category, named == truth.rationales[0]))
    num_categories = len(VOCABULARY.categories)
    others = fit_others_temperature(torch.tensor([e for e, _ in wrong]), torch.tensor([c for _, c in wrong]))
    return (
        fit_visibility_map(outcomes_of(shown), num_categories=num_categories),
        fit_confidence_map(
            outcomes_of(pairs),
            category=outcomes_of(categories),
            others_temperature=others,
            num_categories=num_categories,
        ),
    )


def outcomes_of(rows):
    evidence, categories, is_so = zip(*rows, strict=True)
    values = torch.tensor(evidence, dtype=torch.float64)
    return Outcomes(evidence=values, categories=torch.tensor(categories), is_so=torch.tensor(is_so))


def test_without_visible_truth_there_is_no_map_of_it(world: Path) -> None:
    trainer = tuning_of(config_of(world, "plain"))
    recognizer = trainer.best_recognizer(finished(trainer))
    assert recognizer.visibility == {} and recognizer.calibrated
    assert set(recognizer.confidence_maps) == set(FACTORS), "which needs labels alone"
    features, positions = next(trainer._validation_batches())
    few, ids = [frozenset({0})] * len(positions), torch.zeros(len(positions), dtype=torch.long)
    assert len(few) < LEAST_IMAGES
    found = fit_probability_maps(recognizer, features, categories=ids, rationales=ids, visible=few, methods=["joint"])
    assert (found.visibility, found.confidence) == ({}, {})


def test_images_without_a_label_give_no_map_of_confidence(world: Path) -> None:
    trainer = tuning_of(config_of(world, "shards"))
    recognizer = trainer.best_recognizer(finished(trainer))
    batches = [features for features, _ in trainer._validation_batches()]
    features = ImageFeatures(
        rationale=torch.cat([each.rationale for each in batches]),
        category=torch.cat([each.category for each in batches]),
    )
    unknown, known = torch.full((len(features),), -1), torch.zeros(len(features), dtype=torch.long)
    found = fit_probability_maps(
        recognizer,
        features,
        categories=unknown,
        rationales=known,
        visible=[frozenset({0})] * len(features),
        methods=["joint"],
    )
    assert found.confidence == {} and set(found.visibility) == {"joint"}
