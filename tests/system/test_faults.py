"""Full disks and failing stores: an error in a line, then, by the same command, the result of a quiet run."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecor.config.model import Preprocess
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet
from ecor.data.predictions.parts import read_predictions
from ecor.data.samples import Sample
from ecor.data.shards import ShardEntry, read_shard, write_shard
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.storage import filesystem
from pipelines.config.stages import ShardConfig
from pipelines.runtime import retries
from pipelines.scoring.decoder import Part, decode_unit
from pipelines.scoring.inputs import read_input
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scored_part import ScoredPart, StepTimings
from pipelines.scoring.unit_writer import UnitWriter
from pipelines.scoring.work_units import Rejection
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.inspection import entries, inspect_images
from pipelines.sharding.listing import list_images
from pipelines.sharding.shard_job import ShardJob
from pipelines.storage import image_bytes
from pipelines.storage.attempt import Attempt
from pipelines.storage.image_bytes import UnreadableError, read_image_bytes
from tests.support.fake_stores import ClockedStore, FailingStore, empty_store, failing_reads
from tests.support.prediction_rows import random_table
from tests.support.tiny_models import write_pictures

VOCABULARY = vocabulary_from_mapping({"cat": ["a tail"]})
IDENTITY = {"input_digest": "i", "model_digest": "d"}
UNITS = ("0", "1", "2", "3")
ROWS = {unit: random_table(3, seed=int(unit)) for unit in UNITS}
PARENTS = PredictionParents(
    input="in",
    input_digest="i",
    model_uri="models:/m/1",
    model_name="m",
    model_version="1",
    model_digest="d",
    vocabulary_digest="v",
)


def parts_of(unit: str, *, attempt: Attempt) -> list[ScoredPart]:
    """A unit's rows as they are scored: in one part where its number is even, else in two."""
    pieces = [ROWS[unit]] if int(unit) % 2 == 0 else [ROWS[unit].slice(0, 1), ROWS[unit].slice(1)]
    return [
        ScoredPart(
            unit=unit,
            attempt=attempt,
            index=index,
            num_parts=len(pieces),
            rows=rows,
            rejected=(),
            seconds=StepTimings(),
        )
        for index, rows in enumerate(pieces)
    ]


def score_all(place: str) -> PredictionSet:
    """What `ecor score` does with its output folder, rows given: it ends, or raises what the store raised."""
    folder = PredictionsFolder(place, identity=IDENTITY)
    folder.claim_folder()
    with folder.hold_lease():
        committed = folder.read_commits()
        attempts = folder.claim_units([unit for unit in UNITS if unit not in committed])
        writer = UnitWriter(folder, parents=IDENTITY)
        for unit, attempt in attempts.items():
            saved = [writer.add(part).saved for part in parts_of(unit, attempt=attempt)][-1]
            assert saved is not None and saved.committed is not None
            committed[unit] = saved.committed
        assert committed.keys() == set(UNITS)
        folder.remove_uncommitted(committed)
        folder.write_quarantine([])
        made = PredictionSet(
            parts=tuple(committed[unit].part for unit in UNITS), parents=PARENTS, scoring=ScoringConfig()
        )
        folder.publish(made)
    return made


def check_labels(place: str, made: PredictionSet) -> None:
    assert read_predictions(place).equals(read_predictions(quiet()))
    assert made.num_rows == 3 * len(UNITS)


def quiet() -> str:
    """The labels of a run that nothing happened to."""
    place = "memory://quiet/labels"
    score_all(place)
    return place


