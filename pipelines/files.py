"""Addresses of pictures in, their bytes out: of plain files of a sane size only, whatever a folder or table names."""

import os
import stat

from ecor import store
from pipelines.addresses import check_address

MAX_BYTES = 2**30
"""Of an encoded picture: one of as many pixels as are decoded is smaller in every format (ours)."""


def content(url: str) -> bytes:
    """All bytes of a file on this machine or in a store.

    Raises OSError for what cannot be read, for the address of no store, and for a local path that is no plain file
    (reading a pipe or a device would never end) or larger than `MAX_BYTES`.
    """
    if "://" in url:
        try:
            check_address(url, name="the address")
        except ValueError as error:
            raise OSError(str(error)) from error
        return store.read(url)
    handle = os.open(url, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    with open(handle, "rb") as file:  # noqa: PTH123 - of a handle
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{url} is not a plain file")
        if facts.st_size > MAX_BYTES:
            raise OSError(f"{url} has {facts.st_size} bytes, more than {MAX_BYTES}")
        return file.read()


def is_text(name: str) -> bool:
    """Whether a name can be written down: file systems and JSON hold names that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """A name that can be written down, with what is not UTF-8 as `\\udc..`."""
    return name.encode("utf-8", "backslashreplace").decode()
