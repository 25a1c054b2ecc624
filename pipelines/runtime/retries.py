"""Retry operations on a remote store after short pauses, and count the retries for Prometheus."""

from collections.abc import Callable
from typing import TypeVar

from ecor.storage import filesystem
from ecor.storage.retries import with_retries
from pipelines.runtime.prometheus import RETRIES, count

PAUSES_S = (0.1, 0.5, 2.0)
_FINAL = (FileExistsError, FileNotFoundError, PermissionError)
Result = TypeVar("Result")


def retry_in_store(operation: Callable[[], Result], *, place: str) -> Result:
    """`with_retries` for an operation on the store that holds `place`; at once, without retries, on a local disk.

    A local disk that fails (it is full) stays so.
    """
    return with_retries(
        operation,
        pauses_s=() if filesystem.is_local(place) else PAUSES_S,
        final=_FINAL,
        on_retry=lambda: count(RETRIES, kind="store"),
    )
