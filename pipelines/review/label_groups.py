"""Divide labels into groups by category, rationale and confidence band, and select labels by filters."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from ecor.config.checks import require
from pipelines.review.label_index import LabelIndex, fold

NUM_BANDS = 10
"""Bands of confidence, a tenth each."""
MOST_EXAMPLES = 4
_MOST_MASKS = 8
"""Selections by filters that are kept in memory, a byte per label each."""
LONGEST_QUERY = 500
"""Characters of a filter."""
Order = Literal["size", "unsure", "sure", "name"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFilter:
    """Which labels are shown, as the filters of the page of `ecor report`."""

    name: str = ""
    """Category: equal to a name that there is, else a part of it; empty: all."""
    low: float = 0.0
    """Least confidence."""
    high: float = 1.0
    """Largest confidence."""
    text: str = ""
    """Words that must all be in category, rationale, key or source."""

    def __post_init__(self) -> None:
        require(0 <= self.low <= self.high <= 1, f"confidence from {self.low} to {self.high}: give 0 to 1, in order")
        too_long = max(len(self.name), len(self.text)) > LONGEST_QUERY
        require(not too_long, f"a filter has more than {LONGEST_QUERY} characters: shorten it")

    @property
    def shows_all(self) -> bool:
        return not fold(self.name) and not fold(self.text) and self.low <= 0 and self.high >= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelGroup:
    """Labels with the same category, rationale and confidence band."""

    number: int
    category: str
    rationale: str
    low: float
    high: float
    """The band: from `low`, below `high` (the last one: to 1)."""
    size: int
    """Labels, of those that the filter shows."""
    num_done: int
    """Of these, labels that the reviewer has decided."""
    examples: tuple[int, ...]
    """Numbers of some of its labels, spread over its confidences."""


class LabelGroups:
    """The groups of one index of labels. Its arrays are fixed; safe for several threads."""

    def __init__(self, index: LabelIndex) -> None:
        self.index = index
        bands = np.minimum((index.confidences * NUM_BANDS).astype(np.int64), NUM_BANDS - 1).clip(0)
        pairs = index.category_ids.astype(np.int64) * max(1, len(index.rationales)) + index.rationale_ids
        codes, group_of = np.unique(pairs * NUM_BANDS + bands, return_inverse=True)
        del pairs, bands
        self.group_of: Int[np.ndarray, " N"] = group_of.astype(np.int32)
        self.bands: Int[np.ndarray, " G"] = (codes % NUM_BANDS).astype(np.int8)
        pairs_of = codes // NUM_BANDS
        self.category_ids: Int[np.ndarray, " G"] = (pairs_of // max(1, len(index.rationales))).astype(np.int32)
        self.rationale_ids: Int[np.ndarray, " G"] = (pairs_of % max(1, len(index.rationales))).astype(np.int32)
        # within a group, the surest labels come first
        self._order = np.lexsort((-index.confidences, self.group_of)).astype(np.int32)
        sizes = np.bincount(self.group_of, minlength=len(codes))
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        names = [_ranks(index.categories), _ranks(index.rationales)]
        self._by_name = np.lexsort((-self.bands, names[1][self.rationale_ids], names[0][self.category_ids]))
        self._folded = [list(map(fold, each)) for each in (index.categories, index.rationales)]
        self._lock = threading.Lock()
        self._masks: OrderedDict[LabelFilter, Bool[np.ndarray, " N"]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.bands)

    def select(self, chosen: LabelFilter) -> Bool[np.ndarray, " N"] | None:
        """The labels that a filter shows; None: all. The array is shared: do not change it."""
        if chosen.shows_all:
            return None
        with self._lock:
            if chosen in self._masks:
                self._masks.move_to_end(chosen)
                return self._masks[chosen]
        mask = self._compute(chosen)
        with self._lock:
            self._masks[chosen] = mask
            while len(self._masks) > _MOST_MASKS:
                self._masks.popitem(last=False)
        return mask

    def members(self, number: int, *, mask: Bool[np.ndarray, " N"] | None = None) -> Int[np.ndarray, " n"]:
        """Numbers of the labels of a group, the surest first; ValueError for a group that there is not."""
        require(0 <= number < len(self), f"there is no group {number}: there are {len(self):,}")
        members = self._order[self._starts[number] : self._starts[number + 1]]
        return members if mask is None else members[mask[members]]

    def count(self, mask: Bool[np.ndarray, " N"] | None) -> Int[np.ndarray, " G"]:
        """Labels of each group that are in the mask (None: all)."""
        if mask is None:
            return np.diff(self._starts)
        return np.bincount(self.group_of[np.flatnonzero(mask)], minlength=len(self))

    def sort(self, sizes: Int[np.ndarray, " G"], *, order: Order) -> Int[np.ndarray, " n"]:
        """Numbers of the groups that have labels, in an order; equal ones by name."""
        found = self._by_name[sizes[self._by_name] > 0]
        if order == "name":
            return found
        size = -sizes[found].astype(np.int64)
        if order == "size":
            return found[np.argsort(size, kind="stable")]
        band = self.bands[found].astype(np.int64) * (1 if order == "unsure" else -1)
        return found[np.lexsort((size, band))]

    def describe(
        self, number: int, *, size: int, num_done: int, mask: Bool[np.ndarray, " N"] | None = None
    ) -> LabelGroup:
        """One group, with its names, and examples among the labels in the mask."""
        band, members = int(self.bands[number]), self.members(number, mask=mask)
        places = np.unique(np.linspace(0, len(members) - 1, min(MOST_EXAMPLES, len(members))).astype(int))
        return LabelGroup(
            number=number,
            category=self.index.categories[self.category_ids[number]],
            rationale=self.index.rationales[self.rationale_ids[number]],
            low=band / NUM_BANDS,
            high=(band + 1) / NUM_BANDS,
            size=size,
            num_done=num_done,
            examples=tuple(members[places].tolist()),
        )

    def _compute(self, chosen: LabelFilter) -> Bool[np.ndarray, " N"]:
        index = self.index
        mask = np.ones(len(index), dtype=bool)
        if chosen.low > 0:
            mask &= index.confidences >= np.float32(chosen.low)
        if chosen.high < 1:
            mask &= index.confidences <= np.float32(chosen.high)
        name = fold(chosen.name)
        if name:
            exact = name in self._folded[0]
            fits = np.array([each == name if exact else name in each for each in self._folded[0]], dtype=bool)
            mask &= fits[index.category_ids]
        for word in fold(chosen.text).split():
            category_fits, rationale_fits = (
                np.array([word in each for each in names], dtype=bool) for names in self._folded
            )
            by_name = category_fits[index.category_ids] | rationale_fits[index.rationale_ids]
            mask &= by_name | index.texts_with(word)
        return mask


def _ranks(names: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The place of each name in their alphabetical order."""
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return ranks
