"""What `ecor shard` is given (a folder of folders, or a table) in, a table of images with their labels out.

Nothing is read but names: `places` is what a driver can hold (folders), `listed` is what workers make of each.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.shards import VOCABULARY_NAME
from ecor.storage import filesystem
from pipelines.config.infrastructure import absolute_address
from pipelines.config.stages import Layout, ShardConfig
from pipelines.runtime.retries import retry_in_store
from pipelines.storage.image_bytes import escape_name, is_utf8

TRUTH_NAME = "truth.jsonl"
"""In a split's folder: what the layout's folders cannot say of its images, a JSON object per line with `file` (path
within the split) and, where known, `visible_rationales`; all else in it becomes provenance. Label maps may lie in
`<split>-masks` beside the split."""
LISTING_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),  # path within the input, or the address a table gives
        pa.field("split", pa.string()),
        pa.field("category", pa.string()),
        pa.field("rationales", pa.list_(pa.string()), nullable=False),
        pa.field("visible_rationales", pa.list_(pa.string())),
        pa.field("truth", pa.string()),  # JSON
        pa.field("num_bytes", pa.int64()),
        pa.field("problem", pa.string()),  # why it has no place in the layout
    ]
)
_TABLES = (".csv", ".parquet", ".jsonl")
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation", "valid": "validation"}
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A piece of the input that one worker lists."""

    root: str
    """Address of the input's folder, or of the table's."""
    layout: Layout
    path: str
    """Within `root`: a category's folder, or the table."""
    split: str | None = None
    split_folder: str = ""
    """Within `root`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The input, as far as a driver needs to know it."""

    root: str
    layout: Layout
    places: tuple[Place, ...]
    vocabulary: str | None
    """Address of the `vocabulary.json` that lies in the input."""
    num_ignored: int
    """Files above the level of categories."""


def find_source(config: ShardConfig) -> Source:
    """Look at the first levels of the input; ValueError, saying what is there, when no layout fits."""
    root = absolute_address(config.input)
    if not filesystem.exists(root):
        raise ValueError(f"there is no folder or table {config.input}")
    suffix = PurePosixPath(root).suffix.lower()
    if config.layout == "table" or (config.layout == "auto" and suffix in _TABLES and filesystem.is_file(root)):
        if suffix not in _TABLES or not filesystem.is_file(root):
            raise ValueError(f"a table is a .csv, .parquet or .jsonl file, got {config.input}")
        folder, _, name = root.rpartition("/")
        return _source(root=folder, layout="table", places=[Place(root=folder, layout="table", path=name)])
    folders, num_ignored = _children(root)
    folders = [name for name in folders if name.removesuffix("-masks") not in set(folders) - {name}]
    split_folders = folders if folders and all(name in _SPLITS for name in folders) else [""]
    places = []
    for split_folder in split_folders:
        names, extra = (folders, 0) if not split_folder else _children(f"{root}/{split_folder}")
        num_ignored += extra
        for name in names:
            path = f"{split_folder}/{name}".lstrip("/")
            split = _SPLITS.get(split_folder)
            places.append(Place(root=root, layout="folders", path=path, split=split, split_folder=split_folder))
    if not places:
        raise ValueError(f"{config.input} holds no folder of images: expected a folder per category, or a table file")
    layout = config.layout
    if layout == "auto":
        layout = "dror" if any(_has_numbered_folder(f"{root}/{place.path}") for place in places) else "folders"
    places = [replace(place, layout=layout) for place in places]
    return _source(root=root, layout=layout, places=places, num_ignored=num_ignored)


def listed(place: Place) -> Iterator[pa.Table]:
    """The images of a place, in order of their paths, as tables with LISTING_SCHEMA."""
    rows = _table_rows(place) if place.layout == "table" else _folder_rows(place)
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append({"rationales": []} | row)
        if len(batch) == _ROWS_AT_ONCE:
            yield pa.Table.from_pylist(batch, schema=LISTING_SCHEMA)
            batch = []
    yield pa.Table.from_pylist(batch, schema=LISTING_SCHEMA)


def address(source: str, *, root: str) -> str:
    """Where an image lies: `source` is within `root` unless it is an address of its own."""
    return source if "://" in source or source.startswith("/") else f"{root}/{source}"


def _source(*, root: str, layout: Layout, places: Iterable[Place], num_ignored: int = 0) -> Source:
    vocabulary = f"{root}/{VOCABULARY_NAME}"
    return Source(
        root=root,
        layout=layout,
        places=tuple(places),
        vocabulary=vocabulary if filesystem.exists(vocabulary) else None,
        num_ignored=num_ignored,
    )


def _children(folder: str) -> tuple[list[str], int]:
    """Names of the folders in a folder, and how many images-to-be lie beside them."""
    found = retry_in_store(lambda: filesystem.entries(folder), place=folder)
    visible = [entry for entry in found if not entry.name.startswith(".")]
    known = (VOCABULARY_NAME, TRUTH_NAME)
    num_files = sum(not entry.is_folder and entry.name not in known for entry in visible)
    return [entry.name for entry in visible if entry.is_folder], num_files


