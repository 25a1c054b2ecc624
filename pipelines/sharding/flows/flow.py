"""What a sharding job asks of the place where it runs: operations on rows about images, and on shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa

from ecor.data.shard_manifest import ShardInfo
from pipelines.sharding.shard_job import ShardJob
from pipelines.sharding.shard_units import Block, Made, ShardUnit
from pipelines.storage.work_ledger import WorkLedger


class Rows(Protocol):
    """Rows about images, in tables: in this process, or on a cluster."""

    def count(self) -> int:
        """The number of rows."""

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """The rows, one by one."""

    def map_tables(self, change: Callable[[pa.Table], pa.Table]) -> "Rows":
        """What a function makes of each table."""

    def write_inspected(self, folder: str, *, job: ShardJob) -> None:
        """Inspect the images of a listing (`inspect_images`), and write the rows as Parquet files of a new folder."""

    def to_table(self) -> pa.Table:
        """All rows, in this process."""

    def mark_duplicates(self, held: Mapping[str, str]) -> "Rows":
        """The valid ones of inspected images; those whose bytes another one has are marked (`mark_duplicate_rows`)."""

    def sort(self) -> Sequence[Block]:
        """The rows by split and key, computed."""

    def write_table(self, *, schema: pa.Schema, folder: str, name: str) -> None:
        """Write one Parquet file, sorted by `source` (`write_rows`)."""


class Flow(Protocol):
    """Where the images of a job are inspected and its shards written."""

    @property
    def is_local(self) -> bool:
        """In this process, without a cluster."""

    def read_inspected(self, folder: str) -> Rows:
        """What `Rows.write_inspected` has written, here or elsewhere."""

    def spread(self, table: pa.Table) -> Rows:
        """Rows of this process."""

    def block_of(self, table: pa.Table) -> Block:
        """Rows of this process, sorted by split and key."""

    def make_shards(
        self, job: ShardJob, units: Sequence[ShardUnit], *, blocks: Sequence[Block], ledger: WorkLedger
    ) -> Iterator[tuple[ShardUnit, Made | None]]:
        """Make each shard (`make_shard`); yields them as they end. TimeoutError when none does for long."""

    def all_intact(self, shards: Sequence[tuple[str, ShardInfo]]) -> bool:
        """Whether shards, each with its folder, are as they were written."""

    def raise_causes(self) -> AbstractContextManager[None]:
        """Raise errors of workers as if they were raised here."""
