"""CVAT for images 1.1: category and rationales as tags of the image; `labels.json` makes the task's labels.

https://docs.cvat.ai/docs/other/xml_format
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape, quoteattr

from pipelines.exchange.export_files import open_export
from pipelines.exchange.exported_label import ExportedLabel, review_text
from pipelines.exchange.formats.coco import RATIONALE_PREFIX, one_category, one_verdict
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.returned_label import VERDICTS_OF_TOOLS, ReturnedLabel

XML_NAME, LABELS_NAME = "annotations.xml", "labels.json"
UNDECIDED = "-"
"""The verdict's default: CVAT's menus need a value."""
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no form for."""
MOST_BYTES = 64 * 2**20
"""Longest XML of one image, and of all that stands before the first one."""


class CvatWriter:
    """`annotations.xml`, written image by image, and `labels.json` for the raw label constructor of a new task."""

    def __init__(self, context: ExportContext) -> None:
        labels = _labels(context)
        text = json.dumps(labels, ensure_ascii=False, indent=1) + "\n"
        (context.folder / LABELS_NAME).write_text(text, encoding="utf-8")
        self._file = (context.folder / XML_NAME).open("w", encoding="utf-8")
        self._size = _size(context.num_labels)
        head = _head(labels, size=self._size, digest=context.labels_digest)
        self._size_at = len(head.partition(self._size)[0].encode())
        self._file.write(head)
        self._num_images = 0

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            image, row = label.image, label.prediction
            attributes = {
                "confidence": f"{row.confidence:.6g}",
                "decision": label.decision or "",
                "reviews": "; ".join(map(review_text, label.reviews)),
                "verdict": UNDECIDED,
                "note": "",
            }
            self._file.write(
                f'  <image id="{self._num_images}" name={_quoted(_name(image.address))} width="{image.width}" '
                f'height="{image.height}">\n'
                f'    <tag label={_quoted(row.category)} source="auto">\n'
                + "".join(
                    f'      <attribute name="{name}">{_escaped(value)}</attribute>\n'
                    for name, value in attributes.items()
                )
                + "    </tag>\n"
                f'    <tag label={_quoted(RATIONALE_PREFIX + row.rationale)} source="auto">\n    </tag>\n'
                "  </image>\n"
            )
            self._num_images += 1

    def finish(self) -> None:
        self._file.write("</annotations>\n")
        self._file.seek(self._size_at)  # fewer images than labels, where some are left out
        self._file.write(_size(self._num_images).ljust(len(self._size)))
        self._file.close()


def read_cvat(path: str) -> Iterator[ReturnedLabel]:
    """Images of CVAT's XML (for images 1.1), or of its zip archive; one image is in memory at a time.

    Raises:
        ValueError: naming the image, for several categories or verdicts of one, and for XML that is damaged, of a
            video, or with a document type (which may hold entities that expand without end).
    """
    with open_export(path, within=".xml") as file:
        try:
            yield from _images(_CheckedFile(file, path=path), path=path)
        except (ElementTree.ParseError, ExpatError, LookupError) as error:
            raise ValueError(f"{path} is not XML ({error}): export it again as CVAT for images 1.1") from error


class _CheckedFile:
    """XML in parts: refused, before they are parsed, where they have a document type or an image is too long."""

    def __init__(self, file: IO[bytes], *, path: str) -> None:
        self._file, self._path = file, path
        self._checker = ParserCreate()
        self._checker.StartDoctypeDeclHandler = self._refuse
        self.num_bytes = 0
        """Since the last image."""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._checker.Parse(data, not data)
        self.num_bytes += len(data)
        if self.num_bytes > MOST_BYTES:
            raise ValueError(f"{self._path} has an image of over {MOST_BYTES} bytes of XML: export it again")
        return data

    def _refuse(self, *declaration: Any) -> None:
        raise ValueError(f"{self._path} has a document type, which CVAT does not write: export it again")


def _images(file: _CheckedFile, *, path: str) -> Iterator[ReturnedLabel]:
    root = None
    for event, element in ElementTree.iterparse(file, events=("start", "end")):  # noqa: S314 - no document type
        if root is None:
            root = element
            if root.tag != "annotations":
                raise ValueError(f"{path} begins with <{root.tag}>, not <annotations>: export CVAT for images 1.1")
        if event == "start" and element.tag == "track":
            raise ValueError(f"{path} is of a video: export the task as CVAT for images 1.1")
        if event == "end" and element.tag == "image":
            yield _returned(element, where=f"{path}: image {element.get('name')}")
            root.clear()
            file.num_bytes = 0


def _returned(image: ElementTree.Element, *, where: str) -> ReturnedLabel:
    names, verdicts, notes = [], [], []
    for tag in image.iter("tag"):
        names.append(tag.get("label") or "")
        values = {each.get("name"): (each.text or "").strip() for each in tag.iter("attribute")}
        verdicts += [values["verdict"]] if values.get("verdict") not in (None, "", UNDECIDED) else []
        notes += [values["note"]] if values.get("note") else []
    shown = tuple(dict.fromkeys(each for each in names if not each.startswith(RATIONALE_PREFIX)))
    return ReturnedLabel(
        where=where,
        image=image.get("name"),
        verdict=one_verdict(verdicts, where=where),
        category=one_category(shown, where=where),
        rationales=tuple(each.removeprefix(RATIONALE_PREFIX) for each in names if each.startswith(RATIONALE_PREFIX)),
        note=" ".join(notes),
    )


def _labels(context: ExportContext) -> list[dict[str, Any]]:
    """All labels of the task, as CVAT's raw constructor takes them."""
    attributes = [
        *(_attribute(name, kind="text", values=[""]) for name in ("confidence", "decision", "reviews")),
        _attribute("verdict", kind="select", values=[UNDECIDED, *VERDICTS_OF_TOOLS]),
        _attribute("note", kind="text", values=[""]),
    ]
    categories = [{"name": each, "type": "tag", "attributes": attributes} for each in context.names.categories]
    rationales: list[dict[str, Any]] = [
        {"name": RATIONALE_PREFIX + each, "type": "tag", "attributes": []} for each in context.names.rationales
    ]
    return categories + rationales


def _attribute(name: str, *, kind: str, values: list[str]) -> dict[str, Any]:
    return {"name": name, "mutable": False, "input_type": kind, "default_value": values[0], "values": values}


def _head(labels: Sequence[dict[str, Any]], *, size: str, digest: str) -> str:
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        "  <meta><task>",
        f"    <name>labels {digest[:12]}</name>{size}<mode>annotation</mode>",
        "    <labels>",
    ]
    for label in labels:
        attributes = "".join(
            f"<attribute><name>{each['name']}</name><mutable>False</mutable><input_type>{each['input_type']}"
            f"</input_type><default_value>{_escaped(each['default_value'])}</default_value>"
            f"<values>{_escaped(chr(10).join(each['values']))}</values></attribute>"
            for each in label["attributes"]
        )
        lines.append(
            f"      <label><name>{_escaped(label['name'])}</name><type>tag</type>"
            f"<attributes>{attributes}</attributes></label>"
        )
    return "\n".join([*lines, "    </labels>", "  </task></meta>", ""])


def _size(num_images: int) -> str:
    return f"<size>{num_images}</size>"


def _name(address: str) -> str:
    """CVAT knows an uploaded image by its path below the folder that was uploaded."""
    return address.removeprefix("images/")


def _escaped(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text))


def _quoted(text: str) -> str:
    if _NO_XML.search(text):
        raise ValueError(
            f"{text!r} holds a character that XML has no form for: rename it (or, for an image, use --images copy)"
        )
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
