"""Read and write whole files on local disks, S3, Google Cloud Storage and other stores of fsspec.

A file is seen under its name when it is whole. Nothing here trusts a listing that was made before. An error of a store
is an OSError that names the address; `docs/stores.md` says what each store guarantees.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ecor.storage.atomic_write import create_file_once, replace_file, write_folder

Address = str | Path
"""A local path, or a URL as `s3://bucket/folder`."""

SETTLE_S = 2.0
"""Where a store cannot create exclusively: longer than a small write takes to be seen (ours)."""
_CLIENTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_WITHOUT_FOLDERS = frozenset(_CLIENTS) | {"abfs", "abfss", "az"}
"""Stores of objects: making a folder there would at best do nothing, at worst make the bucket that was misspelt."""
_CLIENT_MODULES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "requests", "urllib3")
_CREDENTIALS = ("Credential", "Token", "SSO", "Profile")
_REFUSED_CREDENTIALS = frozenset(
    {"AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NotSignedUp"}
    | {"RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired"}
)
"""Codes of stores that speak S3, which are of who asks, not of what is asked for."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderEntry:
    """A name in a folder."""

    name: str
    is_folder: bool
    num_bytes: int


class CredentialsError(PermissionError):
    """A store does not know who asks, or takes no request of theirs, whatever it is about."""


class AddressError(OSError):
    """An address that its store cannot have."""


_KINDS: tuple[type[OSError], ...] = (
    *(CredentialsError, AddressError, FileNotFoundError, FileExistsError, PermissionError),
    *(IsADirectoryError, NotADirectoryError, TimeoutError),
)
"""Types that an error of a client keeps; any other is told as an OSError."""


# Addresses


def store_of(address: Address) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Chained URLs (`a::b`) are not read: in a name, "::" is two colons. Raises ValueError for a protocol that fsspec does
    not know, or whose client is not installed.
    """
    url = os.fspath(address)
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        missing = _CLIENTS.get(protocol)
        remedy = "pip install 'ecor[remote]'" if missing else "install what it names"
        raise ValueError(f"{url}: {missing or error} is not installed: {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}: name a local path, s3:// or gs://") from error
    settings = {} if issubclass(kind, LocalFileSystem) else {"use_listings_cache": False}  # others write there too
    with translate_errors(url):
        return fsspec.filesystem(protocol, **settings), kind._strip_protocol(url)


def is_local(address: Address) -> bool:
    """Whether it is a path on this machine (or on a disk that is mounted here)."""
    return isinstance(store_of(address)[0], LocalFileSystem)


def local_path(address: Address) -> Path:
    """The path of an address that is local."""
    return Path(store_of(address)[1] if "://" in os.fspath(address) else address)


def join(folder: Address, name: str) -> str:
    """The address of a name in a folder."""
    return f"{os.fspath(folder).rstrip('/')}/{name}"


# What is there


def exists(address: Address) -> bool:
    """Whether there is a file or a folder; a store that fails is an OSError, not a no."""
    return _info(address) is not None


def is_file(address: Address) -> bool:
    """Whether there is a file."""
    info = _info(address)
    return info is not None and info["type"] == "file"


def is_folder(address: Address) -> bool:
    """Whether there is a folder; in stores of objects, whether a name begins with it."""
    info = _info(address)
    return info is not None and info["type"] == "directory"


def modification_time(address: Address) -> datetime | None:
    """When a file was last written, by the store's own clock; None where there is none."""
    store, path = store_of(address)
    try:
        with translate_errors(address):
            return store.modified(path)
    except FileNotFoundError:
        return None


def num_bytes(address: Address) -> int:
    """Size of a file; FileNotFoundError where there is none, IsADirectoryError for a folder."""
    store, path = store_of(address)
    with translate_errors(address):
        info = store.info(path)
    if info["type"] != "file":
        raise IsADirectoryError(f"{address} is a folder")
    return info["size"]


def list_folder(folder: Address) -> list[FolderEntry]:
    """What is in a folder, by name; nothing where there is no folder."""
    store, root = store_of(folder)
    try:
        with translate_errors(folder):
            found = store.ls(root, detail=True)
    except FileNotFoundError:
        return []
    named = {each["name"].rstrip("/").rpartition("/")[2]: each for each in found if not _is_marker(each, root=root)}
    return [
        FolderEntry(name=name, is_folder=each["type"] == "directory", num_bytes=each.get("size") or 0)
        for name, each in sorted(named.items())
    ]


