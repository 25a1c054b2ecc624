"""List the images of tables: paths, or bytes in rows, with their labels where a table has them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ecor.data.name_parsing import read_label
from ecor.data.sources.discovery import SplitFile
from ecor.data.sources.image_tables import describe_unlabelled, read_image_rows
from ecor.data.table_row import TableRow
from ecor.storage import filesystem
from ecor.storage.members.member_address import split_member
from ecor.storage.web.allowed_hosts import is_web_address
from pipelines.config.addresses import check_web_image
from pipelines.scoring.work_units import Listed
from pipelines.storage.image_bytes import join_source

LABELS = ("category", "rationales", "visible_rationales")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRows:
    """The images of an input, in its order."""

    files: tuple[Listed, ...]
    described: tuple[Mapping[str, Any], ...]
    """JSON values of each, which the digest of the input is of."""
    unread_columns: str | None = None
    """A line that names columns that are not read, if there are any."""


def list_tables(root: str, tables: Sequence[SplitFile], *, allow_http: tuple[str, ...]) -> ListedRows:
    """The rows of all tables of a folder, in order.

    Args:
        root: address of the folder.
        tables: in it.
        allow_http: hosts on the web that their images may be on.

    Raises:
        ValueError: when no table has a row, a table has errors, two rows name one image, or an image is on the web and
            no host is allowed.
    """
    files: list[Listed] = []
    described: list[Mapping[str, Any]] = []
    unread: str | None = None
    spelled: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for table in tables:
        path = f"{root}/{table.path}"
        table_rows = read_image_rows(path, required=("path",), optional=LABELS)
        rows = list(_distinct_rows(table_rows, path=path))
        for row in rows:
            check_web_image(row.cells["path"], where=row.where, allow_http=allow_http)
        files += labelled_files(rows, base=path.rpartition("/")[0], spelled=spelled)
        columns = [name for name in ("path", *LABELS) if any(name in row.cells for row in rows)]
        beside: dict[str, Any] = {"table": table.path} if len(tables) > 1 else {}
        if any(split_member(row.cells["path"]) and not is_web_address(row.cells["path"]) for row in rows):
            beside |= {"of_bytes": filesystem.num_bytes(path)}
        described += [{name: row.cells.get(name) for name in columns} | beside for row in rows]
        unread = unread or table_rows.describe_unread() or describe_unlabelled(path)
    if not files:
        raise ValueError(f"{root}/{tables[0].path} has no row")
    return ListedRows(files=tuple(files), described=tuple(described), unread_columns=unread)


def labelled_files(
    rows: Sequence[TableRow], *, base: str, spelled: tuple[dict[str, str], dict[str, str]]
) -> Iterator[Listed]:
    """The images of rows; `spelled` are the spellings of categories and rationales so far.

    A path need not be valid UTF-8: one of a folder may not be.
    """
    categories, rationales = spelled
    for row in rows:
        yield Listed(
            path=join_source(row.cells["path"], root=base),
            category=next(iter(read_label(row, "category", spelled=categories)), None),
            rationales=read_label(row, "rationales", spelled=rationales) or None,
            visible_rationales=read_label(row, "visible_rationales", spelled=rationales) or None,
        )


def _distinct_rows(rows: Iterable[TableRow], *, path: str) -> Iterator[TableRow]:
    """All rows of a table, each of an image of its own."""
    first: dict[str, str] = {}
    for row in rows:
        image = row.path("path")
        place = image if "://" in image else str(PurePosixPath(image))  # without "./"
        if first.setdefault(place, row.where) != row.where:
            raise ValueError(
                f"{row.where}: {first[place].removeprefix(path).lstrip(': ')} lists {image} too: keep one row per "
                "image, with all its rationales in one cell"
            )
        yield row
