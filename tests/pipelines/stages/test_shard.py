"""Every image ends in one shard, one copy's label, or the quarantine; the bytes depend on nothing but the input.

The stage runs in this process where its cluster is not named `ON_RAY`.

Covers: `pipelines.runtime.ray_data`, `pipelines.sharding.dataflow`, `pipelines.sharding.deduplication`,
`pipelines.sharding.flows.cluster_flow`, `pipelines.sharding.flows.flow`, `pipelines.sharding.listing`,
`pipelines.sharding.scan`, `pipelines.sharding.shard_units`, `pipelines.sharding.shard_writer`,
`pipelines.sharding.shards_folder`.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecor.data.shard_manifest import ShardManifest, read_shard_manifest, write_shard_manifest
from ecor.data.shards import read_index, read_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.__main__ import EXIT_INTERRUPTED
from pipelines.cards.dataset_card import dataset_card
from pipelines.cards.dataset_records import DATASET_CARD, read_dataset_facts
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.stages import ShardConfig
from pipelines.runtime.balance import Balance
from pipelines.runtime.cluster import connect
from pipelines.runtime.ray_data import materialize, ray_data_settings, run_tasks, wait_for_all
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.flows import cluster_flow
from pipelines.sharding.flows.local_flow import local_flow
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.incremental.image_record import RECORD_NAME
from pipelines.sharding.inspection import INSPECTED_SCHEMA, inspect_images
from pipelines.sharding.listing import LISTING_SCHEMA, list_images
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import pieces_of
from pipelines.sharding.shards_folder import read_finished
from pipelines.stages import shard
from pipelines.storage.work_ledger import WorkLedger
from tests.support.image_forms import CATEGORIES, FORMS, pictures
from tests.support.processes import cpus_held, hit

VOCABULARY = {
    "cat": ["whiskers", "a tail", "long/short fur"],
    "dog": ["a wet nose", "a tail"],
    "stone": ["moss"],
}
ON_RAY = ClusterConfig(local_images=0)
HERE = local_flow(ClusterConfig(num_cpus=1))


def picture(number: int, *, form: str = "png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def dror_world(root: Path) -> Path:
    """28 valid images with 26 contents in DROR's layout, one broken file, one in the wrong place."""
    for number in range(10):
        put(root / f"train/cat/whiskers/0/{number}.png", picture(number))
        suffix = "JPG" if number % 2 else "jpg"  # as some cameras write it
        put(root / f"train/dog/a_wet-nose/{number}/p.v2.{suffix}", picture(100 + number, form="jpeg"))
    put(root / "train/cat/long/short__fur/3/nested.png", picture(200))  # a vocabulary's "long/short/fur"
    put(root / "train/cat/a tail/0/both.png", picture(201))
    put(root / "train/dog/a tail/0/both.png", picture(201))
    put(root / "train/dog/a tail/0/seen.png", picture(300))  # a copy of the test image
    put(root / "test/cat/whiskers/0/seen.png", picture(300))
    put(root / "test/cat/a tail/0/seen.png", picture(300))
    put(root / "test/stone/moss/0/a.png", picture(301))
    put(root / "test/dog/a tail/0/b.png", picture(302))
    put(root / "train/dog/a tail/1/broken.jpg", picture(400, form="jpeg")[:200])
    put(root / "train/dog/a tail/notes.txt", b"not an image")
    put(root / "test-masks/0.png", picture(500))
    truth = {
        "file": "test/dog/a tail/0/b.png".removeprefix("test/"),
        "visible_rationales": ["a tail"],
        "masks": "m.png",
    }
    (root / "test/truth.jsonl").write_text(json.dumps(truth) + "\n")
    names = VOCABULARY | {"cat": ["whiskers", "a tail", "long/short/fur"]}
    (root / "vocabulary.json").write_text(json.dumps(names))
    return root


def config_for(world: Path, output: Path, **changes) -> ShardConfig:
    return ShardConfig(
        **({"input": str(world), "output": str(output), "samples_per_shard": 6, "max_rejected": 0.1} | changes)
    )


def samples_of(output: Path) -> dict[str, list]:
    manifests = {path.parent.name: read_shard_manifest(path.parent) for path in output.glob("*/manifest.json")}
    return {
        split: [sample for info in manifest.shards for sample in read_shard(output / split, info)]
        for split, manifest in manifests.items()
    }


def data_files(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in ("summary.json", DATASET_CARD, RECORD_NAME)  # these hold times
    }


