"""A read-only file system of fsspec over the members of one file, and the ones that are open in this process."""

import io
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from ecor.storage.folder_walk import TIMES
from ecor.storage.members.member_address import is_row_file
from ecor.storage.members.member_files import Container, MemberFiles
from ecor.storage.members.row_files import open_row_file
from ecor.storage.members.tar_files import TarFiles
from ecor.storage.members.zip_files import ZipFiles

_MOST_OPEN = 64
_MOST_MEMBERS = 2_000_000
"""Members whose names and places are kept, about 200 bytes each; of one file all are kept."""
_CHECKED_FOR_S = 60
"""A file in a store is asked so often whether it has changed; one on a disk each time."""


class MemberSystem(AbstractFileSystem):
    """Members of one file, by relative path."""

    protocol = "member"
    cachable = False

    def __init__(self, container: Container) -> None:
        super().__init__()
        self.container = container
        self.files: MemberFiles = _open_files(container)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        name = path.strip("/")
        if not name:
            return {"name": "", "size": 0, "type": "directory"}
        try:
            return self._entry(name)
        except FileNotFoundError:
            if self._names_below(name):
                return {"name": name, "size": 0, "type": "directory"}
            raise

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        folder = path.strip("/")
        found: dict[str, dict[str, Any]] = {}
        start = len(folder) + 1 if folder else 0
        for name in self._names_below(folder):
            first, slash, _ = name[start:].partition("/")
            within = name[:start] + first
            if within not in found:
                found[within] = {"name": within, "size": 0, "type": "directory"} if slash else self._entry(name)
        if not found:
            info = self.info(folder)  # FileNotFoundError where there is no such name
            found = {} if info["type"] == "directory" else {folder: info}
        return list(found.values()) if detail else sorted(found)

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any) -> Any:
        found = {name: self._entry(name) for name in self._names_below(path.strip("/"))}
        return found if kwargs.get("detail") else sorted(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        return self.files.read(path.strip("/"))[start:end]

    def modified(self, path: str) -> Any:
        self.info(path)
        return self.container.modified

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        if mode != "rb":
            raise PermissionError(f"{self.container.url} is only read")
        return io.BytesIO(self.cat_file(path))

    def _entry(self, name: str) -> dict[str, Any]:
        """With the time of the whole file: a member's own may stay when its content changes."""
        return {
            "name": name,
            "size": self.files.num_bytes(name),
            "type": "file",
            "modified": self.container.modified,
        }

    def _names_below(self, folder: str) -> list[str]:
        names = self.files.names
        if not folder:
            return list(names)
        first, last = (bisect_left(names, f"{folder}{each}") for each in ("/", "0"))  # "0" comes next after "/"
        return list(names[first:last])


def _open_files(container: Container) -> MemberFiles:
    if is_row_file(container.url):
        return open_row_file(container)
    return (TarFiles if container.url.lower().endswith(".tar") else ZipFiles)(container)


_lock = threading.Lock()
_openers: dict[str, threading.Lock] = {}
_open: "OrderedDict[str, tuple[float, MemberSystem]]" = OrderedDict()
"""By address: when it was last compared with its file, and the members; the last used ones."""


def open_members(url: str, *, store: Any, path: str) -> MemberSystem | None:
    """The members of a file; None when there is no such file.

    They are found once per process, and again when the file changes.

    Args:
        url: address of the file.
        store: file system of fsspec.
        path: of the file in it.

    Raises:
        ValueError: when the file is no archive, or damaged.
        OSError: when a disk or a store fails.
    """
    with _lock:
        opener = _openers.setdefault(url, threading.Lock())
    with opener:
        is_disk, now = isinstance(store, LocalFileSystem), time.monotonic()
        checked, system = _open.get(url, (0.0, None))
        if system is not None and not is_disk and now - checked < _CHECKED_FOR_S:
            return system
        container = _find_container(url, store=store, path=path)
        if container is None:
            return None
        if system is None or (system.container.num_bytes, system.container.modified) != (
            container.num_bytes,
            container.modified,
        ):
            system = MemberSystem(container)
        _keep(url, system, checked=now)
        return system


def _find_container(url: str, *, store: Any, path: str) -> Container | None:
    try:
        info = store.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if info["type"] != "file":
        return None
    modified = next((info[name] for name in TIMES if info.get(name) is not None), None)
    return Container(url=url, store=store, path=path, num_bytes=info["size"], modified=modified)


def _keep(url: str, system: MemberSystem, *, checked: float) -> None:
    with _lock:
        _open[url] = (checked, system)
        _open.move_to_end(url)
        num_members = sum(len(each.files.names) for _, each in _open.values())
        while len(_open) > 1 and (len(_open) > _MOST_OPEN or num_members > _MOST_MEMBERS):
            dropped = _open.popitem(last=False)[1][1]
            num_members -= len(dropped.files.names)
