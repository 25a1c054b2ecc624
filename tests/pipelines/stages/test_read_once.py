"""A stage reads each image, and each part of its labels, once, and decodes or parses it once.

Covers: `pipelines.storage.image_bytes`.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecor.config.model import Preprocess
from ecor.data.images.decoding import decode_file, decode_image
from ecor.data.predictions.parts import read_part
from ecor.data.tables import read_json_lines
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.evaluation.label_columns import read_labels
from pipelines.config.reporting import EvaluateConfig, ExplainConfig
from pipelines.config.stages import ShardConfig
from pipelines.scoring.decoder import decode_unit
from pipelines.scoring.inputs import read_input
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.inspection import inspect_images
from pipelines.sharding.listing import list_images
from pipelines.sharding.shard_job import ShardJob
from pipelines.stages import evaluate, explain
from pipelines.storage.image_bytes import read_image_bytes
from tests.pipelines.reporting.test_overlays import write_explained
from tests.pipelines.stages.test_report import made, prediction, write_images
from tests.support.prediction_rows import random_table, write_labels
from tests.support.tiny_models import tiny_checkpoint, write_pictures

Counts = Callable[[Callable[..., Any]], Counter[Any]]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Count the calls of a function by what they are given first, wherever it was imported."""

    def counting(function: Callable[..., Any]) -> Counter[Any]:
        seen: Counter[Any] = Counter()

        def counted(*args: Any, **kwargs: Any) -> Any:
            told = args[-1] if function is read_part else args[0]
            seen[told if isinstance(told, str | bytes) else repr(told)] += 1
            return function(*args, **kwargs)

        for module in list(sys.modules.values()):
            if vars(module).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, counted)
        return seen

    return counting


def all_once(seen: Counter[Any], *, num: int) -> bool:
    return len(seen) == num and set(seen.values()) == {1}


def test_scoring_reads_and_decodes_a_picture_once(tmp_path: Path, counts: Counts) -> None:
    write_pictures(tmp_path, num=5)
    reads, decodes = counts(read_image_bytes), counts(decode_file)
    preprocess = Preprocess(image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    for unit in read_input(str(tmp_path), unit_size=3).units:
        list(decode_unit(unit, preprocess=preprocess, num_images=2))
    assert all_once(reads, num=5) and all_once(decodes, num=5)


def test_scoring_reads_a_table_once_also_for_the_line_about_its_columns(tmp_path: Path, counts: Counts) -> None:
    lines = ['{"path": "a.png", "notes": "x"}', '{"path": "b.png", "kategorie": "hat"}']
    (tmp_path / "images.jsonl").write_text("\n".join(lines))
    reads = counts(read_json_lines)
    found = read_input(str(tmp_path / "images.jsonl"), unit_size=3)
    assert found.describe_left_out() == "columns that are not read: notes, kategorie (is category meant?)"
    assert all_once(reads, num=1)


def test_sharding_inspects_a_picture_with_one_read_and_one_decoding(tmp_path: Path, counts: Counts) -> None:
    for category in ("cat", "dog"):
        write_pictures(tmp_path / "images" / "train" / category, num=3)
    config = ShardConfig(input=str(tmp_path / "images"), output=str(tmp_path / "shards"), validate="decode")
    names = vocabulary_from_mapping({"cat": ["deep"], "dog": ["deep"]})
    job = ShardJob(
        config=config, root=str(tmp_path / "images"), vocabulary=names,
        given_splits=("train",), from_vocabulary=True, parents={}, output=config.output,
    )  # fmt: skip
    reads, decodes = counts(read_image_bytes), counts(decode_image)
    listing = pa.concat_tables([table for place in find_source(config).places for table in list_images(place)])
    rows = inspect_images(listing, job=job)
    assert rows.num_rows == 6 and sum(reads.values()) == 6 and sum(decodes.values()) == 6


def test_evaluation_reads_and_parses_each_set_once(
    tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, skill in (("a", 0.7), ("b", 0.5)):
        write_labels(f"{tmp_path}/{name}", random_table(40, skill=skill))
    monkeypatch.setattr("pipelines.tracking.model_registry.log_evaluation", lambda *args, **kwargs: "run")
    reads, parses = counts(read_part), counts(read_labels)
    folders = (f"{tmp_path}/a", f"{tmp_path}/b")
    evaluate.run(EvaluateConfig(predictions=folders, output=f"{tmp_path}/evaluation", num_resamples=100))
    assert sum(parses.values()) == 2 and all_once(reads, num=len(reads)) and len(reads) >= 2


def test_the_report_reads_and_decodes_a_picture_once_with_its_maps_too(tmp_path: Path, counts: Counts) -> None:
    rows = write_images(tmp_path / "images", [prediction(number) for number in range(6)])
    write_explained(tmp_path / "labels", rows)
    decodes, parts = counts(decode_image), counts(read_part)
    files = counts(read_image_bytes)
    assert "Map of" in made(tmp_path)
    assert sum(decodes.values()) == 6 and all_once(parts, num=1)
    assert all(files[row.source] == 1 for row in rows)


def test_explaining_reads_and_decodes_a_photo_once(tmp_path: Path, counts: Counts) -> None:
    write_pictures(tmp_path / "photos", num=3)
    model = tiny_checkpoint(tmp_path / "run").folder
    reads, decodes = counts(read_image_bytes), counts(decode_image)
    config = ExplainConfig(model=model, output=str(tmp_path / "overlays"), method="itsm", batch_size=2)
    assert len(explain.run(config, images=[str(tmp_path / "photos")])) == 3
    assert all_once(reads, num=3) and all_once(decodes, num=3)
