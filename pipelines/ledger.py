"""Finished units of work in, the one record that counts for each out: what makes a stage resumable.

A unit is done when its commit record is there. Records are created exclusively: of several attempts at one unit the
first wins, and everyone reads its record. Data files need no lock then: an attempt writes under a name of its own, or
writes the same bytes as every other attempt.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

Record = dict[str, Any]
_SUFFIX = ".json"


class Ledger:
    """Commit records of one job, in a folder that is this job's alone."""

    def __init__(self, folder: str | Path) -> None:
        """`folder` is any address fsspec writes; it is made with the first record."""
        self.folder = str(folder)

    def commit(self, unit: str, record: Mapping[str, Any]) -> Record:
        """Record that `unit` is done, and return the record that counts: this one, or that of an earlier attempt.

        `record` is what readers need to find and verify the unit's output, as JSON values. Exclusive on local disks (a
        hard link) and on stores whose fsspec has an exclusive create (S3's If-None-Match); elsewhere as exclusive as
        fsspec is there.
        """
        data = json.dumps(dict(record), ensure_ascii=False, sort_keys=True).encode()
        fs, root = fsspec.url_to_fs(self.folder)
        path = f"{root}/{_file_name(unit)}"
        try:
            if isinstance(fs, LocalFileSystem):
                _create_local(Path(path), data)
            else:
                fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return _parsed(fs.cat_file(path), where=path)
        return json.loads(data)

    def committed(self) -> dict[str, Record]:
        """All units that are done, with the record that counts, in the order of their names."""
        fs, root = fsspec.url_to_fs(self.folder)
        if not fs.exists(root):
            return {}
        paths = [path for path in fs.ls(root, detail=False) if path.endswith(_SUFFIX)]
        contents = fs.cat(sorted(paths)) if paths else {}
        records = {_unit_name(path): _parsed(data, where=path) for path, data in contents.items()}
        return dict(sorted(records.items()))

    def discard(self, unit: str) -> None:
        """Forget that a unit is done, because its output was lost or damaged; it may then be committed again."""
        fs, root = fsspec.url_to_fs(self.folder)
        if fs.exists(f"{root}/{_file_name(unit)}"):
            fs.rm_file(f"{root}/{_file_name(unit)}")

    def clear(self) -> None:
        """Forget everything: the job starts anew."""
        fs, root = fsspec.url_to_fs(self.folder)
        if fs.exists(root):
            fs.rm(root, recursive=True)


def _file_name(unit: str) -> str:
    if not unit:
        raise ValueError("a unit of work needs a name")
    return quote(unit, safe="").replace(".", "%2E") + _SUFFIX


def _unit_name(path: str) -> str:
    return unquote(path.rpartition("/")[2].removesuffix(_SUFFIX))


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
        raise ValueError(f"commit record {where} is damaged ({error}): delete it to redo its unit") from error
