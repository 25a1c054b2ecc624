"""Validation images with visible rationales give maps of visibility, as `ecor train` saves them; others give none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ecor.config.model import BackboneConfig
from ecor.config.scoring import FACTORS, ScoringConfig
from ecor.probability.joint import ranked_pairs
from ecor.probability.rationale_visibility import LEAST_IMAGES, fit_visibility_map, visibility_evidence
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.visible_truth import fit_visibility_maps, read_visible_rationales
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


def test_training_saves_a_map_per_calibrated_method(world: Path) -> None:
    trainer = tuning_of(config_of(world, "shards"))
    recognizer = trainer.best_recognizer(finished(trainer))
    assert set(recognizer.visibility) == set(FACTORS)
    assert {each.num_images for each in recognizer.visibility.values()} == {NUM_VISIBLE}
    expected = naive_map(recognizer, trainer)
    assert recognizer.visibility["pairs"].intercept == pytest.approx(expected.intercept, rel=1e-4, abs=1e-4)
    assert recognizer.visibility["pairs"].rationale_log_odds == pytest.approx(
        expected.rationale_log_odds, rel=1e-3, abs=1e-4
    )


def naive_map(recognizer, trainer):
    """The map of `pairs`, image by image."""
    evidence, is_visible = [], []
    for features, positions in trainer._validation_batches():
        for number, position in enumerate(positions.tolist()):
            if position >= NUM_VISIBLE:
                continue
            one = features.select(torch.tensor([number]))
            joint = recognizer.joint(one, scoring=ScoringConfig(method="pairs"))
            evidence.append(visibility_evidence(joint))
            named = VOCABULARY.rationales[int(ranked_pairs(joint, 1).rationales[0, 0])]
            is_visible.append(named == sample(100 + position).rationales[0])
    return fit_visibility_map(torch.cat(evidence), torch.tensor(is_visible))


def test_without_visible_truth_there_is_no_map(world: Path) -> None:
    trainer = tuning_of(config_of(world, "plain"))
    recognizer = trainer.best_recognizer(finished(trainer))
    assert recognizer.visibility == {} and recognizer.calibrated
    features, positions = next(trainer._validation_batches())
    few = [frozenset({0})] * len(positions)
    assert len(few) < LEAST_IMAGES
    assert fit_visibility_maps(recognizer, features, visible=few, methods=["joint"]) == {}
