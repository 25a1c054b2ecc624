"""Find the images and labels in the columns of a Parquet or Arrow table, also as Hugging Face's `datasets` writes them.

Images are a binary column, or its struct of bytes and path; a `ClassLabel` is a number whose name the schema knows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ecor.data.table_row import ALSO_CALLED, Columns, show_value
from ecor.storage.members.parquet_rows import bytes_field

_METADATA = b"huggingface"
_IMAGE = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageColumns:
    """Which columns of a table of images are read."""

    image: str
    """The column with the bytes of the images."""
    has_paths: bool
    """Whether an image may be a path in place of bytes."""
    labels: Mapping[str, str]
    """Asked-for columns, with their spelling in the table."""
    class_names: Mapping[str, tuple[str, ...]]
    """Of asked-for columns that hold numbers of names."""
    unread: tuple[str, ...]
    """Other columns."""

    @property
    def as_columns(self) -> Columns:
        """The columns that are read and those that are not."""
        return Columns(required=(), optional=tuple(self.labels), unread=dict.fromkeys(self.unread))


def find_image_columns(
    schema: pa.Schema, *, where: str, required: Sequence[str], optional: Sequence[str] = ()
) -> ImageColumns | None:
    """The columns with images and labels; None where no column holds images.

    The category is the column `category`, else the only one with another common name of it (`label`) that has names,
    else the only `ClassLabel`.

    Args:
        schema: of the table.
        where: begins the messages of errors.
        required: columns that must be there; `path` is the image's.
        optional: columns that are read where they are there.

    Raises:
        ValueError: when several columns hold images and none is called `image`, a column is there twice, or a required
            one is missing.
    """
    features = _features(schema)
    image = _find_image(schema, features=features, where=where)
    if image is None:
        return None
    asked = [name for name in (*required, *optional) if name != "path"]
    labels: dict[str, str] = {}
    for name in schema.names:
        key = name.strip().casefold()
        if key in asked:
            if key in labels:
                raise ValueError(f"{where} has the column {key} twice, as {labels[key]!r} and {name!r}: keep one")
            labels[key] = name
    if "category" in asked and "category" not in labels:
        found = _find_category(schema, features=features, taken={image, *labels.values()})
        labels |= {} if found is None else {"category": found}
    for name in required:
        if name != "path" and name not in labels:
            others = show_value(sorted(set(schema.names) - {image}))
            raise ValueError(f"{where} has no column {name} beside its images, it has {others}: rename the one that is")
    kind = schema.field(image).type
    return ImageColumns(
        image=image,
        has_paths=isinstance(kind, pa.StructType) and kind.get_field_index("path") >= 0,
        labels=labels,
        class_names={column: names for column, name in labels.items() if (names := _class_names(features.get(name)))},
        unread=tuple(name for name in schema.names if name not in (image, *labels.values())),
    )


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """What `datasets` says of each column in the schema's metadata; empty where it says nothing."""
    try:
        found = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
        features = found.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return features if isinstance(features, dict) else {}


def _find_image(schema: pa.Schema, *, features: Mapping[str, Any], where: str) -> str | None:
    with_bytes = [name for name in schema.names if bytes_field(schema, name) is not None]
    certain = [name for name in with_bytes if _is_image(schema, name, features=features)]
    if not certain and any(name.strip().casefold() == "path" for name in schema.names):
        return None  # a table of paths; other bytes in it are something else
    found = certain or with_bytes
    if len(found) > 1:
        named = [name for name in found if name.strip().casefold() == _IMAGE]
        if len(named) != 1:
            raise ValueError(f"{where} has images in the columns {show_value(found)}: call one {_IMAGE}, or keep one")
        return named[0]
    return found[0] if found else None


def _is_image(schema: pa.Schema, name: str, *, features: Mapping[str, Any]) -> bool:
    told = features.get(name)
    kind = schema.field(name).type
    is_pair = isinstance(kind, pa.StructType) and {field.name for field in kind} == {"bytes", "path"}
    return is_pair if not isinstance(told, dict) else told.get("_type") == "Image"


def _find_category(schema: pa.Schema, *, features: Mapping[str, Any], taken: set[str]) -> str | None:
    numbered = [name for name in schema.names if name not in taken and _class_names(features.get(name))]
    called = [
        name
        for name in schema.names
        if name not in taken
        and name.strip().casefold() in ALSO_CALLED["category"]
        and (name in numbered or _is_text(schema.field(name).type))
    ]
    for candidates in (called, numbered):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names of a `ClassLabel`; empty for anything else."""
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list and names else ()
