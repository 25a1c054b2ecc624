"""Read COCO's annotations as a table of images: the category of an image is that of all its annotations.

The file is read twice, item by item; memory holds a number per image.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

from ecor.data.sources.json_stream import stream_json_items
from ecor.data.table_row import TableRow, show_value
from ecor.storage import filesystem

COCO_SUFFIX = ".json"
_SEVERAL = object()
"""In place of the category of an image that has annotations of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    names: Mapping[Any, str]
    """Of categories, by their ids."""
    category_of: Mapping[Any, Any]
    """Id of the category of each image that has annotations, by the image's id; or `_SEVERAL`."""


def read_coco(path: str) -> Iterator[TableRow]:
    """Yield a row with `path` and `category` for each image; an image without one category has none.

    Args:
        path: address of the annotations. Images are looked for beside it, in `images`, and, for
            `annotations/instances_val2017.json`, in `val2017` and `images/val2017` beside `annotations`.

    Raises:
        ValueError: when it is no such file, an image or annotation lacks a field, or the first image is in none of the
            folders.
    """
    labels = _read_labels(path)
    folder: str | None = None
    for number, image in enumerate(_items(path, of="images")):
        where = f"{path}: images, item {number}"
        name = _field(image, "file_name", where=where)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}: file_name must be a text, got {show_value(name)}")
        folder = folder or _find_folder(path, name)
        found = labels.category_of.get(_field(image, "id", where=where))
        category = None if found is None or found is _SEVERAL else labels.names[found]
        yield TableRow(where=where, cells={"path": f"{folder}/{name}", "category": category})


def describe_coco(path: str) -> str | None:
    """A line with the numbers of images of several categories, and of none; None where each has one."""
    labels, kinds = _read_labels(path), Counter[str]()
    for image in _items(path, of="images"):
        found = labels.category_of.get(image.get("id"))
        kinds["several" if found is _SEVERAL else "none" if found is None else "one"] += 1
    if not kinds["several"] and not kinds["none"]:
        return None
    return (
        f"{path}: {kinds['several']} images have annotations of several categories and {kinds['none']} have none: they "
        "are taken without a category"
    )


def _read_labels(path: str) -> _Labels:
    names: dict[Any, str] = {}
    category_of: dict[Any, Any] = {}
    present: set[str | None] = set()
    for name, item in _entries(path):
        present.add(name)
        if name == "categories":
            where = f"{path}: categories"
            names[_field(item, "id", where=where)] = str(_field(item, "name", where=where))
        elif name == "annotations":
            image, category = (_field(item, key, where=f"{path}: annotations") for key in ("image_id", "category_id"))
            if category_of.setdefault(image, category) != category:
                category_of[image] = _SEVERAL
    if not {"images", "categories"} <= present:
        raise ValueError(f"{path} is no file of COCO annotations: it needs images, annotations and categories")
    unknown = {each for each in category_of.values() if each is not _SEVERAL} - names.keys()
    if unknown:
        raise ValueError(f"{path}: annotations name the category {min(map(str, unknown))}, which is not in categories")
    return _Labels(names=names, category_of=category_of)


def _field(item: Any, name: str, *, where: str) -> Any:
    found = item.get(name) if isinstance(item, dict) else None
    if found is None or isinstance(found, list | dict):
        raise ValueError(f"{where}: an object with {name} is expected, got {show_value(item)}")
    return found


def _find_folder(path: str, name: str) -> str:
    """The folder that the first image lies in."""
    here, _, file = path.rpartition("/")
    above, part = here.rpartition("/")[0], file.rpartition(".")[0].rpartition("_")[2]
    folders = [here, f"{here}/images", f"{above}/{part}", f"{above}/images/{part}", f"{above}/images", above]
    for folder in folders:
        if filesystem.exists(f"{folder}/{name}"):
            return folder
    raise ValueError(f"{path}: its image {name} is in none of {', '.join(folders)}: put the images or a link there")


def _items(path: str, *, of: str) -> Iterator[Any]:
    return (item for name, item in _entries(path) if name == of)


def _entries(path: str) -> Iterator[tuple[str | None, Any]]:
    with _open_text(path) as file:
        yield from stream_json_items(file.read, path=path)


@contextmanager
def _open_text(path: str) -> Iterator[TextIOWrapper]:
    try:
        with filesystem.open_file(path) as binary, TextIOWrapper(binary, encoding="utf-8-sig") as file:
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{path}: there is no such file") from error
