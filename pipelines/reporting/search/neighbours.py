"""Each image compared with all others, by blocks: near copies as connected groups, and distance to the nearest.

Memory per image: its feature in fp16 in a file on disk that is mapped into memory, and `num_nearest` + 4 numbers.
Besides: blocks of `BLOCK_ROWS` squared similarities. Nothing grows with the number of pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float16, Float32, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLOCK_ROWS = 2048
_ROUNDING = 1e-6
"""Two equal features differ from a cosine of 1 by less than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What the comparison of N images with each other found."""

    group: Int64[np.ndarray, " N"]
    """Images with one number are connected by pairs of near copies; numbers have no order."""
    nearest: Int64[np.ndarray, " N"]
    """The most similar other image; -1 for the only image."""
    nearest_similarity: Float32[np.ndarray, " N"]
    mean_distance: Float32[np.ndarray, " N"]
    """Mean of 1 less the cosine over the most similar other images (fewer where there are fewer); 0 without any."""
    num_pairs: int
    """Pairs of near copies."""

    def groups(self) -> list[list[int]]:
        """Numbers of the images of each group of two or more, in ascending order."""
        order = np.argsort(self.group, kind="stable")
        borders = np.flatnonzero(np.diff(self.group[order])) + 1
        found = [each.tolist() for each in np.split(order, borders) if len(each) > 1]
        return sorted(found, key=lambda each: (-len(each), each))


@dataclass(slots=True)
class _State:
    """What is known of all images while blocks pass by."""

    group: Int64[np.ndarray, " N"]
    nearest: Int64[np.ndarray, " N"]
    best: Float32[np.ndarray, "N K"]
    """The largest similarities of each image, unordered; -inf where there are fewer."""
    num_pairs: int = 0
    highest: Float32[np.ndarray, " N"] = field(init=False)

    def __post_init__(self) -> None:
        self.highest = np.full(len(self.nearest), -np.inf, dtype=np.float32)

    def see(self, similarity_AB: Float32[np.ndarray, "A B"], *, first: int, other: int) -> None:
        """Update the images from `first` on with their similarity to those from `other` on."""
        rows = slice(first, first + len(similarity_AB))
        place_A = similarity_AB.argmax(axis=1)
        largest_A = np.take_along_axis(similarity_AB, place_A[:, None], axis=1)[:, 0]
        is_nearer = largest_A > self.highest[rows]
        self.nearest[rows][is_nearer] = place_A[is_nearer] + other
        self.highest[rows] = np.maximum(self.highest[rows], largest_A)
        changed = np.flatnonzero(largest_A > self.best[rows].min(axis=1))
        if len(changed):
            k = self.best.shape[1]
            among = np.concatenate([self.best[rows][changed], similarity_AB[changed]], axis=1)
            self.best[first + changed] = np.partition(among, among.shape[1] - k, axis=1)[:, -k:]

    def connect(self, rows: Int64[np.ndarray, " P"], columns: Int64[np.ndarray, " P"]) -> None:
        """Merge the groups of pairs of images."""
        self.num_pairs += len(rows)
        left, right = self.group[rows], self.group[columns]
        is_new = left != right
        if not is_new.any():
            return
        num, ones = len(self.group), np.ones(int(is_new.sum()), dtype=bool)
        edges = coo_array((ones, (left[is_new], right[is_new])), shape=(num, num))
        self.group = connected_components(edges, directed=False)[1].astype(np.int64)[self.group]


def find_neighbours(
    features_ND: Float16[np.ndarray, "N D"],
    *,
    similarity: float,
    num_nearest: int,
    advance: Callable[[int], None] = lambda pairs: None,
    block_rows: int = BLOCK_ROWS,
) -> Neighbours:
    """Compare each image with all others, exactly; time by the square of their number.

    Args:
        features_ND: L2-normalised features; may be mapped from a file.
        similarity: cosine from which two images are a pair of near copies.
        num_nearest: images in the mean distance.
        advance: called with the number of pairs of each finished block.
        block_rows: images of a block.
    """
    num = len(features_ND)
    shape = (num, min(num_nearest, max(1, num - 1)))
    state = _State(np.arange(num), np.full(num, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32))
    for first, other, block_AB in _blocks(features_ND, block_rows=block_rows):
        rows, columns = np.nonzero(block_AB >= similarity - _ROUNDING)
        is_once = slice(None) if first != other else rows < columns
        state.connect(rows[is_once] + first, columns[is_once] + other)
        state.see(block_AB, first=first, other=other)
        if first != other:
            state.see(np.ascontiguousarray(block_AB.T), first=other, other=first)
        advance(block_AB.size if first != other else block_AB.size // 2)
    similarities = np.where(np.isfinite(state.best), state.best, np.nan) if num > 1 else np.ones(shape)
    return Neighbours(
        group=state.group,
        nearest=state.nearest,
        nearest_similarity=state.highest,
        mean_distance=(1 - np.nanmean(similarities, axis=1)).astype(np.float32),
        num_pairs=state.num_pairs,
    )


def _blocks(
    features_ND: Float16[np.ndarray, "N D"], *, block_rows: int
) -> Iterator[tuple[int, int, Float32[np.ndarray, "A B"]]]:
    """Yield the first row, the first column and the cosines of each block of the upper triangle, itself left out."""
    num = len(features_ND)
    for first in range(0, num, block_rows):
        left_AD = _unit(features_ND[first : first + block_rows])
        for other in range(first, num, block_rows):
            right_BD = left_AD if other == first else _unit(features_ND[other : other + block_rows])
            block_AB = left_AD @ right_BD.T
            if other == first:
                np.fill_diagonal(block_AB, -np.inf)
            yield first, other, block_AB


def _unit(features_BD: Float16[np.ndarray, "B D"]) -> Float32[np.ndarray, "B D"]:
    wide_BD = np.asarray(features_BD, dtype=np.float32)
    return wide_BD / np.linalg.norm(wide_BD, axis=1, keepdims=True)
