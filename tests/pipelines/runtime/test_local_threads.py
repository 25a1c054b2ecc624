"""Threads give every item's result once, and an error, a hang or a caller that ends leaves nothing running."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.runtime import local_threads
from pipelines.runtime.local_threads import LocalThreads


@given(items=st.lists(st.integers(), max_size=20), num_threads=st.integers(1, 5))
def test_each_item_has_its_result(items: list[int], num_threads: int) -> None:
    threads = LocalThreads(num_threads=num_threads, patience_s=20)
    found = list(threads.run(lambda item: item * 2, items))
    assert sorted(found) == sorted((item, item * 2) for item in items)


def test_as_many_threads_as_asked_for_work_at_once() -> None:
    together = threading.Barrier(3, timeout=20)
    threads = LocalThreads(num_threads=3, patience_s=20)
    assert len(list(threads.run(lambda item: together.wait(), range(6)))) == 6


def test_after_an_error_no_item_is_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("bad item")
        return item

    with pytest.raises(ValueError, match="bad item"):
        list(LocalThreads(num_threads=1, patience_s=20).run(work, range(100)))
    num_begun = len(begun)
    time.sleep(0.05)
    assert len(begun) == num_begun < 100


def test_a_caller_that_ends_waits_for_what_is_begun() -> None:
    ended: list[int] = []

    def work(item: int) -> int:
        time.sleep(0.02)
        ended.append(item)
        return item

    results = LocalThreads(num_threads=2, patience_s=20).run(work, range(100))
    next(results)
    results.close()
    num_ended = len(ended)
    time.sleep(0.1)
    assert len(ended) == num_ended < 100


def test_a_call_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_threads, "_LAST_ITEMS_S", 0.05)
    answered = threading.Event()
    with pytest.raises(TimeoutError, match=r"nothing was read or written for 0\.1 s.*--cluster\.no-progress-timeout-s"):
        list(LocalThreads(num_threads=1, patience_s=0.1).run(lambda item: answered.wait(20), [1]))
    answered.set()
