"""Pages of the list of groups, the labels of a group, and how far the review is."""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from jaxtyping import Bool, Int

from ecor.config.checks import require
from pipelines.review.decision import VERDICTS, Verdict
from pipelines.review.label_groups import LabelFilter, LabelGroup, Order
from pipelines.review.review_session import ReviewSession

Seen = Literal["", "open", "done", "disputed"] | Verdict
"""Labels by what was decided: all, those that the reviewer has not or has decided, those on which reviewers differ, or
those with a verdict of the reviewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the review is."""

    num_labels: int
    num_done: int
    """By this reviewer."""
    num_done_by_anyone: int
    num_disputed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupList:
    """A page of the list of groups."""

    groups: tuple[LabelGroup, ...]
    num_groups: int
    num_labels: int
    """In all these groups."""


def review_progress(session: ReviewSession, reviewer: str) -> Progress:
    """How far a reviewer is, with the sample or all labels."""
    within = slice(None) if session.sample is None else session.sample
    with session.lock:
        done = session.state.is_done(reviewer)
        return Progress(
            num_labels=len(session.index) if session.sample is None else len(session.sample),
            num_done=int(np.count_nonzero(done[within])),
            num_done_by_anyone=session.state.num_done_by_anyone(),
            num_disputed=int(np.count_nonzero(session.state.disputed)),
        )


def list_groups(
    session: ReviewSession, reviewer: str, *, chosen: LabelFilter, seen: Seen, order: Order, start: int, limit: int
) -> GroupList:
    """A page of the groups that have labels after the filter; `seen` adds what was decided of them."""
    done, groups = _done(session, reviewer), session.groups
    if seen == "open":
        mask, num_done = groups.select(chosen), np.zeros(len(groups), dtype=np.int64)
        sizes = _count_open(session, mask, done=done)
        mask = ~done if mask is None else mask & ~done
    else:
        mask = _mask(session, reviewer, chosen=chosen, seen=seen)
        sizes, num_done = groups.count(mask), groups.count(done if mask is None else mask & done)
    ordered = groups.sort(sizes, order=order)
    page = ordered[start : start + limit].tolist()
    return GroupList(
        groups=tuple(
            groups.describe(each, size=int(sizes[each]), num_done=int(num_done[each]), mask=mask) for each in page
        ),
        num_groups=len(ordered),
        num_labels=int(sizes.sum()),
    )


def next_group(session: ReviewSession, reviewer: str, group: int, *, chosen: LabelFilter, order: Order) -> int | None:
    """The group after this one, in the order of the list, that still has open labels; None: there is none."""
    mask, done = session.groups.select(chosen), _done(session, reviewer)
    is_open = _count_open(session, mask, done=done) > 0
    is_open[group] = False
    ordered = session.groups.sort(session.groups.count(mask), order=order)
    place = int(np.flatnonzero(ordered == group)[0]) if group in ordered else -1
    turned = np.concatenate([ordered[place + 1 :], ordered[: place + 1]])
    left = turned[is_open[turned]]
    return int(left[0]) if len(left) else None


def members(
    session: ReviewSession, reviewer: str, group: int, *, chosen: LabelFilter, seen: Seen
) -> Int[np.ndarray, " n"]:
    """Labels of a group that the filter shows. Open ones stay in their place once they are decided."""
    mask = _mask(session, reviewer, chosen=chosen, seen="" if seen == "open" else seen)
    return session.groups.members(group, mask=mask)


def num_open(session: ReviewSession, reviewer: str, numbers: Int[np.ndarray, " n"]) -> int:
    """How many of some labels the reviewer has not decided."""
    return int((~_done(session, reviewer)[numbers]).sum())


def first_open(session: ReviewSession, reviewer: str, numbers: Int[np.ndarray, " n"]) -> int | None:
    """The place, among some labels, of the first that the reviewer has not decided."""
    left = np.flatnonzero(~_done(session, reviewer)[numbers])
    return int(left[0]) if len(left) else None


def _count_open(
    session: ReviewSession, mask: Bool[np.ndarray, " N"] | None, *, done: Bool[np.ndarray, " N"]
) -> Int[np.ndarray, " G"]:
    """Labels of each group that are in the mask and not done; few are done, so these are counted."""
    groups = session.groups
    return groups.count(mask) - groups.count(done if mask is None else mask & done)


def _done(session: ReviewSession, reviewer: str) -> Bool[np.ndarray, " N"]:
    with session.lock:
        return session.state.is_done(reviewer)


def _mask(session: ReviewSession, reviewer: str, *, chosen: LabelFilter, seen: Seen) -> Bool[np.ndarray, " N"] | None:
    mask = session.groups.select(chosen)
    if not seen:
        return mask
    with session.lock:
        fits = _seen(session, reviewer, seen=seen)
    return fits if mask is None else mask & fits


def _seen(session: ReviewSession, reviewer: str, *, seen: Seen) -> Bool[np.ndarray, " N"]:
    state = session.state
    if seen == "disputed":
        return state.disputed.copy()
    if seen in ("open", "done"):
        done = state.is_done(reviewer)
        return done if seen == "done" else ~done
    require(seen in VERDICTS, f"shown labels are open, done, disputed or of a verdict, got {seen!r}")
    return state.has_verdict(reviewer, cast(Verdict, seen))
