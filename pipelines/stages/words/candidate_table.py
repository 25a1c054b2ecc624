"""All drafted rationales with their numbers and what became of them: a table, and lines for the terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ecor.config.checks import name_some
from ecor.config.drafting import PruningConfig
from ecor.drafting.candidates import Candidate
from ecor.drafting.selection import REASONS, TEXT_REASONS, Decision, Evidence

_NAMED = 8
CANDIDATE_SCHEMA = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("rationale", pa.string(), nullable=False),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("restored", pa.string()),
        pa.field("repeats", pa.string()),
        pa.field("num_images", pa.int64()),
        pa.field("speaks", pa.float64()),
        pa.field("auc", pa.float64()),
        pa.field("q_value", pa.float64()),
        pa.field("name_similarity", pa.float64()),
    ],
    metadata={"ecor.schema": "candidates", "ecor.schema_version": "1"},
)
"""One row per candidate, in the order of the draft. `reason` is why it was dropped (`ecor.drafting.selection.REASONS`),
`restored` why it would be dropped if its category had enough rationales, `repeats` the rationale that it repeats. The
numbers are those of `ecor.drafting.measurement.Measurement`; null where nothing was measured."""


def candidates_table(
    candidates: Sequence[Candidate], decisions: Sequence[Decision], *, evidence: Evidence | None
) -> pa.Table:
    """A row per candidate, with `CANDIDATE_SCHEMA`."""
    number = len(candidates)
    columns = {
        "category": [each.category for each in candidates],
        "rationale": [each.rationale for each in candidates],
        "sources": [list(each.sources) for each in candidates],
        "kept": [each.is_kept for each in decisions],
        "reason": [each.reason or None for each in decisions],
        "restored": [each.restored or None for each in decisions],
        "repeats": [candidates[each.repeats].rationale if each.repeats >= 0 else None for each in decisions],
    }
    empty = np.full(number, np.nan)
    found = None if evidence is None else evidence.measurement
    numbers = {
        "num_images": [None] * number if found is None else found.num_images.tolist(),
        "speaks": empty if found is None else found.speaks,
        "auc": empty if found is None else found.auc,
        "q_value": empty if found is None else found.q_value,
        "name_similarity": empty if evidence is None else evidence.name_similarity,
    }
    arrays = [pa.array((columns | numbers)[field.name], field.type, from_pandas=True) for field in CANDIDATE_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=CANDIDATE_SCHEMA)


def describe_decisions(
    candidates: Sequence[Candidate],
    decisions: Sequence[Decision],
    *,
    evidence: Evidence | None,
    pruning: PruningConfig,
) -> Iterator[str]:
    """What was kept and why the rest was not, in lines for the terminal."""
    reasons = Counter(each.reason for each in decisions)
    dropped = [f"{words} ({reasons[reason]:,})" for reason, words in REASONS.items() if reasons[reason]]
    others = f"; dropped because they {', '.join(dropped)}" if dropped else ""
    yield f"kept {reasons['']:,} of {len(decisions):,} rationales{others}"
    if evidence is None:
        yield "no --images: nothing was measured, and rationales that no image shows are still among them"
        return
    restored = sum(bool(each.restored) and each.is_kept for each in decisions)
    if restored:
        least = pruning.min_rationales
        yield f"{restored:,} of these are kept though images would drop them: a category keeps at least {least}"
    if restored > reasons[""] / 2:
        yield "images bear out few rationales: look whether the model knows such images (--backbone.name, --model)"
    auc = evidence.measurement.auc
    few = dict.fromkeys(
        each.category
        for each, decision, value in zip(candidates, decisions, auc, strict=True)
        if np.isnan(value) and decision.reason not in TEXT_REASONS
    )
    if few:
        yield f"not measured, with fewer than {pruning.min_images} images: {name_some(list(few), most=_NAMED)}"
    kept = {each.category for each, decision in zip(candidates, decisions, strict=True) if decision.is_kept}
    drafted = dict.fromkeys(each.category for each in candidates)
    bare = [name for name in drafted if name not in kept]
    if bare:
        yield f"left without a rationale, write some by hand: {name_some(bare, most=_NAMED)}"
