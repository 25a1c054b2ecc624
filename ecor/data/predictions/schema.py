"""Columns of a table of predictions, and its bytes as Parquet."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.scoring import ScoringConfig
from ecor.data.heatmap_codec import EVIDENCE_COLUMN

SCHEMA_VERSION = "1"
ROWS_PER_GROUP = 16_384
# "same rows, same bytes" holds for one pyarrow version; everything that could vary besides is fixed here
PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6"}


def _column(name: str, kind: pa.DataType, description: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description, "unit": unit})


def _ranked(*names: str) -> pa.DataType:
    entries = [pa.field(name, pa.string(), nullable=False) for name in names]
    return pa.list_(pa.field("item", pa.struct([*entries, pa.field("log_prob", pa.float32(), nullable=False)])))


_ORIGIN_COLUMNS = [
    _column("key", pa.string(), "identifies the image within its data set; has no dot"),
    _column("source", pa.string(), "path or URI that the image came from"),
    _column("shard", pa.string(), "tar file that holds the image; null for a plain listing", nullable=True),
    _column("member_offset", pa.int64(), "where the image's bytes begin in the shard", unit="bytes", nullable=True),
    _column("member_num_bytes", pa.int64(), "length of the image's bytes in the shard", unit="bytes", nullable=True),
    _column("category_true", pa.string(), "labelled category, where known", nullable=True),
    _column("rationales_true", pa.list_(pa.string()), "labelled rationales, where known", nullable=True),
    _column("visible_rationales", pa.list_(pa.string()), "all rationales the image shows, where known", nullable=True),
]


_LABEL_COLUMNS = [
    _column("category", pa.string(), "category of the most probable pair (strict rule)"),
    _column("rationale", pa.string(), "rationale of the most probable pair (strict rule)"),
    _column("confidence", pa.float32(), "probability of the most probable pair", unit="probability"),
    _column("category_log_prob", pa.float32(), "log P(category | image) over the kept rationales", unit="nats"),
    _column("pairs", _ranked("category", "rationale"), "most probable pairs, best first: log P(c, r | I)", unit="nats"),
    _column("categories", _ranked("category"), "most probable categories, best first: log P(c | I)", unit="nats"),
    _column("rationales", _ranked("rationale"), "most probable rationales, best first: log P(r | I)", unit="nats"),
    _column("two_stage_category", pa.string(), "most probable category given two_stage_rationale (hard rule)"),
    _column("two_stage_rationale", pa.string(), "most probable rationale (hard rule)"),
    _column("kept_mass", pa.float32(), "probability covered by the rationales kept in decoding", unit="probability"),
    _column("pairs_exact", pa.bool_(), "whether no pair outside the kept rationales can belong into `pairs`"),
    _column("calibrated", pa.bool_(), "whether the temperatures were fitted on this vocabulary"),
    _column("method", pa.string(), "joint, inverted, independent, pairs or pooled"),
    _column("model_name", pa.string(), "registered name of the model, or where its checkpoint lies"),
    _column("model_version", pa.string(), "version in the registry; null for a plain checkpoint", nullable=True),
    _column("model_digest", pa.string(), "digest of the checkpoint", unit="sha256"),
    _column("vocabulary_digest", pa.string(), "digest of the vocabulary scored with", unit="sha256"),
]


_SCHEMA_METADATA = {"ecor.schema": "predictions", "ecor.schema_version": SCHEMA_VERSION}


ORIGIN_SCHEMA = pa.schema(_ORIGIN_COLUMNS)
"""Columns of an image's origin, known before it is scored."""


PREDICTION_SCHEMA = pa.schema([*_ORIGIN_COLUMNS, *_LABEL_COLUMNS], metadata=_SCHEMA_METADATA)
"""One row per image; every field carries a description and, where it has one, a unit in its metadata."""


OOD_COLUMN = _column(
    "ood_score",
    pa.float32(),
    "how unlike all categories of the vocabulary the image is: 1 less the largest cosine with a category's own "
    "sentence; high is out of distribution. Written when asked for (`--scoring.ood-score`)",
    unit="1 - cosine",
    nullable=True,
)


