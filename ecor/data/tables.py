"""Read the tables that users bring: rows of a CSV, JSON Lines or Parquet file, with the place of each row.

Column names are compared without case and without spaces around them. A cell is read as what the column asks for, a
text or a list of names, and any other cell is an error that names the table, the row, the column and the value.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import PurePosixPath
from typing import Any

from ecor.data.table_row import TableRow, show_value
from ecor.storage import filesystem

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")
_ROWS_AT_ONCE = 4096
_SEPARATORS = (",", ";", "\t")
_NEAR = 0.75


def read_rows(
    address: filesystem.Address, *, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[TableRow]:
    """Yield the rows of a table, in order, a few thousand in memory at a time.

    A CSV file may be separated by commas, semicolons or tabs; its first line names the columns.

    Args:
        address: a local path or any address fsspec opens; its suffix is one of `TABLE_SUFFIXES`.
        required: columns that every row must have.
        optional: columns that are read where they are there.

    Raises:
        ValueError: naming the file and, where there is one, its line or row, when there is no such file, its suffix is
            another one, its text is not UTF-8, a row cannot be parsed, or a column is missing, there twice, or called
            nearly as one that is asked for.
    """
    path = str(address)
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path}: a table is a {', '.join(TABLE_SUFFIXES)} file, got {suffix or 'no suffix'}")
    return readers[suffix](path, _Columns(required=tuple(required), optional=tuple(optional)))


def read_json_lines(address: filesystem.Address) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with its place; empty lines are skipped.

    Raises:
        ValueError: naming the file and the line, when a line is no JSON object or not UTF-8.
    """
    path, number = str(address), 0
    with _opened_text(path, newline=None) as file:
        try:
            for number, line in enumerate(file, start=1):
                where = f"{path}: line {number}"
                try:
                    record = json.loads(line) if line.strip() else None
                except (json.JSONDecodeError, RecursionError) as error:
                    raise ValueError(f"{where} is not JSON: {error}") from error
                if record is None:
                    continue
                if not isinstance(record, dict):
                    raise ValueError(f"{where} must be a JSON object, got {show_value(line.strip())}")
                yield where, record
        except UnicodeDecodeError as error:
            raise _not_utf8(path, line=number + 1, error=error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    required: tuple[str, ...]
    optional: tuple[str, ...]

    def match(self, names: Sequence[Any], *, where: str) -> dict[str, Any]:
        """The asked-for columns that are there, with their spelling in the table. Raises ValueError as `read_rows`."""
        asked = (*self.required, *self.optional)
        found: dict[str, Any] = {}
        for name in names:
            key = str(name).strip().casefold()
            if key not in asked:
                continue
            if key in found:
                raise ValueError(f"{where} has the column {key} twice, as {found[key]!r} and {name!r}: keep one")
            found[key] = name
        others = {str(name).strip().casefold(): name for name in names if name not in found.values()}
        for column in asked:
            if column in found:
                continue
            near = get_close_matches(column, others, n=1, cutoff=_NEAR)
            if near:
                raise ValueError(f"{where} has no column {column}, but {others[near[0]]!r}: rename one of the two")
            if column in self.required:
                raise ValueError(f"{where} has no column {column}, it has {show_value(sorted(map(str, names)))}")
        return found


def _csv_rows(path: str, columns: _Columns) -> Iterator[TableRow]:
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


def _separator(start: str, *, columns: _Columns) -> str:
    """The one by which the first line holds all required columns; a comma where none does."""

    def has_all(separator: str) -> bool:
        names = start.partition("\n")[0].replace('"', "").split(separator)
        return {*columns.required} <= {name.strip().casefold() for name in names}

    return next(filter(has_all, _SEPARATORS), _SEPARATORS[0])


def _json_rows(path: str, columns: _Columns) -> Iterator[TableRow]:
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for where, record in read_json_lines(path):
        names = tuple(record)
        if names not in known:
            known[names] = columns.match(names, where=where)
        yield TableRow(where=where, cells={column: record[name] for column, name in known[names].items()})


def _parquet_rows(path: str, columns: _Columns) -> Iterator[TableRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with _opened(path) as file:
        try:
            table = pq.ParquetFile(file)
            matched = columns.match(table.schema_arrow.names, where=path)
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(matched.values())):
                for row in batch.to_pylist():
                    cells = {column: row[name] for column, name in matched.items()}
                    yield TableRow(where=f"{path}: row {number}", cells=cells)
                    number += 1
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a Parquet file: {show_value(str(error))}") from error


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with filesystem.open_file(path) as file:
            yield file
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such table") from error


@contextmanager
def _opened_text(path: str, *, newline: str | None) -> Iterator[TextIOWrapper]:
    """The text of a file, without a byte order mark."""
    with _opened(path) as binary:
        start = binary.read(2)
        binary.seek(0)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path} is UTF-16: save it as UTF-8")
        with TextIOWrapper(binary, encoding="utf-8-sig", newline=newline) as file:
            yield file


def _not_utf8(path: str, *, line: int, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    return ValueError(f"{path}: line {line} or later is not UTF-8 (byte {byte:#04x}): save the file as UTF-8")
