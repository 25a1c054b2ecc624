"""A folder of small JSON records with exclusive creation, on disk or in any store."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ecor.storage import filesystem
from pipelines.runtime.retries import Result, retry_in_store

Record = dict[str, Any]
_SUFFIX = ".json"
_NUM_READERS = 16


class RecordStore:
    """The records of one folder, by name; operations on a remote store are retried."""

    def __init__(self, folder: str | Path) -> None:
        """Open the records of a folder, local or in a store; the first record creates the folder."""
        self.folder = str(folder)

    def create(self, name: str, record: Mapping[str, Any]) -> bool:
        """Write a record unless one of this name exists; returns whether it was written.

        How far this is exclusive depends on the store: see `ecor.storage.filesystem.create`.
        """
        address = self._address(name)
        return self._retry(lambda: filesystem.create(address, _encode(record)))

    def create_or_read(self, name: str, record: Mapping[str, Any]) -> Record:
        """Write a record unless one of this name exists; returns the record that is stored."""
        if self.create(name, record):
            return json.loads(_encode(record))
        found = self.read(name)
        return self.create_or_read(name, record) if found is None else found  # removed in between

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record; an existing one is replaced."""
        address = self._address(name)
        self._retry(lambda: filesystem.write(address, _encode(record)))

    def read(self, name: str) -> Record | None:
        """Read the record of this name; None if there is none.

        Raises:
            ValueError: when it is damaged.
        """
        address = self._address(name)
        try:
            return _parse(self._retry(lambda: filesystem.read(address)), where=address)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """List the names of all records, sorted."""
        found = self._retry(lambda: filesystem.names_in(self.folder))
        return sorted(unquote(name.removesuffix(_SUFFIX)) for name in found if name.endswith(_SUFFIX))

    def read_all(self, names: Sequence[str]) -> dict[str, Record]:
        """Read those of these records that exist, in parallel."""
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            records = dict(zip(names, pool.map(self.read, names), strict=True))
        return {name: record for name, record in records.items() if record is not None}

    def modified_at(self, name: str) -> datetime | None:
        """Return the time of a record's last write, by the store's clock; None if it does not exist."""
        address = self._address(name)
        return self._retry(lambda: filesystem.modification_time(address))

    def remove(self, name: str) -> None:
        """Remove a record; a missing one is no error."""
        address = self._address(name)
        self._retry(lambda: filesystem.remove(address))

    def clear(self) -> None:
        """Remove all records, and the folder."""
        filesystem.remove(self.folder)

    def _retry(self, operation: Callable[[], Result]) -> Result:
        return retry_in_store(operation, place=self.folder)

    def _address(self, name: str) -> str:
        if not name:
            raise ValueError("a record needs a name")
        return filesystem.join(self.folder, quote(name, safe="").replace(".", "%2E") + _SUFFIX)


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(record), ensure_ascii=False, sort_keys=True).encode()


def _parse(data: bytes, *, where: str) -> Record:
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"record {where} is damaged ({error}): delete it to redo its unit") from error


def require_other_outputs_kept(folder: str, *, record: str, key: str, stage: str) -> None:
    """Check that no record of another stage would be written over; `--fresh` removes a stage's own files alone.

    Args:
        folder: of the output.
        record: file name of the stage's record, such as `summary.json`, which several stages use.
        key: that the records of this stage have, and those of other stages have not.
        stage: for the error.

    Raises:
        ValueError: when there is a record without the key.
    """
    path = filesystem.join(folder, record)
    if not filesystem.is_file(path):
        return
    try:
        found = json.loads(filesystem.read(path))
    except ValueError:
        found = None
    if not isinstance(found, dict) or key not in found:
        raise ValueError(f"{folder} holds {record} of something else than `{stage}`: name another --output")
