"""Retry an operation on a store after an error."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")
MOST_PAUSE_S = 30.0
"""Longest pause that a server can ask for (our choice)."""


class RetryLaterError(OSError):
    """Another attempt may succeed; the server may have said when."""

    def __init__(self, message: str, *, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


def with_retries(
    operation: Callable[[], Result],
    *,
    pauses_s: Sequence[float],
    final: tuple[type[OSError], ...] = (FileNotFoundError,),
    on_retry: Callable[[], object] = lambda: None,
) -> Result:
    """Return what the operation returns; after an OSError, run it again from its beginning.

    It may run twice to its end: a store that reports a failure may have done what it was asked for.

    Args:
        operation: reads from or writes to a store.
        pauses_s: seconds to wait before each further attempt; none: one attempt. A `RetryLaterError` may ask for a
            longer pause, up to `MOST_PAUSE_S`.
        final: errors that another attempt would not mend: they are raised at once.
        on_retry: called before each pause.

    Raises:
        OSError: when the last attempt fails, or an error is `final`.
    """
    for pause_s in pauses_s:
        try:
            return operation()
        except final:
            raise
        except OSError as error:
            on_retry()
            asked_s = error.after_s if isinstance(error, RetryLaterError) else 0.0
            time.sleep(max(pause_s, min(asked_s, MOST_PAUSE_S)))
    return operation()
