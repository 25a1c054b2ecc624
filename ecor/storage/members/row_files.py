"""Read images out of a column of a Parquet or Arrow file: `<column>/<row>`, a row group or record batch at a time.

A column holds bytes, or Hugging Face's struct of bytes and path. Parquet is compressed in pages, so a row group's
images are unpacked once, to a temporary file on disk, and read from there; Arrow files are mapped into memory.
"""

import tempfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from ecor.storage.members.member_files import Container, MemberError
from ecor.storage.members.parquet_rows import ParquetRows, bytes_field

_BATCHES_KEPT = 4
_STREAM_START = b"\xff\xff\xff\xff"
_FILE_START = b"ARROW1"
_NOT_READABLE = "not a {kind} file, or damaged: {error}"


class RowFiles:
    """Values of binary columns as members that are called `<column>/<row>`."""

    names: Sequence[str] = ()

    def __init__(self, container: Container, rows: "_Rows") -> None:
        self._url = container.url
        self._rows = rows

    def num_bytes(self, name: str) -> int:
        return len(self.read(name))

    def read(self, name: str) -> bytes:
        column, _, row = name.rpartition("/")
        if not row.isdecimal() or not row.isascii() or int(row) >= self._rows.num_rows:
            raise FileNotFoundError(f"{self._url} has {self._rows.num_rows} rows, and so none called {name}")
        try:
            found = self._rows.value(column, int(row))
        except KeyError as error:
            raise FileNotFoundError(f"{self._url} has no column of bytes called {column}") from error
        except (pa.ArrowException, ValueError, EOFError) as error:
            raise MemberError(f"{self._url}!/{name} is damaged: {_one_line(error)}") from error
        except OSError as error:
            if error.errno is not None:
                raise  # of the disk or the store
            raise MemberError(f"{self._url}!/{name} is damaged: {_one_line(error)}") from error
        if found is None:
            raise FileNotFoundError(f"{self._url}: row {row} has no bytes in {column}")
        return found


@runtime_checkable
class _Rows(Protocol):
    num_rows: int

    def value(self, column: str, row: int) -> bytes | None:
        """The bytes in a row, None for null. Raises KeyError for a column that has none, and errors of Arrow."""


def open_row_file(container: Container) -> RowFiles:
    """Open a Parquet or Arrow file.

    Raises:
        ValueError: when it is none, or damaged.
        OSError: when a disk or a store fails.
    """
    is_parquet = container.url.lower().endswith(".parquet")
    kind = "Parquet" if is_parquet else "Arrow"
    try:
        return RowFiles(container, ParquetRows(container) if is_parquet else _ArrowRows(container))
    except (pa.ArrowException, ValueError, EOFError) as error:
        raise ValueError(f"{container.url}: {_NOT_READABLE.format(kind=kind, error=_one_line(error))}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{container.url}: {_NOT_READABLE.format(kind=kind, error=_one_line(error))}") from error


class _ArrowRows:
    """Record batches of an Arrow stream (as `datasets` saves it) or file, mapped into memory.

    One in a store is copied to a temporary file first.
    """

    def __init__(self, container: Container) -> None:
        self._source, self._copy = _map_file(container)
        start = self._source.read(len(_FILE_START))
        self._source.seek(0)
        self._places: list[int] = []
        if start == _FILE_START:
            self._file: Any = pa.ipc.open_file(self._source)
            self.schema: pa.Schema = self._file.schema
            lengths = [self._file.get_batch(n).num_rows for n in range(self._file.num_record_batches)]
        else:
            self._file = None
            if not start.startswith(_STREAM_START):
                raise ValueError("it begins as neither a stream nor a file of Arrow")
            lengths = self._find_batches()
        self._starts = list(accumulate(lengths, initial=0))
        self.num_rows: int = self._starts[-1]
        self._lock = threading.Lock()
        self._batches: OrderedDict[int, pa.RecordBatch] = OrderedDict()

    def _find_batches(self) -> list[int]:
        """The place and the rows of each batch; only headers are touched where batches are not compressed."""
        self.schema = pa.ipc.read_schema(self._source)
        lengths, is_ended = [], False
        while not is_ended:
            place = self._source.tell()
            if place == self._source.size():
                raise ValueError("it has no end: it was cut short")
            header = self._source.read(8)
            self._source.seek(place)
            is_ended = header[4:] == bytes(4)
            if not is_ended:
                message = pa.ipc.read_message(self._source)
                if message.type != "record batch":
                    raise ValueError(f"it has a message of the type {message.type}: save it without dictionaries")
                self._places.append(place)
                lengths.append(pa.ipc.read_record_batch(message, self.schema).num_rows)
        return lengths

    def value(self, column: str, row: int) -> bytes | None:
        number = bisect_right(self._starts, row) - 1
        with self._lock:
            batch = self._batches.get(number)
            if batch is None:
                batch = self._batches[number] = self._read_batch(number)
                while len(self._batches) > _BATCHES_KEPT:
                    self._batches.popitem(last=False)
        if bytes_field(self.schema, column) is None:
            raise KeyError(column)
        values = batch.column(column)
        if pa.types.is_struct(values.type):
            values = values.field("bytes")
        found = values[row - self._starts[number]]
        return found.as_py() if found.is_valid else None

    def _read_batch(self, number: int) -> pa.RecordBatch:
        if self._file is not None:
            return self._file.get_batch(number)
        self._source.seek(self._places[number])
        return pa.ipc.read_record_batch(pa.ipc.read_message(self._source), self.schema)


def _map_file(container: Container) -> tuple[Any, Any]:
    """The file in memory maps, and the temporary file that is the copy of one in a store."""
    if isinstance(container.store, LocalFileSystem):
        return pa.memory_map(container.path), None
    copy = tempfile.NamedTemporaryFile(suffix=".arrow")  # noqa: SIM115 - it lives as long as the rows
    container.store.get_file(container.path, copy.name)
    return pa.memory_map(str(Path(copy.name))), copy


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