def names_in(folder: Address) -> list[str]:
    """Names of what is in a folder, sorted; none where there is no folder."""
    return [entry.name for entry in list_folder(folder)]


def files_below(folder: Address) -> dict[str, int]:
    """Bytes of all files of a folder, at any depth, by path within it, sorted."""
    store, root = store_of(folder)
    with translate_errors(folder):
        found = store.find(root, detail=True)
    return {
        path[len(root) :].lstrip("/"): each["size"]
        for path, each in sorted(found.items())
        if not _is_marker(each, root=root)
    }


# Reading


def read(address: Address, *, start: int | None = None, end: int | None = None) -> bytes:
    """All bytes of a file, or those from `start` to before `end`; FileNotFoundError where there is none."""
    store, path = store_of(address)
    with translate_errors(address):
        return store.cat_file(path, start=start, end=end)


@contextmanager
def open_file(address: Address) -> Iterator[Any]:
    """A binary file to read piece by piece."""
    store, path = store_of(address)
    with translate_errors(address), store.open(path, "rb") as file:
        yield file


def download(address: Address, path: Path) -> None:
    """Copy a file to a local path."""
    store, name = store_of(address)
    with translate_errors(address):
        store.get_file(name, str(path))


@contextmanager
def local_folder(folder: Address) -> Iterator[Path]:
    """A folder as one of this machine: itself, or a copy that lasts as long as the block."""
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
    """A file as one of this machine: itself, or a copy with its name that lasts as long as the block."""
    if is_local(address):
        yield local_path(address)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / os.fspath(address).rpartition("/")[2]
        download(address, path)
        yield path


# Writing


def write(address: Address, data: bytes) -> None:
    """Write a file, over what was there; nobody sees half of it."""
    store, path = store_of(address)
    if isinstance(store, LocalFileSystem):
        with write_atomically(*os.path.split(path)) as staged:
            staged.write_bytes(data)
        return
    with translate_errors(address):
        _make_folder_of(store, path)
        store.pipe_file(path, data)


def write_json(address: Address, content: Mapping[str, Any]) -> None:
    """Write a small record for people and scripts."""
    write(address, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


@contextmanager
def write_atomically(folder: Address, name: str) -> Iterator[Path]:
    """A path to write to; what is written there gets its name when the block ends well, and vanishes otherwise."""
    store, root = store_of(folder)
    if isinstance(store, LocalFileSystem):
        with replace_file(Path(root) / name) as staged:
            yield staged
        return
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "staged"
        yield staged
        with translate_errors(join(folder, name)):
            _make_folder_of(store, f"{root}/{name}")
            store.put_file(str(staged), f"{root}/{name}")  # object stores show a whole object or none


def replace_folder(source: Path, folder: Address, *, last: str) -> None:
    """Put a copy of a local folder in its place, over what was there.

    On local disks by renaming. Elsewhere file by file, that named `last` first gone and last there: who finds it finds
    all.
    """
    if not is_local(folder):
        remove(join(folder, last))
        remove(folder)
        publish_files(source, folder, last=last)
        return
    with write_folder(local_path(folder)) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)


def publish_files(source: Path, folder: Address, *, last: str) -> None:
    """Bring the files of a local folder to a folder anywhere, one by one, that named `last` last."""
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda each: each == last):
        within, _, file = name.rpartition("/")
        with write_atomically(join(folder, within) if within else folder, file) as staged:
            shutil.copyfile(source / name, staged)


def create(address: Address, data: bytes) -> bool:
    """Write a file unless there is one; whether it was written. Of those who try at once, one writes.

    By a hard link on local disks, by the store's conditional put in S3 and Google's store. Where a store lets a second
    put pass, which is found out once, by looking again `SETTLE_S` after writing: that is exclusive only as long as a
    put takes less.
    """
    store, path = store_of(address)
    if isinstance(store, LocalFileSystem):
        return create_file_once(Path(path), lambda staged: staged.write_bytes(data))
    with translate_errors(address):
        _make_folder_of(store, path)
        if not _supports_exclusive_create(store, path.rpartition("/")[0]):
            return _write_and_check(store, path, data)
        try:
            store.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _is_failed_condition(error):
                return False
            raise
    return True


