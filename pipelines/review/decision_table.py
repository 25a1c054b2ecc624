"""The view of a decision set: a table with the last decision per image and reviewer, made in bounded memory.

Decisions are first divided by the hash of their key into files of a temporary folder, each small enough to be replayed
in memory. The rows come in the order of these buckets, and by key and reviewer within each.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.storage import filesystem
from pipelines.review.decision import Decision
from pipelines.review.decision_log import LoggedDecision, TornLine
from pipelines.review.decision_set import SCHEMA_VERSION, DecisionSet

DECISION_TABLE_NAME = "decisions.parquet"
BUCKET_BYTES = 8 * 2**20
"""Size of the logs that is replayed in memory at once (about ten times as much as Python objects)."""
MAX_BUCKETS = 256
_ROWS_AT_ONCE = 4096


def _column(name: str, kind: pa.DataType, description: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description, "unit": unit})


DECISION_SCHEMA = pa.schema(
    [
        _column("key", pa.string(), "identifies the image, as in the labels"),
        _column("image_sha256", pa.string(), "of the image's bytes; null where not read", unit="sha256", nullable=True),
        _column("labels_digest", pa.string(), "the labels that the decision is about", unit="sha256"),
        _column("reviewer", pa.string(), "name of the person or tool"),
        _column("time", pa.timestamp("us", tz="UTC"), "when it was decided", unit="UTC"),
        _column("verdict", pa.string(), "accept, correct, rationale_not_visible, wrong, out_of_vocabulary or skip"),
        _column("category_before", pa.string(), "category of the label"),
        _column("rationale_before", pa.string(), "rationale of the label"),
        _column("confidence_before", pa.float64(), "probability of both", unit="probability"),
        _column("category_after", pa.string(), "category that the image shows; null unless corrected", nullable=True),
        _column("rationales_after", pa.list_(pa.string()), "rationales that the image shows, likewise", nullable=True),
        _column("new_names", pa.list_(pa.string()), "of these, names that the vocabulary does not have", nullable=True),
        _column("note", pa.string(), "remark of the reviewer; may be empty"),
        _column("num_decisions", pa.int32(), "decisions of this reviewer on this image, also undone ones"),
        _column("num_reviewers", pa.int32(), "reviewers with a decision other than skip on this image"),
        _column("disputed", pa.bool_(), "whether their verdicts or corrections differ"),
        _column("log", pa.string(), "file name of the log"),
        _column("line", pa.int64(), "line of the log, from 1"),
    ],
    metadata={"ecor.schema": "decisions", "ecor.schema_version": SCHEMA_VERSION},
)
"""One row per image and reviewer; an image whose decisions were all undone has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingDecision:
    """The decision of a reviewer on an image that counts: the last one that was not undone."""

    logged: LoggedDecision
    num_decisions: int
    """Of this reviewer on this image, also undone ones and undos."""
    num_reviewers: int
    """With a decision other than skip on this image."""
    disputed: bool
    """Whether their outcomes differ."""
    earlier: tuple[LoggedDecision, ...] = ()
    """Of this reviewer on this image, neither undone nor the last one, in order: undos bring them back."""

    @property
    def decision(self) -> Decision:
        return self.logged.decision


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTable:
    """What `write_decision_table` wrote."""

    path: str
    num_rows: int
    num_images: int
    num_disputed: int
    """Images on which reviewers differ."""
    torn: tuple[TornLine, ...]
    """Incomplete last lines of logs: tell the user of each."""


def iterate_decisions(
    decisions: DecisionSet,
    *,
    torn: list[TornLine] | None = None,
    note: Callable[[LoggedDecision], None] = lambda logged: None,
) -> Iterator[list[CountingDecision]]:
    """The decisions that count, image by image: the decisions of all reviewers of one image together.

    Args:
        decisions: the set.
        torn: gets the incomplete last lines of logs.
        note: is told each decision of the logs, log by log, before the first image comes.

    Raises:
        ValueError: for an altered log, or a decision about other labels.
    """
    found: list[TornLine] = [] if torn is None else torn
    num_buckets = min(MAX_BUCKETS, 1 + decisions.num_log_bytes // BUCKET_BYTES)
    if num_buckets == 1:
        yield from _replay(_only_decisions(decisions.iterate_logs(), torn=found, note=note))
        return
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / str(number) for number in range(num_buckets)]
        _divide(_only_decisions(decisions.iterate_logs(), torn=found, note=note), paths=paths)
        for path in paths:
            yield from _replay(_read_bucket(path))
            path.unlink()


