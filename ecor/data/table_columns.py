"""Match the columns of a user's table with those that are asked for, and name those that nothing reads."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ecor.data.table_row import show_value

_NEAR = 0.75
"""Similarity from which another column is taken for a misspelled one: refused."""
_ALIKE = 0.6
"""Similarity from which a column that is not read is said to look like a known one."""
_COLUMNS_NAMED = 10
_NAME_LENGTH = 40
_ALSO_CALLED = {
    "path": ("file", "filename", "filepath", "image", "imagepath", "img"),
    "category": ("label", "labels", "class", "classname", "classes"),
    "split": ("subset", "set", "dataset", "datasplit", "splitname", "fold", "partition", "phase", "usage"),
}
"""Other common names of columns, in small letters without what is between their words: refused, so that a table's own
labels and splits are not passed over."""


@dataclass(slots=True, kw_only=True)
class Columns:
    """The columns that a reader asks for, and those that it has met and not read."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    unread: dict[str, None] = field(default_factory=dict)
    """As they are spelled, in the order in which `match` met them."""

    def match(self, names: Sequence[Any], *, where: str) -> dict[str, Any]:
        """The asked-for columns that are there, with their spelling in the table.

        Raises:
            ValueError: as `ecor.data.tables.read_rows`.
        """
        asked = (*self.required, *self.optional)
        found: dict[str, Any] = {}
        for name in names:
            key = _key(name)
            if key not in asked:
                continue
            if key in found:
                raise ValueError(f"{where} has the column {key} twice, as {found[key]!r} and {name!r}: keep one")
            found[key] = name
        others = [name for name in names if name not in found.values()]
        for column in asked:
            if column in found:
                continue
            if (near := _nearest(column, others)) is not None:
                raise ValueError(
                    f"{where} has no column {column}, but {near!r}: rename it to {column}, or to an unlike name if it "
                    "is something else"
                )
            if column in self.required:
                raise ValueError(f"{where} has no column {column}, it has {show_value(sorted(map(str, names)))}")
        self.unread.update(dict.fromkeys(map(str, others)))
        return found

    def describe_unread(self) -> str | None:
        """A line that names the columns that are not read; one that is spelled nearly as a known one is said to be."""
        if not self.unread:
            return None
        shown = []
        for name in list(self.unread)[:_COLUMNS_NAMED]:
            near = get_close_matches(_key(name), (*self.required, *self.optional), n=1, cutoff=_ALIKE)
            shown.append(_shown(name) + (f" (is {near[0]} meant?)" if near else ""))
        more = len(self.unread) - len(shown)
        return f"columns that are not read: {', '.join(shown)}{f' and {more} more' if more else ''}"


def _key(name: Any) -> str:
    return str(name).strip().casefold()


def _shown(name: str) -> str:
    short = name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}…"
    return short if short.isprintable() and short.strip() else ascii(short)


def _nearest(column: str, names: Sequence[Any]) -> Any | None:
    """The name of a column that may be meant by the one that is asked for."""
    spelled = {_key(name): name for name in names}
    called = _ALSO_CALLED.get(column, ())
    also = [name for text, name in spelled.items() if re.sub(r"[ _.-]+", "", text) in called]
    near = [spelled[text] for text in get_close_matches(column, spelled, n=1, cutoff=_NEAR)]
    return next(iter([*near, *also]), None)
