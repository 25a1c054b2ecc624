"""Kept features of labelled images: an Arrow file per unit of work, beside its labels, and a record of them all.

<labels>/features/manifest.json            the `FeatureSet`
<labels>/features/<unit>-<attempt>.arrow   a row per label of the unit, in the order of the labels

Not in the paper: features are kept in fp16, which rounds each number by at most a 2048th of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float16

from ecor.config.checks import parse_record
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256, json_digest

FEATURES_FOLDER = "features"
"""Within the folder of labels."""
SCHEMA_VERSION = "1"
_SIDE, _REJECTED, _VERSION = "ecor.image_side", "ecor.rejected", "ecor.schema_version"
MANIFEST = f"{FEATURES_FOLDER}/manifest.json"
"""Within the folder of labels."""
_REMEDY = "run the `ecor score --keep-features` that made it again, which makes what is damaged anew"
Features = Float16[np.ndarray, "B D"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSide:
    """What decides the features of an image; models with the same image side give the same features."""

    model_digest: str
    """sha256 of the image tower's architecture and weights, the preprocessing, and the learned visual tokens."""
    precision: str
    """In which the tower computes: fp32, bf16 or fp16."""

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        return json_digest(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePart:
    """One Arrow file: the features of one unit of work."""

    name: str
    """File name within `features/`."""
    unit: str
    num_rows: int
    num_rejected: int
    """Images of the unit without a label; the file says why."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSet:
    """Record of the features of one folder of labels."""

    parts: tuple[FeaturePart, ...]
    image_side: ImageSide
    labels_digest: str
    """`PredictionSet.digest` of the labels that they lie beside."""
    schema_version: str = SCHEMA_VERSION
    num_rows: int = field(init=False)
    num_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_rows", sum(part.num_rows for part in self.parts))
        object.__setattr__(self, "num_bytes", sum(part.num_bytes for part in self.parts))

    @property
    def digest(self) -> str:
        """sha256 of features, image side and labels; independent of file names, which carry an attempt."""
        content = {
            "parts": sorted((part.unit, part.num_rows, part.sha256) for part in self.parts),
            "image_side": asdict(self.image_side),
            "labels_digest": self.labels_digest,
            "schema_version": self.schema_version,
        }
        return json_digest(content)

    def to_record(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {**asdict(self), "image_side_digest": self.image_side.digest, "digest": self.digest}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "FeatureSet":
        """Read what `to_record` wrote; ValueError when it is no such record, or was altered."""
        made = ("digest", "image_side_digest", "num_rows", "num_bytes")
        values = {name: value for name, value in record.items() if name not in made}
        found = parse_record(
            cls,
            {
                **values,
                "parts": tuple(parse_record(FeaturePart, part) for part in values.get("parts", ())),
                "image_side": parse_record(ImageSide, values.get("image_side")),
            },
        )
        if found.schema_version != SCHEMA_VERSION:
            raise ValueError(f"it has version {found.schema_version}, this version of ecor reads {SCHEMA_VERSION}")
        if found.digest != record.get("digest"):
            raise ValueError(f"it was altered: it says {record.get('digest')}, its content has {found.digest}")
        return found


def features_table(keys: Sequence[str], *, rationale: Features, category: Features | None) -> pa.Table:
    """Build a table of features with the columns `key`, `rationale` and, if they differ, `category`.

    Args:
        keys: of the labels, one per row.
        rationale: L2-normalised features for Prompt_R, [B D].
        category: the same for Prompt_{c|R}; None where both prompts share their visual tokens.
    """
    given = {"rationale": rationale} if category is None else {"rationale": rationale, "category": category}
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
        for name, values in given.items()
    }
    return pa.table({"key": pa.array(keys, pa.string()), **columns})


def feature_arrays(table: pa.Table) -> tuple[Features, Features]:
    """The features for Prompt_R and for Prompt_{c|R}, [B D] each; the same array twice where they are shared."""
    rationale = _to_array(table["rationale"])
    return rationale, _to_array(table["category"]) if "category" in table.column_names else rationale


def write_feature_part(
    folder: str,
    table: pa.Table,
    *,
    name: str,
    unit: str,
    image_side: ImageSide,
    rejected: Sequence[Mapping[str, str]],
) -> FeaturePart:
    """Write the features of a unit atomically; the same features give the same bytes.

    Args:
        folder: `features/` of the labels, local or in a store.
        table: of `features_table`.
        name: of the file.
        unit: whose features these are.
        image_side: that made them.
        rejected: images of the unit without a label, as JSON objects.
    """
    facts = {_SIDE: json.dumps(asdict(image_side)), _REJECTED: json.dumps(list(rejected)), _VERSION: SCHEMA_VERSION}
    table = table.combine_chunks().replace_schema_metadata(facts)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    filesystem.write(filesystem.join(folder, name), data)
    return FeaturePart(
        name=name,
        unit=unit,
        num_rows=table.num_rows,
        num_rejected=len(rejected),
        num_bytes=len(data),
        sha256=bytes_sha256(data),
    )


def read_feature_part(folder: str, part: FeaturePart) -> pa.Table:
    """Read the features of a unit, and check them against their record.

    Args:
        folder: `features/` of the labels.
        part: of the `FeatureSet`.

    Raises:
        ValueError: naming the file, when it is missing, or is not that of the record.
    """
    path = filesystem.join(folder, part.name)
    try:
        data = filesystem.read(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {_REMEDY}") from error
    if (digest := bytes_sha256(data)) != part.sha256:
        raise ValueError(
            f"{path} is not the file of its record: {len(data)} bytes with sha256 {digest}, not {part.num_bytes} with "
            f"{part.sha256}: {_REMEDY}"
        )
    return pa.ipc.open_file(pa.BufferReader(data)).read_all()


def rejected_in(table: pa.Table) -> list[dict[str, str]]:
    """The images of the unit without a label, as `write_feature_part` was given them."""
    return json.loads(table.schema.metadata[_REJECTED.encode()])


def write_feature_set(labels: str, features: FeatureSet) -> None:
    """Write the record, when all files are there. `labels` is the folder of the labels."""
    filesystem.write_json(filesystem.join(labels, MANIFEST), features.to_record())


def read_feature_set(labels: str) -> FeatureSet | None:
    """Read the record of the features beside some labels; None where none were kept.

    Args:
        labels: folder of the labels, local or in a store.

    Raises:
        ValueError: when it is no such record, or was altered.
    """
    path = filesystem.join(labels, MANIFEST)
    try:
        return FeatureSet.from_record(json.loads(filesystem.read(path)))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no record of kept features ({error}): {_REMEDY}") from error


def _to_array(column: pa.ChunkedArray) -> Features:
    dim = column.type.list_size
    return np.asarray(column.combine_chunks().flatten()).reshape(-1, dim)
