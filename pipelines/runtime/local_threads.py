"""Run a function on many items in threads of this process, as tasks of a cluster would run it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_LAST_ITEMS_S = 10.0
"""How long threads are waited for when the caller ends before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalThreads:
    """Threads that run one function at a time."""

    num_threads: int
    patience_s: float
    """Seconds without a result after which `run` fails."""

    def run(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        """Call `work` with each item; yields item and result, in the order in which they end.

        A thread that hangs does not keep the process from its end.

        Args:
            work: called in several threads at once.
            items: its arguments.

        Raises:
            TimeoutError: when no call ends within `patience_s`.
            Exception: what a call raised; no item is begun after it.
        """
        waiting: Queue[Item | None] = Queue()
        for item in chain(items, [None] * self.num_threads):
            waiting.put(item)
        ended: Queue[tuple[Any, Any, BaseException | None]] = Queue()
        is_over = Event()

        def work_on() -> None:
            while not is_over.is_set() and (item := waiting.get()) is not None:
                try:
                    ended.put((item, work(item), None))
                except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                    is_over.set()
                    ended.put((item, None, error))

        threads = [Thread(target=work_on, daemon=True) for _ in range(min(self.num_threads, len(items)))]
        for thread in threads:
            thread.start()
        try:
            for _ in items:
                item, result, error = self._wait_for(ended)
                if error is not None:
                    raise error
                yield item, result
        finally:
            is_over.set()
            deadline = time.monotonic() + _LAST_ITEMS_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _wait_for(self, ended: "Queue[Any]") -> Any:
        try:
            return ended.get(timeout=self.patience_s)
        except Empty:
            raise TimeoutError(
                f"nothing was read or written for {self.patience_s:g} s: look whether the disk or the store answers, "
                "or wait longer with --cluster.no-progress-timeout-s; the same command resumes from here"
            ) from None
