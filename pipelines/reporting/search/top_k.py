"""The most similar images to each of some queries, exactly: a running list of the best while blocks pass by."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(slots=True)
class TopK:
    """The best `k` numbers per query so far; of equals, those with lower numbers.

    Memory: k numbers and similarities per query, and one block.
    """

    num_queries: int
    k: int
    num_seen: int = field(init=False, default=0)
    """Images that were compared with the queries."""
    _similarity: list[Float32[np.ndarray, " K"]] = field(init=False)
    _number: list[Int64[np.ndarray, " K"]] = field(init=False)

    def __post_init__(self) -> None:
        self._similarity = [np.zeros(0, dtype=np.float32)] * self.num_queries
        self._number = [np.zeros(0, dtype=np.int64)] * self.num_queries

    def add(self, similarity_QB: Float32[np.ndarray, "Q B"], *, first: int) -> None:
        """Take in the similarities of a block of images.

        Args:
            similarity_QB: of each query with each image of the block.
            first: number of the block's first image; blocks come in ascending order.
        """
        self.num_seen += similarity_QB.shape[1]
        for query, block_B in enumerate(similarity_QB):
            similarity, number = self._similarity[query], self._number[query]
            limit = similarity[-1] if len(similarity) == self.k else -np.inf
            better = np.flatnonzero(block_B > limit)
            similarity = np.concatenate([similarity, block_B[better]])
            number = np.concatenate([number, better + first])
            best = np.argsort(-similarity, kind="stable")[: self.k]
            self._similarity[query], self._number[query] = similarity[best], number[best]

    def set_best(self, query: int, *, similarity: Float32[np.ndarray, " K"], number: Int64[np.ndarray, " K"]) -> None:
        """Take the result of another search for a query: numbers and similarities, best first."""
        self._similarity[query], self._number[query] = similarity, number

    def of(self, query: int) -> tuple[Float32[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Similarities and numbers for a query, best first; fewer than k where there are fewer images."""
        return self._similarity[query], self._number[query]