@contextmanager
def disk_of(num_bytes: int) -> Iterator[None]:
    """No file may grow larger: works for root too, and ends in OSError as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,) * len(retries.PAUSES_S))


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(period=st.integers(1, 40), phase=st.integers(0, 39))
def test_a_store_that_fails_every_nth_call_delays_the_labels_and_changes_nothing(period, phase):
    place = "failing://labels"
    if period == 1:
        with FailingStore.failing(period=1, phase=0), pytest.raises(OSError, match="the store fails"):
            score_all(place)
        return
    with FailingStore.failing(period=period, phase=phase) as failures:
        for _ in range(200):
            try:
                made = score_all(place)
                break
            except OSError as error:
                assert "the store fails" in str(error)
                ClockedStore.now_s += 60  # where the store did not take the lease back, it runs out
        else:
            pytest.fail("the same command makes no progress")
        num_calls = next(FailingStore.calls)
    check_labels(place, made)
    assert failures.num == len(range(phase % period, num_calls, period))


@pytest.mark.parametrize("num_bytes", [0, 30, 300, 3000])
def test_labels_on_a_full_disk_are_an_error_and_then_whole(tmp_path, num_bytes):
    place = str(tmp_path / "labels")
    with disk_of(num_bytes), pytest.raises(OSError, match="File too large"):
        score_all(place)
    assert not (tmp_path / "labels" / "manifest.json").exists()
    check_labels(place, score_all(place))
    left = [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert left == []


def test_a_shard_on_a_full_disk_is_an_error_that_leaves_nothing_and_then_the_same_bytes(tmp_path):
    samples = [
        Sample(
            key=f"{number:04d}",
            image=bytes([number]) * 5000,
            extension="png",
            category="cat",
            rationales=("a tail",),
            visible_rationales=None,
            source=f"{number}.png",
        )
        for number in range(9)
    ]

    def write(folder: Path):
        entries = [ShardEntry(sample=sample) for sample in samples]
        return write_shard(entries, folder=folder, name="0.tar", vocabulary=VOCABULARY)

    for num_bytes in (0, 100, 20_000):
        with disk_of(num_bytes), pytest.raises(OSError, match="File too large"):
            write(tmp_path / "full")
        assert list((tmp_path / "full").iterdir()) == []
    assert write(tmp_path / "full") == write(tmp_path / "quiet")
    assert (tmp_path / "full/0.tar").read_bytes() == (tmp_path / "quiet/0.tar").read_bytes()
    assert list(read_shard(tmp_path / "full", write(tmp_path / "full"))) == samples


# Pictures that a store does not give


@pytest.fixture
def in_store(tmp_path) -> Iterator[str]:
    """A folder of a category, in a store whose reads can be made to fail."""
    with empty_store() as place:
        for path in write_pictures(tmp_path / "cat", num=6):
            filesystem.write(f"{place}/cat/{path.name}", path.read_bytes())
        yield place


def found_by_shard(place: str) -> tuple[pa.Table, ShardJob]:
    """What `ecor shard` finds each file of a folder of categories to be."""
    source = find_source(ShardConfig(input=place, output="memory://out"))
    job = ShardJob(
        config=ShardConfig(input=place, output="memory://out"),
        root=source.root,
        vocabulary=VOCABULARY,
        given_splits=(),
        from_vocabulary=True,
        parents={},
        output="memory://out",
    )
    return inspect_images(
        pa.concat_tables([table for each in source.places for table in list_images(each)]), job=job
    ), job


def shard_of(found: pa.Table, *, job: ShardJob, folder: Path) -> bytes:
    """The tar that `ecor shard` writes of what it found."""
    rows = mark_duplicate_rows(found).sort_by("key")
    write_shard(entries(rows, job=job), folder=folder, name="0.tar", vocabulary=VOCABULARY)
    return (folder / "0.tar").read_bytes()


def found_by_score(place: str) -> list[Part]:
    """What `ecor score` decodes of a folder, in parts."""
    preprocess = Preprocess(image_size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    units = read_input(place, unit_size=4).units
    return [part for unit in units for part in decode_unit(unit, preprocess=preprocess, num_images=2)]


def rejections(parts: list[Part]) -> dict[str, tuple[str, str]]:
    return {each.source: (each.stage, each.reason) for part in parts for each in part.rejected}


def test_pictures_of_a_store_that_fails_for_a_moment_are_what_they_are(in_store, tmp_path):
    quiet, job = found_by_shard(in_store)
    quiet_tar, quiet_parts = shard_of(quiet, job=job, folder=tmp_path / "quiet"), found_by_score(in_store)
    assert quiet["reason"].null_count == quiet.num_rows == 6
    with failing_reads(times=len(retries.PAUSES_S)):
        assert found_by_shard(in_store)[0].equals(quiet)
    with failing_reads(times=len(retries.PAUSES_S)):
        assert shard_of(quiet, job=job, folder=tmp_path / "again") == quiet_tar
    with failing_reads(times=len(retries.PAUSES_S)):
        parts = found_by_score(in_store)
    assert rejections(parts) == {}
    assert pa.concat_tables([part.origins for part in parts]).equals(
        pa.concat_tables([part.origins for part in quiet_parts])
    )
    assert all(np.array_equal(part.pixels, other.pixels) for part, other in zip(parts, quiet_parts, strict=True))


def test_a_store_that_is_gone_is_an_error_and_rejects_no_picture(in_store, tmp_path):
    quiet, job = found_by_shard(in_store)
    with failing_reads(times=1000):
        with pytest.raises(OSError, match=r"the store fails at .*/cat/picture") as raised:
            found_by_shard(in_store)
        assert not isinstance(raised.value, UnreadableError)
        with pytest.raises(OSError, match="the store fails"):
            shard_of(quiet, job=job, folder=tmp_path / "shard")
        assert list((tmp_path / "shard").iterdir()) == []
        with pytest.raises(OSError, match="the store fails"):
            found_by_score(in_store)
    assert found_by_shard(in_store)[0].equals(quiet)
    assert rejections(found_by_score(in_store)) == {}


def test_what_is_wrong_with_a_file_of_a_store_is_a_rejection_at_once(in_store, monkeypatch):
    name, *_ = filesystem.names_in(f"{in_store}/cat")
    place = f"{in_store}/cat/{name}"
    for error, reason in ((PermissionError("denied"), "unreadable"), (FileNotFoundError("gone"), "missing")):
        with failing_reads(times=1, error=error):  # asked again, it would be read
            assert set(rejections(found_by_score(in_store)).values()) == {("read", reason)}
        with failing_reads(times=1, error=error):
            assert set(found_by_shard(in_store)[0]["reason"].to_pylist()) == {"unreadable"}
    with failing_reads(times=1, error=filesystem.CredentialsError("who are you?")):
        with pytest.raises(PermissionError, match="who are you"):
            found_by_score(in_store)
        with pytest.raises(PermissionError, match="who are you"):
            found_by_shard(in_store)
    largest = max(len(filesystem.read(f"{in_store}/cat/{each}")) for each in filesystem.names_in(f"{in_store}/cat"))
    filesystem.write(place, bytes(largest + 1))
    monkeypatch.setattr(image_bytes, "MAX_BYTES", largest)
    told = f"has {largest + 1} bytes, more than {largest}"
    with failing_reads(times=1, error=AssertionError("it is read")), pytest.raises(UnreadableError, match=told):
        read_image_bytes(place)
    assert rejections(found_by_score(in_store)) == {place: ("read", "unreadable")}
    found = {row["source"]: row["reason"] for row in found_by_shard(in_store)[0].to_pylist()}
    assert found == dict.fromkeys(found) | {f"cat/{name}": "unreadable"}


def test_no_more_is_read_than_a_picture_may_have_whatever_its_store_says(in_store, monkeypatch):
    place = f"{in_store}/large.png"
    filesystem.write(place, bytes(1000))
    monkeypatch.setattr(image_bytes, "MAX_BYTES", 100)
    monkeypatch.setattr(filesystem, "num_bytes", lambda address: 100)  # it was, a moment ago
    asked = []
    read = filesystem.read
    monkeypatch.setattr(filesystem, "read", lambda address, **given: asked.append(given) or read(address, **given))
    with pytest.raises(UnreadableError, match="has 101 bytes, more than 100"):
        read_image_bytes(place)
    assert asked == [{"end": 101}]


@pytest.mark.parametrize(
    "address", ["memory://", "memory://nowhere.png", "s3://bucket/" + "x" * 1025, "file:///dev/zero"]
)
def test_an_address_that_holds_no_picture_is_told_as_that(address):
    with pytest.raises(UnreadableError):
        read_image_bytes(address)
    filesystem.write("memory://empty.png", b"")
    assert read_image_bytes("memory://empty.png") == b""


def test_a_disk_or_a_machine_that_fails_rejects_no_picture(tmp_path):
    """As where there are too many open files, which is easier to have than a disk that breaks."""
    write_pictures(tmp_path / "cat", num=3)
    _, job = found_by_shard(str(tmp_path))
    listing = pa.concat_tables(list(list_images(find_source(job.config).places[0])))
    (unit,) = read_input(str(tmp_path), unit_size=4).units
    with no_more_open_files():
        with pytest.raises(OSError, match=r"Too many open files.*png"):
            inspect_images(listing, job=job)
        with pytest.raises(OSError, match=r"Too many open files.*png"):
            list(unit.read())
    assert not any(isinstance(each, Rejection) for each in unit.read())


@contextmanager
def no_more_open_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("is_in_store", [True, False])
def test_a_picture_that_vanishes_or_changes_under_way_is_named_with_the_remedy(is_in_store, tmp_path, in_store):
    place = in_store if is_in_store else str(tmp_path)
    found, job = found_by_shard(place)
    quiet = shard_of(found, job=job, folder=tmp_path / "quiet")
    path = f"{place}/{found['source'][2].as_py()}"
    data = filesystem.read(path)
    filesystem.remove(path)
    with pytest.raises(ValueError, match=rf"{found['source'][2]} was looked at, and cannot be read .* with --fresh"):
        shard_of(found, job=job, folder=tmp_path / "shard")
    filesystem.write(path, data[:-1] + b"x")
    with pytest.raises(ValueError, match=rf"{found['source'][2]} changed while .* start over with --fresh"):
        shard_of(found, job=job, folder=tmp_path / "shard")
    assert list((tmp_path / "shard").iterdir()) == []
    filesystem.write(path, data)
    assert shard_of(found, job=job, folder=tmp_path / "shard") == quiet


def test_units_with_rejected_pictures_are_done_again_and_the_others_kept(tmp_path):
    place, bad = "memory://mended/labels", Rejection(source="a.png", stage="decode", reason="empty", detail="0 bytes")
    filesystem.remove(place)
    folder, late = (PredictionsFolder(place, identity=IDENTITY) for _ in range(2))
    with folder.hold_lease():
        for unit, attempt in folder.claim_units(UNITS).items():
            folder.save(attempt, rows=ROWS[unit], rejected=[bad] * (unit in "12"), parents=IDENTITY)
        before = folder.read_commits()
    with folder.hold_lease(), late.hold_lease():
        stale = late.read_commits()
        assert folder.reopen_rejected(before) == {unit: before[unit] for unit in ("0", "3")}
        assert folder.read_commits().keys() == {"0", "3"}
        for unit, attempt in folder.claim_units(["1"]).items():
            folder.save(attempt, rows=ROWS[unit], rejected=(), parents=IDENTITY)
        late.reopen_rejected(stale)  # who looks later undoes nothing that was done meanwhile
        assert folder.read_commits().keys() == {"0", "1", "3"}
        assert not folder.read_commits()["1"].rejected
