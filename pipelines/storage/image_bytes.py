"""Read the bytes of image files on disk or in a store; only regular files of at most 1 GiB."""

import errno
import os
import re
import stat
from contextlib import suppress

from ecor.storage import filesystem
from ecor.storage.members.member_address import split_member
from ecor.storage.web.allowed_hosts import is_web_address
from pipelines.config.addresses import check_address
from pipelines.runtime.retries import retry_in_store, retry_on_web

MAX_BYTES = 2**30
"""Largest encoded image (our choice): an image of the largest decoded size needs fewer bytes in every format."""
_MAX_NAME_BYTES = 1024
"""Limit of S3 and of Google Cloud Storage for the name of an object."""
_FILE_ERRORS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
    | {errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EINVAL}
)
"""Errors of the file or of its name, as opposed to those of a disk that may work again later."""


class UnreadableError(OSError):
    """A file that is no image file, may not be read, or does not exist: another attempt would fail too."""


class MissingError(UnreadableError):
    """A file that does not exist."""


def read_image_bytes(url: str, *, allow_http: tuple[str, ...] = ()) -> bytes:
    """Read all bytes of a file on disk, in a store, in an archive or on the web.

    Calls of a store are retried (`retry_in_store`), and those of a web server (`retry_on_web`).

    Args:
        url: address of the file.
        allow_http: hosts on the web that are read (`ecor.storage.web.allowed_hosts`).

    Raises:
        UnreadableError: the fault is the file's: it does not exist, may not be read, is no plain file (reading a pipe
            or a device would never end), is larger than `MAX_BYTES`, or its address is of no store or of one whose
            client is not installed; any fault of a web server.
        OSError: any other; the fault is the disk's or the store's.
    """
    if is_web_address(url):
        return _read_web(url, allow_http=allow_http)
    if "://" not in url and split_member(url) is None:
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


def _read_web(url: str, *, allow_http: tuple[str, ...]) -> bytes:
    if not allow_http:
        raise UnreadableError(f"{url} is on the web: `ecor shard` and `ecor score` read it with --allow-http")
    from ecor.storage.web.web_reader import WebError, web_reader  # aiohttp takes a while to import

    reader = web_reader(allow_http)
    try:
        return retry_on_web(lambda: reader.read(url), final=(WebError, FileNotFoundError))
    except FileNotFoundError as error:
        raise MissingError(str(error)) from error
    except OSError as error:
        raise UnreadableError(str(error)) from error


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
        named = OSError(error.errno, error.strerror, path)  # errors of an open file do not name it
        if error.errno not in _FILE_ERRORS:
            raise named from error
        raise (MissingError if error.errno == errno.ENOENT else UnreadableError)(str(named)) from error


def _read_plain_file(handle: int, *, path: str) -> bytes:
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableError(f"{path} is not a plain file")
    _check_size(facts.st_size, url=path)
    with open(handle, "rb", closefd=False) as file:
        return file.read(facts.st_size)


def _read_object(url: str) -> bytes | UnreadableError:
    """Read an object; returns (not raises) the error if the fault is the object's, so that it is not retried."""
    try:
        with suppress(PermissionError):  # the error of the read below has the reason
            num_bytes = filesystem.num_bytes(url)
            _check_size(num_bytes, url=url)
            if num_bytes == 0:
                return b""  # stores refuse a range of an empty object
        data = filesystem.read(url, end=MAX_BYTES + 1)  # it may have been replaced by a larger one
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
    """Whether a name is valid UTF-8; file systems and JSON can hold others."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape_name(name: str) -> str:
    r"""Escape the characters of a name that are not valid UTF-8, as `\udc..`."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_within(address: str, *, folder: str) -> bool:
    """Whether an address is a folder or lies in it, by whatever links and spellings.

    Args:
        address: absolute path or URI.
        folder: absolute path or URI.
    """
    return path_within(address, folder=folder) is not None


def path_within(address: str, *, folder: str) -> str | None:
    """Return the path of an address below a folder, "" for the folder itself; None if it does not lie in it.

    Args:
        address: absolute path or URI.
        folder: absolute path or URI.
    """
    found, outer = _real_address(address), _real_address(folder)
    if found == outer:
        return ""
    return found[len(outer) :].lstrip("/") if found.startswith(f"{outer.rstrip('/')}/") else None


def _real_address(address: str) -> str:
    """A path without links; of a store one spelling of protocol and slashes."""
    if filesystem.is_local(address):
        return os.path.realpath(filesystem.local_path(address))
    protocol, _, path = address.partition("://")
    return f"{protocol.removesuffix('a') if protocol == 's3a' else protocol}://{re.sub('/+', '/', path).rstrip('/')}"


def join_source(source: str, *, root: str) -> str:
    """Return the address of an image: `source` below `root`, unless it is an absolute path or a URI.

    Args:
        source: as a table or a listing names the image.
        root: address of its folder.
    """
    return source if "://" in source or source.startswith("/") else f"{root}/{source}"
