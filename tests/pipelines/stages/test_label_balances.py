"""Nothing is dropped without a line, continued: commands on labels, with decisions and features drawn at random.

`test_balances.py` has the commands on images. Each command runs here as a whole, apart from the page of `ecor review`,
the model of `ecor find` and the training of `ecor learn`; `test_review.py`, `test_find.py` and `test_learn.py` read the
lines of whole runs.
"""

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecor.data.predictions.manifest import PredictionSet, write_prediction_set
from ecor.data.predictions.records import ExplainablePrediction, predictions_table
from ecor.data.predictions.schema import OOD_COLUMN
from ecor.data.samples import sample_key
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.storage.digests import bytes_sha256
from pipelines.config.exchange import ExportConfig, ImportConfig
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.learning import LearnConfig
from pipelines.config.reporting import CopiesConfig, DiffConfig
from pipelines.config.review import AuditConfig
from pipelines.exchange import export_labels, import_decisions
from pipelines.learning import tuning
from pipelines.learning.corrections import read_reviewed
from pipelines.learning.reviewed_images import assign_split, write_reviewed_images
from pipelines.reporting.drift import diff
from pipelines.reporting.search import copies
from pipelines.reporting.search.feature_folders import balance_images, open_feature_folders
from pipelines.reporting.search.find import search
from pipelines.reporting.search.queries import Query
from pipelines.review.decision import VERDICTS, Correction
from pipelines.review.decision_set import DecisionSet, open_decision_set
from pipelines.review.label_groups import LabelGroups
from pipelines.review.label_index import build_label_index
from pipelines.review.review_session import ReviewSession
from pipelines.runtime.balance import Balance
from pipelines.stages import audit, review
from pipelines.storage.image_source import ImageSource
from tests.pipelines.stages.test_balances import content
from tests.support.drawn_job import decide
from tests.support.kept_labels import rows_of, unit_vectors, write_kept_labels
from tests.support.prediction_rows import row, write_labels

few = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
rejections = st.integers(0, 3)
"""Numbers of images that `ecor score` has rejected."""
seeds = st.integers(0, 10**6)
GONE = -9
"""In place of a picture's content: there is no such file."""
SHOE = Correction(category="shoe", rationales=("laces",))


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


@contextlib.contextmanager
def said() -> Iterator[list[str]]:
    """The lines that a command prints."""
    lines, file = list[str](), io.StringIO()
    with contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
        yield lines
    lines += file.getvalue().splitlines()


def labelled(
    folder: Path, rows: Sequence[ExplainablePrediction] | pa.Table, *, num_rejected: int = 0, name: str = "labels"
) -> PredictionSet:
    """A finished folder of labels with some rejected images."""
    table = rows if isinstance(rows, pa.Table) else predictions_table(rows)
    found = write_labels(str(folder / name), table, rows_per_part=7)
    found = dataclasses.replace(found, num_rejected=num_rejected)
    write_prediction_set(str(folder / name), found)
    return found


def balance_in(path: Path, *, lines: Sequence[str]) -> Balance:
    """The balance of a record, which must be that of the printed line."""
    balance = Balance.from_record(json.loads(path.read_text())["balance"])
    assert balance.line() in lines, lines
    return balance


# audit


def audited_rows(seed: int, *, num: int) -> pa.Table:
    """Labels with an OOD score each, of three categories."""
    draws = np.random.default_rng(seed)
    rows = [
        row(f"k{number:03d}", (f"c{draws.integers(3)}", "r"), confidence=float(draws.uniform(0.3, 0.99)))
        for number in range(num)
    ]
    scores = pa.array(draws.permutation(num).astype(np.float32))
    return predictions_table(rows).append_column(OOD_COLUMN.name, scores)


def judge_sample(sample: Path, *, seed: int, right: float) -> str:
    """A file with a random verdict on each label of the sample."""
    draws = np.random.default_rng(seed)
    with sample.open(encoding="utf-8-sig", newline="") as file:
        keys = [each["key"] for each in csv.DictReader(file)]
    verdicts = ["accept" if draws.random() < right else "wrong" for _ in keys]
    path = sample.with_name("judged.jsonl")
    lines = [json.dumps({"key": key, "verdict": each}) for key, each in zip(keys, verdicts, strict=True)]
    path.write_text("\n".join(lines))
    return str(path)


