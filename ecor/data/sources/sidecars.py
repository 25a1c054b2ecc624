"""Labels of images in tars of WebDataset: in `<key>.json` and `<key>.cls` beside `<key>.jpg`.

A key is the name up to its last dot; where no file is beside that one, up to its first dot, as webdataset cuts it.
"""

import json
from collections.abc import Container, Iterable, Iterator
from typing import Any

from ecor.data.images.image_names import is_image_name
from ecor.data.table_row import TableRow, show_value
from ecor.storage import filesystem

SIDECARS = (".json", ".cls", ".txt")
_LABELS = ("category", "rationales", "visible_rationales", "split")


def sidecars_of(image: str, names: Container[str]) -> list[str]:
    """The files beside an image of an archive that belong to it.

    Args:
        image: path of the image.
        names: paths of all files.
    """
    folder, slash, name = image.rpartition("/")
    for key in dict.fromkeys((name.rpartition(".")[0], name.partition(".")[0])):
        found = [f"{folder}{slash}{key}{suffix}" for suffix in SIDECARS if key]
        if present := [each for each in found if each in names]:
            return present
    return []


def has_sidecars(paths: Iterable[str]) -> bool:
    """Whether any image has a file beside it that belongs to it."""
    names = set(paths)
    return any(sidecars_of(path, names) for path in names if is_image_name(path))


def read_labelled_members(root: str, paths: Iterable[str]) -> Iterator[tuple[TableRow, list[str]]]:
    """Yield a row with `path` and labels for each image of an archive, and the files that belong to it.

    Args:
        root: address of the archive's members, `…/0.tar!`.
        paths: all files in it, sorted. Those that are neither images by name nor belong to one yield nothing.

    Raises:
        ValueError: when a `.json` is no object, or a `.cls` no text.
        OSError: when a disk or a store fails.
    """
    ordered = list(paths)
    names = set(ordered)
    for path in ordered:
        if is_image_name(path):
            beside = sidecars_of(path, names)
            cells: dict[str, Any] = {}
            for name in beside:
                cells = {**_read_labels(f"{root}/{name}"), **cells}
            yield TableRow(where=f"{root}/{path}", cells={"path": path, **cells}), beside


def _read_labels(address: str) -> dict[str, Any]:
    """Labels of a `.json` or `.cls`; a `.txt` is a caption, and no label."""
    if address.endswith(".txt"):
        return {}
    data = filesystem.read(address)
    try:
        text = data.decode()
        found = json.loads(text) if address.endswith(".json") else {"category": text.strip() or None}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{address} holds no labels, {show_value(data)}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{address} must be a JSON object, got {show_value(found)}")
    return {name: found[name] for name in _LABELS if found.get(name) is not None}
