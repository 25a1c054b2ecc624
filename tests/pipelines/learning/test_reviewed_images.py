"""Reviewed images become a table for `ecor shard`: read from tars by offset or from files, each checked.

Covers: `pipelines.storage.image_source`.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from ecor.data.predictions.manifest import PredictionSet, write_prediction_set
from ecor.data.predictions.parts import read_predictions
from ecor.data.predictions.records import predictions_table
from ecor.data.samples import sample_key
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.storage.digests import bytes_sha256
from pipelines.learning.corrections import REVIEWED_SCHEMA
from pipelines.learning.reviewed_images import ReviewedImages, assign_split, write_reviewed_images
from pipelines.storage.image_source import ImageSource
from tests.support.prediction_rows import row, write_labels
from tests.support.tiny_models import write_pictures
from tests.support.tiny_splits import NUM_VALIDATION, sample, write_world


@pytest.fixture
def labels(tmp_path: Path) -> str:
    return f"{tmp_path}/labels"


def finish(labels: str, rows: list, *, source: str = "photos", digest: str = "i" * 64) -> PredictionSet:
    """Labels whose parents name this source."""
    found = write_labels(labels, predictions_table(rows), rows_per_part=3)
    found = replace(found, parents=replace(found.parents, input=source, input_digest=digest))
    write_prediction_set(labels, found)
    return found


def of_files(paths: list[Path], labels: str) -> PredictionSet:
    made = []
    for path in paths:
        key = sample_key(str(path), sha256=bytes_sha256(path.read_bytes()))
        made.append(replace(row(key, ("fox", "pointed ears")), source=str(path)))
    return finish(labels, made)


def of_shards(tmp_path: Path, labels: str) -> PredictionSet:
    folder = str(write_world(tmp_path) / "shards" / "validation")
    manifest, made = read_shard_manifest(folder), []
    for info in manifest.shards:
        for each in read_index(folder, info).to_pylist():
            place = {name: each[name] for name in ("source", "member_offset", "member_num_bytes")}
            made.append(replace(row(each["key"], ("fox", "pointed ears")), shard=info.name, **place))
    return finish(labels, made, source=folder, digest=manifest.digest)


def reviewed(keys: list[str], **changes: object) -> pa.Table:
    said = {"use": "taken", "category": "owl", "rationales": ["round eyes"], "is_wrong_reason": False}
    before = {"category_before": "fox", "rationale_before": "pointed ears"}
    rows = [{"key": key, **said, **before, **changes} for key in sorted(keys)]
    return pa.Table.from_pylist(rows, schema=REVIEWED_SCHEMA)


def keys_of(labels: str) -> list[str]:
    return read_predictions(labels, columns=["key"])["key"].to_pylist()


def write(table: pa.Table, *, labels: str, found: PredictionSet, folder: Path, **settings) -> ReviewedImages:
    shares = {"train": 0.6, "validation": 0.15, "test": 0.25}
    settings = {"source": ImageSource(found.parents), "max_rejected": 0.0, "split_shares": shares, **settings}
    return write_reviewed_images(table, labels=labels, folder=str(folder), **settings)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "reviewed.jsonl").read_text().splitlines()]


def test_images_of_tars_are_read_by_offset(tmp_path: Path, labels: str) -> None:
    found, out = of_shards(tmp_path, labels), tmp_path / "out"
    keys = keys_of(labels)
    counts = write(reviewed(keys[1:6]), labels=labels, found=found, folder=out)
    assert (counts.num_reviewed, counts.num_given) == (5, 5)
    written = lines(out)
    assert {*written[0]} == {"path", "category", "rationales", "split"}, "the columns that `ecor shard` reads"
    assert all((each["category"], each["rationales"]) == ("owl", ["round eyes"]) for each in written)
    images = [(out / each["path"]).read_bytes() for each in written]
    assert images == [sample(number).image for number in range(101, 106)]
    assert len(keys) == NUM_VALIDATION


def test_files_stay_where_they_are(tmp_path: Path, labels: str) -> None:
    paths = write_pictures(tmp_path / "photos", num=5)
    found = of_files(paths, labels)
    write(reviewed(keys_of(labels)), labels=labels, found=found, folder=tmp_path / "out")
    assert [each["path"] for each in lines(tmp_path / "out")] == list(map(str, paths))
    assert not (tmp_path / "out" / "images").exists()


def test_a_finished_table_is_kept(tmp_path: Path, labels: str) -> None:
    paths = write_pictures(tmp_path / "photos", num=3)
    found, table = of_files(paths, labels), reviewed(keys_of(labels))
    first = write(table, labels=labels, found=found, folder=tmp_path / "out")
    for path in paths:
        path.unlink()
    assert write(table, labels=labels, found=found, folder=tmp_path / "out") == first


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path, labels: str) -> None:
    paths = write_pictures(tmp_path / "photos", num=6)
    found, keys = of_files(paths, labels), keys_of(labels)
    paths[0].unlink()
    paths[1].write_bytes(paths[2].read_bytes())
    others = reviewed(keys[:1], use="skip", category=None, rationales=[])
    table = pa.concat_tables([reviewed(keys), others.set_column(0, REVIEWED_SCHEMA.field("key"), pa.array(["zz"]))])
    with pytest.raises(ValueError, match="2 of 6 reviewed images cannot be used"):
        write(table, labels=labels, found=found, folder=tmp_path / "out")
    assert not (tmp_path / "out" / "reviewed.jsonl").exists()
    counts = write(table, labels=labels, found=found, folder=tmp_path / "out", max_rejected=0.5)
    assert (counts.num_reviewed, counts.num_given) == (7, 4)
    assert (counts.rejected, counts.left_out) == ({"changed": 1, "missing": 1}, {"skip": 1})


def test_the_image_that_was_reviewed_is_the_one_that_teaches(tmp_path: Path, labels: str) -> None:
    found = of_files(write_pictures(tmp_path / "photos", num=2), labels)
    table = reviewed(keys_of(labels), image_sha256="0" * 64)
    counts = write(table, labels=labels, found=found, folder=tmp_path / "out", max_rejected=1.0)
    assert counts.rejected == {"changed": 2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"category_before": "owl"}, "is about the label owl, pointed ears, but .* says fox, pointed ears"),
        ({"rationale_before": "a tail"}, "is about the label fox, a tail, but"),
    ],
)
def test_decisions_about_another_label_are_refused(tmp_path: Path, labels: str, changes: dict, told: str) -> None:
    found = of_files(write_pictures(tmp_path / "photos", num=2), labels)
    with pytest.raises(ValueError, match=told):
        write(reviewed(keys_of(labels), **changes), labels=labels, found=found, folder=tmp_path / "out")


def test_decisions_about_unknown_images_are_refused(tmp_path: Path, labels: str) -> None:
    found = of_files(write_pictures(tmp_path / "photos", num=2), labels)
    with pytest.raises(ValueError, match=r"1 decisions are about images that .* lacks"):
        write(reviewed([*keys_of(labels), "zz"]), labels=labels, found=found, folder=tmp_path / "out")


def test_other_shards_than_those_that_were_labelled_are_refused(tmp_path: Path, labels: str) -> None:
    found = of_shards(tmp_path, labels)
    table, folder = reviewed(keys_of(labels)), str(tmp_path / "shards" / "train")
    elsewhere = ImageSource(found.parents, folder=folder, option="--source")
    with pytest.raises(ValueError, match=r"are not those that were labelled .*--source"):
        write(table, labels=labels, found=found, folder=tmp_path / "out", source=elsewhere)
    moved = tmp_path / "moved"
    (tmp_path / "shards" / "validation").rename(moved)
    with pytest.raises(ValueError, match=r"manifest\.json is not there"):
        write(table, labels=labels, found=found, folder=tmp_path / "out")
    source = ImageSource(found.parents, folder=str(moved))
    assert write(table, labels=labels, found=found, folder=tmp_path / "out", source=source).num_given == NUM_VALIDATION


def test_a_damaged_tar_is_no_silent_loss(tmp_path: Path, labels: str) -> None:
    found, keys = of_shards(tmp_path, labels), keys_of(labels)
    tar = next((tmp_path / "shards" / "validation").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    place = predictions_place(labels, keys[0])
    data[place] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=f"no longer holds {keys[0]}"):
        write(reviewed(keys), labels=labels, found=found, folder=tmp_path / "out")


def predictions_place(labels: str, key: str) -> int:
    rows = read_predictions(labels).to_pylist()
    return next(each["member_offset"] for each in rows if each["key"] == key) + 5


def test_a_split_of_ecor_shard_is_divided_like_any_other_images() -> None:
    """Images that `ecor shard` put into its test split, by the end of their hash, are not all held out here."""
    shares = {"train": 0.6, "validation": 0.15, "test": 0.25}
    all_images = [bytes_sha256(str(number).encode()) for number in range(20_000)]
    of_test = [each for each in all_images if int(each[-12:], 16) / 16**12 < 0.1]
    found = Counter(assign_split(each, shares=shares) for each in of_test)
    assert {split: found[split] / len(of_test) for split in shares} == pytest.approx(shares, abs=0.04)
    assert all(assign_split(each, shares=shares) == assign_split(each, shares=shares) for each in of_test[:10])
    assert {assign_split(each, shares={"train": 0.0, "test": 1.0}) for each in of_test[:50]} == {"test"}


def test_a_damaged_record_of_counts_is_named(tmp_path: Path, labels: str) -> None:
    found = of_files(write_pictures(tmp_path / "photos", num=2), labels)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "reviewed.json").write_text("")
    with pytest.raises(ValueError, match=r"out/reviewed\.json is damaged"):
        write(reviewed(keys_of(labels)), labels=labels, found=found, folder=tmp_path / "out")
