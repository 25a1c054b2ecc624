"""Rows of a table that a user brings: cells as texts and lists of names, the columns asked for, errors with a place."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

_SHOWN = 200
"""Characters of a value that an error shows."""
_STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_OPENING = r"\s*(?:[a-z]+\(\s*)?[\[({]\s*"
_LISTED = re.compile(
    rf"{_OPENING}(?P<names>(?:{_STRING}(?:[\s,]+{_STRING})*[\s,]*)?)[\])}}]\s*(?:,\s*dtype=[^()]*)?\)?\s*", re.DOTALL
)
"""Quoted names as Python and numpy print them: `['a' 'b']`, `('a', 'b')`, `array(['a'], dtype=object)`."""
_BEGINS_LIST = re.compile(rf"{_OPENING}['\"]")
_ADJACENT = re.compile(rf"{_STRING}\s*{_STRING}", re.DOTALL)
"""Two texts that Python would put together into one."""
_NEAR = 0.75
"""Similarity from which another column is taken for a misspelled one: refused."""
_ALIKE = 0.6
"""Similarity from which a column that is not read is said to look like a known one."""
_COLUMNS_NAMED = 10
_NAME_LENGTH = 40
ALSO_CALLED = {
    "path": ("file", "filename", "filepath", "image", "imagepath", "img"),
    "category": ("label", "labels", "class", "classname", "classes"),
    "split": ("subset", "set", "dataset", "datasplit", "splitname", "fold", "partition", "phase", "usage"),
}
"""Other common names of columns, in small letters without what is between their words: refused, so that a table's own
labels and splits are not passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row, with the columns that were asked for."""

    where: str
    """For error messages: the address of the table, and its line or row."""
    cells: Mapping[str, Any]
    """Raw values by the asked-for name of their column; None for an empty cell. A column may be missing."""

    def text(self, column: str) -> str | None:
        """The text of a cell; None where it is empty. A whole number is its digits: a category may be called 0.

        Raises:
            ValueError: when the value is of another type, or UTF-8 cannot hold the text.
        """
        value = self.cells.get(column)
        return None if value is None else self._text(value, column=column)

    def path(self, column: str) -> str:
        """The path or address in a cell.

        Raises:
            ValueError: when the cell is empty or holds no text.
        """
        value = self.cells.get(column)
        if not value or not isinstance(value, str):
            raise self.error(column, "must be a path or an address")
        return self._text(value, column=column)

    def names(self, column: str) -> list[str] | None:
        """The names of a cell; None where it is empty.

        A cell holds a list; or a text that is a JSON list, is a list, tuple, set or array as Python, pandas and numpy
        print it, or has "|" or line breaks between names (our choice).

        Raises:
            ValueError: when the cell holds none of these.
        """
        value = self.cells.get(column)
        if value is None:
            return None
        if isinstance(value, str):
            value = self._split(value, column=column)
        if not isinstance(value, list):
            raise self.error(column, "needs a list of texts, or a text with | between names")
        return [self._text(each, column=column) for each in value]

    def error(self, column: str, problem: str) -> ValueError:
        """An error about the value of a column; `problem` is the rest of the sentence, with the remedy."""
        return ValueError(f"{self.where}: {column} {problem}, got {show_value(self.cells.get(column))}")

    def _split(self, text: str, *, column: str) -> Any:
        is_list = text.lstrip().startswith("[")
        if (names := _json_list(text) if is_list else None) is not None:
            return names
        try:
            if (listed := _LISTED.fullmatch(text)) is not None:
                return [ast.literal_eval(name) for name in re.findall(_STRING, listed["names"])]
            if is_list and not _ADJACENT.search(text):
                return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass  # the error below says so
        if is_list or _BEGINS_LIST.match(text):
            raise self.error(column, "starts with a bracket and is no list: write a JSON list, or | between names")
        return [part for part in re.split(r"[|\r\n]+", text) if part.strip()]

    def _text(self, value: Any, *, column: str) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise self.error(column, f"must be a text, not a {type(value).__name__}: write it as text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(column, "holds characters that UTF-8 has no code for: mend the file") from error
        return value


def _json_list(text: str) -> Any | None:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def show_value(value: Any) -> str:
    """A value as an error message shows it: what Python prints, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


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
    called = ALSO_CALLED.get(column, ())
    also = [name for text, name in spelled.items() if re.sub(r"[ _.-]+", "", text) in called]
    near = [spelled[text] for text in get_close_matches(column, spelled, n=1, cutoff=_NEAR)]
    return next(iter([*near, *also]), None)