@few
@given(seeds, st.integers(60, 120), rejections, st.sampled_from([None, 0.2]), st.sampled_from([None, "category"]))
def test_audit_accounts_for_every_image(seed: int, num: int, num_rejected: int, reject: float | None, by: str | None):
    with scratch_folder() as place:
        labelled(place, audited_rows(seed, num=num), num_rejected=num_rejected)
        config = AuditConfig(
            labels=str(place / "labels"), sample_size=50, right=0.6, sure=0.8, reject=reject, reject_wrong=0.3, by=by
        )
        assert audit.run(config) is None
        judged = judge_sample(place / "labels-audit" / "sample.csv", seed=seed, right=0.85)
        with said() as lines:
            certificate = audit.run(dataclasses.replace(config, judged=judged))
        balance = balance_in(place / "labels-audit" / "summary.json", lines=lines)
        with said() as again:
            assert audit.run(dataclasses.replace(config, judged=judged)) == certificate
        assert balance.line() in again
        assert (balance.num_listed, balance.num_taken) == (num + num_rejected, certificate.num_accepted)
        assert balance.rejected.get("unreadable", 0) == num_rejected
        assert balance.rejected.get("out_of_distribution", 0) == certificate.num_rejected
        assert balance.left_out.get("review", 0) == certificate.num_review
        labelled(place, audited_rows(seed + 1, num=30), num_rejected=num_rejected, name="next")
        with said() as lines:
            policy = audit.run(AuditConfig(labels=str(place / "next"), policy=str(place / "labels-audit")))
        applied = balance_in(place / "next-audit" / "summary.json", lines=lines)
    assert applied.num_listed == 30 + num_rejected and applied.num_taken == policy.num_accepted
    assert applied.left_out.get("review", 0) == policy.num_review


def test_a_decision_less_is_an_error():
    with scratch_folder() as place:
        labelled(place, audited_rows(0, num=60))
        config = AuditConfig(labels=str(place / "labels"), sample_size=50, right=0.6, sure=0.8)
        audit.run(config)
        judged = judge_sample(place / "labels-audit" / "sample.csv", seed=0, right=1.0)
        audit.run(dataclasses.replace(config, judged=judged))
        path = place / "labels-audit" / "label_decisions.parquet"
        whole = pq.read_table(path)
        pq.write_table(whole.slice(1), path)
        with pytest.raises(ValueError, match=r"audit: 60 listed is not .*: something was lost or counted twice"):
            audit.run(config)
        path.unlink()
        with pytest.raises(ValueError, match=r"holds no label_decisions\.parquet, .*: copy the whole folder"):
            audit.run(config)


# review

actions = st.lists(
    st.tuples(st.sampled_from(["Ada", "Bob"]), st.integers(0, 11), st.sampled_from([*VERDICTS[:-1], "undo"])),
    max_size=15,
)


@few
@given(actions, rejections, st.sampled_from([None, [3, 1, 7]]))
def test_review_accounts_for_every_image(done: list, num_rejected: int, sample: list[int] | None):
    with scratch_folder() as place:
        predictions = labelled(
            place, [row(f"k{n:02d}", ("hat", "a brim")) for n in range(12)], num_rejected=num_rejected
        )
        address = str(place / "labels")
        index = build_label_index(address, predictions)
        session = ReviewSession(
            index=index,
            groups=LabelGroups(index),
            decisions=open_decision_set(str(place / "said"), labels=address, predictions=predictions),
            sample=None if sample is None else np.array(sample),
        )
        counting: dict[str, list[int]] = {"Ada": [], "Bob": []}
        for number, (reviewer, label, verdict) in enumerate(done):
            if verdict == "undo":
                session.undo(reviewer, action=str(number))
                del counting[reviewer][-1:]
            else:
                after = SHOE if verdict == "correct" else None
                session.decide(reviewer, [label], verdict=verdict, after=after, action=str(number))
                counting[reviewer].append(label)
        session.close()
        table = session.write_table()
        balance = review.balance_review(predictions, session=session, decisions=table.path)
    decided = {*counting["Ada"], *counting["Bob"]}
    assert (balance.num_listed, balance.num_taken, balance.num_rejected) == (
        12 + num_rejected,
        len(decided),
        num_rejected,
    )
    to_review = set(range(12)) if sample is None else set(sample)
    assert balance.left_out.get("undecided", 0) == len(to_review - decided)
    assert balance.left_out.get("not_in_sample", 0) == len(set(range(12)) - to_review - decided)


# export, import and learn

pictures = st.lists(st.sampled_from([0, 1, 2, 3, -1, -2, GONE]), min_size=1, max_size=10)
"""Contents of pictures; equal ones are copies, negative ones are broken."""
verdicts = st.sampled_from([None, "accept", "correct", "rationale_not_visible", "wrong", "out_of_vocabulary", "skip"])


