"""The view of a decision set: the last decision per image and reviewer, undo, disputes, and many buckets.

Covers: `pipelines.review.decision_set`.
"""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.review import decision_table
from pipelines.review.decision import Correction
from pipelines.review.decision_log import list_logs
from pipelines.review.decision_set import DecisionSet, open_decision_set, read_decision_set
from pipelines.review.decision_table import DECISION_SCHEMA, write_decision_table
from tests.pipelines.review.test_decision_log import DECISION
from tests.support.prediction_rows import random_table, write_labels


@pytest.fixture
def decisions(tmp_path) -> DecisionSet:
    predictions = write_labels(str(tmp_path / "labels"), random_table(10))
    return open_decision_set(str(tmp_path / "reviewed"), labels=str(tmp_path / "labels"), predictions=predictions)


def append(decisions: DecisionSet, reviewer: str, *made: tuple[str, str], start_s: float = 0.0) -> None:
    """Decisions as (key, verdict), a second apart; a verdict `=name` is a correction."""
    with decisions.open_log(reviewer) as log:
        log.append(
            *(
                replace(
                    DECISION,
                    labels_digest=decisions.of.labels_digest,
                    key=key,
                    reviewer=reviewer,
                    time=DECISION.time + timedelta(seconds=start_s + number),
                    verdict="correct" if verdict.startswith("=") else verdict,
                    after=Correction(category=verdict[1:]) if verdict.startswith("=") else None,
                )
                for number, (key, verdict) in enumerate(made)
            )
        )


def view(decisions: DecisionSet) -> dict[tuple[str, str], dict]:
    written = write_decision_table(decisions)
    table = pq.read_table(written.path)
    assert table.schema.equals(DECISION_SCHEMA)
    assert table.schema.metadata == DECISION_SCHEMA.metadata
    assert written.num_rows == table.num_rows
    return {(row["key"], row["reviewer"]): row for row in table.to_pylist()}


def test_the_last_decision_counts_and_undo_takes_it_back(decisions):
    append(decisions, "Ada", ("a", "accept"), ("a", "=horse"), ("b", "accept"), ("b", "undo"), ("c", "undo"))
    append(decisions, "Ada", ("a", "undo"), ("d", "skip"), start_s=100)  # the same person, another process
    rows = view(decisions)
    assert set(rows) == {("a", "Ada"), ("d", "Ada")}
    assert (rows["a", "Ada"]["verdict"], rows["a", "Ada"]["num_decisions"]) == ("accept", 3)
    assert rows["d", "Ada"]["num_reviewers"] == 0


def test_an_undo_takes_back_the_last_decision_of_its_own_log(decisions):
    """Two servers of one reviewer: each undoes what its page shows last; a log without any, the last of all."""
    with decisions.open_log("Ada") as one, decisions.open_log("Ada") as two:
        for seconds, (log, verdict) in enumerate(((one, "accept"), (two, "wrong"), (one, "undo"))):
            time = DECISION.time + timedelta(seconds=seconds)
            log.append(replace(DECISION, labels_digest=decisions.of.labels_digest, verdict=verdict, time=time))
    assert view(decisions)["k0", "Ada"]["verdict"] == "wrong"
    append(decisions, "Ada", ("k0", "undo"), start_s=9)
    assert view(decisions) == {}


def test_the_order_within_a_log_counts_where_a_clock_was_set_back(decisions):
    with decisions.open_log("Ada") as log:
        for seconds, verdict in ((9, "accept"), (0, "undo"), (1, "skip")):
            log.append(
                replace(
                    DECISION,
                    labels_digest=decisions.of.labels_digest,
                    verdict=verdict,
                    time=DECISION.time + timedelta(seconds=seconds),
                )
            )
    assert view(decisions)["k0", "Ada"]["verdict"] == "skip"


def test_reviewers_who_differ_are_seen(decisions):
    append(decisions, "Ada", ("a", "accept"), ("b", "=horse"), ("c", "=horse"), ("d", "accept"), ("e", "accept"))
    append(decisions, "Bob", ("a", "skip"), ("b", "=Horse"), ("c", "=mule"), ("d", "rationale_not_visible"))
    for reviewer, names in (("Ada", ("Mane", "ears")), ("Bob", ("mane", "ears"))):
        with decisions.open_log(reviewer) as log:
            made = Correction(category="horse", rationales=names)
            facts = {"labels_digest": decisions.of.labels_digest, "key": "f", "reviewer": reviewer}
            log.append(replace(DECISION, verdict="correct", after=made, **facts))
    rows = view(decisions)
    assert {key: row["disputed"] for (key, reviewer), row in rows.items() if reviewer == "Ada"} == {
        "a": False,  # a skip is no opinion
        "b": False,  # names are compared as everywhere
        "c": True,
        "d": True,
        "e": False,
        "f": False,  # in the order of their normalised names
    }
    assert rows["c", "Bob"]["disputed"] and rows["c", "Bob"]["num_reviewers"] == 2
    assert write_decision_table(decisions).num_disputed == 2


def test_many_buckets_give_the_rows_of_one(decisions, monkeypatch):
    said = np.random.default_rng(0)
    for reviewer in ("Ada", "Bob"):
        keys = said.integers(40, size=200)
        verdicts = said.choice(["accept", "skip", "undo", "=horse", "=mule"], size=200)
        append(decisions, reviewer, *((f"k{key}", str(verdict)) for key, verdict in zip(keys, verdicts, strict=True)))
    together = view(decisions)
    monkeypatch.setattr(decision_table, "BUCKET_BYTES", 4096)
    divided = view(decisions)
    assert len(together) > 40
    assert divided == together
    path = Path(decisions.folder, "decisions.parquet")
    data = path.read_bytes()
    write_decision_table(decisions)
    assert path.read_bytes() == data, "the same logs give the same bytes"


def test_incomplete_lines_are_told_and_logs_stay_as_they_are(decisions):
    append(decisions, "Ada", ("a", "accept"), ("b", "accept"))
    (name,) = list_logs(decisions.log_folder)
    path = Path(decisions.log_folder, name)
    data = path.read_bytes()[:-20]
    path.write_bytes(data)
    written = write_decision_table(decisions)
    assert (written.num_images, [each.line for each in written.torn]) == (1, [2])
    assert path.read_bytes() == data


def test_a_set_is_of_one_set_of_labels(decisions, tmp_path):
    other = write_labels(str(tmp_path / "other"), random_table(10, seed=1))
    with pytest.raises(ValueError, match="holds decisions about the labels"):
        open_decision_set(decisions.folder, labels=str(tmp_path / "other"), predictions=other)
    assert read_decision_set(decisions.folder) == decisions
    with decisions.open_log("Ada") as log:
        log.append(DECISION)
    with pytest.raises(ValueError, match=r"line 1 is about the labels dddddddddddd…"):
        write_decision_table(decisions)
    with pytest.raises(ValueError, match="not a folder of decisions"):
        read_decision_set(str(tmp_path / "labels"))
