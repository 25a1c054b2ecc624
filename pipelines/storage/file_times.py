"""Size and time of the last write of a file: what tells, without reading it, that it is still the same."""

from contextlib import suppress

from ecor.storage import filesystem
from ecor.storage.filesystem import FileFacts
from ecor.storage.web.allowed_hosts import is_web_address

SETTLED_S = 60
"""A file that was written less than so many seconds before the listing has no known time. It may be written again
within the same tick of the store's clock (up to 2 s), which may differ from this machine's (our choice)."""


def settled_time(modified_ns: int | None, *, listed_ns: int) -> int | None:
    """Time of the last write; None where it is later than `SETTLED_S` before the listing began, or unknown."""
    return None if modified_ns is None or modified_ns > listed_ns - SETTLED_S * 10**9 else modified_ns


def read_facts(address: str) -> FileFacts | None:
    """Size and time of a file that no listing names; None in stores and on the web, which take a request each, and
    where it fails."""
    if is_web_address(address):
        return None
    with suppress(ValueError, OSError):  # the image is rejected when it is read
        if filesystem.is_local(address):
            found = filesystem.local_path(address).stat()
            return FileFacts(found.st_size, found.st_mtime_ns)
    return None
