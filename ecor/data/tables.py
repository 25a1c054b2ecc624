"""Read the tables that users bring: rows of a CSV, JSON Lines or Parquet file, with the place of each row.

Column names are compared without case and without spaces around them. A cell is read as what the column asks for, a
text or a list of names, and any other cell is an error that names the table, the row, the column and the value.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import PurePosixPath
from typing import Any

from ecor.data.name_parsing import unique_keys
from ecor.data.table_row import Columns, TableRow, show_value
from ecor.storage import filesystem

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")
_ROWS_AT_ONCE = 4096
_SEPARATORS = (",", ";", "\t")
_FOREIGN = {
    b"PK\x03\x04": "a zip file, such as a spreadsheet of Excel or LibreOffice: save it there as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "a spreadsheet of an old Excel: open it there and save it as CSV in UTF-8",
    b"PAR1": "a Parquet file: rename it, so that its name ends in .parquet",
    b"\x1f\x8b": "compressed by gzip: unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it with unzstd",
    b"BZh": "compressed by bzip2: unpack it with bunzip2",
    b"\xfd7zXZ": "compressed by xz: unpack it with unxz",
    b"ARROW1": "an Arrow (Feather) file: write it as Parquet",
    b"SQLite format 3": "a database of SQLite: export the table as CSV",
    b"%PDF": "a PDF: save the table as CSV in UTF-8",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file with `git lfs pull`",
}
"""How files of other formats begin."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FOREIGN_TO_PARQUET = {beginning: what for beginning, what in _FOREIGN.items() if beginning != b"PAR1"}
_START_BYTES = 64


class TableRows(Iterator[TableRow]):
    """The rows of a table, in order, and the columns that were met so far and are not read."""

    def __init__(self, rows: Iterator[TableRow], *, columns: Columns) -> None:
        self._rows, self.columns = rows, columns

    def __next__(self) -> TableRow:
        return next(self._rows)

    @property
    def num_unread(self) -> int:
        return len(self.columns.unread)

    @property
    def unread(self) -> tuple[str, ...]:
        """As they are spelled; of JSON Lines each line has its own names, so the last row may add one."""
        return tuple(self.columns.unread)

    def describe_unread(self) -> str | None:
        """A line that names them; None where all columns are read."""
        return self.columns.describe_unread()


def read_rows(address: filesystem.Address, *, required: Sequence[str], optional: Sequence[str] = ()) -> TableRows:
    """Yield the rows of a table, in order, a few thousand in memory at a time.

    A CSV file may be separated by commas, semicolons or tabs; its first line names the columns.

    Args:
        address: a local path or any address fsspec opens; its suffix is one of `TABLE_SUFFIXES`.
        required: columns that every row must have.
        optional: columns that are read where they are there.

    Raises:
        ValueError: naming the file and, where there is one, its line or row, when there is no such file, its suffix is
            another one, its text is not UTF-8, a row cannot be parsed, or a column is missing, there twice, or called
            nearly as one that is asked for, or by another common name of it.
    """
    columns = Columns(required=tuple(required), optional=tuple(optional))
    return TableRows(_rows_of(str(address), columns), columns=columns)


def _rows_of(path: str, columns: Columns) -> Iterator[TableRow]:
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path}: a table is a {', '.join(TABLE_SUFFIXES)} file, got {suffix or 'no suffix'}")
    return readers[suffix](path, columns)