def _has_numbered_folder(folder: str) -> bool:
    """Whether walking down the first folders leads to one whose name is digits."""
    while True:
        folders, _ = _children(folder)
        if not folders:
            return False
        if any(name.isdigit() for name in folders):
            return True
        folder = f"{folder}/{folders[0]}"


def _folder_rows(place: Place) -> Iterator[dict[str, Any]]:
    truth = _truth(place)
    prefix = f"{place.split_folder}/" if place.split_folder else ""
    folder = f"{place.root}/{place.path}"
    for path, num_bytes in retry_in_store(lambda: filesystem.files_below(folder), place=folder).items():
        source = f"{place.path}/{path}"
        within_split = source.removeprefix(prefix)
        parts = within_split.split("/")
        if any(part.startswith(".") for part in parts):
            continue
        row = {"source": escape_name(source), "split": place.split, "num_bytes": num_bytes}
        if not is_utf8(source):
            yield row | {"category": None, "problem": "its name is not UTF-8: rename it"}
            continue
        labels = _dror_labels(parts) if place.layout == "dror" else {"category": parts[0]}
        yield row | labels | truth.get(within_split, {})


def _dror_labels(parts: list[str]) -> dict[str, Any]:
    """Category and rationale of `<category>/<rationale>/<digits>/<file>`; "__" and nested folders stand for "/"."""
    category, *below = (part.replace("__", "/") for part in parts[:-1])
    numbered = next((depth for depth, part in enumerate(below) if depth and part.isdigit()), None)
    if numbered is None:
        return {"category": category, "problem": "no numbered folder above it: expected <rationale>/<n>/<file>"}
    return {"category": category, "rationales": ["/".join(below[:numbered])]}


def _truth(place: Place) -> dict[str, dict[str, Any]]:
    """What the split's sidecar says of this category's images, by path within the split."""
    path = "/".join(part for part in (place.root, place.split_folder, TRUTH_NAME) if part)
    if not filesystem.exists(path):
        return {}
    category = place.path.removeprefix(f"{place.split_folder}/") + "/"
    found = {}
    for where, record in _json_lines(path):
        if not isinstance(record.get("file"), str):
            raise ValueError(f"{where}: an object with the text `file` is expected, got {record}")
        if record["file"].startswith(category):
            rest = {
                name: value
                for name, value in record.items()
                if name not in ("file", "category", "rationale", "visible_rationales")
            }
            found[record["file"]] = {
                "visible_rationales": record.get("visible_rationales"),
                "truth": json.dumps(rest, ensure_ascii=False, sort_keys=True) if rest else None,
            }
    return found


def _table_rows(place: Place) -> Iterator[dict[str, Any]]:
    path = f"{place.root}/{place.path}"
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".jsonl": _json_lines}
    for where, row in readers[PurePosixPath(path).suffix.lower()](path):
        missing = {"path", "category"} - set(row)
        if missing:
            raise ValueError(f"{where}: the column {missing.pop()!r} is missing, there are {sorted(map(str, row))}")
        unwritten = [name for name, cell in row.items() if isinstance(cell, str) and not is_utf8(cell)]
        if unwritten:
            raise ValueError(f"{where}: {unwritten[0]} is not UTF-8: {escape_name(row[unwritten[0]])!r}")
        source, category, split = row["path"], row["category"] or None, row.get("split")
        if not source or not isinstance(source, str):
            raise ValueError(f"{where}: path must be a text, got {source!r}")
        if "split" in row and not (isinstance(split, str) and re.fullmatch(r"[A-Za-z0-9_-]+", split)):
            raise ValueError(f"{where}: split must be a plain name, got {split!r}")
        yield {
            "source": source,
            "split": None if split is None else _SPLITS.get(split, split),
            "category": category,
            "rationales": _rationales(row.get("rationales"), where=where),
            "visible_rationales": row.get("visible_rationales") and _rationales(row["visible_rationales"], where=where),
        }


def _rationales(cell: Any, *, where: str) -> list[str]:
    """A list; or a text that is a JSON list, or rationales with "|" between them (our choice)."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell) if cell.startswith("[") else [part for part in cell.split("|") if part.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: rationales {cell!r} are not a JSON list") from error
    if not all(isinstance(rationale, str) and is_utf8(rationale) for rationale in cell or ()):
        raise ValueError(f"{where}: rationales must be texts, got {cell!r}")
    return list(cell or ())


def _csv_rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with filesystem.opened(path) as binary, TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{where} does not have {len(reader.fieldnames or ())} cells")
                yield where, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: line {reader.line_num + 1}: {error}") from error


def _parquet_rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    with filesystem.opened(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield f"{path}: row {number}", row
                number += 1


def _json_lines(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with filesystem.opened(path) as binary, TextIOWrapper(binary, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}: line {number}"
            try:
                record = json.loads(line) if line.strip() else None
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is not JSON: {error}") from error
            if record is None:
                continue
            if not isinstance(record, dict):
                raise ValueError(f"{where} must be a JSON object, got {line.strip()[:80]!r}")
            yield where, record
