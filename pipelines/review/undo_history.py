"""What each reviewer can undo after a new start: the last actions in the logs whose decisions still count.

The decisions of one action on the page have one time and stand together in a log, so actions are found again without
being recorded. As in `pipelines.review.decision_table`, an undo takes back the last decision of its own log, else the
last one of all. Decisions that were imported from another tool are no actions on the page: nothing before them can be
undone.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pipelines.review.decision_log import LoggedDecision, is_of_import

MOST_UNDOS = 1000
"""Actions of each reviewer that can be undone, the last ones."""
MOST_LABELS = 100_000
"""Labels of these actions together, after a new start: bounds memory."""


@dataclass(slots=True, kw_only=True)
class _Action:
    """What a reviewer did with one key: decisions of one log, next to each other."""

    order: tuple[datetime, str, int]
    """Latest time of its log so far, log, and first line: the order over several logs."""
    time: datetime
    """As its decisions have it."""
    log: str
    is_undo: bool
    is_barrier: bool = False
    """It cannot be undone, and nothing before it."""
    keys: list[str] = field(default_factory=list)
    """Of the labels; empty for a barrier."""


class UndoHistory:
    """Takes the decisions of all logs, log by log, and keeps the last actions of each reviewer."""

    def __init__(self) -> None:
        self._actions: dict[str, list[_Action]] = {}
        self._num_keys = Counter[str]()
        self._current: _Action | None = None
        self._latest: datetime | None = None

    def add(self, logged: LoggedDecision) -> None:
        """Take the next decision of a log."""
        decision, current = logged.decision, self._current
        is_same_log = current is not None and current.log == logged.log
        self._latest = max(self._latest, decision.time) if self._latest and is_same_log else decision.time
        is_undo = decision.verdict == "undo"
        if current is None or not is_same_log or (current.time, current.is_undo) != (decision.time, is_undo):
            current = self._current = _Action(
                order=(self._latest, logged.log, logged.line),
                time=decision.time,
                log=logged.log,
                is_undo=is_undo,
                is_barrier=is_of_import(logged.log),
            )
            insort(self._actions.setdefault(decision.reviewer, []), current, key=lambda action: action.order)
            self._forget(decision.reviewer)
        if not current.is_barrier:
            current.keys.append(decision.key)
            self._num_keys[decision.reviewer] += 1
            if len(current.keys) > MOST_LABELS:
                current.is_barrier, current.keys = True, []

    def _forget(self, reviewer: str) -> None:
        """Drop what is beyond the bounds, once it is as much again as what is within."""
        actions = self._actions[reviewer]
        if len(actions) > 2 * MOST_UNDOS or self._num_keys[reviewer] > 2 * MOST_LABELS:
            del actions[: _first_kept(actions)]
            self._num_keys[reviewer] = sum(len(each.keys) for each in actions)

    def undoable(self) -> dict[str, list[list[str]]]:
        """Keys of the labels of each action that can be undone, by reviewer, the last action last."""
        return {reviewer: _replay(actions[_first_kept(actions) :]) for reviewer, actions in self._actions.items()}


def _first_kept(actions: list[_Action]) -> int:
    """Place of the first action that is within the bounds and after the last barrier."""
    num_labels = 0
    for place in range(len(actions) - 1, -1, -1):
        num_labels += len(actions[place].keys)
        if actions[place].is_barrier or num_labels > MOST_LABELS or len(actions) - place > MOST_UNDOS:
            return place + 1
    return 0


def _replay(actions: Iterable[_Action]) -> list[list[str]]:
    """Keys of the decisions that are left of each action."""
    left: list[tuple[str, dict[str, None]]] = []
    for action in actions:
        if not action.is_undo:
            left.append((action.log, dict.fromkeys(action.keys)))
            continue
        own = [keys for log, keys in left if log == action.log]
        everywhere = [keys for _, keys in left]
        for key in action.keys:
            taken_back = _last_with(key, own) or _last_with(key, everywhere)
            if taken_back is not None:
                del taken_back[key]
        left = [(log, keys) for log, keys in left if keys]
    return [list(keys) for _, keys in left]


def _last_with(key: str, actions: Sequence[dict[str, None]]) -> dict[str, None] | None:
    return next((keys for keys in reversed(actions) if key in keys), None)
