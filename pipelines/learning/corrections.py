"""What reviewers' decisions say of each image: its category and rationales, or why they are left out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import name_some, require
from ecor.data.name_parsing import normalise_name
from pipelines.review.decision import Decision
from pipelines.review.decision_log import TornLine
from pipelines.review.decision_set import DecisionSet
from pipelines.review.decision_table import CountingDecision, iterate_decisions
from pipelines.runtime.console import say

TAKEN = "taken"
"""The `use` of an image whose category is known; other uses are the kinds of what is left out."""
_ROWS_AT_ONCE = 4096
_NAMED = 5

REVIEWED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string()),
        pa.field("use", pa.string(), nullable=False),  # `taken`, or why it is left out
        pa.field("category", pa.string()),  # what the image shows; null if left out
        pa.field("rationales", pa.list_(pa.string()), nullable=False),
        pa.field("category_before", pa.string(), nullable=False),
        pa.field("rationale_before", pa.string(), nullable=False),
        pa.field("is_wrong_reason", pa.bool_()),  # category right, rationale not visible; null where not known
    ]
)
"""A row per image that somebody has looked at."""


def read_reviewed(decisions: DecisionSet, *, reviewer: str | None) -> pa.Table:
    """One row of `REVIEWED_SCHEMA` per image with a decision; sorted by key.

    Args:
        decisions: of one set of labels.
        reviewer: take this reviewer's decisions alone; None: all, and images on which reviewers differ are left out.

    Raises:
        ValueError: for a reviewer who has decided nothing, and for a set without decisions.
    """
    torn: list[TornLine] = []
    batches, reviewers = list[pa.Table](), set[str]()
    rows: list[dict[str, Any]] = []
    for group in iterate_decisions(decisions, torn=torn):
        reviewers |= {each.decision.reviewer for each in group}
        rows.append(_row(group, reviewer=reviewer))
        if len(rows) == _ROWS_AT_ONCE:
            batches, rows = [*batches, pa.Table.from_pylist(rows, schema=REVIEWED_SCHEMA)], []
    for line in torn:
        say(str(line))
    require(bool(reviewers), f"{decisions.folder} holds no decision yet: review labels first")
    require(
        reviewer is None or reviewer in reviewers,
        f"{reviewer} has decided nothing in {decisions.folder}; its reviewers are "
        f"{name_some(sorted(reviewers), most=_NAMED)}",
    )
    table = pa.concat_tables([*batches, pa.Table.from_pylist(rows, schema=REVIEWED_SCHEMA)])
    return table.sort_by("key").combine_chunks()


def count_left_out(reviewed: pa.Table) -> dict[str, int]:
    """Numbers of images that cannot be learned from, by kind."""
    counts = Counter(reviewed["use"].to_pylist())
    return {kind: number for kind, number in sorted(counts.items()) if kind != TAKEN}


def iterate_names(reviewed: pa.Table) -> Iterator[tuple[str, list[str]]]:
    """The distinct (category, rationales) of all images that are taken."""
    taken = reviewed.filter(pc.equal(reviewed["use"], TAKEN))
    seen = set[tuple[str, ...]]()
    for batch in taken.select(["category", "rationales"]).to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            if (names := (row["category"], *row["rationales"])) not in seen:
                seen.add(names)
                yield row["category"], row["rationales"]


def _row(group: Sequence[CountingDecision], *, reviewer: str | None) -> dict[str, Any]:
    first = group[0].decision
    said = [each.decision for each in group if reviewer in (None, each.decision.reviewer)]
    decision, use = _settle(said)
    shown = None if decision is None else _shown(decision)
    if decision is not None and shown is None:
        use = decision.verdict
    category, rationales = shown or (None, [])
    return {
        "key": first.key,
        "image_sha256": next((each.image_sha256 for each in said if each.image_sha256 is not None), None),
        "use": use,
        "category": category,
        "rationales": rationales,
        "category_before": first.before.category,
        "rationale_before": first.before.rationale,
        "is_wrong_reason": None if decision is None else _is_wrong_reason(decision),
    }


def _settle(said: Sequence[Decision]) -> tuple[Decision | None, str]:
    """The decision that counts; or None, and why there is none."""
    firm = [each for each in said if each.verdict != "skip"]
    if not firm:
        return None, "skip" if said else "other_reviewers"
    if len({each.outcome for each in firm}) > 1:
        return None, "disputed"
    return firm[0], TAKEN


def _shown(decision: Decision) -> tuple[str, list[str]] | None:
    """What the image shows; None where the decision does not say it. Without a rationale the list is empty."""
    if decision.after is not None:
        rationales = dict.fromkeys(map(normalise_name, decision.after.rationales))
        return normalise_name(decision.after.category), list(rationales)
    before = decision.before
    rationales_of = {"accept": [before.rationale], "rationale_not_visible": list[str]()}
    found = rationales_of.get(decision.verdict)
    return None if found is None else (before.category, found)


def _is_wrong_reason(decision: Decision) -> bool | None:
    if decision.is_category_right is None:
        return None
    return decision.is_category_right and decision.is_rationale_visible is False
