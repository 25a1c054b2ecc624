"""One row of a table that a user brings: its cells as texts and lists of names, and errors that say where."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 200
"""Characters of a value that an error shows."""


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

        A cell holds a list; or a text that is a JSON list, a Python list (as pandas writes it), or has "|" between
        names (our choice).

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
        if not text.lstrip().startswith("["):
            return [part for part in text.split("|") if part.strip()]
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        raise self.error(column, "starts with [ and is no list: write a JSON list, or | between names")

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


def show_value(value: Any) -> str:
    """A value as an error message shows it: what Python prints, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
