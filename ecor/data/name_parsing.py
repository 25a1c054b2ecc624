"""Normalise names of categories and rationales, and parse lists of them from JSON objects and table rows."""

import codecs
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ecor.data.table_row import TableRow, show_value


def unique_keys(pairs: list[tuple[str, Any]], *, source: str) -> dict[str, Any]:
    loaded = dict(pairs)
    if len(loaded) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for index, key in enumerate(keys) if key in keys[:index])
        raise ValueError(f"{source}: the key {repeated!r} is there twice: merge its entries, or rename one")
    return loaded


def flatten_rationales(entries: Any, *, where: str, sub_rationales: bool) -> list[str]:
    if not isinstance(entries, list):
        shown = show_value(entries) if entries is not None else "null"
        raise ValueError(f"{where} needs a list of rationales, got {shown}; a list may be empty")
    flat: list[str] = []
    for entry in entries:
        if not isinstance(entry, dict):
            checked_name(entry, where=f"{where}: a rationale")
            flat.append(entry)
            continue
        for rationale, below in entry.items():
            flat.append(rationale)
            inner = f"{where}: rationale {rationale!r}"
            subs = flatten_rationales(below, where=inner, sub_rationales=sub_rationales)
            names = [checked_name(sub, where=inner) for sub in subs]  # checked even where they are not asked for
            flat.extend(names if sub_rationales else [])
    return flat


def decode_utf8(data: bytes, *, source: str) -> str:
    """The text of a file, without a byte order mark. Raises ValueError that names the file."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{source}: the file is UTF-16, not UTF-8: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{source}: line {line} is not UTF-8 (byte {error.start}): save the file as UTF-8") from error


def group_rationales(rows: Iterable[TableRow], *, source: str) -> dict[str, list[str]]:
    """Rationales by category, of rows with a category and rationales; its only row may have none."""
    grouped: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    alone: set[str] = set()
    for row in rows:
        raw, rationales = unicodedata.normalize("NFC", row.text("category") or ""), _rationales_in(row)
        category = checked_name(raw, where=f"{row.where}: the category")
        if spelled.setdefault(category, raw) != raw:
            raise ValueError(f"{row.where}: {raw!r} and {spelled[category]!r} are the same category {category!r}")
        if raw in alone or (not rationales and raw in grouped):
            raise ValueError(f"{row.where}: category {raw!r} has an empty rationale beside another row")
        if not rationales:
            alone.add(raw)
        for rationale in rationales:
            checked_name(rationale, where=f"{row.where}: the rationale")
        grouped.setdefault(raw, []).extend(rationales)
    if not grouped:
        raise ValueError(f"{source}: no row in it")
    return grouped


def _rationales_in(row: TableRow) -> list[str]:
    """One, as a rule; a cell may list several as `TableRow.names` reads them."""
    value = row.cells.get("rationale")
    if isinstance(value, str):
        return row.names("rationale") or [value]
    if isinstance(value, list):
        return row.names("rationale") or []
    return [] if (text := row.text("rationale")) is None else [text]


@lru_cache(maxsize=2**14)  # the images of a dataset have few names
def normalise_name(name: str) -> str:
    """The one spelling by which names are compared, kept and shown.

    "_" and "-" become spaces, "/" becomes " or ", letters lower case, spaces single and none at the ends (the DROR
    authors' rules; lower-casing, single spaces and Unicode NFC are our addition). May be empty: readers refuse that.
    """
    spaced = name.replace("_", " ").replace("-", " ").replace("/", " or ")
    return " ".join(unicodedata.normalize("NFC", spaced.lower()).split())


def group_spellings(names: Iterable[str]) -> list[list[str]]:
    """The different spellings of each name, in order: `police_car` and `Police car` are one."""
    found: dict[str, dict[str, None]] = {}
    for name in names:
        found.setdefault(normalise_name(name), {})[name] = None
    return [list(spellings) for spellings in found.values()]


def checked_name(name: Any, *, where: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"{where} must be a text, got {name!r}")
    normalised = normalise_name(name)
    if not normalised:
        raise ValueError(f"{where} has an empty name: {name!r}")
    unwritten = [char for char in normalised if unicodedata.category(char) in ("Cc", "Cs")]
    if unwritten:
        raise ValueError(f"{where} holds the control character {unwritten[0]!r}, in {name!r}: remove it")
    return normalised


def check_spelling(name: str, *, spelled: dict[str, str], where: str, kind: str) -> None:
    """Check that a name does not become that of another one, as `-1` and `1` or `A-` and `a` would.

    Spellings such as `police_car` and `Police car` are one name.

    Args:
        name: as it is written.
        spelled: the first spelling by normalised name; this one is added.
        where: the place of the name, for the error.
        kind: of the name, for the error.

    Raises:
        ValueError: with both spellings.
    """
    other = spelled.setdefault(normalise_name(name), name)
    if other != name and _signs(other) != _signs(name):
        raise ValueError(
            f"{where}: {kind} {name!r} and {kind} {other!r} would both be {normalise_name(name)!r}: rename one"
        )


def _signs(name: str) -> tuple[str, str, str]:
    """What `normalise_name` drops, and is more than a space between words: at both ends, and a minus before a digit."""
    bare = name.strip()
    kept = bare.lstrip("-_/")
    inner = normalise_name(re.sub(r"(?<=[\W_])-(?=\d)", "\N{MINUS SIGN}", kept))
    return bare[: len(bare) - len(kept)], inner, kept[len(kept.rstrip("-_/")) :]


def read_label(row: TableRow, column: str, *, spelled: dict[str, str]) -> tuple[str, ...]:
    """The distinct names of a cell, normalised: of the column `category` at most one, of others a list.

    Args:
        row: of a table of images.
        column: `category`, or one of rationales.
        spelled: as for `check_spelling`; for all rows the same.

    Raises:
        ValueError: naming the row, for a name of "-" and "_" alone, and for one that meets another (`check_spelling`).
    """
    is_category = column == "category"
    given = [row.text(column)] if is_category else row.names(column) or []
    names = [name for name in given if name and name.strip()]
    for name in names:
        if not normalise_name(name):
            raise row.error(column, "has a name of - and _ alone: name it, or leave the cell empty")
        check_spelling(name, spelled=spelled, where=row.where, kind="category" if is_category else "rationale")
    return tuple(dict.fromkeys(map(normalise_name, names)))
