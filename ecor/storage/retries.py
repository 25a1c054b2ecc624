"""Retry an operation on a store after an error."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")


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
        pauses_s: seconds to wait before each further attempt; none: one attempt.
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
        except OSError:
            on_retry()
            time.sleep(pause_s)
    return operation()
