"""List the images of a dataset and their labels, from a folder of folders, from a table or from an archive.

No image is read. The driver finds the folders (`folder_layout.find_source`); workers list the images of each.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ecor.data.images.image_names import is_image_name
from ecor.data.sources.image_tables import read_image_rows
from ecor.data.sources.sidecars import SIDECARS, read_labelled_members
from ecor.data.split_names import split_of
from ecor.data.table_row import TableRow
from ecor.data.tables import read_json_lines
from ecor.storage import filesystem
from ecor.storage.filesystem import FileFacts
from ecor.storage.junk_names import is_junk, path_junk_kind
from ecor.storage.members.member_address import MARK, ROW_SUFFIXES, split_member
from ecor.storage.web.allowed_hosts import is_web_address
from pipelines.config.addresses import check_web_image
from pipelines.runtime.retries import retry_in_store
from pipelines.sharding.folder_layout import TRUTH_NAME
from pipelines.sharding.sources.source_places import Place
from pipelines.storage.file_times import read_facts, settled_time
from pipelines.storage.image_bytes import escape_name, is_utf8, join_source

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
        pa.field("state", pa.string()),  # size and time of the last write; null where they are not known
        pa.field("left_out", pa.string()),  # what kind of file it is, if it is no image of the dataset; only counted
        pa.field("unread", pa.list_(pa.string())),  # columns of the table that this row is the first to have, not read
    ]
)
TABLE_COLUMNS = ("path", "category")
OPTIONAL_TABLE_COLUMNS = ("split", "rationales", "visible_rationales")
"""Columns of a table of images that are read."""
ROWS_AT_ONCE = 4096
"""Rows of a table, at most."""


def list_images(place: Place) -> Iterator[pa.Table]:
    """All files of a place, in order of their paths, as tables with LISTING_SCHEMA; of a table its rows."""
    rows_of = {"table": _table_rows, "webdataset": _archive_rows}
    rows = rows_of.get(place.layout, _folder_rows)(place)
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append({"rationales": []} | row)
        if len(batch) == ROWS_AT_ONCE:
            yield pa.Table.from_pylist(batch, schema=LISTING_SCHEMA)
            batch = []
    yield pa.Table.from_pylist(batch, schema=LISTING_SCHEMA)


def _folder_rows(place: Place) -> Iterator[dict[str, Any]]:
    truth = _truth(place) if place.left_out is None else {}
    prefix, began = f"{place.split_folder}/" if place.split_folder else "", time.time_ns()
    for path, facts in _files_of(place).items():
        source = f"{place.path}/{path}"
        within_split = source.removeprefix(prefix)
        parts = within_split.split("/")
        left_out = path_junk_kind(source) or place.left_out
        if left_out is not None:
            yield {"source": escape_name(source), "left_out": left_out}
            continue
        row = {"source": escape_name(source), "split": place.split, **_facts_of(facts, listed_ns=began)}
        if not is_utf8(source):
            yield row | {"category": None, "problem": "its name is not UTF-8: rename it"}
            continue
        labels = _dror_labels(parts) if place.layout == "dror" else {"category": parts[0]}
        yield row | labels | truth.get(within_split, {})


def _state(facts: FileFacts | None, *, listed_ns: int) -> str | None:
    """Size and time as one text, for a later `--since`."""
    modified_ns = settled_time(facts.modified_ns, listed_ns=listed_ns) if facts is not None else None
    return None if facts is None or modified_ns is None else f"{facts.num_bytes} {modified_ns}"


def _facts_of(facts: FileFacts, *, listed_ns: int) -> dict[str, Any]:
    """Columns of a listing; the time of an archive's member is that of the archive."""
    return {"num_bytes": facts.num_bytes, "state": _state(facts, listed_ns=listed_ns)}


def _files_of(place: Place) -> dict[str, FileFacts]:
    """Path below the place, and size and time of each file; of a place that is left out, those that can be counted."""
    folder = f"{place.root}/{place.path}"
    may_fail = is_junk if place.left_out is None else (lambda name: True)
    try:
        return retry_in_store(
            lambda: filesystem.file_facts_below(folder, may_fail=may_fail, follow_links=place.follow_links),
            place=folder,
        )
    except OSError:
        if place.left_out is None:
            raise
        return {}  # such as lost+found, which only root may read


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
    for where, record in read_json_lines(path):
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
    has_split: bool | None = None
    path = f"{place.root}/{place.path}"
    num_bytes, began = filesystem.num_bytes(path) if path.lower().endswith(ROW_SUFFIXES) else None, time.time_ns()
    table_state = _state(read_facts(path), listed_ns=began)
    rows, num_known = read_image_rows(path, required=TABLE_COLUMNS, optional=OPTIONAL_TABLE_COLUMNS), 0
    for row in rows:
        has_split = "split" in row.cells if has_split is None else has_split
        if has_split != ("split" in row.cells):
            raise row.error("split", f"is {'missing' if has_split else 'given'}, unlike in the rows before: give all")
        check_web_image(row.path("path"), where=row.where, allow_http=place.allow_http)
        source = join_source(row.path("path"), root=place.folder) if place.folder else row.path("path")
        found = {"source": source, **_labels_of(row, place=place)}
        found["unread"] = None if rows.num_unread == num_known else rows.unread[num_known:]
        num_known = rows.num_unread
        is_member = not is_web_address(source) and split_member(source) is not None
        if is_member:  # size and time are those of the whole file: they tell that it changed
            state = table_state if source.startswith(f"{place.path}{MARK}/") else None
            yield found | {"num_bytes": num_bytes, "state": state}
        else:
            yield found | {"state": _state(read_facts(join_source(source, root=place.root)), listed_ns=began)}


def _archive_rows(place: Place) -> Iterator[dict[str, Any]]:
    """Images of an archive with the labels beside them; files that belong to an image are left out."""
    root, began = f"{place.root}/{place.path}{MARK}", time.time_ns()
    files = retry_in_store(lambda: filesystem.file_facts_below(root), place=root)
    listed = [path for path in files if path_junk_kind(path) is None]
    beside: set[str] = set()
    for row, names in read_labelled_members(root, filter(is_utf8, listed)):
        beside.update(names)
        path = row.path("path")
        labels = _labels_of(row, place=place)
        if labels["category"] is None and not names and "/" in path:
            labels["category"] = path.partition("/")[0]
        yield {"source": f"{place.path}{MARK}/{path}", **labels, **_facts_of(files[path], listed_ns=began)}
    for path, facts in files.items():
        found = {"source": escape_name(f"{place.path}{MARK}/{path}"), "split": place.split}
        found |= _facts_of(facts, listed_ns=began)
        if (kind := path_junk_kind(path)) is not None:
            yield found | {"left_out": kind}
        elif path in beside or path.lower().endswith(SIDECARS):
            yield found | {"left_out": "beside_images"}
        elif not is_utf8(path):
            yield found | {"problem": "its name is not UTF-8: rename it"}
        elif not is_image_name(path):
            yield found  # the content decides


def _labels_of(row: TableRow, *, place: Place) -> dict[str, Any]:
    return {
        "split": place.split if "split" not in row.cells else _table_split(row),
        "category": row.text("category"),
        "rationales": row.names("rationales") or [],
        "visible_rationales": row.names("visible_rationales"),
    }


def _table_split(row: TableRow) -> str | None:
    """The split of a row, by its usual name; None in a table without splits."""
    if "split" not in row.cells:
        return None
    given = row.text("split") or ""
    split = split_of(given) or given
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise row.error("split", "must be a plain name")
    return split
