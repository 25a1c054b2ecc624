"""Resolve an address (a local path or a URL) to its fsspec file system and path."""

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ecor.storage.members.member_address import split_member
from ecor.storage.store_errors import translate_errors

Address = str | Path
"""A local path, or a URL as `s3://bucket/folder`."""


CLIENTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""Protocols of object stores, and the packages that open them."""


def store_of(address: Address) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    Chained URLs (`a::b`) are not read: in a name, "::" is two colons. Of `a.zip!/b`, it is that of the zip's members.

    Raises:
        ValueError: when fsspec does not know the protocol, or its client is not installed; when the file before `!/`
            is no archive, or damaged.
        OSError: when the disk or the store of the file before `!/` fails.
    """
    url = os.fspath(address)
    if (place := split_member(url)) is not None and (members := _open_members(place[0])) is not None:
        return members, place[1]
    protocol = url.partition("://")[0] if "://" in url else "file"
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        missing = CLIENTS.get(protocol)
        remedy = "pip install 'ecor[remote]'" if missing else "install what it names"
        raise ValueError(f"{url}: {missing or error} is not installed: {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}: name a local path, s3:// or gs://") from error
    settings = {} if issubclass(kind, LocalFileSystem) else {"use_listings_cache": False}  # others write there too
    with translate_errors(url):
        return fsspec.filesystem(protocol, **settings), kind._strip_protocol(url)


def _open_members(url: str) -> Any | None:
    """The file system of an archive's members; None where there is no such file."""
    from ecor.storage.members.member_system import open_members  # pyarrow is not needed for other addresses

    store, path = store_of(url)
    with translate_errors(url):
        return open_members(url, store=store, path=path)


def is_local(address: Address) -> bool:
    """Whether it is a path on this machine (or on a disk that is mounted here)."""
    return isinstance(store_of(address)[0], LocalFileSystem)


def local_path(address: Address) -> Path:
    """The path of an address that is local."""
    return Path(store_of(address)[1] if "://" in os.fspath(address) else address)


def join(folder: Address, name: str) -> str:
    """The address of a name in a folder."""
    return f"{os.fspath(folder).rstrip('/')}/{name}"
