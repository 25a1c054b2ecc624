"""Full disks and failing stores: an error in a line, then, by the same command, the result of a quiet run."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled import random_table
from stores import ClockedStore, FailingStore

from ecor.config import ScoringConfig
from ecor.predictions import PredictionParents, PredictionSet, read_predictions
from ecor.sample import Sample
from ecor.shards import Entry, read_shard, write_shard
from ecor.vocabulary import vocabulary_from_mapping
from pipelines import records
from pipelines.labels import LabelsFolder

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


def score_all(place: str) -> PredictionSet:
    """What `ecor score` does with its output folder, rows given: it ends, or raises what the store raised."""
    folder = LabelsFolder(place, identity=IDENTITY)
    folder.take()
    with folder.working():
        committed = folder.committed()
        for unit, attempt in folder.begin([unit for unit in UNITS if unit not in committed]).items():
            saved = folder.save(attempt, rows=ROWS[unit], rejected=(), parents=IDENTITY)
            assert saved is not None
            committed[unit] = saved
        assert committed.keys() == set(UNITS)
        folder.remove_losers(committed)
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
    monkeypatch.setattr(records, "PAUSES_S", (0.0,) * len(records.PAUSES_S))


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
        entries = [Entry(sample=sample) for sample in samples]
        return write_shard(entries, folder=folder, name="0.tar", vocabulary=VOCABULARY)

    for num_bytes in (0, 100, 20_000):
        with disk_of(num_bytes), pytest.raises(OSError, match="File too large"):
            write(tmp_path / "full")
        assert list((tmp_path / "full").iterdir()) == []
    assert write(tmp_path / "full") == write(tmp_path / "quiet")
    assert (tmp_path / "full/0.tar").read_bytes() == (tmp_path / "quiet/0.tar").read_bytes()
    assert list(read_shard(tmp_path / "full", write(tmp_path / "full"))) == samples