def write_photos(place: Path, numbers: Sequence[int]) -> list[ExplainablePrediction]:
    """A label for each photo; it was labelled before it vanished."""
    rows = []
    for place_in_list, number in enumerate(numbers):
        path, data = place / f"{place_in_list}.png", content(0 if number == GONE else number)
        if number != GONE:
            path.write_bytes(data)
        key = sample_key(str(path), sha256=bytes_sha256(data))
        made = row(key, ("hat", "a brim"), confidence=0.5 + 0.01 * place_in_list)
        rows.append(dataclasses.replace(made, source=str(path)))
    return rows


def decide_all(
    place: Path, predictions: PredictionSet, rows: Sequence[Any], given_verdicts: Sequence[Any]
) -> DecisionSet:
    """A set with the decisions of one reviewer."""
    decisions = open_decision_set(str(place / "said"), labels=str(place / "labels"), predictions=predictions)
    with decisions.open_log("Ada") as log:
        for each, verdict in zip(rows, given_verdicts, strict=False):
            if verdict is not None:
                after = SHOE if verdict == "correct" else None
                log.append(decide(dataclasses.asdict(each), predictions.digest, verdict, after=after))
    return decisions


@few
@given(pictures, st.lists(verdicts, min_size=10, max_size=10), st.sampled_from(["imagefolder", "webdataset", "jsonl"]))
def test_export_accounts_for_every_label(numbers: list[int], given_verdicts: list, to: str):
    with scratch_folder() as place:
        rows = write_photos(place, numbers)
        predictions = labelled(place, rows)
        decisions = decide_all(place, predictions, rows, given_verdicts)
        config = ExportConfig(
            labels=str(place / "labels"), to=to, output=str(place / "out"), reviewed=decisions.folder, max_rejected=1.0
        )
        with said() as lines:
            export_labels.run(config)
        balance = balance_in(place / "out" / "export.json", lines=lines)
    is_nameless = [each in ("wrong", "out_of_vocabulary") and to == "imagefolder" for each in given_verdicts]
    is_whole = [number >= 0 or to == "jsonl" for number in numbers]
    pairs = list(zip(is_nameless, is_whole, strict=False))
    assert balance.num_listed == len(numbers)
    assert balance.left_out.get("no_category_after_review", 0) == balance.num_left_out
    assert balance.num_left_out == sum(nameless for nameless, _ in pairs)
    assert balance.num_taken == sum(not nameless and whole for nameless, whole in pairs)
    assert balance.num_rejected == sum(not nameless and not whole for nameless, whole in pairs)


@few
@given(st.lists(verdicts, min_size=1, max_size=10), st.integers(0, 10))
def test_import_accounts_for_every_label_that_came_back(given_verdicts: list, num_again: int):
    with scratch_folder() as place:
        predictions = labelled(place, [row(f"k{n:02d}", ("hat", "a brim")) for n in range(len(given_verdicts))])
        assert predictions.num_rows == len(given_verdicts)
        lines = [
            json.dumps({"key": f"k{n:02d}", "verdict": each, "category_after": "shoe" if each == "correct" else None})
            for n, each in enumerate(given_verdicts)
        ]
        (place / "first.jsonl").write_text("\n".join(lines[:num_again]))
        (place / "all.jsonl").write_text("\n".join(lines) + "\n\n")  # another file, even with the same lines
        found = []
        for name in ("first", "all", "all"):
            config = ImportConfig(
                labels=str(place / "labels"), source="jsonl", input=str(place / f"{name}.jsonl"), reviewer="Ada"
            )
            with said() as printed:
                found.append(import_decisions.run(config).balance)
            assert found[-1].line() in printed
    num_known = sum(each is not None for each in given_verdicts[:num_again])
    num_judged = sum(each is not None for each in given_verdicts)
    assert (found[0].num_listed, found[0].num_taken) == (len(given_verdicts[:num_again]), num_known)
    assert (found[1].num_listed, found[1].num_taken) == (len(given_verdicts), num_judged - num_known)
    assert found[1].left_out.get("known", 0) == num_known and found[2] == found[1]
    assert found[1].left_out.get("unchanged", 0) == len(given_verdicts) - num_judged


