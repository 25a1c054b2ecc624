"""Read sentences from a file: a text of one a line, a table, a JSON list or object, or COCO's captions."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ecor.config.checks import require
from ecor.data.name_parsing import decode_utf8
from ecor.data.table_row import show_value
from ecor.data.tables import TABLE_SUFFIXES, read_rows
from ecor.storage import filesystem

_SUFFIXES = (".txt", ".json", *TABLE_SUFFIXES)


def read_captions(path: str, *, column: str) -> Iterator[str]:
    """Yield the captions of a file, in order; empty ones are left out.

    JSON is a list of texts or objects, {image: caption or list of captions}, or COCO's object with `annotations`.

    Args:
        path: local, or in a store.
        column: of a table, or key of JSON objects, that holds the caption.

    Raises:
        ValueError: naming the file and the line, row or item, when there is no such file, its suffix is another one, or
            it holds no captions in that form.
    """
    suffix = PurePosixPath(path).suffix.lower()
    require(
        suffix in _SUFFIXES,
        f"{path}: captions are a {', '.join(_SUFFIXES)} file, got {suffix or 'no suffix'}: name one of these",
    )
    if suffix in TABLE_SUFFIXES:
        for row in read_rows(path, required=(column.strip().casefold(),)):
            yield from filter(None, [row.text(column.strip().casefold())])
        return
    text = decode_utf8(read_file(path, what="captions"), source=path)
    lines = text.splitlines() if suffix == ".txt" else _json_captions(text, path=path, column=column)
    yield from (line for line in lines if line.strip())


def read_file(path: str, *, what: str) -> bytes:
    """Read a small file whole.

    Raises:
        ValueError: when there is no such file, or it is a folder; `what` says what it should hold.
    """
    require(not filesystem.is_folder(path), f"{path} is a folder: name a file of {what}")
    try:
        return filesystem.read(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file of {what}") from error


def _json_captions(text: str, *, path: str, column: str) -> Iterator[str]:
    try:
        loaded = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(loaded, dict):
        is_coco = isinstance(loaded.get("annotations"), list)
        loaded = loaded["annotations"] if is_coco else [each for value in loaded.values() for each in _as_list(value)]
    require(isinstance(loaded, list), f"{path} holds {show_value(loaded)}, no list of captions: write [caption, …]")
    for number, item in enumerate(loaded):
        caption = item.get(column) if isinstance(item, dict) else item
        where = f"{path}: item {number}"
        if caption is None and isinstance(item, dict):
            raise ValueError(f"{where} has no {column!r}, it has {show_value(sorted(item))}: set --caption-column")
        if not isinstance(caption, str):
            raise ValueError(f"{where} must be a text, got {show_value(caption)}: write captions as texts")
        yield caption


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