def card_of(output: Path) -> list[str]:
    """Lines of the dataset card; the title names the folder."""
    title, *lines = (output / DATASET_CARD).read_text().splitlines()
    assert title == f"# Dataset card: {output.name}"
    return lines


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return dror_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def by_one_worker(world, tmp_path_factory) -> Path:
    """The world's shards, made by a cluster of one CPU that is gone again."""
    output = tmp_path_factory.mktemp("one") / "shards"
    shard.run(config_for(world, output), cluster=ClusterConfig(num_cpus=1, local_images=0))
    assert not ray.is_initialized()
    return output


@pytest.fixture(scope="module")
def cluster(by_one_worker):
    with connect(ClusterConfig(num_cpus=2)):
        yield


# What the output may be kept for


@pytest.mark.parametrize("changed", ["input", "vocabulary", "config"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_what_another_job_has_made_or_begun_is_refused_with_both_digests(tmp_path, changed, is_finished):
    job = ShardJob(
        config=config_for(tmp_path / "world", tmp_path),
        root=str(tmp_path / "world"),
        vocabulary=vocabulary_from_mapping(VOCABULARY),
        given_splits=("train",),
        from_vocabulary=False,
        parents={"input": "1" * 64},
        output=str(tmp_path),
    )
    other = dataclasses.replace(
        job,
        **{
            "input": {"parents": {"input": "2" * 64}},
            "vocabulary": {"vocabulary": vocabulary_from_mapping({"cat": ["whiskers"]})},
            "config": {"config": dataclasses.replace(job.config, samples_per_shard=7)},
        }[changed],
    )
    if is_finished:
        nothing = {"shards": (), "num_samples": 0, "num_rejected": 0, "num_duplicates": 0}
        digests = {"vocabulary_digest": job.vocabulary.digest, "config_digest": job.config_digest}
        write_shard_manifest(
            ShardManifest(split="train", parents=job.parents, **digests, **nothing), tmp_path / "train"
        )
        then, now = (
            {"input": each.parents["input"], "vocabulary": each.vocabulary.digest, "config": each.config_digest}[
                changed
            ]
            for each in (job, other)
        )
        told = f"{changed} was {then}, is {now}"
    else:
        ledger = WorkLedger(tmp_path / "_ledger" / job.name)
        with ledger.hold_lease():
            attempt = ledger.claim("a shard")
            assert attempt is not None and ledger.commit(attempt, {}) == {}
        told = f"a run with digest {job.name} was begun there, this one is {other.name}"
    with pytest.raises(ValueError, match=rf"was made from something else \({told}\).*--fresh"):
        read_finished(other, flow=HERE)
    assert read_finished(job, flow=HERE) is None, "validation is not there yet"


# Laws of the parts


def inspected_row(number: int, *, content: int, split: str, category: str, rationales: list[str]) -> dict:
    row = dict.fromkeys(INSPECTED_SCHEMA.names)
    sha256 = hashlib.sha256(bytes([content])).hexdigest()
    return row | {
        "key": f"{sha256[:6]}-{number}",
        "source": f"{split}/{number}",
        "split": split,
        "protected": split == "test",
        "category": category,
        "rationales": rationales,
        "sha256": sha256,
    }


ROWS = st.lists(
    st.builds(
        dict,
        content=st.integers(0, 4),
        split=st.sampled_from(["train", "test", "validation"]),
        category=st.sampled_from(["cat", "dog"]),
        rationales=st.lists(st.sampled_from(["a", "b", "c"]), max_size=2, unique=True),
    ),
    max_size=12,
)


@given(described=ROWS, seed=st.randoms())
def test_of_equal_images_one_stays_with_all_labels_and_test_is_never_altered(described, seed):
    rows = [inspected_row(number, **row) for number, row in enumerate(described)]
    shuffled = seed.sample(rows, len(rows))
    marked = mark_duplicate_rows(pa.Table.from_pylist(shuffled, schema=INSPECTED_SCHEMA)).to_pylist()
    assert marked == mark_duplicate_rows(pa.Table.from_pylist(rows, schema=INSPECTED_SCHEMA)).to_pylist()
    assert sorted(row["key"] for row in marked) == sorted(row["key"] for row in rows)
    staying = [row for row in marked if row["duplicate_of"] is None]
    before = {row["key"]: row for row in rows}
    for row in staying:
        copies = [each for each in rows if each["sha256"] == row["sha256"]]
        told = {(label["category"], *label["rationales"]) for label in json.loads(row["labels"])}
        if row["split"] == "test":
            assert row["rationales"] == before[row["key"]]["rationales"]
            assert row["category"] == before[row["key"]]["category"]
        else:
            assert not any(each["split"] == "test" for each in copies)
            assert told == {(each["category"], *each["rationales"]) for each in copies}
            same = [each["rationales"] for each in copies if each["category"] == row["category"]]
            assert set(row["rationales"]) == {rationale for rationales in same for rationale in rationales}
    assert sum(row["split"] == "test" for row in staying) == sum(row["split"] == "test" for row in rows)
    outside = Counter(row["sha256"] for row in staying if row["split"] != "test")
    assert all(count == 1 for count in outside.values())
    assert {row["sha256"] for row in staying} == {row["sha256"] for row in rows}


@given(
    counts=st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), max_size=6),
    size=st.integers(1, 7),
)
def test_shards_take_every_row_once_and_in_order(counts, size):
    blocks = [
        [(name, index, n) for name in sorted(block) for n in range(block[name])] for index, block in enumerate(counts)
    ]
    for split in "abc":
        expected = [row for block in blocks for row in block if row[0] == split]
        shards = [
            [row for index, piece in pieces.items() for row in blocks[index][piece.start : piece.stop]]
            for pieces in pieces_of(counts, split=split, size=size)
        ]
        assert [row for rows in shards for row in rows] == expected
        assert all(len(rows) == size for rows in shards[:-1])


