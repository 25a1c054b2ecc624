"""Judgements of a sample: by people (a filled-in file, or a decision set), or by the labels' truth columns.

A label that all its reviewers skipped counts as wrong, and so does one on which they differ (about its category, or
with `--reasons` about its rationale): the promise stays exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from ecor.config.checks import require
from ecor.data.name_parsing import normalise_name
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.tables import TABLE_SUFFIXES
from ecor.storage import filesystem
from ecor.storage.digests import json_digest
from pipelines.audit.sampling import AuditSample
from pipelines.review.decision import Decision, LabelBefore
from pipelines.review.decision_log import TornLine
from pipelines.review.decision_set import read_decision_set
from pipelines.review.decision_table import iterate_decisions
from pipelines.review.judged_file import find_key, read_judged_rows
from pipelines.runtime.console import say

_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """What is known of each label of a sample, in the sample's order."""

    category_right: Bool[np.ndarray, " n"]
    category_wrong: Bool[np.ndarray, " n"]
    """Neither of the two: skipped, or reviewers differ."""
    rationale_visible: Bool[np.ndarray, " n"]
    judged_by: tuple[str, ...]
    """Names of reviewers, or the truth columns."""
    num_skipped: int = 0
    num_disputed: int = 0

    def is_right(self, *, reasons: bool) -> Bool[np.ndarray, " n"]:
        """Whether what is promised holds for each label."""
        return self.category_right & self.rationale_visible if reasons else self.category_right

    @property
    def digest(self) -> str:
        arrays = (self.category_right, self.category_wrong, self.rationale_visible)
        return json_digest([*(each.astype(int).tolist() for each in arrays), list(self.judged_by)])


def read_judgements(path: str, *, sample: AuditSample, predictions: PredictionSet) -> Judgements:
    """Judgements of people: of a filled-in file, or of a decision set.

    Raises:
        ValueError: for keys that are not in the sample (of a file), labels that are not judged yet, unknown verdicts,
            and decisions about other labels.
    """
    if path.lower().endswith(TABLE_SUFFIXES):
        decisions = _read_file(path, sample=sample, predictions=predictions)
    else:
        decisions = _read_decision_set(path, sample=sample, predictions=predictions)
    missing = [key for key in sample.keys if key not in decisions]
    require(
        not missing,
        f"{len(missing):,} of {len(sample.rows):,} labels of the sample are not judged in {path} (the first is "
        f"{(missing or [''])[0]}): judge them, or give them the verdict skip, which counts as wrong",
    )
    return _combine([decisions[key] for key in sample.keys])


def truth_judgements(sample: AuditSample, *, reasons: bool) -> Judgements:
    """Judgements by the truth columns. Where all visible rationales are not known, only labelled ones count as visible.

    Raises:
        ValueError: when the truth of a label of the sample is not known.
    """
    rows = sample.table.select(
        ["category_true", "rationales_true", "visible_rationales", "category", "rationale"]
    ).to_pylist()
    is_known = [row["category_true"] is not None and (not reasons or _shown(row) is not None) for row in rows]
    require(
        all(is_known),
        f"the truth of {is_known.count(False):,} of {len(rows):,} labels of the sample is not known: have people judge "
        f"the sample (--judged) instead of --truth",
    )
    right = [normalise_name(row["category"]) == normalise_name(row["category_true"]) for row in rows]
    visible = [normalise_name(row["rationale"]) in (_shown(row) or ()) for row in rows]
    return Judgements(
        category_right=np.array(right, dtype=bool),
        category_wrong=~np.array(right, dtype=bool),
        rationale_visible=np.array(visible, dtype=bool),
        judged_by=("truth columns",),
    )


def judgements_table(sample: AuditSample, judgements: Judgements) -> pa.Table:
    """The sample with its judgements, a row per label."""
    return pa.table(
        {
            **{name: sample.table[name] for name in ("key", "category", "rationale", "confidence")},
            "category_right": pa.array(judgements.category_right),
            "category_wrong": pa.array(judgements.category_wrong),
            "rationale_visible": pa.array(judgements.rationale_visible),
        }
    )


def _shown(row: Mapping[str, Any]) -> set[str] | None:
    known = row["visible_rationales"] if row["visible_rationales"] is not None else row["rationales_true"]
    return None if known is None else set(map(normalise_name, known))


def _combine(decisions: Sequence[Sequence[Decision]]) -> Judgements:
    """One judgement per label of the decisions of all its reviewers."""

    def agreed(values: Iterable[bool | None], *, on: bool) -> bool:
        known = [value for value in values if value is not None]
        return bool(known) and all(value is on for value in known)

    firm = [[each for each in those if each.verdict != "skip"] for those in decisions]
    return Judgements(
        category_right=np.array([agreed((e.is_category_right for e in those), on=True) for those in firm], dtype=bool),
        category_wrong=np.array([agreed((e.is_category_right for e in those), on=False) for those in firm], dtype=bool),
        rationale_visible=np.array(
            [agreed((e.is_rationale_visible for e in those), on=True) for those in firm], dtype=bool
        ),
        judged_by=tuple(sorted({each.reviewer for those in decisions for each in those})),
        num_skipped=sum(not those for those in firm),
        num_disputed=sum(len({each.outcome for each in those}) > 1 for those in firm),
    )


def _before(sample: AuditSample) -> dict[str, LabelBefore]:
    rows = sample.table.select(["key", "category", "rationale", "confidence"]).to_pylist()
    return {row.pop("key"): LabelBefore(**row) for row in rows}


def _read_file(path: str, *, sample: AuditSample, predictions: PredictionSet) -> dict[str, list[Decision]]:
    before, found = _before(sample), dict[str, list[Decision]]()
    for judged in read_judged_rows(path):
        key = find_key(judged.key, before)
        if key is None:
            raise judged.row.error("key", "is not in the sample: fill in the file that this audit has written")
        judged.check_label(before[key])
        if judged.verdict is None:
            continue
        decision = Decision(
            labels_digest=predictions.digest,
            key=key,
            reviewer=judged.reviewer or "unnamed",
            time=_NO_TIME,
            verdict=judged.verdict,
            before=before[key],
            after=judged.after,
        )
        if decision.reviewer in {each.reviewer for each in found.get(key, ())}:
            raise judged.row.error(
                "key", f"is judged twice by {decision.reviewer}: keep one row per label and reviewer"
            )
        found.setdefault(key, []).append(decision)
    return found


def _read_decision_set(folder: str, *, sample: AuditSample, predictions: PredictionSet) -> dict[str, list[Decision]]:
    require(filesystem.is_folder(folder), f"{folder} is neither a table nor a folder of decisions")
    decisions, before = read_decision_set(folder), _before(sample)
    require(
        decisions.of.labels_digest == predictions.digest,
        f"{folder} holds decisions about the labels {decisions.of.labels_digest[:12]}…, not about "
        f"{predictions.digest[:12]}…: review the labels that are audited",
    )
    torn: list[TornLine] = []
    found: dict[str, list[Decision]] = {}
    for group in iterate_decisions(decisions, torn=torn):
        key = group[0].decision.key
        if key in before:
            found[key] = [each.decision for each in group]
            said = {(each.before.category, each.before.rationale) for each in found[key]}
            require(
                said == {(before[key].category, before[key].rationale)},
                f"{folder}: a decision on {key} is about another label than {before[key].category}",
            )
    for line in torn:
        say(str(line))
    return found
