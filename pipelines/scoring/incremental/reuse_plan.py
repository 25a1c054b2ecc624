"""Decide which listed images keep the row of an earlier job: those of the same source and content.

The listing and the sources of the earlier labels are joined as Arrow columns in the driver's memory (about 0.6 kB per
image at the peak).
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionPart
from ecor.data.predictions.parts import read_part
from pipelines.config.stages import SinceCheck
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.content_check import compare_contents
from pipelines.scoring.incremental.earlier_labels import EarlierLabels

_COUNTS = b"ecor.since"
_NUM_READERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseCounts:
    """What became of the listed images and of the earlier labels; raises ValueError when the counts do not add up."""

    num_listed: int
    """Images that are listed now."""
    num_reused: int
    """Of these: unchanged, so that the earlier row stays."""
    num_changed: int
    """Of these: labelled before, with another content."""
    num_new: int
    """Of these: without a label before. They are new, or were rejected."""
    num_before: int
    """Earlier labels."""
    num_vanished: int
    """Earlier labels whose image is not listed any more."""
    num_compared: int
    """Images whose content was read and compared, because size and time did not decide."""

    def __post_init__(self) -> None:
        listed = self.num_reused + self.num_changed + self.num_new
        before = self.num_reused + self.num_changed + self.num_vanished
        if (self.num_listed, self.num_before) != (listed, before) or min(asdict(self).values()) < 0:
            raise ValueError(f"{self.line().replace(' = ', ' is not ')}: an image was lost or counted twice")

    def line(self) -> str:
        """`10 images = 7 reused + 1 changed + 2 new; 9 labels before = 7 reused + 1 changed + 1 vanished`."""
        compared = f"; {self.num_compared} compared by content" if self.num_compared else ""
        return (
            f"{self.num_listed} images = {self.num_reused} reused + {self.num_changed} changed + {self.num_new} new; "
            f"{self.num_before} labels before = {self.num_reused} reused + {self.num_changed} changed + "
            f"{self.num_vanished} vanished{compared}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusePlan:
    """For each of N listed images: its row among the earlier labels, and whether it stays."""

    part: Int[np.ndarray, " N"]
    """Position among the parts of the earlier labels; -1 without an earlier label."""
    row: Int[np.ndarray, " N"]
    """Row of the part; -1 without an earlier label."""
    is_reused: Bool[np.ndarray, " N"]
    counts: ReuseCounts

    def add_to(self, listing: pa.Table) -> pa.Table:
        """A listing with the columns of the plan."""
        columns = {"part": self.part.astype(np.int32), "row": self.row.astype(np.int32), "is_reused": self.is_reused}
        for name, values in columns.items():
            listing = listing.append_column(name, pa.array(values))
        return listing.replace_schema_metadata({_COUNTS: json.dumps(asdict(self.counts))})

    @classmethod
    def from_listing(cls, listing: pa.Table) -> "ReusePlan":
        """Read what `add_to` has added."""
        columns = {name: listing[name].to_numpy() for name in ("part", "row", "is_reused")}
        return cls(**columns, counts=ReuseCounts(**json.loads(listing.schema.metadata[_COUNTS])))


def plan_reuse(
    listing: pa.Table, earlier: EarlierLabels, *, check: SinceCheck, allow_http: tuple[str, ...] = ()
) -> ReusePlan:
    """Join a listing with earlier labels by source, and decide which labels stay.

    An image of the same size and time is unchanged (`check` = "time"), one of another size has changed. All others are
    read, and compared by content.

    Args:
        listing: of `pipelines.scoring.incremental.listing_record.listing_table`.
        earlier: the earlier labels.
        check: "time", or "content" to compare all contents.
        allow_http: hosts on the web from which images are read.

    Raises:
        ValueError: when a part of the earlier labels is missing or altered, or has an image twice.
        OSError: when a disk or a store fails.
    """
    found = _read_places(earlier)
    position_N = _unique(_positions(listing["source"], among=found["source"]))
    same_N, other_N = _compare_states(listing, earlier.read_listing())
    had_label_N = position_N >= 0
    is_reused_N = had_label_N & same_N & (check == "time")
    compared_N = np.flatnonzero(had_label_N & ~is_reused_N & ~other_N)
    sources = listing["source"].take(pa.array(compared_N)).to_pylist()
    keys = found["key"].take(pa.array(position_N[compared_N])).to_pylist()
    is_reused_N[compared_N] = compare_contents(sources, keys, allow_http=allow_http)
    counts = ReuseCounts(
        num_listed=listing.num_rows,
        num_reused=int(is_reused_N.sum()),
        num_changed=int((had_label_N & ~is_reused_N).sum()),
        num_new=int((~had_label_N).sum()),
        num_before=earlier.labels.num_rows,
        num_vanished=pc.sum(pc.invert(pc.is_in(found["source"], value_set=listing["source"]))).as_py() or 0,
        num_compared=len(compared_N),
    )
    part_N, row_N = (_at(found[name].to_numpy(), position_N) for name in ("part", "row"))
    return ReusePlan(part=part_N, row=row_N, is_reused=is_reused_N, counts=counts)


def _read_places(earlier: EarlierLabels) -> pa.Table:
    """Key, source, part and row of each earlier label."""
    parts = earlier.labels.parts
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        tables = list(pool.map(lambda each: _read_names(earlier, each), parts))
    empty = pa.table({name: pa.array([], pa.large_string()) for name in ("key", "source")})
    found = pa.concat_tables([empty, *tables]).combine_chunks()
    num_rows = [part.num_rows for part in parts]
    rows = np.concatenate([np.zeros(0, np.int64), *map(np.arange, num_rows)])
    require(
        pc.count_distinct(found["source"]).as_py() == found.num_rows,
        f"{earlier.folder} has two labels of one image: leave out --since to label all images again",
    )
    return found.append_column("part", pa.array(np.repeat(np.arange(len(parts)), num_rows))).append_column(
        "row", pa.array(rows)
    )


def _read_names(earlier: EarlierLabels, part: PredictionPart) -> pa.Table:
    table = retry_in_store(lambda: read_part(earlier.folder, part, columns=["key", "source"]), place=earlier.folder)
    return table.cast(pa.schema([("key", pa.large_string()), ("source", pa.large_string())]))


def _positions(values: pa.ChunkedArray, *, among: pa.ChunkedArray) -> Int[np.ndarray, " N"]:
    """Position of each value; -1 where it is not there."""
    found = pc.index_in(values, value_set=among, skip_nulls=True)
    return found.fill_null(-1).to_numpy().astype(np.int64)


def _unique(position_N: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """A table can list one image under two names: the second one is new."""
    first = np.unique(position_N, return_index=True)[1]
    is_first_N = np.zeros(len(position_N), dtype=bool)
    is_first_N[first] = True
    return np.where(is_first_N, position_N, -1)


def _compare_states(
    listing: pa.Table, before: pa.Table | None
) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Whether size and time are known and equal, and whether the sizes are known and differ."""
    if before is None:
        return np.zeros(listing.num_rows, dtype=bool), np.zeros(listing.num_rows, dtype=bool)
    position_N = pa.array(_positions(listing["source"], among=before["source"]))
    known = position_N.filter(pc.greater_equal(position_N, 0))
    is_listed_N = np.asarray(position_N) >= 0
    same_N, other_N = is_listed_N.copy(), is_listed_N.copy()
    now, then = listing.filter(pa.array(is_listed_N)), before.take(known)
    same_size, same_time = (_equal(now, then, name=name) for name in ("num_bytes", "modified_ns"))
    same_N[is_listed_N] = same_size.fill_null(False).to_numpy() & same_time.fill_null(False).to_numpy()
    other_N[is_listed_N] = pc.invert(same_size).fill_null(False).to_numpy()
    return same_N, other_N


def _equal(now: pa.Table, then: pa.Table, *, name: str) -> pa.ChunkedArray:
    return pc.equal(now[name], then[name])


def _at(values: np.ndarray, position_N: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Values at positions; -1 where there is no position."""
    if not len(values):
        return np.full(len(position_N), -1)
    return np.where(position_N >= 0, values[position_N], -1)


def vanished_rows(plan: ReusePlan, parts: Sequence[PredictionPart]) -> list[Int[np.ndarray, " V"]]:
    """Rows of each part of the earlier labels whose image is not listed any more."""
    found = []
    order = np.argsort(plan.part, kind="stable")
    starts = np.searchsorted(plan.part[order], np.arange(len(parts) + 1))
    for number, part in enumerate(parts):
        is_gone = np.ones(part.num_rows, dtype=bool)
        is_gone[plan.row[order[starts[number] : starts[number + 1]]]] = False
        found.append(np.flatnonzero(is_gone))
    return found
