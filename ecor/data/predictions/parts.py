"""Tables of predictions as Parquet files, each checked against the manifest when it is read.

Names on disk, no ids: a table of predictions is read without the vocabulary that made it. Ranked pairs are stored, not
verdicts, so that a metric can change without scoring again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.data.predictions.manifest import PredictionPart, read_prediction_set
from ecor.data.predictions.schema import PREDICTION_SCHEMA, check_schema, encode_parquet
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256


def write_part(folder: str, table: pa.Table, *, name: str, unit: str) -> PredictionPart:
    """Write the rows of one unit as `folder`/`name`; the same rows give the same bytes.

    A local file appears under its name only when it is complete.

    Args:
        folder: any address fsspec writes.
        table: of `PREDICTION_SCHEMA`, with or without the optional columns.
        name: of the file.
        unit: the unit of work that the rows are of.

    Raises:
        ValueError: when a column of the table differs from the schema.
    """
    data = encode_parquet(check_schema(table, source=f"part {name}"))
    filesystem.write(filesystem.join(folder, name), data)
    digest = bytes_sha256(data)
    labelled = pc.and_(table["category_true"].is_valid(), pc.greater(pc.list_value_length(table["rationales_true"]), 0))
    return PredictionPart(
        name=name,
        unit=unit,
        num_rows=table.num_rows,
        num_labelled=pc.sum(labelled).as_py() or 0,
        num_bytes=len(data),
        sha256=digest,
    )


def read_part(folder: str, part: PredictionPart, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of one part, and check them against its record.

    Args:
        folder: of the labels.
        part: of the folder's manifest.
        columns: to return, in this order; None: all.

    Raises:
        ValueError: naming the part, when it is missing, or its bytes or number of rows are not those of the manifest.
    """
    path = filesystem.join(folder, part.name)
    try:
        data = filesystem.read(path)
    except FileNotFoundError as error:
        raise ValueError(f"part {part.name} is missing in {folder}: score again to make it") from error
    digest = bytes_sha256(data)
    if digest != part.sha256:
        raise ValueError(
            f"part {part.name} is not the file of the manifest: {len(data)} bytes with sha256 {digest}, "
            f"not {part.num_bytes} with {part.sha256}; score again to restore it"
        )
    file, source = pq.ParquetFile(pa.BufferReader(data)), f"part {part.name}"
    if file.metadata.num_rows != part.num_rows:
        raise ValueError(f"{source} has {file.metadata.num_rows} rows, its manifest says {part.num_rows}")
    if columns is None:
        return check_schema(file.read(use_threads=False), source=source)
    schema = check_schema(file.schema_arrow.empty_table(), source=source).schema
    wanted = pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)
    return file.read(columns=wanted.names, use_threads=False).select(wanted.names).cast(wanted)


def iterate_parts(folder: str, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the verified tables of a folder of labels in the manifest's order, one in memory at a time.

    Args:
        folder: of the labels.
        columns: to return, in this order; None: all.

    Raises:
        ValueError: when the folder has no manifest, or a part is missing, altered or short.
    """
    for part in read_prediction_set(folder).parts:
        yield read_part(folder, part, columns=columns)


def read_predictions(path: str | Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of a folder of labels, or of one Parquet file.

    Every part of a folder is verified against the manifest; a single file is not.

    Args:
        path: of the folder, or of a file that ends in `.parquet`; local, or in a store.
        columns: to return, in this order; None: all.

    Raises:
        ValueError: when the folder has no manifest, a part is missing, altered or short, or a column differs from the
            schema.
        FileNotFoundError: when there is no such Parquet file.
    """
    path = str(path)
    if path.endswith(".parquet"):
        table = check_schema(
            pq.ParquetFile(pa.BufferReader(filesystem.read(path))).read(use_threads=False), source=path
        )
        return table if columns is None else table.select(list(columns))
    tables = list(iterate_parts(path, columns=columns))
    if tables:
        return pa.concat_tables(tables)
    empty = PREDICTION_SCHEMA.empty_table()
    return empty if columns is None else empty.select(list(columns))