def listing_of(source) -> list[dict]:
    return pa.concat_tables([table for place in source.places for table in list_images(place)]).to_pylist()


def test_drors_folders_say_category_and_rationale(world):
    source = find_source(config_for(world, world.parent / "none"))
    rows = {row["source"]: row for row in listing_of(source)}
    assert source.layout == "dror" and len(rows) == 30
    assert rows["train/cat/long/short__fur/3/nested.png"]["rationales"] == ["long/short/fur"]
    assert rows["train/dog/a_wet-nose/4/p.v2.jpg"]["rationales"] == ["a_wet-nose"]
    assert rows["train/dog/a_wet-nose/5/p.v2.JPG"]["rationales"] == ["a_wet-nose"]
    assert rows["test/dog/a tail/0/b.png"]["visible_rationales"] == ["a tail"]
    assert json.loads(rows["test/dog/a tail/0/b.png"]["truth"]) == {"masks": "m.png"}
    assert "numbered folder" in rows["train/dog/a tail/notes.txt"]["problem"]
    assert {row["split"] for row in rows.values()} == {"train", "test"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_all_tables_say_the_same(tmp_path, suffix):
    rows = [
        {"path": "a.png", "category": "cat", "rationales": ["a tail", "fur"], "split": "val"},
        {"path": "s3://bucket/b.png", "category": "dog", "rationales": [], "split": "test"},
    ]
    path = tmp_path / f"images.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row | {"rationales": "|".join(row["rationales"])} for row in rows)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    source = find_source(config_for(path, tmp_path / "none"))
    assert source.layout == "table" and source.root == str(tmp_path)
    read = [(row["source"], row["category"], row["rationales"], row["split"]) for row in listing_of(source)]
    assert read == [("a.png", "cat", ["a tail", "fur"], "validation"), ("s3://bucket/b.png", "dog", [], "test")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,rationales\na,b\n", r"line 1 has no column category, it has \['path', 'rationales'\]"),
        ("path,category\na.png,cat\nb.png\n", "line 3 has 1 cells, the first line names 2 columns"),
        ("path,category\n,cat\n", "line 2: path must be a path or an address, got None"),
        ("path,category,split\na,cat,\n", "line 2: split must be a plain name"),
        ('path,category,rationales\na,cat,"[1"\n', "line 2: rationales starts with .* no list"),
    ],
)
def test_tables_are_refused_by_line(tmp_path, text, message):
    path = tmp_path / "images.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        listing_of(find_source(config_for(path, tmp_path / "none")))


def test_inputs_that_fit_no_layout(tmp_path):
    with pytest.raises(ValueError, match="there is no folder or table"):
        find_source(config_for(tmp_path / "none", tmp_path))
    with pytest.raises(ValueError, match="no folder of images"):
        find_source(config_for(tmp_path, tmp_path.parent / "none"))