def read_json_lines(address: filesystem.Address) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with its place; empty lines are skipped.

    Raises:
        ValueError: naming the file and the line, when a line is no JSON object, has a key twice, or is not UTF-8.
    """
    path, number = str(address), 0
    with _opened_text(path, newline=None) as file:
        try:
            for number, line in enumerate(file, start=1):
                where = f"{path}: line {number}"
                if not line.strip():
                    continue
                record = _parse_json(line, where=where)
                if not isinstance(record, dict):
                    raise ValueError(f"{where} must be a JSON object, got {show_value(line.strip())}")
                yield where, record
        except UnicodeDecodeError as error:
            raise _not_utf8(path, line=number + 1, error=error) from error


def _parse_json(line: str, *, where: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=lambda pairs: unique_keys(pairs, source="an object"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    except ValueError as error:  # a key twice, or a number of more than 4,300 digits
        raise ValueError(f"{where}: {error}") from error


def _csv_rows(path: str, columns: Columns) -> Iterator[TableRow]:
    with _opened_text(path, newline="") as file:
        line = 0
        try:
            separator = _separator(file.read(2**16), columns=columns)
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = next(reader, None)
            if header is None:
                raise ValueError(f"{path} is empty: its first line must name the columns")
            line = reader.line_num
            matched = columns.match(header, where=f"{path}: line 1")
            places = {column: header.index(name) for column, name in matched.items()}
            for cells in filter(None, reader):
                line = reader.line_num
                where = f"{path}: line {line}"
                if len(cells) != len(header):
                    raise ValueError(f"{where} has {len(cells)} cells, the first line names {len(header)} columns")
                yield TableRow(where=where, cells={name: cells[place] or None for name, place in places.items()})
        except csv.Error as error:
            raise ValueError(f"{path}: line {line + 1}: {error}") from error
        except UnicodeDecodeError as error:
            raise _not_utf8(path, line=line + 1, error=error) from error


def _separator(start: str, *, columns: Columns) -> str:
    """The one by which the first line holds all required columns; a comma where none does."""

    def has_all(separator: str) -> bool:
        names = start.partition("\n")[0].replace('"', "").split(separator)
        return {*columns.required} <= {name.strip().casefold() for name in names}

    return next(filter(has_all, _SEPARATORS), _SEPARATORS[0])


def _json_rows(path: str, columns: Columns) -> Iterator[TableRow]:
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for where, record in read_json_lines(path):
        names = tuple(record)
        if names not in known:
            known[names] = columns.match(names, where=where)
        yield TableRow(where=where, cells={column: record[name] for column, name in known[names].items()})


def _parquet_rows(path: str, columns: Columns) -> Iterator[TableRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with _opened(path, foreign=_FOREIGN_TO_PARQUET) as file:
        try:
            table = pq.ParquetFile(file)
            matched = columns.match(table.schema_arrow.names, where=path)
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(matched.values())):
                for row in batch.to_pylist():
                    cells = {column: row[name] for column, name in matched.items()}
                    yield TableRow(where=f"{path}: row {number}", cells=cells)
                    number += 1
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: row {number} or later is not UTF-8: write its texts as UTF-8") from error
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk or the store
            raise ValueError(f"{path}: not a Parquet file, or damaged: {show_value(str(error))}") from error


@contextmanager
def _opened(path: str, *, foreign: Mapping[bytes, str]) -> Iterator[Any]:
    """A file, at its start. Raises ValueError for a folder, and for a file that begins as one of another format."""
    if filesystem.is_folder(path):
        raise ValueError(f"{path} is a folder: name one file; a table in parts must be written as one file")
    try:
        with filesystem.open_file(path) as file:
            start = file.read(_START_BYTES)
            for beginning, what in foreign.items():
                if start.startswith(beginning):
                    raise ValueError(f"{path} is {what}")
            file.seek(0)
            yield file
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such table") from error


@contextmanager
def _opened_text(path: str, *, newline: str | None) -> Iterator[TextIOWrapper]:
    """The text of a file, without a byte order mark."""
    with _opened(path, foreign=_FOREIGN) as binary:
        start = binary.read(_START_BYTES)
        binary.seek(0)
        if start.startswith(_UTF16):
            raise ValueError(f"{path} is UTF-16: save it as UTF-8")
        if b"\0" in start:
            raise ValueError(f"{path} is no text, or UTF-16 (it holds bytes of zero): save it as text in UTF-8")
        with TextIOWrapper(binary, encoding="utf-8-sig", newline=newline) as file:
            yield file


def _not_utf8(path: str, *, line: int, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    return ValueError(f"{path}: line {line} or later is not UTF-8 (byte {byte:#04x}): save the file as UTF-8")