def write_decision_table(decisions: DecisionSet) -> DecisionTable:
    """Write `decisions.parquet` into the folder of the set, over an older one; the logs stay as they are."""
    torn: list[TornLine] = []
    num_rows = num_images = num_disputed = 0
    with (
        filesystem.write_atomically(decisions.folder, DECISION_TABLE_NAME) as path,
        pq.ParquetWriter(path, DECISION_SCHEMA, **PARQUET_OPTIONS) as writer,
    ):
        rows: list[dict[str, Any]] = []
        for group in iterate_decisions(decisions, torn=torn):
            rows += map(_row, group)
            num_rows, num_images = num_rows + len(group), num_images + 1
            num_disputed += group[0].disputed
            if len(rows) >= _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema=DECISION_SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=DECISION_SCHEMA))
    return DecisionTable(
        path=filesystem.join(decisions.folder, DECISION_TABLE_NAME),
        num_rows=num_rows,
        num_images=num_images,
        num_disputed=num_disputed,
        torn=tuple(torn),
    )


def _only_decisions(
    entries: Iterable[LoggedDecision | TornLine], *, torn: list[TornLine], note: Callable[[LoggedDecision], None]
) -> Iterator[LoggedDecision]:
    for entry in entries:
        if isinstance(entry, TornLine):
            torn.append(entry)
        else:
            note(entry)
            yield entry


def _divide(logged: Iterable[LoggedDecision], *, paths: Sequence[Path]) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for each in logged:
            bucket = int.from_bytes(hashlib.blake2b(each.decision.key.encode(), digest_size=8).digest()) % len(files)
            files[bucket].write(json.dumps([each.log, each.line, each.decision.to_json()]) + "\n")


def _read_bucket(path: Path) -> Iterator[LoggedDecision]:
    with path.open(encoding="utf-8") as file:
        for text in file:
            log, line, decision = json.loads(text)
            yield LoggedDecision(decision=Decision.from_json(decision, where=f"{log}: line {line}"), log=log, line=line)


def _replay(logged: Iterable[LoggedDecision]) -> Iterator[list[CountingDecision]]:
    """Replay decisions per image and reviewer, in order."""
    made: dict[str, dict[str, list[LoggedDecision]]] = {}
    for each in logged:
        made.setdefault(each.decision.key, {}).setdefault(each.decision.reviewer, []).append(each)
    for key in sorted(made):
        counting = []
        for reviewer in sorted(made[key]):
            history = _in_order(made[key][reviewer])
            left = _undo(history)
            if left:
                counting.append((left, len(history)))
        outcomes = [left[-1].decision.outcome for left, _ in counting if left[-1].decision.verdict != "skip"]
        if counting:
            yield [
                CountingDecision(
                    logged=left[-1],
                    num_decisions=number,
                    num_reviewers=len(outcomes),
                    disputed=len(set(outcomes)) > 1,
                    earlier=tuple(left[:-1]),
                )
                for left, number in counting
            ]


def _undo(history: Iterable[LoggedDecision]) -> list[LoggedDecision]:
    """The decisions that are left: an undo takes back the last one of its own log, else the last one of all logs."""
    left: list[LoggedDecision] = []
    for each in history:
        if each.decision.verdict != "undo":
            left.append(each)
        elif left:
            del left[next((place for place in reversed(range(len(left))) if left[place].log == each.log), -1)]
    return left


def _in_order(history: Sequence[LoggedDecision]) -> list[LoggedDecision]:
    """By time over several logs; within a log its lines' order counts, also where the clock was set back."""
    latest: dict[str, datetime] = {}
    order = []
    for each in history:
        latest[each.log] = max(each.decision.time, latest.get(each.log, each.decision.time))
        order.append((latest[each.log], each.log, each.line))
    return [each for _, each in sorted(zip(order, history, strict=True), key=lambda item: item[0])]


def _row(counting: CountingDecision) -> dict[str, Any]:
    decision, after = counting.decision, counting.decision.after
    return {
        "key": decision.key,
        "image_sha256": decision.image_sha256,
        "labels_digest": decision.labels_digest,
        "reviewer": decision.reviewer,
        "time": decision.time,
        "verdict": decision.verdict,
        "category_before": decision.before.category,
        "rationale_before": decision.before.rationale,
        "confidence_before": decision.before.confidence,
        "category_after": None if after is None else after.category,
        "rationales_after": None if after is None else list(after.rationales),
        "new_names": None if after is None else list(after.new_names),
        "note": decision.note,
        "num_decisions": counting.num_decisions,
        "num_reviewers": counting.num_reviewers,
        "disputed": counting.disputed,
        "log": counting.logged.log,
        "line": counting.logged.line,
    }