def job_for(root: Path, **changes) -> ShardJob:
    fields = {
        "config": config_for(root, root / "out"),
        "root": str(root),
        "vocabulary": vocabulary_from_mapping(VOCABULARY),
        "given_splits": (),
        "from_vocabulary": False,
        "parents": {},
        "output": str(root / "out"),
    }
    return ShardJob(**(fields | changes))


def one_listed(source: str, **changes) -> pa.Table:
    row = dict.fromkeys(LISTING_SCHEMA.names) | {"source": source, "category": "Cat", "rationales": ["a-tail"]}
    return pa.Table.from_pylist([row | changes], schema=LISTING_SCHEMA)


def test_what_an_image_is_found_to_be(tmp_path):
    put(tmp_path / "a.b.png", picture(0))
    job = job_for(tmp_path)
    (row,) = inspect_images(one_listed("a.b.png"), job=job).to_pylist()
    assert (row["category"], row["rationales"], row["reason"]) == ("cat", ["a tail"], None)
    assert (row["width"], row["height"], row["extension"]) == (16, 12, "png")
    assert row["sha256"] == hashlib.sha256(picture(0)).hexdigest()
    (row,) = inspect_images(one_listed("none.png"), job=job).to_pylist()
    assert row["reason"] == "unreadable" and "none.png" in row["detail"]
    (row,) = inspect_images(one_listed("a.b.png", rationales=["a tail/of fur"]), job=job).to_pylist()
    assert row["rationales"] == ["a tail"]  # DROR's second level, which this vocabulary lacks


def test_weak_labels_come_from_the_vocabulary(tmp_path):
    put(tmp_path / "a.png", picture(0))
    (row,) = inspect_images(one_listed("a.png", rationales=[]), job=job_for(tmp_path, from_vocabulary=True)).to_pylist()
    assert row["rationales"] == ["whiskers", "a tail", "long or short fur"]


def test_shares_decide_splits_by_content(tmp_path):
    job = job_for(tmp_path)
    for number in range(300):
        put(tmp_path / f"{number}.png", picture(number))
    listed = pa.concat_tables([one_listed(f"{number}.png") for number in range(300)])
    rows = inspect_images(listed, job=job).to_pylist()
    counts = Counter(row["split"] for row in rows)
    assert set(counts) == {"train", "validation", "test"} and 210 < counts["train"] < 270
    job = job_for(tmp_path, given_splits=("test", "train"))
    assert job.splits == ("test", "train", "validation")
    listed = pa.concat_tables([one_listed(row["source"], split="train") for row in rows])
    rows = inspect_images(listed, job=job).to_pylist()
    assert 10 < sum(row["split"] == "validation" for row in rows) < 55


def test_an_output_where_nothing_was_made_is_free_for_the_mended_input(tmp_path):
    begun, mended = (job_for(tmp_path, parents={"input": digest}) for digest in ("a", "b"))
    ledger = WorkLedger(f"{begun.output}/_ledger/{begun.name}")
    with ledger.hold_lease():
        with pytest.raises(ValueError, match=r"a run with digest .* was begun there.*--fresh"):
            read_finished(mended, flow=HERE)
        record = ledger.commit(ledger.claim("inspected"), {"folder": "somewhere"})
    with pytest.raises(ValueError, match="was begun there"):
        read_finished(mended, flow=HERE)
    ledger.discard("inspected", record)
    assert read_finished(mended, flow=HERE) is None


# The stage


@pytest.mark.slow
def test_every_image_is_somewhere(by_one_worker):
    samples, summary = samples_of(by_one_worker), summary_of(by_one_worker)
    assert set(samples) == {"train", "validation", "test"}
    assert (summary["num_samples"], summary["num_duplicates"], summary["num_rejected"]) == (26, 2, 2)
    balance = Balance.from_record(summary["balance"])
    assert (balance.num_listed, balance.num_taken, balance.num_copies, balance.num_rejected) == (31, 26, 2, 2)
    assert balance.left_out == {"masks": 1}
    assert len(samples["test"]) == 4
    everything = [sample for split in samples.values() for sample in split]
    assert len({sample.key for sample in everything}) == 26
    assert not any("." in sample.key for sample in everything)
    assert [sample.key for sample in samples["train"]] == sorted(sample.key for sample in samples["train"])


