"""Count what became of the images and tars of earlier shards, and list the vanished images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.data.shard_manifest import ShardManifest
from ecor.storage import filesystem
from pipelines.sharding.incremental.earlier_shards import EarlierShards
from pipelines.sharding.incremental.image_record import read_record
from pipelines.sharding.shards_folder import QUARANTINE, write_rows

VANISHED_NAME = "vanished.parquet"
_VANISHED_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "split", "key", "sha256")])


@dataclass(frozen=True, slots=True, kw_only=True)
class IncrementCounts:
    """What became of images and tars; an image is a source. Raises ValueError when the counts do not add up."""

    num_listed: int
    """Images that are listed now, rejected ones included."""
    num_unchanged: int
    """Of these: with the content, labels and split of before."""
    num_changed: int
    """Of these: valid before, with another content, label or split, or rejected now."""
    num_new: int
    """Of these: not valid before."""
    num_before: int
    """Valid images of the earlier shards."""
    num_vanished: int
    """Of these: not listed any more."""
    num_tars: int
    num_tars_kept: int
    """Of these: linked or copied as they were."""
    num_tars_written: int
    num_tars_before: int
    num_tars_left: int
    """Of these: not kept, because an image in them has changed or vanished, or because they were small."""

    def __post_init__(self) -> None:
        same, changed = self.num_unchanged, self.num_changed
        counted = (same + changed + self.num_new, same + changed + self.num_vanished)
        tars = (self.num_tars_kept + self.num_tars_written, self.num_tars_kept + self.num_tars_left)
        if (
            (self.num_listed, self.num_before) != counted
            or (self.num_tars, self.num_tars_before) != tars
            or min(asdict(self).values()) < 0
        ):
            raise ValueError(f"{self.line().replace(' = ', ' is not ')}: an image or a tar was lost or counted twice")

    def line(self) -> str:
        """`10 images = 7 unchanged + 1 changed + 2 new; 9 before = …; 3 tars = 2 kept + 1 written; 3 before = …`."""
        same = f"{self.num_unchanged} unchanged + {self.num_changed} changed"
        return (
            f"{self.num_listed} images = {same} + {self.num_new} new; {self.num_before} before = {same} + "
            f"{self.num_vanished} vanished; {self.num_tars} tars = {self.num_tars_kept} kept + {self.num_tars_written} "
            f"written; {self.num_tars_before} before = {self.num_tars_kept} kept + {self.num_tars_left} left"
        )


def count_increment(folder: str, *, manifests: Mapping[str, ShardManifest], earlier: EarlierShards) -> IncrementCounts:
    """Compare finished shards with the earlier ones, and write the table of vanished images beside them.

    Args:
        folder: of the new shards.
        manifests: manifest of each of their splits.
        earlier: the earlier shards.

    Raises:
        ValueError: when a record is missing or damaged, or the counts do not add up.
        OSError: when a disk or a store fails.
    """
    now = _labels_of_sources(read_record(folder, manifests=manifests).select(["source", "row_digest"]))
    before = _labels_of_sources(earlier.record.select(["source", "row_digest"]))
    listed = pa.chunked_array([*now["source"].chunks, *_rejected_sources(folder).chunks], pa.string()).unique()
    was_there = pc.is_in(listed, value_set=before["source"])
    same_source = pc.index_in(now["source"], value_set=before["source"], skip_nulls=True)
    is_same = pc.fill_null(pc.equal(now["labels"], before["labels"].take(same_source)), False)
    num_known, num_unchanged = (pc.sum(each).as_py() or 0 for each in (was_there, is_same))
    gone = earlier.record.filter(pc.invert(pc.is_in(earlier.record["source"], value_set=listed)))
    write_rows(_VANISHED_SCHEMA, folder, VANISHED_NAME, gone)
    tars = [shard.sha256 for manifest in manifests.values() for shard in manifest.shards]
    tars_before = {tar.info.sha256 for _, tar in earlier.tars}
    num_kept = sum(sha256 in tars_before for sha256 in tars)
    return IncrementCounts(
        num_listed=len(listed),
        num_unchanged=num_unchanged,
        num_changed=num_known - num_unchanged,
        num_new=len(listed) - num_known,
        num_before=before.num_rows,
        num_vanished=pc.count_distinct(gone["source"]).as_py(),
        num_tars=len(tars),
        num_tars_kept=num_kept,
        num_tars_written=len(tars) - num_kept,
        num_tars_before=len(earlier.tars),
        num_tars_left=len(earlier.tars) - num_kept,
    )


def describe_increment(counts: IncrementCounts | None, *, earlier: EarlierShards | None) -> dict[str, Any] | None:
    """Of a job's summary: which shards were taken over, and how much of them; None without earlier shards."""
    if counts is None or earlier is None:
        return None
    return {"shards": earlier.folder, "digest": earlier.digest, **asdict(counts)}


def _labels_of_sources(rows: pa.Table) -> pa.Table:
    """A row per source; `labels` joins the digests of its rows, because a table may name one file in several rows."""
    ordered = rows.sort_by([("source", "ascending"), ("row_digest", "ascending")])
    grouped = ordered.group_by("source", use_threads=False).aggregate([("row_digest", "list")])
    labels = pc.binary_join(grouped["row_digest_list"], ",")
    return pa.table({"source": grouped["source"], "labels": labels})


def _rejected_sources(folder: str) -> pa.ChunkedArray:
    """Sources in the quarantine table; none where somebody has removed it."""
    path = filesystem.join(folder, QUARANTINE)
    if not filesystem.exists(path):
        return pa.chunked_array([], pa.string())
    with filesystem.open_file(path) as file:
        return pq.ParquetFile(file).read(columns=["source"], use_threads=False)["source"]
