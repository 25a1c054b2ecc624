"""Read the rows of Parquet and Arrow tables that hold the bytes of images: labels and where the bytes are.

No image is read: its `path` is `<file>!/<column>/<row>` (`ecor.storage.members`), or the path that stands in place of
its bytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.sources.image_columns import ImageColumns, find_image_columns
from ecor.data.table_row import TableRow, show_value
from ecor.storage import filesystem

_ROWS_AT_ONCE = 4096
_READ_BYTES = 2**20


def read_image_columns(path: str, *, required: Sequence[str], optional: Sequence[str] = ()) -> ImageColumns | None:
    """The columns of a Parquet or Arrow table that are read; None where it holds no images, or is no such table.

    Raises:
        ValueError: as `find_image_columns`, and when the file is damaged or missing.
    """
    with _open_table(path) as table:
        return find_image_columns(_schema_of(table), where=path, required=required, optional=optional)


def read_row_table(path: str, *, columns: ImageColumns) -> Iterator[TableRow]:
    """Yield the rows, in order, with `path` and the labels that are there; a few thousand in memory at a time.

    Raises:
        ValueError: naming the row, when a label has no name; when the file is damaged.
    """
    name, number = path.rpartition("/")[2], 0
    with _open_table(path) as table:
        for batch in _batches(table, columns=columns):
            for row in batch.to_pylist():
                where = f"{path}: row {number}"
                cells = {asked: row.get(spelled) for asked, spelled in columns.labels.items()}
                place = row.get(_PATH) or f"{name}!/{columns.image}/{number}"
                yield TableRow(where=where, cells={"path": place, **_with_names(cells, columns=columns, where=where)})
                number += 1


_PATH = "\0path"
"""A column of paths in place of bytes; no table has one of this name."""


def _with_names(cells: dict[str, Any], *, columns: ImageColumns, where: str) -> dict[str, Any]:
    """Cells with names in place of their numbers; -1 is no label, as `datasets` writes it."""
    for column, names in columns.class_names.items():
        number = cells[column]
        if number is None or number == -1:
            cells[column] = None
        elif isinstance(number, int) and 0 <= number < len(names):
            cells[column] = names[number]
        else:
            raise ValueError(f"{where}: {column} must be a number below {len(names)}, got {show_value(number)}")
    return cells


def _batches(table: Any, *, columns: ImageColumns) -> Iterator[pa.RecordBatch]:
    """The columns of labels, and paths of images without bytes, in batches."""
    labels = list(dict.fromkeys(columns.labels.values()))
    if not isinstance(table, pq.ParquetFile):
        for batch in table:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield _without_images(batch.slice(start, _ROWS_AT_ONCE), labels=labels, columns=columns)
        return
    for group in range(table.metadata.num_row_groups):
        paths = [f"{columns.image}.path"] if columns.has_paths and _has_no_bytes(table, group, columns=columns) else []
        if not labels and not paths:
            num_rows = table.metadata.row_group(group).num_rows
            for start in range(0, num_rows, _ROWS_AT_ONCE):
                yield pa.RecordBatch.from_pydict({_PATH: pa.nulls(min(_ROWS_AT_ONCE, num_rows - start))})
            continue
        for batch in table.iter_batches(
            batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=[*labels, *paths], use_threads=False
        ):
            found = {name: batch.column(name) for name in labels}
            yield pa.RecordBatch.from_pydict(
                found | ({_PATH: batch.column(columns.image).field("path")} if paths else {})
            )


def _has_no_bytes(table: pq.ParquetFile, group: int, *, columns: ImageColumns) -> bool:
    """Whether all images of a row group are paths, by the statistics in the footer."""
    metadata = table.metadata.row_group(group)
    for index in range(metadata.num_columns):
        column = metadata.column(index)
        if column.path_in_schema == f"{columns.image}.bytes":
            statistics = column.statistics
            return statistics is not None and statistics.has_null_count and statistics.null_count == metadata.num_rows
    return False


def _without_images(batch: pa.RecordBatch, *, labels: Sequence[str], columns: ImageColumns) -> pa.RecordBatch:
    images = batch.column(columns.image)
    paths = pa.nulls(batch.num_rows, pa.string())
    if columns.has_paths:
        import pyarrow.compute as pc

        paths = pc.if_else(images.field("bytes").is_valid(), paths, images.field("path"))
    return pa.RecordBatch.from_pydict({**{name: batch.column(name) for name in labels}, _PATH: paths})


def _schema_of(table: Any) -> pa.Schema:
    return table.schema_arrow if isinstance(table, pq.ParquetFile) else table.schema


@contextmanager
def _open_table(path: str) -> Iterator[Any]:
    """A ParquetFile, or the batches of an Arrow stream or file with their `schema`."""
    kind = "Parquet" if path.lower().endswith(".parquet") else "Arrow"
    try:
        with filesystem.open_file(path) as file:
            yield pq.ParquetFile(file, buffer_size=_READ_BYTES) if kind == "Parquet" else _ArrowBatches(file, path=path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{path}: there is no such table") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a text in it is not UTF-8: write its texts as UTF-8") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the store
        raise ValueError(f"{path}: not {kind}, or damaged: {show_value(str(error))}") from error


class _ArrowBatches:
    """Batches of an Arrow stream or file, from its beginning."""

    def __init__(self, file: Any, *, path: str) -> None:
        source = pa.memory_map(str(filesystem.local_path(path))) if filesystem.is_local(path) else pa.PythonFile(file)
        start = source.read(6)
        source.seek(0)
        self._reader = pa.ipc.open_file(source) if start == b"ARROW1" else pa.ipc.open_stream(source)
        self.schema: pa.Schema = self._reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if isinstance(self._reader, pa.RecordBatchFileReader):
            yield from (self._reader.get_batch(number) for number in range(self._reader.num_record_batches))
        else:
            yield from self._reader
