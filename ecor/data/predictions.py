"""Tables of predictions: columns, Parquet parts, and a manifest that is written last.

Names on disk, no ids: a table of predictions is read without the vocabulary that made it. Ranked pairs are stored, not
verdicts, so that a metric can change without scoring again.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.config import ScoringConfig, parse_record
from ecor.data.heatmap_codec import EVIDENCE_COLUMN, Evidence
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256, json_digest

SCHEMA_VERSION = "1"
MANIFEST_NAME = "manifest.json"
ROWS_PER_GROUP = 16_384
# "same rows, same bytes" holds for one pyarrow version; everything that could vary besides is fixed here
PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPair:
    """A category with the reason for it."""

    category: str
    rationale: str
    log_prob: float
    """log P(c, r | I) in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCategory:
    """A category, whatever the reason."""

    category: str
    log_prob: float
    """log P(c | I) in nats, over the kept rationales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRationale:
    """A rationale, whatever the category."""

    rationale: str
    log_prob: float
    """log P(r | I) in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainablePrediction:
    """One image's label with its reasons; `PREDICTION_SCHEMA` and `OPTIONAL_COLUMNS` describe each field."""

    key: str
    source: str
    shard: str | None = None
    member_offset: int | None = None
    member_num_bytes: int | None = None
    category_true: str | None = None
    rationales_true: tuple[str, ...] | None = None
    visible_rationales: tuple[str, ...] | None = None
    category: str
    rationale: str
    confidence: float
    category_log_prob: float
    pairs: tuple[RankedPair, ...]
    categories: tuple[RankedCategory, ...]
    rationales: tuple[RankedRationale, ...]
    two_stage_category: str
    two_stage_rationale: str
    kept_mass: float
    pairs_exact: bool
    calibrated: bool
    method: str
    model_name: str
    model_version: str | None = None
    model_digest: str
    vocabulary_digest: str
    ood_score: float | None = None
    evidence: Evidence | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ExplainablePrediction":
        """One row of a table, as `Table.to_pylist` gives it."""
        values = {name: row[name] for name in PREDICTION_SCHEMA.names}
        values |= {column.name: row.get(column.name) for column in OPTIONAL_COLUMNS}
        values[EVIDENCE_COLUMN.name] = Evidence.from_row(row)
        for name, kind in (("pairs", RankedPair), ("categories", RankedCategory), ("rationales", RankedRationale)):
            values[name] = tuple(kind(**entry) for entry in values[name])
        for name in ("rationales_true", "visible_rationales"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


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
    _column("method", pa.string(), "joint, inverted, independent or pairs"),
    _column("model_name", pa.string(), "registered name of the model, or where its checkpoint lies"),
    _column("model_version", pa.string(), "version in the registry; null for a plain checkpoint", nullable=True),
    _column("model_digest", pa.string(), "digest of the checkpoint", unit="sha256"),
    _column("vocabulary_digest", pa.string(), "digest of the vocabulary scored with", unit="sha256"),
]
_SCHEMA_METADATA = {"ecor.schema": "predictions", "ecor.schema_version": SCHEMA_VERSION}

ORIGIN_SCHEMA = pa.schema(_ORIGIN_COLUMNS)
"""What is known of an image before it is scored."""
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
OPTIONAL_COLUMNS = (OOD_COLUMN, EVIDENCE_COLUMN)
"""Columns that a table may have besides."""


