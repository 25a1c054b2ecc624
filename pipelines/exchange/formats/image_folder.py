"""A folder of images per category, and `metadata.jsonl`: for `load_dataset("imagefolder")` and torchvision."""

import json
import re
from collections.abc import Sequence
from typing import Any

from ecor.storage.digests import text_sha256
from pipelines.exchange.exported_label import ExportedLabel, label_record, review_text
from pipelines.exchange.formats.writer import ExportContext

METADATA_NAME = "metadata.jsonl"
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|train|test|validation|val|dev|eval)(\.|$)", re.IGNORECASE)
"""Names of devices on Windows, and of splits, which `datasets` does not take for categories."""
_MOST_CHARS = 60


class ImageFolderWriter:
    """`metadata.jsonl` beside the folders of categories. The images are placed there before."""

    def __init__(self, context: ExportContext) -> None:
        self._file = (context.folder / METADATA_NAME).open("w", encoding="utf-8")

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            self._file.write(json.dumps(_metadata(label), ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self._file.close()


def category_folder(label: ExportedLabel) -> str:
    """Folder of an image: of its category after the reviews."""
    category, _ = label.final
    return folder_name(category if category is not None else label.prediction.category)


def folder_name(category: str) -> str:
    """A folder's name for a category that no file system misunderstands: `..`, `a/b`, `CON` and `A` beside `a`.

    A name that is no plain word in lower case gets a part of its digest, so that no two categories share a folder.
    """
    plain = re.sub(r"[^\w-]+", "_", category).strip("_")[:_MOST_CHARS]
    is_plain = bool(plain) and plain.replace("_", " ") == category == category.lower() and not _RESERVED.match(plain)
    return plain if is_plain else f"{plain or 'category'}-{text_sha256(category)[:8]}"


def _metadata(label: ExportedLabel) -> dict[str, Any]:
    """Columns whose type is the same in every row: readers of JSON Lines guess types."""
    record = label_record(label)
    record["file_name"] = record.pop("image")
    record["reviews"] = "; ".join(map(review_text, label.reviews))
    for name in ("decision", "category_true"):
        record[name] = record[name] or ""
    for name in ("rationales_true", "visible_rationales"):
        record[name] = record[name] or []
    return record