@pytest.mark.slow
def test_bytes_are_untouched_and_labels_whole(world, by_one_worker):
    samples = samples_of(by_one_worker)
    by_source = {sample.source: sample for split in samples.values() for sample in split}
    for source, sample in by_source.items():
        assert sample.image == (world / source).read_bytes()
    assert by_source["train/cat/long/short__fur/3/nested.png"].rationales == ("long or short or fur",)
    assert by_source["test/dog/a tail/0/b.png"].visible_rationales == ("a tail",)
    assert "train/dog/a tail/0/seen.png" not in by_source
    assert {sample.rationales for sample in samples["test"] if sample.source.endswith("seen.png")} == {
        ("whiskers",),
        ("a tail",),
    }
    assert by_source["train/cat/a tail/0/both.png"].category == "cat"
    dropped = pq.read_table(by_one_worker / "duplicates.parquet").to_pylist()
    assert [row["source"] for row in dropped] == ["train/dog/a tail/0/both.png", "train/dog/a tail/0/seen.png"]


@pytest.mark.slow
def test_what_is_rejected_says_why(by_one_worker):
    rows = pq.read_table(by_one_worker / "quarantine.parquet").to_pylist()
    assert [(row["source"], row["stage"], row["reason"]) for row in rows] == [
        ("train/dog/a tail/1/broken.jpg", "shard", "truncated"),
        ("train/dog/a tail/notes.txt", "shard", "misplaced"),
    ]


@pytest.mark.slow
def test_two_workers_make_the_same_bytes(world, by_one_worker, cluster, tmp_path):
    shard.run(config_for(world, tmp_path / "two"), cluster=ON_RAY)
    expected = {name: data for name, data in data_files(by_one_worker).items() if not name.startswith("_ledger/")}
    found = {name: data for name, data in data_files(tmp_path / "two").items() if not name.startswith("_ledger/")}
    assert found == expected
    assert card_of(tmp_path / "two") == card_of(by_one_worker)
    facts = read_dataset_facts(str(by_one_worker))
    assert card_of(by_one_worker) == dataset_card(facts).splitlines()[1:] and facts.summary is not None


@pytest.mark.slow
def test_blocks_of_any_size_make_the_same_bytes(world, by_one_worker, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_flow, "_IMAGES_PER_BLOCK", 4)
    monkeypatch.setattr(cluster_flow, "_ROWS_PER_SORTED_BLOCK", 1)
    monkeypatch.setattr(cluster_flow, "_ROWS_PER_PIECE", 1)
    monkeypatch.setattr(cluster_flow, "_TASKS_AHEAD", 1)
    shard.run(config_for(world, tmp_path / "many"), cluster=ON_RAY)
    found, expected = (data_files(output) for output in (tmp_path / "many", by_one_worker))
    assert found.keys() >= {name for name in expected if not name.startswith("_ledger/")}
    assert all(found[name] == data for name, data in expected.items() if not name.startswith("_ledger/"))


@pytest.mark.slow
def test_images_within_files_are_sharded_by_workers_too(cluster, tmp_path):
    """Rows of Parquet, a zip, and the tars of another tool."""
    images = pictures()

    def sharded(place: Path, output: Path, on: ClusterConfig) -> list[tuple[str, str | None]]:
        (split,) = shard.run(ShardConfig(input=str(place), output=str(output), split_shares={"train": 1.0}), cluster=on)
        folder = str(output / split)
        tables = [read_index(folder, info) for info in read_shard_manifest(folder).shards]
        rows = pa.concat_tables(tables).select(["sha256", "category"]).to_pylist()
        return sorted((row["sha256"], row["category"]) for row in rows)

    for form in ("parquet", "zip", "web_dataset"):
        (tmp_path / form).mkdir()
        place = FORMS[form](images, tmp_path / form)
        found = sharded(place, tmp_path / form / "on_ray", ON_RAY)
        assert len(found) == len(images) and {category for _, category in found} == set(CATEGORIES), form
        assert found == sharded(place, tmp_path / form / "here", ClusterConfig(num_cpus=1)), form


@pytest.mark.slow
def test_tasks_are_begun_a_few_ahead_and_each_result_is_with_its_item(cluster):
    begun, ended = [], []

    def begin(item: int) -> ray.ObjectRef:
        begun.append(item)
        return ray.remote(num_cpus=1)(lambda: 10 * item).remote()

    for item, result in run_tasks(begin, range(7), num_ahead=3):
        assert result == 10 * item
        ended.append(item)
        assert len(begun) - len(ended) < 3
    assert sorted(ended) == begun == list(range(7))


