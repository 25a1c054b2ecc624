"""Choose the rationales of a vocabulary: each candidate is kept, or dropped for one reason.

Not in the paper: the reasons, their order and their limits are our choice (`ecor.config.drafting.PruningConfig`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from ecor.config.drafting import PruningConfig
from ecor.drafting.candidates import Candidate
from ecor.drafting.measurement import Measurement, near_duplicates

REASONS: Mapping[str, str] = {
    "names_category": "name the category",
    "names_kind": "name what the category is a kind of",
    "same_text": "are there twice",
    "like_the_name": "mean the category's name to the model",
    "near_duplicate": "are near duplicates",
    "never_speaks": "speak too rarely",
    "does_not_separate": "do not separate their category",
    "beyond_most": "are beyond the most per category",
}
"""Why a candidate is dropped, in the order in which it is asked."""
TEXT_REASONS = ("names_category", "names_kind", "same_text")
"""Those that need neither a model nor images."""
_RESTORABLE = ("never_speaks", "does_not_separate", "near_duplicate")
"""What a category that would else have too few rationales keeps, the first first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a candidate."""

    reason: str = ""
    """One of `REASONS`; empty for a candidate that is kept."""
    restored: str = ""
    """Why it would be dropped, if its category had enough rationales without it."""
    repeats: int = -1
    """The candidate that a near duplicate repeats; -1 for any other one."""

    @property
    def is_kept(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a model and images say of P candidates; NaN and -1 for those that their text has dropped already."""

    measurement: Measurement
    name_similarity: Float[np.ndarray, " P"]
    """Cosine of the sentences of the rationale and of the category's name."""
    repeats: Int[np.ndarray, " P"]
    """As `ecor.drafting.measurement.near_duplicates` gives them."""


def select_candidates(
    candidates: Sequence[Candidate],
    verdicts: Sequence[str],
    *,
    evidence: Evidence | None,
    pruning: PruningConfig,
) -> tuple[Decision, ...]:
    """Decide on each of P candidates.

    Args:
        candidates: in order of preference.
        verdicts: of their texts (`ecor.drafting.text_rules.text_verdicts`).
        evidence: of images; None: texts alone decide.
        pruning: the limits.
    """
    decisions = [Decision(reason=verdict) for verdict in verdicts]
    if evidence is not None:
        decisions = [
            each if each.reason else _judged(index, evidence, pruning=pruning) for index, each in enumerate(decisions)
        ]
    by_category: dict[str, list[int]] = {}
    for index in preference_order(len(candidates), evidence):
        by_category.setdefault(candidates[index].category, []).append(index)
    for members in by_category.values():
        for index in list(_missing(members, decisions, pruning=pruning)):
            decisions[index] = Decision(restored=decisions[index].reason, repeats=decisions[index].repeats)
        kept = [index for index in members if decisions[index].is_kept]
        for index in kept[pruning.max_rationales :]:
            decisions[index] = replace(decisions[index], reason="beyond_most")
    return tuple(decisions)


def preference_order(number: int, evidence: Evidence | None) -> list[int]:
    """Candidates in the order in which a category keeps them: by AUC where it was measured, then as they came."""
    if evidence is None:
        return list(range(number))
    return _best_first(evidence.measurement)


def repeated_candidates(
    features: Float[np.ndarray, "P D"],
    *,
    categories: Int[np.ndarray, " P"],
    measurement: Measurement,
    pruning: PruningConfig,
) -> Int[np.ndarray, " P"]:
    """Near duplicates among P pairs, each of one that separates better (see `near_duplicates`)."""
    limit, order = pruning.max_rationale_similarity, _best_first(measurement)
    return near_duplicates(features, categories=categories, order=order, max_similarity=limit)


def _best_first(measurement: Measurement) -> list[int]:
    """By AUC; of equals, and where it was not measured, as they came."""
    return np.argsort(-np.nan_to_num(measurement.auc, nan=0.0), kind="stable").tolist()


def _judged(index: int, evidence: Evidence, *, pruning: PruningConfig) -> Decision:
    found, repeats = evidence.measurement, int(evidence.repeats[index])
    if evidence.name_similarity[index] >= pruning.max_name_similarity:
        return Decision(reason="like_the_name")
    if repeats >= 0:
        return Decision(reason="near_duplicate", repeats=repeats)
    if np.isnan(found.auc[index]):
        return Decision()
    if found.chance < 1 and found.speaks[index] <= max(found.chance, pruning.min_speaks):
        return Decision(reason="never_speaks")
    is_separating = found.auc[index] >= pruning.min_auc and found.q_value[index] <= pruning.false_alarms
    return Decision() if is_separating else Decision(reason="does_not_separate")


def _missing(members: Sequence[int], decisions: Sequence[Decision], *, pruning: PruningConfig) -> Iterator[int]:
    """The dropped candidates that a category needs to have enough: those that separate best."""
    num_missing = pruning.min_rationales - sum(decisions[index].is_kept for index in members)
    restorable = [index for index in members if decisions[index].reason in _RESTORABLE[:2]]
    restorable += [index for index in members if decisions[index].reason in _RESTORABLE[2:]]
    yield from restorable[: max(0, num_missing)]
