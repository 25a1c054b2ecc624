"""Keep the parts of a unit of work, as workers make them, until one worker has them all."""

from collections.abc import Callable
from functools import partial

from ecor.storage import filesystem
from pipelines.runtime.retries import Result, retry_in_store
from pipelines.storage.attempt import Attempt

_PIECES = "_pieces"


class UnitPieces:
    """The unfinished units of a folder of labels; local, or in a store."""

    def __init__(self, folder: str) -> None:
        self._folder = filesystem.join(folder, _PIECES)

    def write(self, attempt: Attempt, *, index: int, data: bytes) -> None:
        """Store a part of a unit until all parts exist; writing the same part again is allowed."""
        self._retry(lambda: filesystem.write(filesystem.join(self._of(attempt), _name(index)), data))

    def read(self, attempt: Attempt, *, num_pieces: int) -> list[bytes] | None:
        """The parts of a unit in order; None unless all exist."""
        folder, names = self._of(attempt), [_name(index) for index in range(num_pieces)]
        if not set(names) <= set(self._retry(lambda: filesystem.names_in(folder))):
            return None
        try:
            return [self._retry(partial(filesystem.read, filesystem.join(folder, name))) for name in names]
        except FileNotFoundError:
            return None  # another worker has assembled the unit in the meantime

    def remove(self, attempt: Attempt) -> None:
        """Delete the parts of a unit that is written."""
        self._retry(lambda: filesystem.remove(self._of(attempt)))

    def remove_all(self) -> None:
        """Delete the parts of all units."""
        self._retry(lambda: filesystem.remove(self._folder))

    def _of(self, attempt: Attempt) -> str:
        return filesystem.join(self._folder, f"{attempt.unit}-{attempt.name}")

    def _retry(self, operation: Callable[[], Result]) -> Result:
        return retry_in_store(operation, place=self._folder)


def _name(index: int) -> str:
    return f"{index:05d}.arrow"
