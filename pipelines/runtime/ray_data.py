"""Map, count and write Ray Data blocks, with timeouts and with errors in the user's terms."""

import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty, Queue
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import DataContext, Dataset
from ray.data.context import ShuffleStrategy
from ray.data.exceptions import ExecutionTimeoutError

from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime.cluster import stall_error


def map_blocks(dataset: Dataset, change: Callable[[pa.Table], pa.Table]) -> Dataset:
    """Apply a function to whole blocks on workers; Ray Data passes empty blocks through unchanged.

    Args:
        dataset: the blocks.
        change: takes a block and returns a new one. It is sent to the workers.
    """
    return dataset.map_batches(change, batch_size=None, batch_format="pyarrow")


def count_rows(dataset: Dataset, *, columns: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Count the rows of each combination of values, on workers.

    Args:
        dataset: the rows.
        columns: columns whose values are combined, in this order.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for row in map_blocks(dataset, partial(_count_block, columns=tuple(columns))).iter_rows():
        for values, count in json.loads(row["counts"]):
            counts[tuple(values)] += count
    return counts


def _count_block(table: pa.Table, *, columns: Sequence[str]) -> pa.Table:
    counts = Counter(zip(*(table[name].to_pylist() for name in columns), strict=True))
    return pa.Table.from_pylist([{"counts": json.dumps(list(counts.items()))}])


def write_table(dataset: Dataset, *, schema: pa.Schema, folder: str, name: str) -> None:
    """Write a dataset as one Parquet file, sorted by its column `source`; one worker collects and writes it.

    Args:
        dataset: rows with the columns of the schema.
        schema: columns of the file.
        folder: address of the folder.
        name: name of the file.

    Raises:
        TimeoutError: when the worker does not end within the no-progress timeout.
        OSError: when the disk or the store fails.
    """
    wait_for_all([_write_blocks.remote(schema, folder, name, *dataset.to_arrow_refs())])


@ray.remote(num_cpus=1)
def _write_blocks(schema: pa.Schema, folder: str, name: str, *blocks: pa.Table) -> None:
    tables = [block.select(schema.names).cast(schema) for block in blocks if block.num_rows]
    with filesystem.write_atomically(folder, name) as path:
        pq.write_table(pa.concat_tables([schema.empty_table(), *tables]).sort_by("source"), path, compression="zstd")


@contextmanager
def ray_data_settings(
    cluster: ClusterConfig, *, bars: bool = False, max_block_bytes: int | None = None
) -> Iterator[None]:
    """Change Ray Data's settings for the block: its shuffle runs on one CPU, and errors are shown once.

    Args:
        cluster: gives the no-progress timeout.
        bars: show Ray Data's progress bars, if stderr is a terminal.
        max_block_bytes: largest size of a block; None: Ray Data's default.
    """
    context = DataContext.get_current().copy()
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED  # actors of the default never start on one CPU
    context.enable_progress_bars = bars and sys.stderr.isatty()
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = cluster.no_progress_timeout_s
    if max_block_bytes is not None:
        context.target_max_block_size = max_block_bytes
    loud = logging.getLogger("ray.data")
    level = loud.level
    loud.setLevel(logging.CRITICAL)
    try:
        with DataContext.current(context):
            yield
    finally:
        loud.setLevel(level)


@contextmanager
def raise_causes() -> Iterator[None]:
    """Raise the cause of an error that came through Ray, so that the user sees the message of the worker.

    Raises:
        ValueError: raised by a worker.
        OSError: raised by a worker.
        TimeoutError: when Ray Data made no progress within the timeout.
    """
    try:
        yield
    except ExecutionTimeoutError as error:
        raise stall_error(_no_progress_timeout_s()) from error
    except ray.exceptions.RayTaskError as error:
        message, advice, _ = str(error.cause).partition("\nFailed to apply UDF")  # Ray Data's advice on retries
        if isinstance(error.cause, ValueError):
            raise ValueError(message) from error
        if isinstance(error.cause, OSError):
            raise (OSError(message) if advice else error.cause) from error
        raise


def materialize(dataset: Dataset) -> Dataset:
    """Compute all blocks of a dataset within the no-progress timeout.

    Use it for sorted or grouped datasets: Ray Data reports no progress for these, and would wait forever for a lost
    cluster. Only rows about images are sorted, never images, so one timeout is enough (our choice).

    Raises:
        TimeoutError: when the blocks are not ready in time.
    """
    made: Queue[Dataset | BaseException] = Queue()

    def make() -> None:
        try:
            made.put(dataset.materialize())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            made.put(error)

    threading.Thread(target=make, daemon=True).start()
    try:
        result = made.get(timeout=_no_progress_timeout_s())
    except Empty:
        raise stall_error(_no_progress_timeout_s()) from None
    if isinstance(result, BaseException):
        raise result
    return result


def iter_completed(tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield Ray tasks in the order in which they end.

    Raises:
        TimeoutError: when no task ends within the no-progress timeout; the remaining tasks are then cancelled.
    """
    waiting = list(tasks)
    while waiting:
        ended, waiting = ray.wait(waiting, num_returns=1, timeout=_no_progress_timeout_s())
        if not ended:
            for task in waiting:
                ray.cancel(task)
            raise stall_error(_no_progress_timeout_s())
        yield from ended


def wait_for_all(tasks: Sequence[Any]) -> list[Any]:
    """Wait for Ray tasks, and return their results in the order of the tasks.

    Raises:
        TimeoutError: as `iter_completed`.
    """
    for _ in iter_completed(tasks):
        pass
    return ray.get(list(tasks))


def _no_progress_timeout_s() -> float:
    return DataContext.get_current().execution_no_progress_timeout_s
