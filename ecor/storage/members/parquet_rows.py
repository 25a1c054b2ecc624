"""Unpack the images of a Parquet file's row groups to temporary files, and read them from there in any order."""

import os
import shutil
import tempfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.storage.members.member_files import Container

_ROWS_AT_ONCE = 16
_READ_BYTES = 2**20


def bytes_field(schema: pa.Schema, column: str) -> tuple[str, pa.DataType] | None:
    """The path and type of the bytes of a column: its own, or those of its field `bytes`; None where it has none."""
    index = schema.get_field_index(column)
    if index < 0:
        return None
    kind = schema.field(index).type
    if isinstance(kind, pa.StructType) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
        return (f"{column}.bytes", inner) if _is_binary(inner) else None
    return (column, kind) if _is_binary(kind) else None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


class ParquetRows:
    """Row groups are unpacked to a temporary file in pieces of 16 rows, so memory holds a page and 16 images."""

    def __init__(self, container: Container) -> None:
        self._file = pq.ParquetFile(container.store.open(container.path, "rb"), buffer_size=_READ_BYTES)
        metadata = self._file.metadata
        self._starts = list(
            accumulate((metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)), initial=0)
        )
        self.num_rows: int = metadata.num_rows
        self._lock = threading.Lock()
        self._unpacked: OrderedDict[tuple[str, int], _UnpackedGroup] = OrderedDict()

    def value(self, column: str, row: int) -> bytes | None:
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            found = self._unpacked.get((column, group))
            if found is None:
                field = bytes_field(self._file.schema_arrow, column)
                if field is None:
                    raise KeyError(column)
                found = self._unpacked[column, group] = self._unpack(field[0], column=column, group=group)
                self._drop_oldest()
            self._unpacked.move_to_end((column, group))
            return found.value(row - self._starts[group])

    def _unpack(self, path: str, *, column: str, group: int) -> "_UnpackedGroup":
        unpacked = _UnpackedGroup()
        for batch in self._file.iter_batches(
            batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[path], use_threads=False
        ):
            values = batch.column(0)
            unpacked.add(values.field("bytes") if pa.types.is_struct(values.type) else values)
        unpacked.end()
        return unpacked

    def _drop_oldest(self) -> None:
        most = _most_unpacked_bytes()
        while len(self._unpacked) > 1 and sum(each.num_bytes for each in self._unpacked.values()) > most:
            self._unpacked.popitem(last=False)


def _most_unpacked_bytes() -> int:
    """Half of the disk that is free now, shared with as many processes as there are CPUs (our choice)."""
    return shutil.disk_usage(tempfile.gettempdir()).free // (2 * (os.cpu_count() or 1))


class _UnpackedGroup:
    """The images of a row group one after the other in a file without a name, which ends with this object."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        self._lengths: list[int] = []
        self._ends: np.ndarray = np.zeros(1, dtype=np.int64)

    @property
    def num_bytes(self) -> int:
        return int(self._ends[-1])

    def add(self, values: Any) -> None:
        """More rows, in order; null is no bytes at all, and told apart from empty ones."""
        for value in values:
            data = None if not value.is_valid else value.as_buffer()
            self._lengths.append(-1 if data is None else data.size)
            if data is not None:
                self._file.write(data)

    def end(self) -> None:
        self._file.flush()
        self._ends = np.concatenate([[0], np.cumsum(np.maximum(self._lengths, 0), dtype=np.int64)]).astype(np.int64)

    def value(self, row: int) -> bytes | None:
        if self._lengths[row] < 0:
            return None
        return os.pread(self._file.fileno(), self._lengths[row], int(self._ends[row]))
