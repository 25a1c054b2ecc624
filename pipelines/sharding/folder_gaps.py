"""Find what a folder promises and its listing lacks: images of a category, or the images that a sidecar describes."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import name_some
from ecor.data.name_parsing import group_spellings
from ecor.data.sources.image_tables import describe_unlabelled
from ecor.data.table_row import Columns
from ecor.data.tables import read_json_lines
from ecor.storage import filesystem
from pipelines.sharding.flows.flow import Rows
from pipelines.sharding.folder_layout import TRUTH_NAME
from pipelines.sharding.listing import OPTIONAL_TABLE_COLUMNS, TABLE_COLUMNS
from pipelines.sharding.sources.source_places import Source
from pipelines.storage.image_bytes import escape_name

_NAMED = 5


def describe_gaps(source: Source, *, listing: Rows) -> list[str]:
    """Lines for folders that are one category, categories without an image, and sidecars with lines of lost images.

    Of a table, a line for the columns that are not read.
    """
    if source.layout == "table":
        unread = [each["unread"] for each in listing.map_tables(unread_columns).iter_rows()]
        columns = Columns(
            required=TABLE_COLUMNS, optional=OPTIONAL_TABLE_COLUMNS, unread=dict.fromkeys(chain.from_iterable(unread))
        )
        lines = [
            columns.describe_unread(),
            *(describe_unlabelled(f"{each.root}/{each.path}") for each in source.places),
        ]
        return [line for line in lines if line is not None]
    if source.layout == "webdataset":
        return []
    depth = source.places[0].path.count("/") + 1
    return list(find_gaps(source, counts=listing.map_tables(partial(count_by_folder, depth=depth)).iter_rows()))


def unread_columns(table: pa.Table) -> pa.Table:
    """The names of columns that are not read, of the rows that have some."""
    return table.select(["unread"]).filter(pc.is_valid(table["unread"]))


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
    folders = (place.path.removeprefix(f"{place.split_folder}/") for place in source.places)
    if one := [" and ".join(_shown(each)) for each in group_spellings(folders) if len(each) > 1]:
        yield f"folders that are one category: {name_some(one, most=_NAMED)}"
    empty = [path for path in folder_of if path not in filled]
    if empty:
        named = name_some(empty, most=_NAMED)
        yield f"left out {len(empty)} categories whose folders hold no image: {named}"
    for split_folder in dict.fromkeys(folder_of.values()):
        path = "/".join(part for part in (source.root, split_folder, TRUTH_NAME) if part)
        files = _described_files(path)
        if num_lost := len(files) - num_described[split_folder]:
            yield f"left out {num_lost} of the {len(files)} images that {path} describes: no such files"


def _shown(spellings: list[str]) -> list[str]:
    """In ASCII where two of them look the same: the Unicode forms of one word."""
    look_alike = len({unicodedata.normalize("NFC", each) for each in spellings}) < len(spellings)
    return [ascii(each) if look_alike else repr(each) for each in spellings]


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
