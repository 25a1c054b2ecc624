"""Tables of predictions: columns, Parquet parts, and a manifest that is written last.

Names on disk, no ids: a table of predictions is read without the vocabulary that made it. Ranked pairs are stored, not
verdicts, so that a metric can change without scoring again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.config.checks import parse_record
from ecor.config.scoring import ScoringConfig
from ecor.data.prediction_schema import PREDICTION_SCHEMA, SCHEMA_VERSION, check_schema, encode_parquet
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256, json_digest

MANIFEST_NAME = "manifest.json"


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
    """Inputs of the rows, each by digest."""

    input: str
    """Folder or table of images."""
    input_digest: str
    """Of the shard manifest, or of the listing."""
    model_uri: str
    """Model address as given by the user (`models:/ecor@champion`)."""
    model_name: str
    model_version: str | None
    model_digest: str
    vocabulary_digest: str
    features: str | None = None
    """Folder of labels whose kept features were labelled; None: images were encoded."""
    features_digest: str | None = None
    """Of these features (`ecor.clip.image_features.FeatureSet.digest`)."""
    since: str | None = None
    """Folder of earlier labels whose rows were reused; None: all images were labelled."""
    since_digest: str | None = None
    """Of these labels (`PredictionSet.digest`)."""

    def to_record(self) -> dict[str, Any]:
        """Values by name for records; those of features and earlier labels only if set: older records lack them."""
        found, added = asdict(self), ("features", "features_digest", "since", "since_digest")
        return {name: value for name, value in found.items() if value is not None or name not in added}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSet:
    """Manifest of a folder of predictions. It is written last, so a folder with a manifest is complete."""

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
        """sha256 of rows, parents and settings; independent of file names, which carry an attempt, and of the run."""
        content = {
            "parts": sorted((part.unit, part.num_rows, part.sha256) for part in self.parts),
            "parents": {
                name: value
                for name, value in self.parents.to_record().items()
                if name not in ("input", "model_uri", "features", "since")
            },
            "scoring": self.scoring.to_record(),
            "num_rejected": self.num_rejected,
            "schema_version": self.schema_version,
        }
        return json_digest(content)

    def to_json(self) -> str:
        beside = {"parents": self.parents.to_record(), "scoring": self.scoring.to_record(), "digest": self.digest}
        record = {**asdict(self), **beside}
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "manifest") -> "PredictionSet":
        """Read a manifest.

        Args:
            text: JSON, as `to_json` gives it.
            source: name of the manifest in errors.

        Raises:
            ValueError: when the text is not such a manifest, or was altered by hand.
        """
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


def write_prediction_set(folder: str, predictions: PredictionSet) -> None:
    """Write `folder`/manifest.json, the last step of a scoring job.

    Args:
        folder: that holds the parts.
        predictions: names every part.
    """
    filesystem.write(filesystem.join(folder, MANIFEST_NAME), predictions.to_json().encode())


def read_prediction_set(folder: str) -> PredictionSet:
    """Read the manifest of a finished folder of labels.

    Raises:
        ValueError: when there is none (scoring has not finished there), or it was altered.
    """
    path = filesystem.join(folder, MANIFEST_NAME)
    try:
        text = filesystem.read(path).decode()
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {MANIFEST_NAME}: not a folder of labels, or not finished") from error
    return PredictionSet.from_json(text, source=path)


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
