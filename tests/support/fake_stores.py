"""Stores in memory for tests: with a clock of their own, with operations that fail, or that take turns."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class ClockedStore(MemoryFileSystem):
    """Memory whose clock is set by the test, and which may be told what to do before each operation."""

    protocol = "clocked"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    now_s: ClassVar[float] = 0.0
    before: ClassVar[Callable[[str, str], None]] = staticmethod(lambda deed, path: None)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        ClockedStore.before("write", path)
        super().pipe_file(path, value, mode=mode, **kwargs)
        self.store[self._strip_protocol(path)].modified = datetime.fromtimestamp(0, UTC) + timedelta(
            seconds=ClockedStore.now_s
        )

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        ClockedStore.before("read", path)
        return super().cat_file(path, start=start, end=end, **kwargs)


fsspec.register_implementation("clocked", ClockedStore, clobber=True)


@dataclass
class Failures:
    """How often a store has failed."""

    num: int = 0


class FailingStore(ClockedStore):
    """A clocked store of which every n-th call fails: by turns before it does anything, and after it did all."""

    protocol = "failing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls: ClassVar[Iterator[int]] = itertools.count()
    fails: ClassVar[Callable[[int], bool]] = staticmethod(lambda call: False)
    failures: ClassVar[Failures] = Failures()

    @classmethod
    @contextmanager
    def failing(cls, *, period: int, phase: int) -> Iterator[Failures]:
        """An empty store whose calls number `phase`, `phase + period`, … fail."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.calls, cls.failures = itertools.count(), Failures()
        cls.fails = staticmethod(lambda call: call % period == phase % period)
        try:
            yield cls.failures
        finally:
            cls.fails = staticmethod(lambda call: False)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._perhaps_failing(lambda: ClockedStore.pipe_file(self, path, value, mode=mode, **kwargs), path=path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        return self._perhaps_failing(lambda: ClockedStore.cat_file(self, path, start=start, end=end), path=path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return self._perhaps_failing(lambda: ClockedStore.ls(self, path, detail=detail, **kwargs), path=path)

    def modified(self, path: str) -> datetime:
        return self._perhaps_failing(lambda: ClockedStore.modified(self, path), path=path)

    def rm_file(self, path: str) -> None:
        self._perhaps_failing(lambda: MemoryFileSystem._rm(self, path), path=path)

    def _perhaps_failing(self, deed: Callable[[], Any], *, path: str) -> Any:
        if not FailingStore.fails(next(FailingStore.calls)):
            return deed()
        FailingStore.failures.num += 1
        if FailingStore.failures.num % 2:
            deed()
        raise OSError(f"the store fails at {path}")


fsspec.register_implementation("failing", FailingStore, clobber=True)


@contextmanager
def failing_reads(*, times: int, error: Exception | None = None) -> Iterator[None]:
    """Clocked stores of which each file fails the first `times` times that it is read, while the block lasts."""
    left: dict[str, int] = {}

    def before(deed: str, path: str) -> None:
        left[path] = left.get(path, times) - (deed == "read")
        if deed == "read" and left[path] >= 0:
            raise error or OSError(f"the store fails at {path}")

    ClockedStore.before = staticmethod(before)
    try:
        yield
    finally:
        ClockedStore.before = staticmethod(lambda deed, path: None)


@contextmanager
def empty_store() -> Iterator[str]:
    """The address of an empty clocked store at time 0."""
    ClockedStore.store.clear()
    ClockedStore.pseudo_dirs[:] = [""]
    ClockedStore.now_s = 0.0
    try:
        yield "clocked://ledger"
    finally:
        ClockedStore.before = staticmethod(lambda deed, path: None)


def taking_turns(deeds: Sequence[Callable[[], Any]], *, turns: Iterator[int]) -> list[Any]:
    """Results of deeds in threads whose store operations happen one at a time, in the order that `turns` says.

    Each number of `turns` picks one of the threads that are not done. The same turns give the same history.
    """
    results: list[Any] = [None] * len(deeds)
    go = [threading.Semaphore(0) for _ in deeds]
    stopped = threading.Semaphore(0)
    index_of: dict[int, int] = {}

    def wait(deed: str, path: str) -> None:
        index = index_of.get(threading.get_ident())
        if index is not None:
            stopped.release()
            go[index].acquire()

    def work(index: int) -> None:
        index_of[threading.get_ident()] = index
        go[index].acquire()
        try:
            results[index] = deeds[index]()
        except Exception as error:  # noqa: BLE001 - raised by who started the deeds
            results[index] = error
        finally:
            done[index] = True
            stopped.release()

    done = [False] * len(deeds)
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(deeds))]
    ClockedStore.before = staticmethod(wait)
    for thread in threads:
        thread.start()
    for turn in itertools.chain(turns, itertools.count()):
        waiting = [index for index, is_done in enumerate(done) if not is_done]
        if not waiting:
            break
        go[waiting[turn % len(waiting)]].release()
        assert stopped.acquire(timeout=20), "a deed hangs outside the store"
    ClockedStore.before = staticmethod(lambda deed, path: None)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results