def origins_table(keys: Sequence[str], **columns: Any) -> pa.Table:
    """A table with `ORIGIN_SCHEMA`: any of its columns by name, what is left out is null (`source`: the key).

    Raises ValueError for a column that the schema does not have.
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
    """What rows have that are scored so."""
    return schema_with([OOD_COLUMN.name] if scoring.ood_score else [])


def predictions_table(predictions: Iterable[ExplainablePrediction]) -> pa.Table:
    """Records in, a table with `PREDICTION_SCHEMA` out, and the optional columns that a record has."""
    rows = [asdict(prediction) for prediction in predictions]
    known = [column.name for column in OPTIONAL_COLUMNS if any(row[column.name] is not None for row in rows)]
    return pa.Table.from_pylist(rows, schema=schema_with(known))


def iterate_predictions(table: pa.Table) -> Iterator[ExplainablePrediction]:
    """A table with `PREDICTION_SCHEMA` in, its records out, one batch in memory at a time."""
    for batch in table.to_batches(max_chunksize=1024):
        yield from map(ExplainablePrediction.from_row, batch.to_pylist())


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionPart:
    """One Parquet file: the rows of one unit of work."""

    name: str
    """File name within the folder."""
    unit: str
    """The unit of work it holds: an input shard's name, or a slice of a listing."""
    num_rows: int
    num_labelled: int
    """Rows whose category and rationale are known, so that they can be evaluated."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionParents:
    """What the rows were made from, each by digest."""

    input: str
    """Folder or table of images."""
    input_digest: str
    """Of the shard manifest, or of the listing."""
    model_uri: str
    """As it was asked for (`models:/ecor@champion`)."""
    model_name: str
    model_version: str | None
    model_digest: str
    vocabulary_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSet:
    """The manifest of a folder of labels: written last, so that a folder that has one is complete."""

    parts: tuple[PredictionPart, ...]
    parents: PredictionParents
    scoring: ScoringConfig
    num_rejected: int = 0
    """Images in the quarantine table: without a row here."""
    run_id: str | None = None
    """MLflow run that wrote it."""
    schema_version: str = SCHEMA_VERSION
    num_rows: int = field(init=False)
    num_bytes: int = field(init=False)

    @property
    def has_truth(self) -> bool:
        """Whether there is a row that can be evaluated."""
        return any(part.num_labelled for part in self.parts)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_rows", sum(part.num_rows for part in self.parts))
        object.__setattr__(self, "num_bytes", sum(part.num_bytes for part in self.parts))

    @property
    def digest(self) -> str:
        """Of what the rows are and come from, whatever the names of files (they carry an attempt) and of the run."""
        content = {
            "parts": sorted((part.unit, part.num_rows, part.sha256) for part in self.parts),
            "parents": {
                name: value for name, value in asdict(self.parents).items() if name not in ("input", "model_uri")
            },
            "scoring": self.scoring.to_record(),
            "num_rejected": self.num_rejected,
            "schema_version": self.schema_version,
        }
        return json_digest(content)

    def to_json(self) -> str:
        record = {**asdict(self), "scoring": self.scoring.to_record(), "digest": self.digest}
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "manifest") -> "PredictionSet":
        """Raises ValueError, naming `source`, where the text is not such a manifest or was altered by hand."""
        try:
            values = json.loads(text)
            digest = values.pop("digest")
            totals = {name: values.pop(name) for name in ("num_rows", "num_bytes")}
            records = {
                "parts": tuple(parse_record(PredictionPart, part) for part in values.pop("parts")),
                "parents": parse_record(PredictionParents, values.pop("parents")),
                "scoring": parse_record(ScoringConfig, values.pop("scoring")),
            }
            record = parse_record(cls, {**values, **records})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source} is not a manifest of predictions ({error}): score again") from error
        if record.digest != digest or totals != {"num_rows": record.num_rows, "num_bytes": record.num_bytes}:
            raise ValueError(f"{source} was altered: its digest says {digest}, its content {record.digest}")
        return record


def write_part(folder: str, table: pa.Table, *, name: str, unit: str) -> PredictionPart:
    """Write the rows of one unit as `folder`/`name`; the same rows give the same bytes.

    A local file appears under its name only when it is complete.

    Raises ValueError when the table does not have `PREDICTION_SCHEMA`.
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


def encode_parquet(table: pa.Table) -> bytes:
    """Rows to the bytes of a Parquet file: the same rows, the same bytes, however they were chunked in memory."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, row_group_size=ROWS_PER_GROUP, **PARQUET_OPTIONS)
    return sink.getvalue()


def write_prediction_set(folder: str, predictions: PredictionSet) -> None:
    """Write `folder`/manifest.json: the last deed of a scoring job."""
    filesystem.write(filesystem.join(folder, MANIFEST_NAME), predictions.to_json().encode())


def read_prediction_set(folder: str) -> PredictionSet:
    """The manifest of a finished folder of labels.

    Raises ValueError when there is none (scoring has not finished there) or it was altered.
    """
    path = filesystem.join(folder, MANIFEST_NAME)
    try:
        text = filesystem.read(path).decode()
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {MANIFEST_NAME}: not a folder of labels, or not finished") from error
    return PredictionSet.from_json(text, source=path)


def read_part(folder: str, part: PredictionPart, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one part, checked against its record.

    Raises ValueError naming the part when its bytes or its number of rows are not those of the manifest.
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
    table = check_schema(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False), source=f"part {part.name}")
    if table.num_rows != part.num_rows:
        raise ValueError(f"part {part.name} has {table.num_rows} rows, its manifest says {part.num_rows}")
    return table if columns is None else table.select(list(columns))


def iterate_parts(folder: str, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The verified tables of a folder of labels in the manifest's order, one in memory at a time."""
    for part in read_prediction_set(folder).parts:
        yield read_part(folder, part, columns=columns)


def read_predictions(path: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a folder of labels, every part verified against the manifest; or of one Parquet file, unverified.

    Raises ValueError naming the part that is missing, altered or short.
    """
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


def check_schema(table: pa.Table, *, source: str) -> pa.Table:
    """The same table when it has `PREDICTION_SCHEMA`; ValueError naming the first column that differs otherwise.

    Optional columns stay; any other is left out.
    """
    version = (table.schema.metadata or {}).get(b"ecor.schema_version", SCHEMA_VERSION.encode()).decode()
    if version != SCHEMA_VERSION:
        raise ValueError(f"{source} has schema version {version}; this version of ecor reads {SCHEMA_VERSION}")
    schema = schema_with(table.column_names)
    for expected in schema:
        index = table.schema.get_field_index(expected.name)
        found = None if index < 0 else table.schema.field(index).type
        if found != expected.type:
            raise ValueError(f"{source}: column {expected.name} must be {expected.type}, found {found}")
    return table.select(schema.names).cast(schema)


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