@settings(few, max_examples=4)
@given(pictures, st.lists(verdicts, min_size=10, max_size=10))
def test_learn_accounts_for_every_reviewed_image(numbers: list[int], given_verdicts: list):
    numbers, given_verdicts = [0, *numbers], ["correct", *given_verdicts]
    with scratch_folder() as place:
        rows = write_photos(place, numbers)
        predictions = labelled(place, rows)
        decisions = decide_all(place, predictions, rows, given_verdicts)
        config = LearnConfig(labels=str(place / "labels"), corrections=decisions.folder, output=str(place / "out"))
        config = dataclasses.replace(config, max_rejected=1.0)
        images = write_reviewed_images(
            read_reviewed(decisions, reviewer=None),
            labels=config.labels,
            source=ImageSource(predictions.parents),
            folder=config.folder,
            split_shares=config.split_shares,
            max_rejected=config.max_rejected,
        )
        names = vocabulary_from_mapping({"hat": ["a brim"], "shoe": ["laces"]})
        tuning._shard(config, vocabulary=names, cluster=ClusterConfig())
        balance = tuning._balance(config, images)
    pairs = [each for each in zip(numbers, given_verdicts, strict=False) if each[1] is not None]
    used = [number for number, verdict in pairs if verdict in ("accept", "correct", "rationale_not_visible")]
    whole = [number for number in used if number >= 0]
    splits = {n: assign_split(bytes_sha256(content(n)), shares=config.split_shares) for n in set(whole)}
    held_out = [number for number in whole if splits[number] == "test"]  # a test split keeps all its pictures
    num_taken = len(held_out) + len({*whole} - {*held_out})
    assert (balance.num_listed, balance.num_taken) == (len(pairs), num_taken)
    assert (balance.num_copies, balance.num_rejected) == (len(whole) - num_taken, len(used) - len(whole))
    assert balance.left_out == Counter(
        verdict for _, verdict in pairs if verdict in ("wrong", "out_of_vocabulary", "skip")
    )


# diff, find and copies

keys_of_sets = st.sets(st.integers(0, 30), min_size=1, max_size=20)


@few
@given(keys_of_sets, keys_of_sets, rejections, rejections, seeds)
def test_diff_accounts_for_every_image_of_both_sets(before: set, after: set, first: int, second: int, seed: int):
    draws = np.random.default_rng(seed)
    with scratch_folder() as place:
        for name, keys, num_rejected in (("a", before, first), ("b", after, second)):
            rows = [row(f"k{key}", (f"c{draws.integers(2)}", f"r{draws.integers(2)}")) for key in sorted(keys)]
            labelled(place, rows, num_rejected=num_rejected, name=name)
        config = DiffConfig(before=str(place / "a"), after=str(place / "b"), output=str(place / "diff"))
        with said() as lines:
            diff.run(config)
        balance = balance_in(place / "diff" / "summary.json", lines=lines)
        with said() as again:
            diff.run(config)
        assert balance.line() in again
    assert balance.num_listed == len(before) + len(after) + first + second
    assert (balance.num_taken, balance.num_rejected) == (2 * len(before & after), first + second)
    assert balance.left_out.get("only_before", 0) == len(before - after)
    assert balance.left_out.get("only_after", 0) == len(after - before)


@few
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), rejections, seeds)
def test_find_and_copies_account_for_every_image(contents: list[int], num_rejected: int, seed: int):
    """Of 10 directions: images with the same one are copies, and others are far apart."""
    vectors = np.eye(10, dtype=np.float16)[contents]
    keys = [f"k{number}" for number in range(len(contents))]
    with scratch_folder() as place:
        size = 7
        units = [
            (rows_of(keys[start : start + size]), vectors[start : start + size]) for start in range(0, len(keys), size)
        ]
        write_kept_labels(str(place / "labels"), units, num_rejected=num_rejected)
        among = open_feature_folders([str(place / "labels")], feature="category")
        query = Query(name="q", kind="text", feature=unit_vectors(1, dim=10, seed=seed)[0].astype(np.float32))
        found = balance_images("find", among, num_taken=search(among, [query], top=3).num_seen)
        config = CopiesConfig(labels=(str(place / "labels"),), output=str(place / "copies"))
        with said() as lines:
            copies.run(config)
        balance = balance_in(place / "copies" / "copies.json", lines=lines)
        with said() as again:
            copies.run(config)
        assert balance.line() in again
    assert (found.num_listed, found.num_taken) == (len(keys) + num_rejected, len(keys))
    assert (balance.num_listed, balance.num_rejected) == (len(keys) + num_rejected, num_rejected)
    assert (balance.num_taken, balance.num_copies) == (len(set(contents)), len(contents) - len(set(contents)))
