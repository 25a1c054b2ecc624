"""Normalise names of categories and rationales, and parse lists of them from JSON objects and table rows."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from ecor.data.table_row import TableRow


def unique_keys(pairs: list[tuple[str, Any]], *, source: str) -> dict[str, Any]:
    loaded = dict(pairs)
    if len(loaded) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for index, key in enumerate(keys) if key in keys[:index])
        raise ValueError(f"{source}: the key {repeated!r} is there twice: merge its entries, or rename one")
    return loaded


def flatten_rationales(entries: Any, *, where: str, sub_rationales: bool) -> list[str]:
    if not isinstance(entries, list):
        raise ValueError(f"{where} needs a list of rationales, got {entries!r}")
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
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{source}: line {line} is not UTF-8 (byte {error.start}): save the file as UTF-8") from error


def group_rationales(rows: Iterable[TableRow], *, source: str) -> dict[str, list[str]]:
    """Rationales by category, of rows with one pair each; a category's only row may have no rationale."""
    grouped: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    alone: set[str] = set()
    for row in rows:
        raw, rationale = row.text("category") or "", row.text("rationale")
        category = checked_name(raw, where=f"{row.where}: the category")
        if spelled.setdefault(category, raw) != raw:
            raise ValueError(f"{row.where}: {raw!r} and {spelled[category]!r} are the same category {category!r}")
        if raw in alone or (rationale is None and raw in grouped):
            raise ValueError(f"{row.where}: category {raw!r} has an empty rationale beside another row")
        if rationale is None:
            alone.add(raw)
            grouped[raw] = []
        else:
            checked_name(rationale, where=f"{row.where}: the rationale")
            grouped.setdefault(raw, []).append(rationale)
    if not grouped:
        raise ValueError(f"{source}: no row in it")
    return grouped


def normalise_name(name: str) -> str:
    """The one spelling by which names are compared, kept and shown.

    "_" and "-" become spaces, "/" becomes " or ", letters lower case, spaces single and none at the ends (the DROR
    authors' rules; lower-casing, single spaces and Unicode NFC are our addition). May be empty: readers refuse that.
    """
    spaced = name.replace("_", " ").replace("-", " ").replace("/", " or ")
    return " ".join(unicodedata.normalize("NFC", spaced.lower()).split())


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
