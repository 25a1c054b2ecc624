"""What a newcomer mixes up: outputs of other stages, labels in place of shards, names that meet, copies that differ.

Covers: `pipelines.training.shards_vocabulary`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.__main__ import main
from pipelines.training.shards_vocabulary import describe_vocabulary
from tests.support.mlflow_databases import new_database
from tests.support.prediction_rows import random_table, write_labels
from tests.support.tiny_models import tiny_checkpoint, write_pictures

Refusal = Callable[..., str]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Photos of two categories, their shards, labels of others, and a model."""
    for seed, category in enumerate(("hat", "shoe")):
        write_pictures(tmp_path / "photos" / category, num=4, seed=seed)
    (tmp_path / "names.json").write_text('{"hat": ["a brim"], "shoe": ["laces"]}')
    write_labels(f"{tmp_path}/labels", random_table(10))
    tiny_checkpoint(tmp_path / "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path).uri)
    monkeypatch.chdir(tmp_path)
    assert main(["shard", "--input", "photos", "--vocabulary", "names.json", "--output", "shards"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    def run(*words: str) -> str:
        assert main(list(words)) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        return line

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_no_stage_writes_over_the_records_of_another_one(world: Path, refusal: Refusal, fresh: list[str]) -> None:
    before = contents(world / "shards")
    score = ["score", "--input", "photos", "--model", "run", "--output", "shards", *fresh]
    assert (
        refusal(*score) == "ecor: shards holds summary.json of something else than `ecor score`: name another --output"
    )
    train = ["train", "--shards", "shards", "--output", "shards", "--num-epochs", "1", *fresh]
    assert "shards holds summary.json of something else than `ecor train`: name another --output" in refusal(*train)
    assert contents(world / "shards") == before


@pytest.mark.parametrize("content", ['{"hat": []}', "no page", "[]"])
def test_a_report_is_written_over_pages_alone(world: Path, refusal: Refusal, content: str) -> None:
    (world / "file").write_text(content)
    words = ("report", "--predictions", "labels", "--output", "file")
    assert refusal(*words) == "ecor: file exists and is no page: name another --output"
    assert (world / "file").read_text() == content
    (world / "file").write_text("<!DOCTYPE html>\n<p>an older one")
    assert main(list(words)) == 0 and "an older one" not in (world / "file").read_text()


def test_folders_in_each_others_place_are_told_with_what_to_name(world: Path, refusal: Refusal) -> None:
    told = refusal("score", "--input", "labels", "--model", "run", "--output", "out")
    assert "labels/manifest.json is not a manifest of shards" in told and "name a split that `ecor shard` wrote" in told
    told = refusal("evaluate", "--predictions", "shards/train", "--output", "out")
    assert "is not a manifest of labels" in told and "name a folder of labels" in told
    for place in ("photos", "shards/train", "labels"):
        told = refusal("train", "--shards", place, "--output", "out")
        assert told.endswith(
            f"{place} holds no vocabulary.json: name the folder that `ecor shard` wrote, which holds the splits"
        )
    told = refusal("shard", "--input", "names.json", "--output", "out")
    assert "names.json is no file of COCO annotations: it needs images, annotations and categories" in told
    assert not (world / "out").exists()


@pytest.mark.parametrize(("name", "text"), [("images.csv", "path,category\n"), ("images.jsonl", "\n\n")])
def test_a_table_without_rows_is_told_as_one(world: Path, refusal: Refusal, name: str, text: str) -> None:
    (world / name).write_text(text)
    told = refusal("shard", "--input", name, "--output", "out")
    assert told == "ecor: no image has a category: add images to the folders of the categories, or rows to the table"


def test_folders_that_become_one_category_are_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, folder in enumerate(("Hat", "hat", "caf\u00e9", "cafe\u0301")):
        write_pictures(world / "in" / folder, num=2, seed=seed)
    assert main(["shard", "--input", "in", "--output", "out"]) == 0
    told = capsys.readouterr().err
    assert "layout folders: 2 categories, no splits" in told
    assert r"folders that are one category: 'Hat' and 'hat', 'cafe\u0301' and 'caf\xe9'" in told
    assert list(json.loads((world / "out" / "vocabulary.json").read_text())) == ["caf\u00e9", "hat"]


def test_the_same_bytes_in_two_categories_are_said_each_time(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One category counts, our choice; the other one is a label that is lost."""
    (first,) = write_pictures(world / "in" / "hat", num=1, seed=9)
    for place in ("in/hat/copy.png", "in/shoe/copy.png", "in/shoe/other.png"):
        (world / place).parent.mkdir(exist_ok=True)
        shutil.copy(first, world / place)
    write_pictures(world / "in" / "shoe", num=1, seed=10)
    line = "2 images have the same bytes as one of another category, which counts (shoe/copy.png: shoe, kept as hat)"
    for _ in range(2):
        assert main(["shard", "--input", "in", "--output", "out"]) == 0
        told = capsys.readouterr().err
        assert line in told and "5 listed = 2 taken + 3 copies" in told
    splits = [path.parent for path in (world / "out").glob("*/manifest.json")]
    assert sum(read_shard_manifest(str(split)).num_samples for split in splits) == 2


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"hat": ["a brim"]}, ["one category alone (hat)", "one rationale alone (a brim)"]),
        ({"hat": ["a brim"], "shoe": ["a brim"]}, ["one rationale alone (a brim)"]),
        ({"hat": ["a brim", "a crown"]}, ["one category alone (hat)"]),
        ({"hat": ["a brim"], "shoe": ["laces"]}, []),
    ],
)
def test_a_name_without_a_rival_is_said_before_training(names: dict[str, list[str]], told: list[str]) -> None:
    """All labels are right then, which is no result."""
    lines = list(describe_vocabulary(vocabulary_from_mapping(names), shards="shards", system="ecor"))
    assert len(lines) == len(told)
    assert all(part in line and "right for every image" in line for part, line in zip(told, lines, strict=True))