def remove(address: Address) -> None:
    """Remove a file, or a folder with all in it, where it is there."""
    store, path = store_of(address)
    info = _info(address)
    with suppress(FileNotFoundError), translate_errors(address):  # another job may remove it too
        if info is not None and info["type"] == "directory":
            store.rm(path, recursive=True)
        elif info is not None:
            store.rm_file(path)


# Inside


def _info(address: Address) -> dict[str, Any] | None:
    store, path = store_of(address)
    try:
        with translate_errors(address):
            return store.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_marker(info: Mapping[str, Any], *, root: str) -> bool:
    """Some programs put an empty object where a folder would be."""
    return info["name"].rstrip("/") == root.rstrip("/") or (info["name"].endswith("/") and info["type"] == "file")


def _make_folder_of(store: Any, path: str) -> None:
    if not isinstance(store, MemoryFileSystem) and not _WITHOUT_FOLDERS & set(_protocols(store)):
        store.makedirs(path.rpartition("/")[0], exist_ok=True)


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


def _supports_exclusive_create(store: Any, folder: str) -> bool:
    """Whether a second exclusive put is refused: so in memory and in Google's store, others are tried."""
    if isinstance(store, MemoryFileSystem) or {"gs", "gcs"} & set(_protocols(store)):
        return True
    return _refuses_overwrite(store, folder)


@lru_cache(maxsize=256)
def _refuses_overwrite(store: Any, folder: str) -> bool:
    path = f"{folder}/.probe-{uuid.uuid4().hex}"
    store.pipe_file(path, b"first")
    try:
        store.pipe_file(path, b"second", mode="create")
        is_refused = False
    except (FileExistsError, NotImplementedError, TypeError, ValueError) as error:
        is_refused = isinstance(error, FileExistsError)
    except OSError as error:
        is_refused = _is_failed_condition(error)
        if not is_refused:
            raise
    with suppress(PermissionError):  # who may write need not be allowed to delete
        store.rm_file(path)
    if not is_refused:
        _log.warning("%s cannot create exclusively: every record is looked at again after %g s", folder, SETTLE_S)
    return is_refused


def _is_failed_condition(error: OSError) -> bool:
    """Some stores that speak S3 refuse without saying which condition failed, which s3fs does not tell apart."""
    return error_code(error) in ("PreconditionFailed", "412")


def error_code(error: OSError) -> str | None:
    """What a store that speaks S3 calls an error that s3fs has translated."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code")


def _write_and_check(store: Any, path: str, data: bytes) -> bool:
    """Whether `data` is what stays there, of several that were written at about the same time."""
    with suppress(FileNotFoundError):
        return store.cat_file(path) == data  # ours, when the store did not tell of its success
    store.pipe_file(path, data)
    time.sleep(SETTLE_S)
    return store.cat_file(path) == data


@contextmanager
def translate_errors(address: Address) -> Iterator[None]:
    """A store's failure as an OSError that names the address, whatever its client raises."""
    url = os.fspath(address)
    try:
        yield
    except OSError as error:
        told_as = _error_type(error)
        if "://" not in url or (url in str(error) and isinstance(error, told_as)):
            raise
        raise told_as(f"{url}: {_one_line(error)}") from error
    except Exception as error:
        kind, module = type(error), type(error).__module__.partition(".")[0]
        if kind is ValueError and str(error).startswith("Bad Request:"):  # gcsfs' word for 400
            raise AddressError(f"{url}: {_one_line(error)}") from error
        if module not in _CLIENT_MODULES:
            raise
        if any(word in kind.__name__ for word in _CREDENTIALS):
            raise CredentialsError(
                f"{url}: no credentials for this store ({_one_line(error)}): set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY or AWS_PROFILE for s3://, GOOGLE_APPLICATION_CREDENTIALS for gs://"
            ) from error
        if kind.__name__ == "ParamValidationError":  # botocore's, before it sends a request
            raise AddressError(f"{url}: {_one_line(error)}") from error
        raise OSError(f"{url}: {_one_line(error)}") from error


def _error_type(error: OSError) -> type[OSError]:
    """The type that an error of a client is told as."""
    if error_code(error) in _REFUSED_CREDENTIALS:
        return CredentialsError
    if str(error).startswith("Forbidden:"):  # gcsfs' word for 403
        return PermissionError
    return next((kind for kind in _KINDS if isinstance(error, kind)), OSError)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
