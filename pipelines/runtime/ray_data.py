"""Map, count and write Ray Data blocks, with timeouts and with errors in the user's terms."""

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from queue import Empty, Queue
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset
from ray.data.context import ShuffleStrategy
from ray.data.exceptions import ExecutionTimeoutError

from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime.cluster import stall_error

Item = TypeVar("Item")


def map_blocks(dataset: Dataset, change: Callable[[pa.Table], pa.Table]) -> Dataset:
    """Apply a function to whole blocks on workers; Ray Data passes empty blocks through unchanged.

    Args:
        dataset: the blocks.
        change: takes a block and returns a new one. It is sent to the workers.
    """
    return dataset.map_batches(change, batch_size=None, batch_format="pyarrow")


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


def run_tasks(begin: Callable[[Item], Any], items: Iterable[Item], *, num_ahead: int) -> Iterator[tuple[Item, Any]]:
    """Begin a task per item, some of them ahead; yields each item with its result, in the order in which tasks end.

    Args:
        begin: begins the task of an item, and returns its reference.
        items: the items.
        num_ahead: tasks that are begun and not ended, at most.

    Raises:
        TimeoutError: as `iter_completed`.
    """
    left, begun = iter(items), {}
    for item in islice(left, num_ahead):
        begun[begin(item)] = item
    while begun:
        task = next(iter_completed(list(begun)))
        yield begun.pop(task), ray.get(task)
        for item in islice(left, 1):
            begun[begin(item)] = item


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
