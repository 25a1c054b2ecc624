"""The record of a job's listing: size and time of each image, from before it was read, for a later `--since`.

It is created once, before the first image is read, so an image that changes later never has the recorded time. A job
with `--since` also records which images keep their earlier row, so that it resumes with the same plan.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.storage import filesystem
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.file_states import FileStates
from pipelines.scoring.work_units import Listed
from pipelines.storage.image_bytes import is_utf8

RECORD_NAME = "listing.parquet"
"""Beside the commit records of the job."""
LISTING_SCHEMA = pa.schema(
    [
        pa.field("source", pa.large_string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("modified_ns", pa.int64()),
    ]
)
"""A row per image, in the order of the listing; `source` is null for a name that is not UTF-8."""


def listing_table(files: Sequence[Listed], *, states: FileStates) -> pa.Table:
    """The listing with `LISTING_SCHEMA`."""
    sources = pa.array([each.path if is_utf8(each.path) else None for each in files], pa.large_string())
    return pa.Table.from_arrays([sources, states.num_bytes, states.modified_ns], schema=LISTING_SCHEMA)


def has_listing(folder: str) -> bool:
    """Whether the folder of a job's commit records holds its listing."""
    return retry_in_store(lambda: filesystem.exists(filesystem.join(folder, RECORD_NAME)), place=folder)


def create_listing(folder: str, table: pa.Table) -> None:
    """Write the listing of a job, unless it has one.

    Args:
        folder: of the job's commit records.
        table: with the columns of `LISTING_SCHEMA`, and any others.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    retry_in_store(lambda: filesystem.create(filesystem.join(folder, RECORD_NAME), data), place=folder)


def read_listing(folder: str) -> pa.Table | None:
    """Read the listing of a job; None where none was recorded. `folder` is that of its commit records.

    Raises:
        ValueError: when the file is damaged.
        OSError: when a disk or a store fails.
    """
    path = filesystem.join(folder, RECORD_NAME)
    try:
        data = retry_in_store(lambda: filesystem.read(path), place=folder)
    except FileNotFoundError:
        return None
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        table.select(LISTING_SCHEMA.names)
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the job that wrote it again with --fresh") from error
    return table
