"""Training, scoring, evaluation and the dataset card take shards of `--since` as they take those of a full run."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ecor.config.model import BackboneConfig
from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from ecor.evaluation.record import read_evaluation
from pipelines.cards.dataset_card import dataset_card
from pipelines.cards.dataset_records import DATASET_CARD, read_dataset_facts
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.reporting import EvaluateConfig
from pipelines.config.stages import ScoreConfig, ShardConfig
from pipelines.config.training import TrainConfig
from pipelines.stages import evaluate, score, shard, train
from tests.pipelines.scoring.incremental.test_increment import assert_equal_values
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import NAMES, TINY_CLIP
from tests.support.tiny_splits import sample

NUM, NUM_NEW = 60, 12
HERE = ClusterConfig(num_cpus=1)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of the same images: `full`, and `tuesday` since `monday`."""
    root = tmp_path_factory.mktemp("sharded")
    (root / "images").mkdir()
    (root / "images" / "vocabulary.json").write_text(json.dumps(NAMES))
    (root / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    draw(root, range(NUM))
    monday = ShardConfig(
        input=str(root / "images"),
        output=str(root / "monday"),
        samples_per_shard=8,
        split_shares={"train": 0.6, "validation": 0.2, "test": 0.2},
    )
    shard.run(monday, cluster=HERE)
    draw(root, range(NUM, NUM + NUM_NEW))
    sorted((root / "images" / "fox").iterdir())[0].unlink()
    shard.run(replace(monday, output=str(root / "tuesday"), since=monday.output), cluster=HERE)
    shard.run(replace(monday, output=str(root / "full")), cluster=HERE)
    assert json.loads((root / "tuesday/summary.json").read_text())["since"]["num_tars_kept"] > 2
    return root


def draw(root: Path, numbers: range) -> None:
    for number in numbers:
        drawn = sample(number)
        path = root / "images" / str(drawn.category) / drawn.source
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(drawn.image)


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.cluster.connect", None)


def without_draws(record: Any) -> Any:
    """An evaluation without what names its labels, and without the ends of intervals, which the order of rows draws."""
    if isinstance(record, dict):
        others = ("predictions", "parents", "name", "low", "high")
        return {name: without_draws(each) for name, each in record.items() if name not in others}
    return [without_draws(each) for each in record] if isinstance(record, list | tuple) else record


def test_training_labels_and_evaluation_are_those_of_full_shards(
    sharded: Path, tmp_path: Path, tracking: TrackingConfig
):
    tokens, rows, evaluations = {}, {}, {}
    num = read_shard_manifest(sharded / "full" / "train").num_samples
    for name in ("full", "tuesday"):
        train.run(
            TrainConfig(
                shards=str(sharded / name),
                output=str(tmp_path / name / "run"),
                backbone=BackboneConfig(name=str(sharded / "tiny-clip.json"), pretrained="random"),
                num_epochs=2,
                batch_size=num,  # the order of the samples then changes no gradient
                cache_dir=str(tmp_path / "cache"),
            ),
            tracking=tracking,
        )
        tokens[name] = load_file(tmp_path / name / "run" / "checkpoint" / "tokens.safetensors")
        labels = ScoreConfig(
            input=str(sharded / name / "test"),
            output=str(tmp_path / name / "labels"),
            model=str(tmp_path / "full" / "run"),
        )
        score.run(labels, tracking=tracking)
        rows[name] = read_predictions(labels.output).to_pandas().sort_values("key", ignore_index=True)
        output = str(tmp_path / name / "evaluation")
        evaluate.run(EvaluateConfig(predictions=(labels.output,), output=output, num_resamples=100), tracking=tracking)
        evaluations[name] = read_evaluation(output).results[0]
    assert tokens["full"].keys() == tokens["tuesday"].keys()
    for name, value in tokens["full"].items():
        torch.testing.assert_close(tokens["tuesday"][name], value, rtol=0, atol=1e-4)
    same = ["key", "source", "category", "rationale", "category_true"]
    pd.testing.assert_frame_equal(rows["tuesday"][same], rows["full"][same])
    pd.testing.assert_series_equal(rows["tuesday"]["confidence"], rows["full"]["confidence"], atol=1e-5, rtol=0)
    assert_equal_values(without_draws(asdict(evaluations["tuesday"])), without_draws(asdict(evaluations["full"])))


def test_the_dataset_card_names_the_earlier_shards_and_counts_what_full_shards_hold(sharded: Path):
    facts = {name: read_dataset_facts(str(sharded / name)) for name in ("full", "tuesday")}
    assert (sharded / "tuesday" / DATASET_CARD).read_text() == dataset_card(facts["tuesday"])
    assert "since digest" in dataset_card(facts["tuesday"])
    for full, tuesday in zip(facts["full"].manifests, facts["tuesday"].manifests, strict=True):
        for name in ("split", "num_samples", "num_rejected", "num_duplicates", "vocabulary_digest", "config_digest"):
            assert getattr(tuesday, name) == getattr(full, name)
    assert facts["tuesday"].rejected == facts["full"].rejected