@pytest.mark.slow
@pytest.mark.parametrize("first", [ON_RAY, ClusterConfig()], ids=["on Ray", "in process"])
def test_what_was_begun_one_way_is_finished_the_other_way(world, by_one_worker, cluster, tmp_path, monkeypatch, first):
    """The rows of all images, and all shards but one of a split; then the other one changes nothing."""
    second = ClusterConfig() if first is ON_RAY else ON_RAY
    output = tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.stages.shard.publish_shards", lambda *given: None)
        shard.run(config_for(world, output), cluster=first)
    num_shards = len(list(output.rglob("*.tar")))
    (output / "test" / "0.tar").unlink()
    (inspected,) = {path.parent for path in (output / "_work").rglob("*.parquet")}
    written = {path: path.stat().st_mtime_ns for path in (*inspected.iterdir(), *output.rglob("*.tar"))}
    (ledger,) = (output / "_ledger").iterdir()
    assert len(list(ledger.glob("*~1.json"))) == num_shards + 1, "and the rows of all images"
    shard.run(config_for(world, output), cluster=second)
    summary = summary_of(output)
    assert summary["in_process"] == (second is not ON_RAY)
    assert (summary["num_shards_written"], summary["num_shards_kept"]) == (1, num_shards - 1)
    assert {path: path.stat().st_mtime_ns for path in written if path.suffix == ".tar"} == {
        path: time for path, time in written.items() if path.suffix == ".tar"
    }
    expected = {name: data for name, data in data_files(by_one_worker).items() if not name.startswith("_ledger/")}
    assert {name: data for name, data in data_files(output).items() if not name.startswith("_ledger/")} == expected


@pytest.mark.slow
def test_what_is_finished_is_kept_and_what_is_damaged_redone(world, cluster, tmp_path, capsys):
    output = tmp_path / "shards"
    manifests = shard.run(config_for(world, output), cluster=ON_RAY)
    written = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    before = data_files(output)
    with (output / DATASET_CARD).open("a") as card:
        card.write("Licence: ours.\n")
    assert shard.run(config_for(world, output), cluster=ON_RAY) == manifests
    assert card_of(output)[-1] == "Licence: ours.", "a card of these shards that somebody has completed stays"
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")} == written
    assert (summary_of(output)["num_shards_written"], summary_of(output)["num_shards_kept"]) == (0, len(written))
    told = capsys.readouterr().err
    assert f"(0 kept, {len(written)} written)" in told, "the first time"
    assert f"into {len(written)} shards ({len(written)} kept, 0 written)" in told
    damaged = output / "train/1.tar"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    (output / "train/manifest.json").unlink()  # as if it had been killed
    (output / "train/.2.tar.left.tmp").write_bytes(b"half")
    assert shard.run(config_for(world, output), cluster=ON_RAY) == manifests
    assert summary_of(output)["num_shards_written"] == 1
    assert f"({len(written) - 1} kept, 1 written" in capsys.readouterr().err
    after = data_files(output)
    published = [name for name in before if not name.startswith("_ledger/")]
    assert {name: data for name, data in after.items() if not name.startswith("_ledger/")} == {
        name: before[name] for name in published
    }


COMMITS = "_ledger/*/*%2F*~1.json"
"""Records of finished shards; a tar is there a little earlier."""


@pytest.mark.slow
def test_after_ctrl_c_and_a_kill_the_same_command_ends_with_the_same_bytes(world, cluster, tmp_path):
    settings = {"samples_per_shard": 1}
    unharmed = tmp_path / "unharmed"
    shard.run(config_for(world, unharmed, **settings))
    output = tmp_path / "shards"
    words = ["shard", "--input", str(world), "--output", str(output), "--max-rejected", "0.1"]
    words += ["--samples-per-shard", "1", "--cluster.address", ray.get_runtime_context().gcs_address]
    for blow, code in ((signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)):
        before = set(output.glob(COMMITS))
        more = functools.partial(lambda before: len(set(output.glob(COMMITS)) - before) >= 2, before)
        assert hit(words, blow=blow, when=more, log=tmp_path / "log") == code
        assert not (output / "summary.json").exists()
    shard.run(config_for(world, output, **settings))
    assert summary_of(output)["num_shards_kept"] >= 2

    def published(folder: Path) -> dict[str, bytes]:
        return {name: data for name, data in data_files(folder).items() if not name.startswith("_ledger/")}

    assert published(output) == published(unharmed)


