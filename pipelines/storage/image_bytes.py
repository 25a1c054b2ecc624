"""Read the bytes of image files on disk or in a store; only regular files of at most 1 GiB."""

import errno
import os
import stat
from contextlib import suppress

from ecor.storage import filesystem
from pipelines.config.addresses import check_address
from pipelines.runtime.retries import retry_in_store

MAX_BYTES = 2**30
"""Of an encoded picture: one of as many pixels as are decoded is smaller in every format (ours)."""
_MAX_NAME_BYTES = 1024
"""Bytes of an object's name, in S3 and in Google's store."""
_FILE_ERRORS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
    | {errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EINVAL}
)
"""Why the system reads no file: it, or its name, is at fault, and not a disk that will work again."""


class UnreadableError(OSError):
    """A file that is no picture's, cannot be read by us, or is not there: at fault itself, whenever it is asked for."""


class MissingError(UnreadableError):
    """A file that is not there."""


def read_image_bytes(url: str) -> bytes:
    """All bytes of a file on this machine or in a store; a store that fails is asked again (`retry_in_store`).

    Raises `UnreadableError` for what is wrong with the file itself: it is not there, it may not be read, its address is
    that of no store or of one whose client is not installed, it is no plain file (reading a pipe or a device would
    never end), or it is larger than `MAX_BYTES`. Any other OSError is a disk's or a store's, and says nothing of the
    file.
    """
    if "://" not in url:
        return _read_local(url)
    try:
        check_address(url, name="the address")
        filesystem.store_of(url)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    if filesystem.is_local(url):
        return _read_local(str(filesystem.local_path(url)))
    if len(url.partition("://")[2].partition("/")[2].encode()) > _MAX_NAME_BYTES:
        raise UnreadableError(f"{url} is longer than a store's names are")
    found = retry_in_store(lambda: _read_object(url), place=url)
    if isinstance(found, UnreadableError):
        raise found
    return found


def _read_local(path: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
        try:
            return _read_plain_file(handle, path=path)
        finally:
            os.close(handle)
    except UnreadableError:
        raise
    except ValueError as error:  # a name that no file can have
        raise UnreadableError(f"{path!r}: {error}") from error
    except OSError as error:
        told = OSError(error.errno, error.strerror, path)  # of what was open the system does not say the name
        if error.errno not in _FILE_ERRORS:
            raise told from error
        raise (MissingError if error.errno == errno.ENOENT else UnreadableError)(str(told)) from error


def _read_plain_file(handle: int, *, path: str) -> bytes:
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableError(f"{path} is not a plain file")
    _check_size(facts.st_size, url=path)
    with open(handle, "rb", closefd=False) as file:
        return file.read(facts.st_size)


def _read_object(url: str) -> bytes | UnreadableError:
    """Bytes of an object, or why it has none that we read; any other error is the store's."""
    try:
        with suppress(PermissionError):  # reading is told why, looking is not
            num_bytes = filesystem.num_bytes(url)
            _check_size(num_bytes, url=url)
            if num_bytes == 0:
                return b""  # which has no first byte to ask for
        data = filesystem.read(url, end=MAX_BYTES + 1)  # whatever was put there meanwhile
        _check_size(len(data), url=url)
    except UnreadableError as error:
        return error
    except FileNotFoundError as error:
        return MissingError(str(error))
    except filesystem.CredentialsError:
        raise
    except (filesystem.AddressError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        return UnreadableError(str(error))
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return data


def _check_size(num_bytes: int, *, url: str) -> None:
    if num_bytes > MAX_BYTES:
        raise UnreadableError(f"{url} has {num_bytes} bytes, more than {MAX_BYTES}")


def is_utf8(name: str) -> bool:
    """Whether a name can be written down: file systems and JSON hold names that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape_name(name: str) -> str:
    """A name that can be written down, with what is not UTF-8 as `\\udc..`."""
    return name.encode("utf-8", "backslashreplace").decode()
