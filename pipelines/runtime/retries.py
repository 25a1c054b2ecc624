"""Retry operations on a remote store or a web server after short pauses, and count the retries for Prometheus."""

from collections.abc import Callable
from typing import TypeVar

from ecor.storage import filesystem
from ecor.storage.retries import with_retries
from pipelines.runtime.prometheus import RETRIES, count

PAUSES_S = (0.1, 0.5, 2.0)
_FINAL = (FileExistsError, FileNotFoundError, PermissionError)
Result = TypeVar("Result")


def retry_in_store(operation: Callable[[], Result], *, place: str) -> Result:
    """Run an operation on a store, with retries after short pauses; on a local disk it runs once.

    An error of a local disk does not pass by itself: a full disk stays full.

    Args:
        operation: reads from or writes to the store.
        place: any address in this store.

    Raises:
        OSError: the error of the last attempt. A file that exists, is missing or may not be read is not tried again.
    """
    return with_retries(
        operation,
        pauses_s=() if filesystem.is_local(place) else PAUSES_S,
        final=_FINAL,
        on_retry=lambda: count(RETRIES, kind="store"),
    )


def retry_on_web(operation: Callable[[], Result], *, final: tuple[type[OSError], ...]) -> Result:
    """Run an operation on a web server, with retries after short pauses, or after those that the server asks for.

    Args:
        operation: reads from the server.
        final: errors that another attempt would not mend.

    Raises:
        OSError: the error of the last attempt, or a final one.
    """
    return with_retries(operation, pauses_s=PAUSES_S, final=final, on_retry=lambda: count(RETRIES, kind="web"))
