"""List a folder, or all files below it, on any store; what cannot be listed is an error, never fewer files."""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from ecor.storage.addresses import Address, store_of
from ecor.storage.store_errors import translate_errors

_NO_TARGET = frozenset({errno.ENOENT, errno.ELOOP, errno.EACCES, errno.ENOTDIR})
"""Errors of a link that leads nowhere: it is listed, with 0 bytes, and reading it fails."""
TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified")
"""Names under which file systems of fsspec list the time of the last write."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a listing says of a file."""

    num_bytes: int
    modified_ns: int | None
    """Time of the last write by the store's clock, in nanoseconds since 1970; None where the listing has none."""


def walk_files(
    store: Any, root: str, *, may_fail: Callable[[str], bool], follow_links: bool = False
) -> Iterator[tuple[str, FileFacts]]:
    """Relative path, size and time of every file below `root`, in no order; nothing if there is no such folder.

    fsspec's own walk omits folders that it cannot read.

    Args:
        store: file system of fsspec.
        root: path in it.
        may_fail: whether files of a folder of this name are not missed, so that it may be unreadable.
        follow_links: go into links to folders; otherwise each is listed as a file, which cannot be read.

    Raises:
        OSError: PermissionError or any other, for the first folder that cannot be listed.
    """
    if isinstance(store, LocalFileSystem):
        try:
            is_there = stat.S_ISDIR(os.stat(root).st_mode)  # noqa: PTH116 - a path that fsspec has resolved
        except (FileNotFoundError, NotADirectoryError):
            return
        if is_there:
            yield from _walk_disk(root, "", may_fail=may_fail, above=(_identity(root),) if follow_links else None)
        return
    found: Iterable[Any]
    if _find_of(type(store)) in (AbstractFileSystem.find, AsyncFileSystem._find):  # its walk omits errors
        found = _walk_store(store, root, root=root, may_fail=may_fail)
    else:  # one request for all names, as object stores do
        found = store.find(root, detail=True).values()
    for entry in found:
        if not is_marker(entry, root=root):
            yield entry["name"][len(root) :].lstrip("/"), FileFacts(entry["size"], _modified_ns(entry))


def _walk_store(store: Any, folder: str, *, root: str, may_fail: Callable[[str], bool]) -> Iterator[Any]:
    try:
        entries = store.ls(folder, detail=True)
    except FileNotFoundError:
        return  # it has no folders of its own, and the last file in this one was removed meanwhile
    except OSError:
        if any(map(may_fail, folder[len(root) :].split("/"))):
            return
        raise
    for entry in entries:
        name = entry["name"].rstrip("/")
        if entry["type"] == "directory" and name != folder.rstrip("/"):
            yield from _walk_store(store, name, root=root, may_fail=may_fail)
        elif entry["type"] != "directory":
            yield entry


def is_marker(entry: Any, *, root: str) -> bool:
    """Whether an entry is an empty object that some programs create as a folder."""
    return entry["name"].rstrip("/") == root.rstrip("/") or (entry["name"].endswith("/") and entry["type"] == "file")


def _walk_disk(
    folder: str, within: str, *, may_fail: Callable[[str], bool], above: tuple[tuple[int, int], ...] | None
) -> Iterator[tuple[str, FileFacts]]:
    """`above` are the folders on the way here, if links are followed: a link back to one is not."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except FileNotFoundError:
        return  # removed meanwhile
    except OSError:
        if within and any(map(may_fail, within.rstrip("/").split("/"))):
            return
        raise
    for entry in found:
        is_linked = above is not None and _leads_to_folder(entry)
        here = (
            _identity(entry.path) if above is not None and (is_linked or entry.is_dir(follow_symlinks=False)) else None
        )
        if entry.is_dir(follow_symlinks=False) or (is_linked and here not in (above or ())):
            below = None if above is None or here is None else (*above, here)
            yield from _walk_disk(entry.path, f"{within}{entry.name}/", may_fail=may_fail, above=below)
        elif (facts := _facts(entry)) is not None:
            yield f"{within}{entry.name}", facts


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError as error:
        if error.errno in _NO_TARGET:
            return False
        raise


def _facts(entry: "os.DirEntry[str]") -> FileFacts | None:
    """Size and time; None for a file that was removed meanwhile."""
    try:
        found = entry.stat()
        return FileFacts(found.st_size, found.st_mtime_ns)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not entry.is_symlink():
            return None
        if entry.is_symlink() and error.errno in _NO_TARGET:
            return FileFacts(0, None)
        raise


def _modified_ns(entry: Mapping[str, Any]) -> int | None:
    """Time of the last write in an entry of fsspec; to the microsecond."""
    found = next((entry[name] for name in TIMES if entry.get(name) is not None), None)
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return None
    if isinstance(found, datetime):
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return round(found * 1e6) * 1000 if isinstance(found, int | float) else None


def _identity(folder: str) -> tuple[int, int]:
    facts = os.stat(folder)  # noqa: PTH116
    return facts.st_dev, facts.st_ino


def _find_of(kind: type) -> Any:
    return getattr(kind, "_find", None) or kind.find  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderEntry:
    """A name in a folder."""

    name: str
    is_folder: bool
    num_bytes: int
    is_linked_folder: bool = False
    """A link to a folder, on a disk of this machine."""


def list_folder(folder: Address, *, follow_links: bool = False) -> list[FolderEntry]:
    """Entries of a folder, sorted by name; empty if there is no folder. Links to folders are folders if followed."""
    store, root = store_of(folder)
    try:
        with translate_errors(folder):
            found = store.ls(root, detail=True)
    except FileNotFoundError:
        return []
    named = {each["name"].rstrip("/").rpartition("/")[2]: each for each in found if not is_marker(each, root=root)}
    return [
        FolderEntry(
            name=name,
            is_folder=each["type"] == "directory" or (follow_links and _is_linked_folder(each)),
            num_bytes=each.get("size") or 0,
            is_linked_folder=_is_linked_folder(each),
        )
        for name, each in sorted(named.items())
    ]


def names_in(folder: Address) -> list[str]:
    """Names in a folder, sorted; empty if there is no folder."""
    return [entry.name for entry in list_folder(folder)]


def files_below(
    folder: Address, *, may_fail: Callable[[str], bool] = lambda name: False, follow_links: bool = False
) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by relative path, sorted; `walk_files` says what is raised."""
    found = file_facts_below(folder, may_fail=may_fail, follow_links=follow_links)
    return {name: facts.num_bytes for name, facts in found.items()}


def file_facts_below(
    folder: Address, *, may_fail: Callable[[str], bool] = lambda name: False, follow_links: bool = False
) -> dict[str, FileFacts]:
    """Sizes and times of all files below a folder, by relative path, sorted; `walk_files` says what is raised."""
    store, root = store_of(folder)
    with translate_errors(folder):
        found = walk_files(store, root, may_fail=may_fail, follow_links=follow_links)
        return dict(sorted(found, key=lambda entry: entry[0]))


def _is_linked_folder(info: Mapping[str, Any]) -> bool:
    return bool(info.get("islink")) and os.path.isdir(info["name"])  # noqa: PTH112 - False where a link leads nowhere
