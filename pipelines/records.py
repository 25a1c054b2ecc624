"""Small JSON records in, each written by one and read by all out: exclusive creation in a folder of any store."""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.metrics import RETRIES, count

Record = dict[str, Any]
_SUFFIX = ".json"
_READ_AT_ONCE = 16
PAUSES_S = (0.1, 0.5, 2.0)
Result = TypeVar("Result")


def patiently(deed: Callable[[], Result], *, store: str) -> Result:
    """What a deed in a store returns, tried again after pauses while the store fails; then what it raised.

    The deed may be done twice: a store that fails may have done it. Local disks are not asked again: a disk that is
    full stays so.
    """
    is_local = isinstance(fsspec.url_to_fs(store)[0], LocalFileSystem)
    for pause_s in () if is_local else PAUSES_S:
        try:
            return deed()
        except (FileExistsError, FileNotFoundError, PermissionError):
            raise
        except OSError:
            count(RETRIES, kind="store")
            time.sleep(pause_s)
    return deed()


class Records:
    """The records of one folder, by name; a store that fails for a moment is asked again."""

    def __init__(self, folder: str | Path) -> None:
        """`folder` is any address fsspec writes; it is made with the first record."""
        self.folder = str(folder)

    def create(self, name: str, record: Mapping[str, Any]) -> bool:
        """Write a record unless there is one of this name; whether it was written.

        Exclusive on local disks (a hard link) and on stores whose fsspec has an exclusive create (S3's If-None-Match);
        elsewhere as exclusive as fsspec is there.
        """
        fs, path = self._place(name)
        try:
            if isinstance(fs, LocalFileSystem):
                _create_local(Path(path), _bytes(record))
            else:
                self._patiently(lambda: fs.pipe_file(path, _bytes(record), mode="create"))
        except FileExistsError:
            return False
        return True

    def settle(self, name: str, record: Mapping[str, Any]) -> Record:
        """Write a record unless there is one of this name; the one that is there."""
        if self.create(name, record):
            return json.loads(_bytes(record))
        found = self.read(name)
        return self.settle(name, record) if found is None else found  # removed in between

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record, over one of this name too."""
        fs, path = self._place(name)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._patiently(lambda: fs.pipe_file(path, _bytes(record)))

    def read(self, name: str) -> Record | None:
        """The record of this name, if there is one; ValueError when it is damaged."""
        fs, path = self._place(name)
        try:
            return _parsed(self._patiently(lambda: fs.cat_file(path)), where=path)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Of all records, sorted."""
        return sorted(_name(path) for path in self._paths())

    def read_all(self, names: Sequence[str]) -> dict[str, Record]:
        """The records of these names, where they are there; many are read at once."""
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            records = dict(zip(names, pool.map(self.read, names), strict=True))
        return {name: record for name, record in records.items() if record is not None}

    def modified(self, name: str) -> datetime | None:
        """When a record was last written, by the store's own clock; None when it is not there."""
        fs, path = self._place(name)
        fs.invalidate_cache(path.rpartition("/")[0])
        try:
            return self._patiently(lambda: fs.modified(path))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a record, if it is there."""
        fs, path = self._place(name)
        try:
            self._patiently(lambda: fs.rm_file(path))
        except FileNotFoundError:
            return

    def clear(self) -> None:
        """Remove all records, and the folder."""
        fs, root = fsspec.url_to_fs(self.folder)
        fs.invalidate_cache(root)
        if fs.exists(root):
            fs.rm(root, recursive=True)

    def _patiently(self, deed: Callable[[], Result]) -> Result:
        return patiently(deed, store=self.folder)

    def _place(self, name: str) -> tuple[Any, str]:
        if not name:
            raise ValueError("a record needs a name")
        fs, root = fsspec.url_to_fs(self.folder)
        return fs, f"{root}/{quote(name, safe='').replace('.', '%2E')}{_SUFFIX}"

    def _paths(self) -> list[str]:
        fs, root = fsspec.url_to_fs(self.folder)
        fs.invalidate_cache(root)  # others write here too
        try:
            found = self._patiently(lambda: fs.ls(root, detail=False))
            return [path for path in found if path.endswith(_SUFFIX)]
        except FileNotFoundError:
            return []


def _name(path: str) -> str:
    return unquote(path.rpartition("/")[2].removesuffix(_SUFFIX))


def _bytes(record: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(record), ensure_ascii=False, sort_keys=True).encode()


def _create_local(path: Path, data: bytes) -> None:
    """All of the file or none of it, and only one of those who try: FileExistsError for the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        staged.write_bytes(data)
        path.hardlink_to(staged)
    finally:
        staged.unlink(missing_ok=True)


def _parsed(data: bytes, *, where: str) -> Record:
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"record {where} is damaged ({error}): delete it to redo its unit") from error
