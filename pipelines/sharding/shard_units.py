"""The shards of a job as units of work: the rows that each takes, what became of it, whether it is intact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Literal

from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import verify_shard

How = Literal["done", "taken over", "linked", "kept", "by another job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows of one block."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some of the images that stay, sorted by split and key."""

    rows: Any
    """A table, or Ray's reference to one."""
    num_by_split: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTar:
    """A tar of earlier shards."""

    folder: str
    """Address of its split."""
    info: ShardInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """A shard that is to be made: from rows of blocks, or as it is in earlier shards."""

    split: str
    number: int
    pieces: Mapping[int, Slice] = field(default_factory=dict)
    """Rows of each block, by the index of the block."""
    kept: KeptTar | None = None
    record: Mapping[str, Any] | None = None
    """Commit record of an earlier run."""

    @property
    def name(self) -> str:
        """Name of the unit in the ledger."""
        return f"{self.split}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A shard, and who wrote it: this run, this run after another ended without it, one before, or one meanwhile.

    It is `linked` where this run took a tar of earlier shards.
    """

    info: ShardInfo
    how: How


def pieces_of(counts: Sequence[Mapping[str, int]], *, split: str, size: int) -> list[dict[int, Slice]]:
    """For each shard of a split, the rows it takes from which blocks: `size` in all, in the order of the blocks."""
    before = [sum(count for name, count in block.items() if name < split) for block in counts]
    ends = list(accumulate((block.get(split, 0) for block in counts), initial=0))
    shards = []
    for start in range(0, ends[-1], size):
        pieces = {}
        for index, (first, last) in enumerate(pairwise(ends)):
            low, high = max(start, first), min(start + size, last)
            if low < high:
                pieces[index] = Slice(start=before[index] + low - first, stop=before[index] + high - first)
        shards.append(pieces)
    return shards


def is_intact(folder: str, info: ShardInfo) -> bool:
    """Whether a shard is as it was written."""
    try:
        verify_shard(folder, info)
    except ValueError:
        return False
    return True
