"""COCO: image-level labels as annotations that cover the whole image, because the format has no other place for them.

https://cocodataset.org/#format-data. Not in the format: `score`, `attributes` and a rationale's `supercategory`; tools
that do not know them keep or drop them. CVAT keeps the annotations' categories.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pipelines.exchange.exported_label import ExportedLabel
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.json_stream import read_json_items
from pipelines.exchange.returned_label import VERDICTS_OF_TOOLS, ReturnedLabel
from pipelines.review.decision import Verdict

ANNOTATIONS_NAME = "annotations.json"
RATIONALE_PREFIX = "because of "
"""Before the name of a rationale among the categories: `because of stripes`."""


class CocoWriter:
    """`annotations.json`, written image by image; annotations wait in a temporary file, as they follow the images."""

    def __init__(self, context: ExportContext) -> None:
        names = [*context.names.categories, *(RATIONALE_PREFIX + each for each in context.names.rationales)]
        self._ids = {name: number for number, name in enumerate(names, start=1)}
        num_categories = len(context.names.categories)
        categories = [
            {"id": number, "name": name, "supercategory": "category" if number <= num_categories else "rationale"}
            for name, number in self._ids.items()
        ]
        self._file = (context.folder / ANNOTATIONS_NAME).open("w", encoding="utf-8")
        head = {"info": {"description": f"labels {context.labels_digest}"}, "licenses": [], "categories": categories}
        self._file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "images": [')
        self._annotations = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by finish
        self._num_images = self._num_annotations = 0

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            self._num_images += 1
            image = {
                "id": self._num_images,
                "file_name": label.image.address,
                "width": label.image.width,
                "height": label.image.height,
                "key": label.key,
                "source": label.prediction.source,
            }
            self._file.write((",\n" if self._num_images > 1 else "\n") + json.dumps(image, ensure_ascii=False))
            row = label.prediction
            facts = {"confidence": row.confidence, "decision": label.decision or "", "verdict": ""}
            self._annotate(label, row.category, attributes=facts)
            self._annotate(label, RATIONALE_PREFIX + row.rationale, attributes={})

    def finish(self) -> None:
        self._file.write('\n], "annotations": [')
        self._annotations.seek(0)
        for line in self._annotations:
            self._file.write(line)
        self._file.write("\n]}\n")
        self._annotations.close()
        self._file.close()

    def _annotate(self, label: ExportedLabel, name: str, *, attributes: Mapping[str, Any]) -> None:
        self._num_annotations += 1
        height, width = label.image.height or 0, label.image.width or 0
        annotation = {
            "id": self._num_annotations,
            "image_id": self._num_images,
            "category_id": self._ids[name],
            "bbox": [0, 0, width, height],
            "area": width * height,
            "segmentation": [],
            "iscrowd": 0,
            "score": label.prediction.confidence,
            "attributes": attributes,
        }
        text = json.dumps(annotation, ensure_ascii=False)
        self._annotations.write((",\n" if self._num_annotations > 1 else "\n") + text)


def read_coco(path: str) -> Iterator[ReturnedLabel]:
    """Images of a COCO file, or of a zip archive with one, and the categories and rationales of their annotations.

    Images and annotations may come in any order: they are joined in a temporary database on disk.

    Raises:
        ValueError: naming the place, for an annotation of an image or a category that the file lacks.
    """
    with tempfile.TemporaryDirectory() as scratch, closing(sqlite3.connect(Path(scratch) / "coco.sqlite")) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE images (id TEXT PRIMARY KEY, image TEXT, key TEXT)")
        database.execute("CREATE TABLE annotations (image TEXT, category TEXT, verdict TEXT)")
        categories: dict[str, tuple[str, str]] = {}
        for number, (kind, item) in enumerate(read_json_items(path, within=".json")):
            where = f"{path}: value {number} ({kind})"
            try:
                _keep(kind, item, database=database, categories=categories)
            except (KeyError, TypeError, AttributeError, sqlite3.Error) as error:
                raise ValueError(f"{where} is not COCO ({type(error).__name__}: {error}): export it again") from error
        database.execute("CREATE INDEX of_image ON annotations (image)")
        yield from _join(database, categories=categories, path=path)


def _keep(kind: str | None, item: Any, *, database: sqlite3.Connection, categories: dict[str, tuple[str, str]]) -> None:
    if kind == "categories":
        if not isinstance(item["name"], str):
            raise TypeError(f"the name of a category is {item['name']!r}")
        categories[str(item["id"])] = (item["name"], item.get("supercategory") or "")
    elif kind == "images":
        row = (str(item["id"]), item["file_name"], item.get("key"))
        database.execute("INSERT INTO images VALUES (?, ?, ?)", row)
    elif kind == "annotations":
        verdict = (item.get("attributes") or {}).get("verdict") or None
        row = (str(item["image_id"]), str(item["category_id"]), verdict)
        database.execute("INSERT INTO annotations VALUES (?, ?, ?)", row)


def _join(
    database: sqlite3.Connection, *, categories: Mapping[str, tuple[str, str]], path: str
) -> Iterator[ReturnedLabel]:
    lost = database.execute(
        "SELECT image FROM annotations WHERE image NOT IN (SELECT id FROM images) LIMIT 1"
    ).fetchone()
    if lost is not None:
        raise ValueError(f"{path}: an annotation is of the image {lost[0]}, which the file lacks: export it again")
    if database.execute("SELECT 1 FROM images LIMIT 1").fetchone() is None:
        raise ValueError(f"{path} holds no images: export it as COCO again")
    for identity, image, key in database.execute("SELECT id, image, key FROM images ORDER BY rowid"):
        where = f"{path}: image {identity}"
        found = database.execute(
            "SELECT category, verdict FROM annotations WHERE image = ? ORDER BY rowid", (identity,)
        ).fetchall()
        unknown = [category for category, _ in found if category not in categories]
        if unknown:
            raise ValueError(f"{where} has the category {unknown[0]}, which the file lacks: export it again")
        names = [categories[category] for category, _ in found]
        yield _returned(names, verdicts=[each for _, each in found if each], image=image, key=key, where=where)


def _returned(
    names: Sequence[tuple[str, str]], *, verdicts: Sequence[str], image: str, key: str | None, where: str
) -> ReturnedLabel:
    is_rationale = [
        kind == "rationale" or (kind != "category" and name.startswith(RATIONALE_PREFIX)) for name, kind in names
    ]
    shown = dict.fromkeys(name for (name, _), is_one in zip(names, is_rationale, strict=True) if not is_one)
    rationales = [name for (name, _), is_one in zip(names, is_rationale, strict=True) if is_one]
    return ReturnedLabel(
        where=where,
        key=key,
        image=image,
        verdict=one_verdict(verdicts, where=where),
        category=one_category(tuple(shown), where=where),
        rationales=tuple(each.removeprefix(RATIONALE_PREFIX) for each in rationales),
    )


def one_category(names: Sequence[str], *, where: str) -> str | None:
    """The only category of an image; None where there is none. ValueError for several."""
    if len(names) > 1:
        raise ValueError(f"{where} has the categories {' and '.join(names)}: an image has one label, keep one")
    return names[0] if names else None


def one_verdict(verdicts: Sequence[str], *, where: str) -> Verdict | None:
    """The only verdict of an image; None where there is none. ValueError for several, and for unknown ones."""
    found: dict[str, Verdict] = {each: each for each in VERDICTS_OF_TOOLS}
    chosen = tuple(dict.fromkeys(verdicts))
    if len(chosen) > 1 or any(each not in found for each in chosen):
        raise ValueError(f"{where}: the verdict must be one of {', '.join(found)}, got {' and '.join(chosen)}")
    return found[chosen[0]] if chosen else None
