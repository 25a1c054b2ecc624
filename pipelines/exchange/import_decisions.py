"""Take corrections back from another tool, into a decision set (`ecor import`).

The whole input is read and checked before the first decision is written. `imports/<digest>.json` in the folder of the
decision set records each file that was taken in, so that the same file adds nothing again; decisions that are in the
set already add nothing from another file either.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from ecor.config.checks import require
from ecor.data.predictions.manifest import MANIFEST_NAME, PredictionSet, read_prediction_set
from ecor.storage import filesystem
from ecor.storage.digests import file_sha256, text_sha256
from pipelines.config.exchange import ImportConfig
from pipelines.exchange.formats.fiftyone import SAMPLES_NAME
from pipelines.exchange.formats.registry import IMPORT_FORMATS
from pipelines.exchange.import_database import ImportDatabase, WaitingDecisions, open_database
from pipelines.exchange.known_names import KnownNames, read_known_names
from pipelines.exchange.returned_label import ReturnedLabel, judge
from pipelines.review.decision import Decision, LabelBefore
from pipelines.review.decision_set import DECISION_SET_NAME, DecisionSet, open_decision_set
from pipelines.review.decision_table import write_decision_table
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import say
from pipelines.storage.record_store import RecordStore

IMPORTS_FOLDER = "imports"
_DECISIONS_AT_ONCE = 1000
"""Decisions that one flush to the disk confirms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedDecisions:
    """What an import did."""

    folder: str
    """Of the decision set."""
    balance: Balance
    is_new: bool
    """False: the same file was imported before, with the same reviewer and settings."""


def run(config: ImportConfig) -> ImportedDecisions:
    """Import decisions; the same file adds nothing a second time.

    Raises:
        ValueError: naming the place in the file, for anything that is no label of these, and for a decision set of
            other labels. Nothing is written then.
    """
    predictions = read_prediction_set(config.labels)
    digest = _input_digest(config)
    earlier = _find_decision_set(config, predictions)
    records = RecordStore(filesystem.join(config.folder, IMPORTS_FOLDER))
    known = records.read(digest)
    if known is not None:
        balance = Balance.from_record(known["balance"])
        say_balance(balance)
        say(f"{config.input} was imported before: nothing to add", to_stdout=True)
        return ImportedDecisions(folder=config.folder, balance=balance, is_new=False)
    names = read_known_names(config.labels, predictions, vocabulary=config.vocabulary)
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch)) as database:
        index, waiting = ImportDatabase(database), WaitingDecisions(database)
        index.add_labels(config.labels, predictions)
        index.add_decisions(earlier)
        balance = _read(config, predictions, names=names, index=index, waiting=waiting)
        decisions = earlier or open_decision_set(config.folder, labels=config.labels, predictions=predictions)
        _append(decisions, waiting)
    table = write_decision_table(decisions)
    records.write(digest, _record(config, predictions, balance=balance))
    for line in table.torn:
        say(str(line))
    say_balance(balance)
    say(f"{balance.num_taken:,} decisions of {config.input}: {decisions.folder}", to_stdout=True)
    return ImportedDecisions(folder=decisions.folder, balance=balance, is_new=True)


def _find_decision_set(config: ImportConfig, predictions: PredictionSet) -> DecisionSet | None:
    """The decision set, if there is one; ValueError for one of other labels, and for a folder in a store."""
    require(
        filesystem.is_local(config.folder),
        f"decisions are logged on a local disk, got {config.folder}: name a local --output",
    )
    require(
        not filesystem.exists(filesystem.join(config.folder, MANIFEST_NAME)),
        f"{config.folder} holds labels or shards: name another --output",
    )
    if not filesystem.exists(filesystem.join(config.folder, DECISION_SET_NAME)):
        return None
    return open_decision_set(config.folder, labels=config.labels, predictions=predictions)


def _input_digest(config: ImportConfig) -> str:
    path = filesystem.join(config.input, SAMPLES_NAME) if config.source == "fiftyone" else config.input
    try:
        told = (file_sha256(path), config.unchanged, config.source, config.reviewer or "")
        return text_sha256("\0".join(told))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        kind = "folder with samples.json" if config.source == "fiftyone" else "file"
        raise ValueError(f"{config.input}: there is no such {kind}: name what the tool exported") from error


def _read(
    config: ImportConfig,
    predictions: PredictionSet,
    *,
    names: KnownNames,
    index: ImportDatabase,
    waiting: WaitingDecisions,
) -> Balance:
    """Check all that the tool returned, and keep what is new."""
    now = datetime.now(UTC)
    num_listed = num_taken = 0
    left_out = Counter[str]()
    for returned in IMPORT_FORMATS[config.source](config.input):
        num_listed += 1
        decision = _decide(returned, config=config, predictions=predictions, names=names, index=index, now=now)
        has_own_time = returned.time is not None
        if decision is None:
            left_out["unchanged"] += 1
        elif index.is_logged(decision, has_own_time=has_own_time):
            left_out["known"] += 1
        elif waiting.add(decision, has_own_time=has_own_time):
            num_taken += 1
        else:
            require(
                has_own_time,
                f"{returned.where}: {decision.key} is judged twice by {decision.reviewer}: keep one row per label and "
                f"reviewer",
            )
            left_out["known"] += 1
    return Balance(stage="import", num_listed=num_listed, num_taken=num_taken, left_out=left_out)


def _decide(
    returned: ReturnedLabel,
    *,
    config: ImportConfig,
    predictions: PredictionSet,
    names: KnownNames,
    index: ImportDatabase,
    now: datetime,
) -> Decision | None:
    key, before = _find_label(returned, config=config, index=index)
    if returned.check_label is not None:
        returned.check_label(before)
    judged = judge(returned, before, names=names, accept_unchanged=config.unchanged == "accept")
    if judged is None:
        return None
    reviewer = returned.reviewer or config.reviewer
    require(reviewer is not None, f"{returned.where} names no reviewer: give one with --reviewer")
    assert reviewer is not None
    return Decision(
        labels_digest=predictions.digest,
        key=key,
        image_sha256=returned.image_sha256,
        reviewer=reviewer,
        time=returned.time or now,
        verdict=judged.verdict,
        before=before,
        after=judged.after,
        note=returned.note,
    )


def _find_label(returned: ReturnedLabel, *, config: ImportConfig, index: ImportDatabase) -> tuple[str, LabelBefore]:
    key = index.find_key(returned.key, image=returned.image)
    before = None if key is None else index.find(key)
    if key is None or before is None:
        named = f"the key {returned.key}" if returned.key is not None else f"the image {returned.image}"
        raise ValueError(
            f"{returned.where}: {named} is not among the labels {config.labels}: name the labels that were exported"
        )
    return key, before


def _append(decisions: DecisionSet, waiting: WaitingDecisions) -> None:
    for reviewer in waiting.reviewers():
        found = waiting.of(reviewer)
        with decisions.open_log(reviewer, is_import=True) as log:
            while batch := list(islice(found, _DECISIONS_AT_ONCE)):
                log.append(*batch)


def _record(config: ImportConfig, predictions: PredictionSet, *, balance: Balance) -> dict[str, Any]:
    return {
        "input": config.input,
        "from": config.source,
        "labels_digest": predictions.digest,
        "unchanged": config.unchanged,
        "reviewer": config.reviewer,
        "balance": balance.to_record(),
    }
