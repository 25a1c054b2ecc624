"""What reviewers have decided so far, a byte per label and reviewer: for the page, not the record (the logs are that).

Changed and read under the lock of `pipelines.review.review_session`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from ecor.data.name_parsing import normalise_name
from pipelines.review.decision import VERDICTS, Correction, Decision, Verdict
from pipelines.review.label_index import LabelIndex

_CODES: dict[Verdict, int] = {verdict: code for code, verdict in enumerate(VERDICTS, start=1)}
"""0: open."""
_SKIP, _CORRECT = _CODES["skip"], _CODES["correct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelState:
    """What one reviewer says of one label."""

    verdict: Verdict | None = None
    """None: nothing yet."""
    after: Correction | None = None
    note: str = ""


@dataclass(slots=True, kw_only=True)
class _Reviewer:
    codes: Int[np.ndarray, " N"]
    details: dict[int, LabelState] = field(default_factory=dict)
    """Of labels with a correction or a note."""
    earlier: dict[int, list[LabelState]] = field(default_factory=dict)
    """What counted before, of labels that were decided again: an undo brings it back."""


class ReviewState:
    """The decisions that count, by reviewer."""

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self._reviewers: dict[str, _Reviewer] = {}
        self.disputed: Bool[np.ndarray, " N"] = np.zeros(num_labels, dtype=bool)
        """Labels on which reviewers differ; skipped ones aside."""

    @property
    def reviewers(self) -> list[str]:
        """Names of all who have decided something, sorted."""
        return sorted(self._reviewers)

    def restore(self, decisions: Iterable[Decision], *, index: LabelIndex) -> int:
        """Take up decisions that count, of an earlier run; returns how many are about no label of the index."""
        num_unknown, batch = 0, list[Decision]()
        for decision in decisions:
            batch.append(decision)
            if len(batch) == 4096:
                num_unknown += self._restore(batch, index=index)
                batch = []
        return num_unknown + self._restore(batch, index=index)

    def _restore(self, batch: list[Decision], *, index: LabelIndex) -> int:
        numbers = index.find([each.key for each in batch])
        for number, decision in zip(numbers.tolist(), batch, strict=True):
            if number >= 0:
                state = LabelState(verdict=decision.verdict, after=decision.after, note=decision.note)
                self.decide(decision.reviewer, np.array([number]), state=state)
        return int((numbers < 0).sum())

    def codes(self, reviewer: str) -> Int[np.ndarray, " N"] | None:
        """The verdict of each label as a number, 0 where it is open; None for a reviewer without decisions."""
        found = self._reviewers.get(reviewer)
        return None if found is None else found.codes

    def is_done(self, reviewer: str) -> Bool[np.ndarray, " N"]:
        """Which labels a reviewer has decided or skipped."""
        codes = self.codes(reviewer)
        return np.zeros(self.num_labels, dtype=bool) if codes is None else codes > 0

    def has_verdict(self, reviewer: str, verdict: Verdict) -> Bool[np.ndarray, " N"]:
        """Which labels have this verdict of the reviewer."""
        codes = self.codes(reviewer)
        return np.zeros(self.num_labels, dtype=bool) if codes is None else codes == _CODES[verdict]

    def num_done_by_anyone(self) -> int:
        """Labels that at least one reviewer has decided or skipped."""
        done = np.zeros(self.num_labels, dtype=bool)
        for each in self._reviewers.values():
            done |= each.codes > 0
        return int(np.count_nonzero(done))

    def of(self, reviewer: str, number: int) -> LabelState:
        """What a reviewer says of a label."""
        found = self._reviewers.get(reviewer)
        if found is None or not found.codes[number]:
            return LabelState()
        return found.details.get(number) or LabelState(verdict=VERDICTS[found.codes[number] - 1])

    def decide(self, reviewer: str, numbers: Int[np.ndarray, " n"], *, state: LabelState) -> None:
        """Set what a reviewer says of some labels."""
        assert state.verdict is not None
        found = self._reviewers.get(reviewer)
        if found is None:
            found = self._reviewers[reviewer] = _Reviewer(codes=np.zeros(self.num_labels, dtype=np.uint8))
        for number in numbers[found.codes[numbers] > 0].tolist():
            found.earlier.setdefault(number, []).append(self.of(reviewer, number))
            found.details.pop(number, None)
        found.codes[numbers] = _CODES[state.verdict]
        if state.after is not None or state.note:
            found.details |= dict.fromkeys(numbers.tolist(), state)
        self._compare(numbers)

    def undo(self, reviewer: str, numbers: Int[np.ndarray, " n"]) -> None:
        """Take back what a reviewer said last of some labels."""
        found = self._reviewers[reviewer]
        found.codes[numbers] = 0
        for number in numbers.tolist():
            found.details.pop(number, None)
            earlier = found.earlier.get(number)
            if earlier:
                state = earlier.pop()
                found.codes[number] = _CODES[state.verdict] if state.verdict else 0
                if state.after is not None or state.note:
                    found.details[number] = state
                if not earlier:
                    del found.earlier[number]
        self._compare(numbers)

    def _compare(self, numbers: Int[np.ndarray, " n"]) -> None:
        """Find out on which of some labels the reviewers differ now."""
        if len(self._reviewers) < 2:
            return
        codes = np.stack([each.codes[numbers] for each in self._reviewers.values()])
        counts = (codes > 0) & (codes != _SKIP)
        highest = np.where(counts, codes, 0).max(axis=0)
        lowest = np.where(counts, codes, 255).min(axis=0)
        self.disputed[numbers] = (counts.sum(axis=0) > 1) & (highest != lowest)
        for place in np.flatnonzero((counts.sum(axis=0) > 1) & (highest == _CORRECT) & (lowest == _CORRECT)).tolist():
            number = int(numbers[place])
            said = {_outcome(self.of(name, number)) for name in self._reviewers}
            self.disputed[number] = len(said - {None}) > 1


def _outcome(state: LabelState) -> tuple[str, ...] | None:
    """The names of a correction, as `Decision.outcome` compares them."""
    if state.after is None:
        return None
    return (normalise_name(state.after.category), *sorted(map(normalise_name, state.after.rationales)))