@pytest.mark.slow
def test_only_new_images_are_read_on_a_cluster_and_a_killed_job_goes_on(world, cluster, tmp_path):
    """Tars, tables and manifests are those that this process makes."""
    images, settings = tmp_path / "images", {"samples_per_shard": 2, "max_rejected": 0.2}
    shutil.copytree(world, images)
    monday = config_for(images, tmp_path / "monday", **settings)
    shard.run(monday, cluster=ON_RAY)
    for number in range(7):
        put(images / f"train/cat/whiskers/0/new{number}.png", picture(1000 + number))
    put(images / "train/dog/a tail/0/copy.png", picture(302))  # of a test image
    (images / "train/cat/whiskers/0/4.png").unlink()
    put(images / "train/cat/whiskers/0/5.png", picture(999))
    tuesday = dataclasses.replace(monday, output=str(tmp_path / "tuesday"), since=monday.output)
    words = ["shard", "--input", str(images), "--output", tuesday.output, "--since", monday.output]
    words += ["--samples-per-shard", "2", "--max-rejected", "0.2"]
    words += ["--cluster.address", ray.get_runtime_context().gcs_address]

    def is_begun() -> bool:
        return any(Path(tuesday.output).glob(COMMITS))

    assert hit(words, blow=signal.SIGKILL, when=is_begun, log=tmp_path / "log") == -signal.SIGKILL
    shard.run(tuesday, cluster=ON_RAY)
    summary = summary_of(tmp_path / "tuesday")
    assert summary["num_shards_kept"] >= 1 and not summary["in_process"]
    here = dataclasses.replace(tuesday, output=str(tmp_path / "here"))
    shard.run(here)
    ours, theirs = (
        {name: data for name, data in data_files(Path(each.output)).items() if not name.startswith("_ledger/")}
        for each in (tuesday, here)
    )
    assert ours == theirs
    assert summary["since"] == summary_of(tmp_path / "here")["since"]
    shard.run(dataclasses.replace(monday, output=str(tmp_path / "full")))
    by_split = [samples_of(tmp_path / name) for name in ("tuesday", "full")]
    found, expected = (
        {split: sorted(each, key=lambda sample: sample.key) for split, each in samples.items()} for samples in by_split
    )
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("place", [ON_RAY, ClusterConfig()], ids=["on Ray", "in process"])
def test_jobs_on_one_output_share_the_work_and_a_late_one_changes_nothing(
    world, by_one_worker, cluster, tmp_path, capsys, place
):
    """One shard is held by a job that has stopped, one by a job that is at work."""
    output, job_name = tmp_path / "shards", next((by_one_worker / "_ledger").iterdir()).name
    stopped, at_work = (WorkLedger(output / "_ledger" / job_name, lease_s=2) for _ in range(2))
    stopped.renew()
    late = stopped.claim("train/0")
    made = {
        f"{split}/{info.name.removesuffix('.tar')}": info
        for split in samples_of(by_one_worker)
        for info in read_shard_manifest(by_one_worker / split).shards
    }

    def work() -> None:
        with at_work.hold_lease():
            attempt = at_work.claim("test/0")
            begun.set()
            while not set(made) - {"test/0"} <= set(at_work.read_commits()):
                time.sleep(0.2)
            info = made["test/0"]
            for name in (info.name, info.index):
                put(output / "test" / name, (by_one_worker / "test" / name).read_bytes())
            assert at_work.commit(attempt, {"shard": dataclasses.asdict(info)}) is not None

    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert begun.wait(10)
        shard.run(config_for(world, output), cluster=dataclasses.replace(place, lease_s=2))
        working.result(timeout=30)
    assert stopped.commit(late, {"shard": "of a job that was too late"})["shard"]["name"] == "0.tar"
    summary = summary_of(output)
    names = ("kept", "written", "taken_over", "by_others")
    assert [summary[f"num_shards_{name}"] for name in names] == [0, len(made) - 1, 1, 1]
    assert f"(0 kept, {len(made) - 1} written (1 taken over), 1 by another job)" in capsys.readouterr().err
    expected = {name: data for name, data in data_files(by_one_worker).items() if not name.startswith("_ledger/")}
    assert {name: data for name, data in data_files(output).items() if not name.startswith("_ledger/")} == expected


