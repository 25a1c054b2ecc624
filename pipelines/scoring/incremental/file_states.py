"""Sizes and times of listed images: what tells, without reading an image, that it is still the same."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from ecor.storage.filesystem import FileFacts
from pipelines.storage.file_times import read_facts, settled_time

_NUM_READERS = 16
_FILES_AT_ONCE = 4096
_UNKNOWN = FileFacts(0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStates:
    """States of N images, in the order of their listing; null where unknown."""

    num_bytes: pa.Int64Array
    """[N]"""
    modified_ns: pa.Int64Array
    """[N] time of the last write, in nanoseconds since 1970."""

    @classmethod
    def of(cls, facts: Sequence[FileFacts], *, listed_ns: int) -> "FileStates":
        """States from a listing that began at `listed_ns`: later times, and those shortly before it, are unknown."""
        times = [settled_time(each.modified_ns, listed_ns=listed_ns) for each in facts]
        sizes = [None if each is _UNKNOWN else each.num_bytes for each in facts]
        return cls(num_bytes=pa.array(sizes, pa.int64()), modified_ns=pa.array(times, pa.int64()))


def read_states(addresses: Sequence[str]) -> FileStates:
    """States of files that no listing names; unknown for files in stores, which take a request each."""
    began, found = time.time_ns(), list[FileFacts]()
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        for start in range(0, len(addresses), _FILES_AT_ONCE):
            found += (each or _UNKNOWN for each in pool.map(read_facts, addresses[start : start + _FILES_AT_ONCE]))
    return FileStates.of(found, listed_ns=began)
