"""Artifacts that an older version wrote are read, and give the same labels.

`older_artifacts/` was written by `ecor shard`, `train`, `score` and `evaluate` of the version before the packages of
`ecor` and `pipelines` were laid out as they are now, from five drawn scenes.
"""

from pathlib import Path

import pytest

import ecor
from ecor.checkpoint import read_checkpoint
from ecor.data.predictions.manifest import read_prediction_set as read_labels_manifest
from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index, read_shard, verify_shard
from ecor.data.vocabulary import read_vocabulary
from ecor.evaluation.record import read_evaluation

FOLDER = Path(__file__).parent / "older_artifacts"
CHECKPOINT, LABELS = str(FOLDER / "checkpoint"), str(FOLDER / "labels")
SPLIT = FOLDER / "shards" / "validation"


def test_records_name_each_other_by_the_digests_that_they_have_now():
    shards, labels = read_shard_manifest(SPLIT), read_labels_manifest(LABELS)
    checkpoint = read_checkpoint(CHECKPOINT)
    assert labels.parents.input_digest == shards.digest
    assert labels.parents.model_digest == checkpoint.model_digest
    assert shards.vocabulary_digest == read_vocabulary(FOLDER / "shards" / "vocabulary.json").digest
    (result,) = read_evaluation(str(FOLDER / "evaluation")).results
    assert result.predictions == labels.digest and result.num_images == 5


def test_the_checkpoint_labels_the_shards_as_it_did():
    (shard,) = read_shard_manifest(SPLIT).shards
    verify_shard(SPLIT, shard)
    assert read_index(SPLIT, shard).num_rows == 5
    before = read_predictions(LABELS).to_pydict()
    samples = {sample.source: sample.image for sample in read_shard(SPLIT, shard)}
    now = ecor.load(CHECKPOINT).predict([samples[source] for source in before["source"]]).to_arrow().to_pydict()
    for column in ("category", "rationale", "two_stage_category", "two_stage_rationale", "method"):
        assert now[column] == before[column], column
    assert now["confidence"] == pytest.approx(before["confidence"], rel=1e-4)
