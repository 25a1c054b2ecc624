"""Create a file in a remote store unless it exists, also where the store cannot refuse a second write."""

import logging
import time
import uuid
from contextlib import suppress
from functools import lru_cache
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from ecor.storage.addresses import CLIENTS
from ecor.storage.store_errors import error_code

SETTLE_S = 2.0
"""Pause before the check, in stores that cannot create exclusively: longer than a small write needs (ours)."""
_WITHOUT_FOLDERS = frozenset(CLIENTS) | {"abfs", "abfss", "az"}
"""Object stores. Making a folder there does nothing, or creates a bucket with a misspelt name."""
_log = logging.getLogger(__name__)


def create_in_store(store: Any, path: str, data: bytes) -> bool:
    """Write a file unless one exists, and return whether this call wrote it.

    S3 and Google's store refuse a second put. Whether a store does is probed once per folder. In a store that does not,
    the file is read again `SETTLE_S` after the write: this is exclusive only while a put takes less time.

    Args:
        store: an fsspec file system, not a local one.
        path: within the store.
        data: all bytes of the file.
    """
    make_parent_folder(store, path)
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


def make_parent_folder(store: Any, path: str) -> None:
    if not isinstance(store, MemoryFileSystem) and not _WITHOUT_FOLDERS & set(_protocols(store)):
        store.makedirs(path.rpartition("/")[0], exist_ok=True)


def _protocols(store: Any) -> tuple[str, ...]:
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


def _supports_exclusive_create(store: Any, folder: str) -> bool:
    """Whether the store refuses a second exclusive put. Memory and Google's store do; others are probed."""
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
    with suppress(PermissionError):  # permission to write does not include permission to delete
        store.rm_file(path)
    if not is_refused:
        _log.warning("%s cannot create exclusively: every record is read again after %g s", folder, SETTLE_S)
    return is_refused


def _is_failed_condition(error: OSError) -> bool:
    """Whether a conditional put failed; some S3-compatible stores give a code that s3fs does not translate."""
    return error_code(error) in ("PreconditionFailed", "412")


def _write_and_check(store: Any, path: str, data: bytes) -> bool:
    """Write, wait, and return whether `data` is what the store kept, of several concurrent writes."""
    with suppress(FileNotFoundError):
        return store.cat_file(path) == data  # an earlier attempt of ours may have succeeded
    store.pipe_file(path, data)
    time.sleep(SETTLE_S)
    return store.cat_file(path) == data