@pytest.mark.slow
def test_a_cluster_without_cpus_ends_in_an_error(world, cluster, tmp_path):
    """Where another job holds all CPUs nothing moves, wherever the stage is."""
    patient = ClusterConfig(no_progress_timeout_s=4, local_images=0)
    holder = cpus_held(2)
    with pytest.raises(TimeoutError, match=r"nothing moved for 4 s: the cluster has 0 of 2 CPUs free"):
        shard.run(config_for(world, tmp_path / "shards"), cluster=patient)
    with ray_data_settings(patient), pytest.raises(TimeoutError, match="nothing moved for 4 s"):
        materialize(ray.data.from_items([3, 1, 2]).sort("item"))
    with ray_data_settings(patient), pytest.raises(TimeoutError, match="nothing moved for 4 s"):
        wait_for_all([ray.remote(num_cpus=1)(lambda: 0).remote()])
    ray.kill(holder)


def test_too_many_rejected_images_stop_the_stage_until_they_are_mended_and_another_origin_is_refused(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    mended, output = tmp_path / "world", tmp_path / "shards"
    config = config_for(mended, output, max_rejected=0.01)
    told = r"2 of 30 images are rejected .*max_rejected = 0.01 .*mend the images and run the same command again"
    with pytest.raises(ValueError, match=told):
        shard.run(config)
    assert pq.read_table(output / "quarantine.parquet").num_rows == 2
    assert not list(tmp_path.rglob("manifest.json"))
    (mended / "train/dog/a tail/notes.txt").unlink()
    put(mended / "train/dog/a tail/1/broken.jpg", picture(400, form="jpeg"))
    shard.run(config)
    assert (summary_of(output)["num_samples"], summary_of(output)["num_rejected"]) == (27, 0)

    other = dataclasses.replace(config, samples_per_shard=20)
    with pytest.raises(ValueError, match=r"was made from something else .*config was .*, is .*--fresh"):
        shard.run(other)
    manifests = shard.run(dataclasses.replace(other, fresh=True))
    assert len(manifests["train"].shards) == 1 or manifests["train"].num_samples > 20
    on_disk = sorted(path.name for path in (output / "train").glob("*.tar"))
    assert on_disk == sorted(info.name for info in manifests["train"].shards)


def test_labels_the_vocabulary_lacks_name_an_image_and_the_nearest(world, tmp_path):
    path = tmp_path / "v.json"
    path.write_text(json.dumps({"cats": ["whiskers"], "dog": ["a tail", "a wet nose"], "stone": ["moss"]}))
    with pytest.raises(ValueError, match=r"test/cat/.*unknown category 'cat'; the nearest known one is 'cats'"):
        shard.run(config_for(world, tmp_path / "shards", vocabulary=str(path)))


@pytest.mark.slow
def test_errors_in_workers_are_the_users_own(cluster, tmp_path):
    (tmp_path / "images.jsonl").write_text('{"path": "a.png", "category": "cat"}\n{"path": 3, "category": "cat"}\n')
    with pytest.raises(ValueError, match=r"^\S*images.jsonl: line 2: path must be a path or an address, got 3$"):
        shard.run(config_for(tmp_path / "images.jsonl", tmp_path / "shards"), cluster=ON_RAY)


def test_photos_in_folders_with_a_vocabulary(shared_data, tmp_path):
    photos = shared_data / "photos" / "clothing"
    names = {folder.name: ["sleeves", f"the cut of {folder.name}"] for folder in photos.iterdir() if folder.is_dir()}
    (tmp_path / "v.json").write_text(json.dumps(names))
    config = ShardConfig(input=str(photos), output=str(tmp_path / "shards"), vocabulary=str(tmp_path / "v.json"))
    manifests = shard.run(config)
    assert sum(manifest.num_samples for manifest in manifests.values()) == 341
    sample = samples_of(tmp_path / "shards")["test"][0]
    assert set(sample.rationales) == {"sleeves", f"the cut of {sample.category}"}
    assert (photos / sample.source).read_bytes() == sample.image


def test_the_drawn_world_keeps_its_truth(tmp_path):
    from ecor.demo.dataset import write_dataset

    num_images = {"train": 12, "validation": 6, "test": 6}
    write_dataset(tmp_path / "world", set_name="demo-small", num_images=num_images, seed=0)
    manifests = shard.run(ShardConfig(input=str(tmp_path / "world"), output=str(tmp_path / "shards")))
    assert {split: manifest.num_samples for split, manifest in manifests.items()} == num_images
    for samples in samples_of(tmp_path / "shards").values():
        assert all(set(sample.rationales) <= set(sample.visible_rationales) for sample in samples)
