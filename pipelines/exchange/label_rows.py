"""Read labels together with the audit's and the reviewers' decisions, one part in memory at a time."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.records import ExplainablePrediction, iterate_predictions
from ecor.storage import filesystem
from pipelines.audit.certificate import CERTIFICATE_NAME, POLICY_NAME, find_certificate
from pipelines.audit.label_decisions import LABEL_DECISIONS_NAME
from pipelines.review.decision import Decision
from pipelines.review.decision_log import TornLine
from pipelines.review.decision_set import DecisionSet, read_decision_set
from pipelines.review.decision_table import iterate_decisions
from pipelines.runtime.console import say

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One label with its decisions, before its image is placed."""

    prediction: ExplainablePrediction
    decision: str | None
    reviews: tuple[Decision, ...]


def iterate_label_rows(
    labels: str, predictions: PredictionSet, *, audit: str | None, reviews: "ReviewIndex | None"
) -> Iterator[LabelRow]:
    """The labels in their order, with the decisions about them.

    Args:
        labels: folder of the labels.
        predictions: their manifest.
        audit: folder of their audit.
        reviews: decisions of reviewers.

    Raises:
        ValueError: for a part that is missing or altered, and decisions that are not of these labels.
    """
    decisions = None if audit is None else _audit_decisions(audit, predictions)
    for part in predictions.parts:
        for row in iterate_predictions(read_part(labels, part)):
            decision = None
            if decisions is not None:
                key, decision = next(decisions, ("", None))
                require(key == row.key, f"{audit}: {LABEL_DECISIONS_NAME} lacks {row.key}: audit the labels again")
            yield LabelRow(
                prediction=row,
                decision=decision,
                reviews=() if reviews is None else reviews.find(row.key),
            )


def audit_digest(folder: str, predictions: PredictionSet) -> str:
    """Digest of the certificate or policy that decided; ValueError where there is none, or it is of other labels."""
    certificate = find_certificate(folder)
    policy = filesystem.join(folder, POLICY_NAME)
    if certificate is not None:
        about, digest = certificate.labels_digest, certificate.digest
    else:
        require(
            filesystem.is_file(policy),
            f"{folder} holds no {CERTIFICATE_NAME} and no {POLICY_NAME}: not an audit, or its sample is not judged yet",
        )
        record = json.loads(filesystem.read(policy))
        about, digest = record["labels_digest"], record["certificate_digest"]
    require(
        about == predictions.digest,
        f"{folder} is an audit of the labels {about[:12]}…, not of {predictions.digest[:12]}…: name their own audit",
    )
    return digest


def _audit_decisions(folder: str, predictions: PredictionSet) -> Iterator[tuple[str, str]]:
    audit_digest(folder, predictions)
    with filesystem.open_file(filesystem.join(folder, LABEL_DECISIONS_NAME)) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS_AT_ONCE, columns=["key", "decision"]):
            yield from zip(batch["key"].to_pylist(), batch["decision"].to_pylist(), strict=True)


class ReviewIndex:
    """The decisions that count, by key, in a temporary database on disk."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, key: str) -> tuple[Decision, ...]:
        """Decisions of all reviewers of an image."""
        found = self._connection.execute("SELECT decisions FROM reviews WHERE key = ?", (key,)).fetchone()
        return () if found is None else tuple(Decision.from_json(each, where=key) for each in json.loads(found[0]))


@contextmanager
def open_reviews(folder: str | None, predictions: PredictionSet, *, scratch: Path) -> Iterator[ReviewIndex | None]:
    """Index the decisions of a decision set by key; None without one.

    Raises:
        ValueError: when they are about other labels.
    """
    if folder is None:
        yield None
        return
    decisions = read_decision_set(folder)
    require(
        decisions.of.labels_digest == predictions.digest,
        f"{folder} holds decisions about the labels {decisions.of.labels_digest[:12]}…, not about "
        f"{predictions.digest[:12]}…: name the decisions about these labels",
    )
    with closing(sqlite3.connect(scratch / "reviews.sqlite")) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE reviews (key TEXT PRIMARY KEY, decisions TEXT) WITHOUT ROWID")
        connection.executemany("INSERT INTO reviews VALUES (?, ?)", _rows(decisions))
        yield ReviewIndex(connection)


def _rows(decisions: DecisionSet) -> Iterator[tuple[str, str]]:
    torn: list[TornLine] = []
    for group in iterate_decisions(decisions, torn=torn):
        yield group[0].decision.key, json.dumps([each.decision.to_json() for each in group])
    for line in torn:
        say(str(line))
