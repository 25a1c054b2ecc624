"""Shard a small dataset in this process: one table of rows, threads that inspect images and write shards.

Functions, records and bytes are those of `pipelines.sharding.flows.cluster_flow`: each resumes what the other began.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.data.shard_manifest import ShardInfo
from ecor.storage import filesystem as store
from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime.console import progress_bar
from pipelines.runtime.local_run import num_local_cpus
from pipelines.runtime.local_threads import LocalThreads
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.inspection import IMAGES_PER_READ, INSPECTED_SCHEMA, inspect_images, read_inspected_part
from pipelines.sharding.listing import LISTING_SCHEMA, ROWS_AT_ONCE, list_images
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import Block, Made, ShardUnit, is_intact
from pipelines.sharding.shard_writer import make_shard
from pipelines.sharding.shards_folder import write_rows
from pipelines.sharding.sources.source_places import Place, Source
from pipelines.storage.work_ledger import WorkLedger

_FILES_PER_IMAGE = 10
"""Files that are left out count too: a listing is kept whole."""


@dataclass(frozen=True, slots=True)
class LocalRows:
    """Rows in one table; `Rows` says what each method does."""

    table: pa.Table
    threads: LocalThreads

    def count(self) -> int:
        return int(self.table.num_rows)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.table.to_pylist())

    def map_tables(self, change: Callable[[pa.Table], pa.Table]) -> "LocalRows":
        return LocalRows(change(self.table), self.threads)

    def write_inspected(self, folder: str, *, job: ShardJob) -> None:
        pieces = [self.table.slice(start, IMAGES_PER_READ) for start in range(0, self.count(), IMAGES_PER_READ)]
        found = [INSPECTED_SCHEMA.empty_table()]
        with progress_bar("inspecting", total=self.count(), unit="files") as advance:
            for piece, table in self.threads.run(lambda piece: inspect_images(piece, job=job), pieces):
                found.append(table)
                advance(piece.num_rows)
        with store.write_atomically(folder, "0.parquet") as path:
            pq.write_table(pa.concat_tables(found), path)

    def to_table(self) -> pa.Table:
        return self.table

    def mark_duplicates(self, held: Mapping[str, str]) -> "LocalRows":
        return self.map_tables(lambda table: mark_duplicate_rows(table.filter(pc.is_null(table["reason"])), held=held))

    def sort(self) -> list[Block]:
        return [_block_of(self.table.sort_by([("split", "ascending"), ("key", "ascending")]))]

    def write_table(self, *, schema: pa.Schema, folder: str, name: str) -> None:
        write_rows(schema, folder, name, self.table)


@dataclass(frozen=True, slots=True)
class LocalFlow:
    """This process; `Flow` says what each method does."""

    threads: LocalThreads
    is_local: bool = True

    def read_inspected(self, folder: str) -> LocalRows:
        paths = [store.join(folder, name) for name in store.names_in(folder)]
        return LocalRows(pa.concat_tables([read_inspected_part(path) for path in paths]), self.threads)

    def spread(self, table: pa.Table) -> LocalRows:
        return LocalRows(table, self.threads)

    def block_of(self, table: pa.Table) -> Block:
        return _block_of(table)

    def make_shards(
        self, job: ShardJob, units: Sequence[ShardUnit], *, blocks: Sequence[Block], ledger: WorkLedger
    ) -> Iterator[tuple[ShardUnit, Made | None]]:
        yield from self.threads.run(
            lambda unit: make_shard(job, ledger, unit, *(blocks[index].rows for index in unit.pieces)), units
        )

    def all_intact(self, shards: Sequence[tuple[str, ShardInfo]]) -> bool:
        return all(is_whole for _, is_whole in self.threads.run(lambda shard: is_intact(*shard), shards))

    def raise_causes(self) -> AbstractContextManager[None]:
        return nullcontext()


def _block_of(rows: pa.Table) -> Block:
    return Block(rows=rows, num_by_split=Counter(rows["split"].to_pylist()))


def local_flow(cluster: ClusterConfig) -> LocalFlow:
    """The flow of a job in this process, with a thread per CPU."""
    num_threads = num_local_cpus(cluster)
    return LocalFlow(LocalThreads(num_threads=num_threads, patience_s=cluster.no_progress_timeout_s))


def list_few(source: Source, *, flow: LocalFlow, most: int) -> LocalRows | None:
    """All files of the input, as `cluster_flow.list_all` lists them; None if there are more than `most` images."""
    most_files = _FILES_PER_IMAGE * most
    found, num_images, num_files = [LISTING_SCHEMA.empty_table()], 0, 0

    def list_some(place: Place) -> list[pa.Table]:
        return list(islice(list_images(place), most_files // ROWS_AT_ONCE + 1))

    for _, tables in flow.threads.run(list_some, (*source.places, *source.left_out_places)):
        for table in tables:
            found.append(table)
            num_files += table.num_rows
            num_images += table["left_out"].null_count
        if num_images > most or num_files > most_files:
            return None
    return LocalRows(pa.concat_tables(found).combine_chunks(), flow.threads)
