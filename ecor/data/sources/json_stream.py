"""Read the items of large JSON arrays one by one: of the outermost array, or of the arrays in the outermost object."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from ecor.config.checks import require

CHUNK_CHARS = 2**20
MOST_CHARS = 2**26
"""Longest item that is read (64 million characters)."""
_SPACE = " \t\n\r"
_ENDS = frozenset(_SPACE + ",:]}")
"""What follows a complete value."""


def stream_json_items(read: Callable[[int], str], *, path: str) -> Iterator[tuple[str | None, Any]]:
    """Yield the items of the outermost array as (None, item).

    Of an outermost object, yield its arrays' items as (name, item), and its other values as (name, value). One item is
    in memory at a time.

    Args:
        read: returns at most so many more characters of the text; empty at its end.
        path: of the file, for errors.

    Raises:
        ValueError: naming the file and the place, when it is no such JSON.
    """
    stream = _Stream(read, path=path)
    try:
        if stream.peek() == "[":
            yield from ((None, item) for item in stream.items())
        elif stream.peek() == "{":
            yield from stream.entries()
        else:
            raise stream.error("must be a JSON array or object")
        require(stream.peek() == "", f"{path} has more than one JSON value: export it again")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): export it again") from error


class _Stream:
    """A window over a JSON text."""

    def __init__(self, read: Callable[[int], str], *, path: str) -> None:
        self._read, self._path = read, path
        self._text, self._at, self._dropped, self._is_end = "", 0, 0, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def items(self) -> Iterator[Any]:
        """The items of the array that begins here."""
        self._take("[")
        if self._take_if("]"):
            return
        while True:
            yield self.value()
            if self._take_if("]"):
                return
            self._take(",")

    def entries(self) -> Iterator[tuple[str, Any]]:
        """The values of the object that begins here; those that are arrays item by item."""
        self._take("{")
        if self._take_if("}"):
            return
        while True:
            if self.peek() != '"':
                raise self.error("needs a name in quotes here")
            name = self.value()
            self._take(":")
            if self.peek() == "[":
                yield from ((name, item) for item in self.items())
            else:
                yield name, self.value()
            if self._take_if("}"):
                return
            self._take(",")

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._read_more():
                    raise self.error(f"is not JSON ({error.msg})") from error
                continue
            except RecursionError as error:
                raise self.error("is nested too deeply") from error
            if self._text[end : end + 1] not in _ENDS and self._read_more():
                continue  # a number that is cut (`12`, `12.`, `1e-`) is a number or begins with one
            self._at = end
            return found

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self._path}, character {self._dropped + self._at}: {problem}: export it again")

    def _take(self, character: str) -> None:
        if not self._take_if(character):
            raise self.error(f"needs a {character!r} here, got {self.peek()!r}")

    def _take_if(self, character: str) -> bool:
        is_there = self.peek() == character
        self._at += is_there
        return is_there

    def _read_more(self) -> bool:
        """Drop what was read, and read twice what is left, so that a long item is not parsed too often."""
        if self._is_end:
            return False
        self._text, self._dropped, self._at = self._text[self._at :], self._dropped + self._at, 0
        require(len(self._text) <= MOST_CHARS, f"{self._path} has an item of over {MOST_CHARS} characters: split it")
        more = self._read(max(CHUNK_CHARS, len(self._text)))
        self._is_end = not more
        self._text += more
        return bool(more)