VISIBLE_COLUMN = _column(
    "rationale_visible_probability",
    pa.float32(),
    "probability that the image shows `rationale`, labelled or not; null where the model has no map for the method and "
    "vocabulary. Written when asked for (`--scoring.visible-probability`)",
    unit="probability",
    nullable=True,
)


OPTIONAL_COLUMNS = (OOD_COLUMN, VISIBLE_COLUMN, EVIDENCE_COLUMN)
"""Optional columns of a table of predictions."""


def origins_table(keys: Sequence[str], **columns: Any) -> pa.Table:
    """Build a table with `ORIGIN_SCHEMA` from some of its columns; the others are null (`source`: the key).

    Args:
        keys: one per row.
        columns: values by the name of the column, one per row.

    Raises:
        ValueError: when the schema does not have a column.
    """
    unknown = set(columns) - set(ORIGIN_SCHEMA.names)
    if unknown:
        raise ValueError(f"no such column of an image's origin: {sorted(unknown)}; there are {ORIGIN_SCHEMA.names}")
    given = {"key": keys, "source": keys, **columns}
    arrays = []
    for column in ORIGIN_SCHEMA:
        values = given.get(column.name, pa.nulls(len(keys), column.type))
        is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
        arrays.append(values.cast(column.type) if is_arrow else pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=ORIGIN_SCHEMA)


def schema_with(names: Iterable[str]) -> pa.Schema:
    """`PREDICTION_SCHEMA`, and those of the optional columns that are among some names."""
    among = set(names)
    return pa.schema(
        [*PREDICTION_SCHEMA, *(column for column in OPTIONAL_COLUMNS if column.name in among)],
        metadata=PREDICTION_SCHEMA.metadata,
    )


def schema_for(scoring: ScoringConfig) -> pa.Schema:
    """Schema of the rows that these scoring settings produce."""
    asked_for = {OOD_COLUMN.name: scoring.ood_score, VISIBLE_COLUMN.name: scoring.visible_probability}
    return schema_with([name for name, is_asked_for in asked_for.items() if is_asked_for])


def check_schema(table: pa.Table, *, source: str) -> pa.Table:
    """Return the same rows with `PREDICTION_SCHEMA`. Optional columns stay; any other is left out.

    Columns of another type are cast, as pandas writes them, where their values fit.

    Args:
        table: as it was read.
        source: name of the table in errors.

    Raises:
        ValueError: naming the first column that is missing or does not fit, or the version of the schema when it is
            another one.
    """
    version = (table.schema.metadata or {}).get(b"ecor.schema_version", SCHEMA_VERSION.encode()).decode()
    if version != SCHEMA_VERSION:
        raise ValueError(f"{source} has schema version {version}; this version of ecor reads {SCHEMA_VERSION}")
    schema = schema_with(table.column_names)
    for expected in schema:
        index = table.schema.get_field_index(expected.name)
        found = None if index < 0 else table.schema.field(index).type
        if found is None:
            raise ValueError(f"{source}: column {expected.name} must be {expected.type}, found {found}")
        if found != expected.type:
            table = table.set_column(index, expected.name, _cast(table[index], field=expected, source=source))
    return table.select(schema.names).cast(schema)


def _cast(column: pa.ChunkedArray, *, field: pa.Field, source: str) -> pa.ChunkedArray:
    """The same values in the type of the schema: pandas writes longer types for texts, numbers and empty columns."""
    try:
        cast = column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"{source}: column {field.name} must be {field.type}, found {column.type}, and its values do not fit: "
            "write it in that type"
        ) from error
    if cast.null_count and not field.nullable:
        raise ValueError(f"{source}: column {field.name} must have a value in every row, {cast.null_count} have none")
    return cast


def schema_rows() -> list[dict[str, str]]:
    """The schema, optional columns last, as a table for documentation: name, type, unit, description."""
    return [
        {
            "name": column.name,
            "type": str(column.type),
            **{key: column.metadata[key.encode()].decode() for key in ("unit", "description")},
        }
        for column in [*PREDICTION_SCHEMA, *OPTIONAL_COLUMNS]
    ]


def encode_parquet(table: pa.Table) -> bytes:
    """Encode rows as a Parquet file; equal rows give equal bytes, independent of chunks in memory."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, row_group_size=ROWS_PER_GROUP, **PARQUET_OPTIONS)
    return sink.getvalue()
