"""Find images with equal content and keep one of each, with the labels of all its copies."""

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from ecor.storage.digests import json_digest

ImageRow = dict[str, Any]
_NOT_DIGESTED = frozenset({"state", "row_digest", "sample_digest", "bucket"})
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def mark_duplicate_rows(images: pa.Table, *, held: Mapping[str, str] = MappingProxyType({})) -> pa.Table:
    """Decide which of the images that have the same bytes stay.

    Takes rows of INSPECTED_SCHEMA, with all copies of whatever they hold. Returns them with more columns:
    `duplicate_of`, the key of the copy that stays instead (null for those that stay), `labels`, JSON of all that the
    copies are labelled with, `stays_as`, the category of the copy that stays, where it is another one, and two digests:
    `row_digest` of the row as it came but for its state, and `sample_digest` of what becomes of it in a tar
    (null for those that do not stay).

    A test split that the input has (`protected`) is never altered: all its images stay, labelled as they are, and
    copies elsewhere go. Otherwise one copy stays, in the split that comes first (test, validation, others by name);
    its category is that of its first source by name, its rationales those of all copies with that category (our
    choice).

    Args:
        images: the rows.
        held: split by sha256, for contents that stay in the split where they have been; also for a test split.
    """
    schema = images.schema
    for name in ("duplicate_of", "labels", "stays_as", "row_digest", "sample_digest"):
        schema = schema.append(pa.field(name, pa.string()))
    rows = [row | {"row_digest": _digest(row)} for row in images.to_pylist()]
    rows = sorted(rows, key=lambda row: (row["sha256"], _is_elsewhere(row, held=held), *_precedence(row)))
    marked = [row for _, copies in groupby(rows, key=lambda row: row["sha256"]) for row in _marked(list(copies))]
    for row in marked:
        row["sample_digest"] = _digest(row) if row["duplicate_of"] is None else None
    return pa.Table.from_pylist(marked, schema=schema)


def _digest(row: ImageRow) -> str:
    """128 bits, in hex, of a row but for its state and earlier digests."""
    return json_digest({name: value for name, value in row.items() if name not in _NOT_DIGESTED})[:32]


def _is_elsewhere(row: ImageRow, *, held: Mapping[str, str]) -> bool:
    return held.get(row["sha256"], row["split"]) != row["split"]


def _precedence(row: ImageRow) -> tuple[bool, int, str, str]:
    order = {"test": 0, "validation": 1}
    return not row["protected"], order.get(row["split"], 2), row["split"], row["source"]


def _marked(copies: list[ImageRow]) -> list[ImageRow]:
    if not copies[0]["protected"]:
        return _merged(copies)
    staying = [row for row in copies if row["protected"]]
    kept = [
        row for _, same in groupby(staying, key=lambda row: row["source"]) for row in _merged(list(same))
    ]  # a table may name one file in several rows
    gone = [_gone(row, kept=copies[0]) for row in copies if not row["protected"]]
    return kept + gone


def _merged(copies: list[ImageRow]) -> list[ImageRow]:
    first = copies[0]
    same_category = [row for row in copies if row["category"] == first["category"]]
    visible = [row["visible_rationales"] for row in copies if row["visible_rationales"] is not None]
    labels = [{name: row[name] for name in ("category", "rationales", "source")} for row in copies]
    kept = first | {
        "duplicate_of": None,
        "rationales": _distinct(row["rationales"] for row in same_category),
        "visible_rationales": _distinct(visible) if visible else None,
        "labels": _ENCODER.encode(labels),
    }
    return [kept, *(_gone(row, kept=first) for row in copies[1:])]


def _gone(row: ImageRow, *, kept: ImageRow) -> ImageRow:
    differs = row["category"] is not None and row["category"] != kept["category"]
    return row | {"duplicate_of": kept["key"], "stays_as": kept["category"] if differs else None}


def _distinct(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
