"""Read and write whole files on local disks, S3, Google Cloud Storage and other stores of fsspec.

Files appear under their name only when they are complete. Listings are never cached. Errors of a store become
OSErrors that name the address. `docs/stores.md` lists the guarantees of each store.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from ecor.storage.addresses import Address as Address
from ecor.storage.addresses import is_local as is_local
from ecor.storage.addresses import join as join
from ecor.storage.addresses import local_path as local_path
from ecor.storage.addresses import store_of as store_of
from ecor.storage.atomic_write import create_file_once, link_or_copy, replace_file, write_folder
from ecor.storage.exclusive_create import create_in_store, make_parent_folder
from ecor.storage.folder_walk import FileFacts as FileFacts
from ecor.storage.folder_walk import FolderEntry as FolderEntry
from ecor.storage.folder_walk import file_facts_below as file_facts_below
from ecor.storage.folder_walk import files_below as files_below
from ecor.storage.folder_walk import list_folder as list_folder
from ecor.storage.folder_walk import names_in as names_in
from ecor.storage.store_errors import AddressError as AddressError
from ecor.storage.store_errors import CredentialsError as CredentialsError
from ecor.storage.store_errors import translate_errors


def exists(address: Address) -> bool:
    """Whether a file or a folder exists. A store that fails raises OSError; it does not return False."""
    return _info(address) is not None


def is_file(address: Address) -> bool:
    """Whether a file exists."""
    info = _info(address)
    return info is not None and info["type"] == "file"


def is_folder(address: Address) -> bool:
    """Whether a folder exists; in object stores, whether any name has this prefix."""
    info = _info(address)
    return info is not None and info["type"] == "directory"


def modification_time(address: Address) -> datetime | None:
    """Time of the last write by the store's own clock; None if there is no file."""
    store, path = store_of(address)
    try:
        with translate_errors(address):
            return store.modified(path)
    except FileNotFoundError:
        return None


def num_bytes(address: Address) -> int:
    """Size of a file.

    Raises:
        FileNotFoundError: when it does not exist.
        IsADirectoryError: when the address is a folder.
    """
    store, path = store_of(address)
    with translate_errors(address):
        info = store.info(path)
    if info["type"] != "file":
        raise IsADirectoryError(f"{address} is a folder")
    return info["size"]


def read(address: Address, *, start: int | None = None, end: int | None = None) -> bytes:
    """Read a file, or a part of its bytes.

    Args:
        address: of the file.
        start: the first byte; None: from the beginning.
        end: the byte after the last one; None: to the end.

    Raises:
        FileNotFoundError: when it does not exist.
    """
    store, path = store_of(address)
    with translate_errors(address):
        return store.cat_file(path, start=start, end=end)


@contextmanager
def open_file(address: Address) -> Iterator[Any]:
    """Open a binary file for reading."""
    store, path = store_of(address)
    with translate_errors(address), store.open(path, "rb") as file:
        yield file


def download(address: Address, path: Path) -> None:
    """Copy a file to a local path."""
    store, name = store_of(address)
    with translate_errors(address):
        store.get_file(name, str(path))


def copy(source: Address, target: Address) -> None:
    """Copy a file atomically; on local disks this is a hard link where they allow it, in one store no byte is read."""
    (store, path), (other, target_path) = store_of(source), store_of(target)
    if isinstance(store, LocalFileSystem) and isinstance(other, LocalFileSystem):
        link_or_copy(Path(path), Path(target_path))
    elif store is other:
        with translate_errors(source):
            make_parent_folder(store, target_path)
            store.cp_file(path, target_path)
    else:
        with write_atomically(*os.fspath(target).rsplit("/", 1)) as staged:
            download(source, staged)


@contextmanager
def local_folder(folder: Address) -> Iterator[Path]:
    """Yield a local path of a folder: the folder itself, or a temporary copy of a remote one."""
    if is_local(folder):
        yield local_path(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in files_below(folder):
            target = Path(scratch) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            download(join(folder, name), target)
        yield Path(scratch)


@contextmanager
def local_file(address: Address) -> Iterator[Path]:
    """Yield a local path of a file: the file itself, or a temporary copy of the same name."""
    if is_local(address):
        yield local_path(address)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / os.fspath(address).rpartition("/")[2]
        download(address, path)
        yield path


def write(address: Address, data: bytes) -> None:
    """Write a file atomically; an existing one is replaced."""
    store, path = store_of(address)
    if isinstance(store, LocalFileSystem):
        with write_atomically(*os.path.split(path)) as staged:
            staged.write_bytes(data)
        return
    with translate_errors(address):
        make_parent_folder(store, path)
        store.pipe_file(path, data)


def write_json(address: Address, content: Mapping[str, Any]) -> None:
    """Write a JSON file with sorted keys."""
    write(address, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def write_atomically(folder: Address, name: str) -> Iterator[Path]:
    """Yield a local path to write to; publish the file as `folder/name` when the block ends without an error."""
    store, root = store_of(folder)
    if isinstance(store, LocalFileSystem):
        with replace_file(Path(root) / name) as staged:
            yield staged
        return
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "staged"
        yield staged
        with translate_errors(join(folder, name)):
            make_parent_folder(store, f"{root}/{name}")
            store.put_file(str(staged), f"{root}/{name}")  # object stores show a whole object or none


def replace_folder(source: Path, folder: Address, *, last: str) -> None:
    """Copy a local folder to `folder`, and replace what is there.

    On local disks this is a rename. In stores, the file `last` is removed first and written last: where it exists, the
    folder is complete.

    Args:
        source: local.
        folder: local or in a store.
        last: name of a file in `source`.
    """
    if not is_local(folder):
        remove(join(folder, last))
        remove(folder)
        publish_files(source, folder, last=last)
        return
    with write_folder(local_path(folder)) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)


def publish_files(source: Path, folder: Address, *, last: str) -> None:
    """Copy the files of a local folder one by one to another folder.

    Args:
        source: local.
        folder: local or in a store; its other files stay.
        last: name of the file that is copied at the end.
    """
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda each: each == last):
        within, _, file = name.rpartition("/")
        with write_atomically(join(folder, within) if within else folder, file) as staged:
            shutil.copyfile(source / name, staged)


def create(address: Address, data: bytes) -> bool:
    """Write a file unless one exists, and return whether this call wrote it. Of several callers, one writes.

    Local disks use a hard link. S3 and Google's store use a conditional put. For stores that ignore the condition, see
    `ecor.storage.exclusive_create`.
    """
    store, path = store_of(address)
    if isinstance(store, LocalFileSystem):
        return create_file_once(Path(path), lambda staged: staged.write_bytes(data))
    with translate_errors(address):
        return create_in_store(store, path, data)


def remove(address: Address) -> None:
    """Remove a file or a folder with its content, if it exists."""
    store, path = store_of(address)
    info = _info(address)
    with suppress(FileNotFoundError), translate_errors(address):  # another job may remove it too
        if info is not None and info["type"] == "directory":
            store.rm(path, recursive=True)
        elif info is not None:
            store.rm_file(path)


def _info(address: Address) -> dict[str, Any] | None:
    store, path = store_of(address)
    try:
        with translate_errors(address):
            return store.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
