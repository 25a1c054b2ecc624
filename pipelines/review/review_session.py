"""One run of `ecor review`: takes decisions from several reviewers at once, logs them, and knows what is still open.

A decision is confirmed after the log has flushed it to the disk. One lock orders all decisions, so each `DecisionLog`
is used by one thread at a time.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Int

from ecor.config.checks import require
from ecor.data.name_parsing import normalise_name
from pipelines.review.decision import VERDICTS, Correction, Decision, LabelBefore, Verdict
from pipelines.review.decision_log import DecisionLog, TornLine
from pipelines.review.decision_set import DecisionSet
from pipelines.review.decision_table import DecisionTable, iterate_decisions, write_decision_table
from pipelines.review.label_groups import LabelFilter, LabelGroups
from pipelines.review.label_index import LabelIndex
from pipelines.review.review_state import LabelState, ReviewState
from pipelines.review.undo_history import MOST_UNDOS, UndoHistory

AT_ONCE = 10_000
"""Decisions of one write and one flush: bounds memory when a large group is accepted."""
_MOST_ACTIONS = 10_000
"""Actions that are remembered, so that one that is sent twice counts once."""
MOST_DIGESTS = 200_000
LONGEST_TEXT = 2000
"""Characters of a note or a name."""
MOST_NAMES = 50
"""Rationales of a correction."""


@dataclass(slots=True, kw_only=True)
class ReviewSession:
    """Labels, and the decisions about them."""

    index: LabelIndex
    groups: LabelGroups
    decisions: DecisionSet
    sample: Int[np.ndarray, " n"] | None = None
    """Numbers of the labels to review, in order; None: all, by groups."""
    known_names: frozenset[str] = frozenset()
    """Normalised names of the vocabulary; other names in corrections are marked as new."""
    state: ReviewState = field(init=False)
    torn: list[TornLine] = field(init=False, default_factory=list)
    """Incomplete lines of logs of earlier runs."""
    lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    _table_lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _logs: dict[str, DecisionLog] = field(init=False, default_factory=dict)
    _undos: dict[str, list[Int[np.ndarray, " n"]]] = field(init=False, default_factory=dict)
    _actions: OrderedDict[str, int] = field(init=False, default_factory=OrderedDict)
    _digests: OrderedDict[int, str] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Take up the decisions of earlier runs."""
        self.state, history = ReviewState(len(self.index)), UndoHistory()
        groups = iterate_decisions(self.decisions, torn=self.torn, note=history.add)
        counting = (each for group in groups for each in group)
        left = (logged.decision for each in counting for logged in (*each.earlier, each.logged))
        num_unknown = self.state.restore(left, index=self.index)
        require(num_unknown == 0, f"{self.decisions.folder} has {num_unknown:,} decisions about keys that no label has")
        self._undos = {reviewer: self._actions_in_view(keys) for reviewer, keys in history.undoable().items()}

    def _actions_in_view(self, keys: Sequence[Sequence[str]]) -> list[Int[np.ndarray, " n"]]:
        """Labels of the last actions; in review of a sample, those after the last one on other labels."""
        found = [self.index.find(each) for each in keys]
        if self.sample is None:
            return found
        is_outside = [not np.isin(numbers, self.sample).all() for numbers in found]
        return found[max((place + 1 for place, outside in enumerate(is_outside) if outside), default=0) :]

    def note_digest(self, number: int, sha256: str) -> None:
        """Remember the digest of a picture that was read, for the decision about it."""
        with self.lock:
            self._digests[number] = sha256
            while len(self._digests) > MOST_DIGESTS:
                self._digests.popitem(last=False)

    def decide(
        self,
        reviewer: str,
        numbers: Sequence[int] | Int[np.ndarray, " n"],
        *,
        verdict: Verdict,
        after: Correction | None = None,
        note: str = "",
        action: str,
    ) -> int:
        """Log what a reviewer says of some labels; returns how many decisions the disk holds then.

        Args:
            reviewer: name.
            numbers: of the labels.
            verdict: any but `undo`.
            after: for `correct`.
            note: remark.
            action: identifies the call: a repeated one does nothing and returns the same.

        Raises:
            ValueError: for a wrong number, verdict or name.
            OSError: when the disk is full or fails; parts of `AT_ONCE` decisions that were flushed before count.
        """
        require(verdict in VERDICTS and verdict != "undo", f"verdict must be one of {VERDICTS[:-1]}, got {verdict!r}")
        chosen = np.asarray(numbers, dtype=np.int64)
        require(
            bool(((chosen >= 0) & (chosen < len(self.index))).all()), f"there are labels 0 to {len(self.index) - 1:,}"
        )
        state = LabelState(verdict=verdict, after=after, note=note)
        with self.lock:
            if action in self._actions:
                return self._actions[action]
            num_logged, time = 0, datetime.now(UTC)  # one time for all: it shows what is one action
            try:
                for part in _parts(chosen):
                    self._append(reviewer, part, verdict=verdict, state=state, time=time)
                    self.state.decide(reviewer, part, state=state)
                    num_logged += len(part)
            finally:
                if num_logged:
                    self._undos.setdefault(reviewer, []).append(chosen[:num_logged])
                    del self._undos[reviewer][:-MOST_UNDOS]
            self._remember(action, num_logged)
            return num_logged

    def accept_group(self, reviewer: str, group: int, *, chosen: LabelFilter, num_expected: int, action: str) -> int:
        """Accept all labels of a group that the filter shows and the reviewer has not decided.

        Raises:
            ValueError: when their number is not the one that the reviewer saw, and in review of a sample.
        """
        require(self.sample is None, "a sample is judged image by image: groups of it cannot be accepted")
        with self.lock:
            if action in self._actions:
                return self._actions[action]
            members = self.groups.members(group, mask=self.groups.select(chosen))
            left = members[~self.state.is_done(reviewer)[members]]
            require(
                len(left) == num_expected,
                f"the group has {len(left):,} open images now, not {num_expected:,}: look at it again",
            )
            return self.decide(reviewer, left, verdict="accept", action=action)

    def undo(self, reviewer: str, *, action: str) -> Int[np.ndarray, " n"]:
        """Take back a reviewer's last action, also of earlier runs, as decisions `undo`; returns its labels."""
        with self.lock:
            if action in self._actions or not self._undos.get(reviewer):
                return np.zeros(0, dtype=np.int64)
            numbers, time = self._undos[reviewer][-1], datetime.now(UTC)
            for part in _parts(numbers):
                self._append(reviewer, part, verdict="undo", state=None, time=time)
                self.state.undo(reviewer, part)
                self._undos[reviewer][-1] = self._undos[reviewer][-1][len(part) :]
            self._undos[reviewer].pop()
            self._remember(action, len(numbers))
            return numbers

    def label_states(self, number: int) -> dict[str, LabelState]:
        """What each reviewer says of a label."""
        with self.lock:
            said = {name: self.state.of(name, number) for name in self.state.reviewers}
        return {name: state for name, state in said.items() if state.verdict is not None}

    def mark_new_names(self, category: str, rationales: Sequence[str]) -> Correction:
        """A correction of typed names: in the vocabulary's spelling, with those marked that it does not have.

        Raises:
            ValueError: for an empty or very long name, or too many names.
        """
        names = tuple(dict.fromkeys(map(normalise_name, rationales)))
        require(len(names) <= MOST_NAMES, f"a correction has at most {MOST_NAMES} rationales, got {len(names)}")
        made = Correction(category=normalise_name(category), rationales=names)
        new = tuple(name for name in dict.fromkeys((made.category, *names)) if name not in self.known_names)
        return Correction(category=made.category, rationales=names, new_names=new)

    def write_table(self) -> DecisionTable:
        """Write the view of the decision set; decisions go on meanwhile, and are in the next one."""
        with self._table_lock:
            return write_decision_table(self.decisions)

    def close(self) -> None:
        """Close the logs; a decision after that starts new ones."""
        with self.lock:
            for log in self._logs.values():
                log.close()

    def _append(
        self,
        reviewer: str,
        numbers: Int[np.ndarray, " n"],
        *,
        verdict: Verdict,
        state: LabelState | None,
        time: datetime,
    ) -> None:
        log = self._logs.get(reviewer)
        if log is None:
            log = self._logs[reviewer] = self.decisions.open_log(reviewer)
        log.append(
            *(
                Decision(
                    labels_digest=self.decisions.of.labels_digest,
                    key=key,
                    image_sha256=self._digests.get(number),
                    reviewer=reviewer,
                    time=time,
                    verdict=verdict,
                    before=LabelBefore(
                        category=self.index.category(number),
                        rationale=self.index.rationale(number),
                        confidence=float(self.index.confidences[number]),
                    ),
                    after=None if state is None else state.after,
                    note="" if state is None else state.note,
                )
                for number, key in zip(numbers.tolist(), self.index.keys(numbers), strict=True)
            )
        )

    def _remember(self, action: str, num_decisions: int) -> None:
        self._actions[action] = num_decisions
        while len(self._actions) > _MOST_ACTIONS:
            self._actions.popitem(last=False)


def _parts(numbers: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " m"]]:
    for start in range(0, len(numbers), AT_ONCE):
        yield numbers[start : start + AT_ONCE]
