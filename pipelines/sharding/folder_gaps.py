"""Find what a folder promises and its listing lacks: images of a category, or the images that a sidecar describes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from ecor.config.checks import name_some
from ecor.data.sources.image_tables import describe_unread
from ecor.data.tables import read_json_lines
from ecor.storage import filesystem
from pipelines.sharding.flows.flow import Rows
from pipelines.sharding.folder_layout import TRUTH_NAME
from pipelines.sharding.listing import OPTIONAL_TABLE_COLUMNS, TABLE_COLUMNS
from pipelines.sharding.sources.source_places import Source
from pipelines.storage.image_bytes import escape_name

_NAMED = 5


def describe_gaps(source: Source, *, listing: Rows) -> list[str]:
    """A line for the categories without an image, and one for each sidecar with lines of images that are not there.

    Of a table, a line for the columns that are not read.
    """
    if source.layout == "table":
        path = f"{source.root}/{source.places[0].path}"
        line = describe_unread(path, required=TABLE_COLUMNS, optional=OPTIONAL_TABLE_COLUMNS)
        return [] if line is None else [line]
    if source.layout == "webdataset":
        return []
    depth = source.places[0].path.count("/") + 1
    return list(find_gaps(source, counts=listing.map_tables(partial(count_by_folder, depth=depth)).iter_rows()))


def count_by_folder(table: pa.Table, *, depth: int) -> pa.Table:
    """Images of each category's folder, and how many of them a sidecar describes; one row per folder."""
    num_images, num_described = Counter[str](), Counter[str]()
    for row in table.to_pylist():
        if row.get("left_out") is None:
            folder = "/".join(row["source"].split("/")[:depth])
            num_images[folder] += 1
            num_described[folder] += row["truth"] is not None or row["visible_rationales"] is not None
    rows = [{"folder": each, "images": num_images[each], "described": num_described[each]} for each in num_images]
    schema = pa.schema([("folder", pa.string()), ("images", pa.int64()), ("described", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)


def find_gaps(source: Source, *, counts: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines, from the counts of all blocks."""
    num_described, filled = Counter[str](), set[str]()
    folder_of = {escape_name(place.path): place.split_folder for place in source.places}
    for row in counts:
        filled.add(row["folder"])
        num_described[folder_of.get(row["folder"], "")] += row["described"]
    empty = [path for path in folder_of if path not in filled]
    if empty:
        named = name_some(empty, most=_NAMED)
        yield f"left out {len(empty)} categories whose folders hold no image: {named}"
    for split_folder in dict.fromkeys(folder_of.values()):
        path = "/".join(part for part in (source.root, split_folder, TRUTH_NAME) if part)
        files = _described_files(path)
        if num_lost := len(files) - num_described[split_folder]:
            yield f"left out {num_lost} of the {len(files)} images that {path} describes: no such files"


def _described_files(path: str) -> set[str]:
    """The files of which a sidecar says something."""
    if not filesystem.exists(path):
        return set()
    labels = {"file", "category", "rationale", "visible_rationales"}
    return {
        str(record.get("file"))
        for _, record in read_json_lines(path)
        if record.get("visible_rationales") is not None or set(record) - labels
    }
