"""A decision set: a folder of reviewers' decisions about one set of labels, and its view as a Parquet table.

decision_set.json    which labels, by digest; created once
log/<reviewer>-<started>-<id>.jsonl   the decisions, append only, a file per reviewer and process (`decision_log`);
                     those of an import have `+import` after the reviewer's name
decisions.parquet    the view: the last decision per image and reviewer; made of the logs, and again when asked for

Write decisions with `open_decision_set(...)` and `DecisionSet.open_log(...)`; read them with
`read_decision_set(...)` and `iterate_decisions` or `write_decision_table` (`pipelines.review.decision_table`).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ecor.config.checks import parse_record, require
from ecor.data.predictions.manifest import PredictionSet
from ecor.storage import filesystem
from pipelines.review.decision_log import DecisionLog, LoggedDecision, TornLine, list_logs, read_logs

DECISION_SET_NAME = "decision_set.json"
LOG_FOLDER = "log"
SCHEMA_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedLabels:
    """The labels that a decision set is about."""

    labels: str
    """Address of the folder of labels, as it was given; for people."""
    labels_digest: str
    """`PredictionSet.digest`: every decision of the set names it too."""
    input_digest: str
    model_digest: str
    vocabulary_digest: str
    schema_version: str = SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSet:
    """An opened decision set."""

    folder: str
    of: ReviewedLabels

    @property
    def log_folder(self) -> str:
        return filesystem.join(self.folder, LOG_FOLDER)

    def open_log(self, reviewer: str, *, is_import: bool = False) -> DecisionLog:
        """A new log for this process; the folder must be on a local disk. Several may be open at once."""
        return DecisionLog(self.log_folder, reviewer=reviewer, is_import=is_import)

    def iterate_logs(self) -> Iterator[LoggedDecision | TornLine]:
        """All decisions of all logs as they were made, log by log; one in memory at a time.

        Raises ValueError for an altered log, and for a decision about other labels.
        """
        for entry in read_logs(self.log_folder):
            if isinstance(entry, LoggedDecision) and entry.decision.labels_digest != self.of.labels_digest:
                raise ValueError(
                    f"{entry.log}: line {entry.line} is about the labels {entry.decision.labels_digest[:12]}…, but "
                    f"{self.folder} is of {self.of.labels_digest[:12]}…: move it to the set of its labels"
                )
            yield entry

    @property
    def num_log_bytes(self) -> int:
        """Size of all logs."""
        sizes = {entry.name: entry.num_bytes for entry in filesystem.list_folder(self.log_folder)}
        return sum(sizes[name] for name in list_logs(self.log_folder))


def open_decision_set(folder: str, *, labels: str, predictions: PredictionSet) -> DecisionSet:
    """Open the decision set of some labels, and create it if there is none.

    Args:
        folder: of the decision set.
        labels: address of the folder of labels.
        predictions: their manifest.

    Raises:
        ValueError: when the folder holds decisions about other labels.
    """
    of = ReviewedLabels(
        labels=labels,
        labels_digest=predictions.digest,
        input_digest=predictions.parents.input_digest,
        model_digest=predictions.parents.model_digest,
        vocabulary_digest=predictions.parents.vocabulary_digest,
    )
    data = (json.dumps(asdict(of), indent=1, sort_keys=True) + "\n").encode()
    if filesystem.create(filesystem.join(folder, DECISION_SET_NAME), data):
        return DecisionSet(folder=folder, of=of)
    found = read_decision_set(folder)
    require(
        found.of.labels_digest == of.labels_digest,
        f"{folder} holds decisions about the labels {found.of.labels_digest[:12]}… ({found.of.labels}), not about "
        f"{of.labels_digest[:12]}… ({labels}): name another folder",
    )
    return found


def read_decision_set(folder: str) -> DecisionSet:
    """Open an existing decision set, local or in a store; ValueError when the folder holds none."""
    path = filesystem.join(folder, DECISION_SET_NAME)
    try:
        of = parse_record(ReviewedLabels, json.loads(filesystem.read(path)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder} holds no {DECISION_SET_NAME}: not a folder of decisions") from error
    except ValueError as error:
        raise ValueError(f"{path} is not the record of a decision set: {error}") from error
    require(
        of.schema_version == SCHEMA_VERSION,
        f"{path} has schema version {of.schema_version}; this version of ecor reads {SCHEMA_VERSION}",
    )
    return DecisionSet(folder=folder, of=of)
