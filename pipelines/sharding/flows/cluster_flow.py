"""Shard a dataset on the cluster with Ray Data: tables are lists of blocks, and one task writes one shard.

The driver holds folders, counts and shard records, never images.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import Dataset

from ecor.data.shard_manifest import ShardInfo
from ecor.storage import filesystem as store
from pipelines.runtime.ray_data import map_blocks, materialize, raise_causes, run_tasks, wait_for_all
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.inspection import IMAGES_PER_READ, inspect_images, read_inspected_part
from pipelines.sharding.listing import list_images
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import Block, Made, ShardUnit, is_intact
from pipelines.sharding.shard_writer import make_shard
from pipelines.sharding.shards_folder import write_rows
from pipelines.sharding.sources.source_places import Place, Source
from pipelines.storage.work_ledger import WorkLedger

_IMAGES_PER_BLOCK = 1024
_NUM_BLOCKS = 500
"""Blocks of a listing of many images, at least: each costs the driver about 90 kB."""
_MAX_IMAGES_PER_BLOCK = 65_536
"""So that a task that is lost and done again is one of minutes."""
_IMAGES_PER_BUCKET = 4096
_ROWS_PER_SORTED_BLOCK = 16_384
"""At least."""
_ROWS_PER_PIECE = 1024
"""Of a sorted block, at least: 400 kB."""
_TASKS_AHEAD = 256
"""Shards that are begun, at least: the driver holds a task for each, and looks at all when one ends."""
_SORTED_BY = ["split", "key"]


@dataclass(frozen=True, slots=True)
class ClusterRows:
    """Rows in blocks of Ray Data; `Rows` says what each method does."""

    dataset: Dataset

    def count(self) -> int:
        return int(self.dataset.count())

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.dataset.iter_rows())

    def map_tables(self, change: Callable[[pa.Table], pa.Table]) -> "ClusterRows":
        return ClusterRows(map_blocks(self.dataset, change))

    def write_inspected(self, folder: str, *, job: ShardJob) -> None:
        inspect = partial(inspect_images, job=job)
        findings = self.dataset.map_batches(inspect, batch_size=IMAGES_PER_READ, batch_format="pyarrow")
        file_system, path = store.store_of(folder)  # fsspec's, as everywhere: one client, one set of credentials
        findings.write_parquet(path, filesystem=file_system, try_create_dir=store.is_local(folder))

    def to_table(self) -> pa.Table:
        return pa.concat_tables(wait_for_all(self.dataset.to_arrow_refs()), promote_options="default")

    def mark_duplicates(self, held: Mapping[str, str]) -> "ClusterRows":
        num_buckets = max(1, -(-self.count() // _IMAGES_PER_BUCKET))
        valid = map_blocks(self.dataset, partial(_bucket_by_content, num_buckets=num_buckets))
        mark = partial(mark_duplicate_rows, held=dict(held))
        marked = valid.groupby("bucket").map_groups(mark, batch_format="pyarrow")
        return ClusterRows(materialize(marked))

    def sort(self) -> list[Block]:
        references = materialize(self.dataset.sort(_SORTED_BY)).to_arrow_refs()
        counts = wait_for_all([_count_splits.remote(each) for each in references])
        return [Block(rows=each, num_by_split=found) for each, found in zip(references, counts, strict=True)]

    def write_table(self, *, schema: pa.Schema, folder: str, name: str) -> None:
        wait_for_all([_write_rows.remote(schema, folder, name, *self.dataset.to_arrow_refs())])


@dataclass(frozen=True, slots=True)
class ClusterFlow:
    """The cluster that this process is connected to; `Flow` says what each method does."""

    is_local: bool = False

    def read_inspected(self, folder: str) -> ClusterRows:
        """In the object store: `read_parquet` takes seconds to begin, each time it is used.

        To sort n blocks, Ray Data cuts each into n pieces. The driver holds them all, and those under 100 kB with their
        rows: so blocks grow with the square root of the rows, and pieces stay as large as they are.
        """
        paths = [{"path": store.join(folder, name)} for name in store.names_in(folder)]
        parts = ray.data.from_items(paths, override_num_blocks=len(paths))
        rows = parts.map_batches(_read_batch, batch_size=1, batch_format="pyarrow").materialize()
        num_rows = max(_ROWS_PER_SORTED_BLOCK, math.isqrt(_ROWS_PER_PIECE * rows.count()))
        return _divide(rows, num_rows=num_rows)

    def spread(self, table: pa.Table) -> ClusterRows:
        starts = range(0, max(1, table.num_rows), _IMAGES_PER_BLOCK)
        return ClusterRows(ray.data.from_arrow([table.slice(start, _IMAGES_PER_BLOCK) for start in starts]))

    def block_of(self, table: pa.Table) -> Block:
        return Block(rows=ray.put(table), num_by_split=Counter(table["split"].to_pylist()))

    def make_shards(
        self, job: ShardJob, units: Sequence[ShardUnit], *, blocks: Sequence[Block], ledger: WorkLedger
    ) -> Iterator[tuple[ShardUnit, Made | None]]:
        sent = ray.put(job)

        def begin(unit: ShardUnit) -> Any:
            return _make_shard.remote(sent, ledger, unit, *(blocks[index].rows for index in unit.pieces))

        yield from run_tasks(begin, units, num_ahead=_num_ahead())

    def all_intact(self, shards: Sequence[tuple[str, ShardInfo]]) -> bool:
        checked = run_tasks(lambda shard: _is_intact.remote(*shard), shards, num_ahead=_num_ahead())
        return all(is_whole for _, is_whole in checked)

    def raise_causes(self) -> AbstractContextManager[None]:
        return raise_causes()


def list_all(source: Source) -> ClusterRows:
    """All files of the input, left-out ones included, as rows of LISTING_SCHEMA."""
    places = [{"place": json.dumps(asdict(place))} for place in (*source.places, *source.left_out_places)]
    one_each = ray.data.from_items(places, override_num_blocks=len(places))
    listed = one_each.map_batches(_list_batch, batch_size=1, batch_format="pyarrow").materialize()
    num_rows = min(max(_IMAGES_PER_BLOCK, listed.count() // _NUM_BLOCKS), _MAX_IMAGES_PER_BLOCK)
    return _divide(listed, num_rows=num_rows)


def _divide(rows: Dataset, *, num_rows: int) -> ClusterRows:
    """Computed rows, in blocks of so many; `strict`, for otherwise blocks are divided and not put together."""
    return ClusterRows(rows.repartition(target_num_rows_per_block=num_rows, strict=True).materialize())


def _num_ahead() -> int:
    """Tasks that keep all CPUs busy, and let a cluster that grows on demand see the demand."""
    return max(_TASKS_AHEAD, 4 * int(ray.cluster_resources().get("CPU", 0)))


def _list_batch(batch: pa.Table) -> Iterator[pa.Table]:
    for place in batch["place"].to_pylist():
        yield from list_images(Place(**json.loads(place)))


def _read_batch(batch: pa.Table) -> pa.Table:
    return read_inspected_part(batch["path"][0].as_py())


def _bucket_by_content(table: pa.Table, *, num_buckets: int) -> pa.Table:
    """Copies meet in one bucket of thousands, because Ray Data takes as long for a group of one."""
    table = table.filter(pc.is_null(table["reason"]))
    buckets = [int(sha256[:8], 16) % num_buckets for sha256 in table["sha256"].to_pylist()]
    return table.append_column("bucket", pa.array(buckets, pa.int64()))


@ray.remote(num_cpus=1)
def _count_splits(block: pa.Table) -> dict[str, int]:
    return dict(Counter(block["split"].to_pylist())) if block.num_rows else {}


_write_rows = ray.remote(num_cpus=1)(write_rows)
_make_shard = ray.remote(num_cpus=1)(make_shard)
_is_intact = ray.remote(num_cpus=1)(is_intact)
