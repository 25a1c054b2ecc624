"""CVAT for images 1.1: category and rationales as tags of the image; `labels.json` makes the task's labels.

https://docs.cvat.ai/docs/other/xml_format
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from pipelines.exchange.exported_label import ExportedLabel, review_text
from pipelines.exchange.formats.coco import RATIONALE_PREFIX, one_category, one_verdict
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.opened_export import open_export
from pipelines.exchange.returned_label import VERDICTS_OF_TOOLS, ReturnedLabel

XML_NAME, LABELS_NAME = "annotations.xml", "labels.json"
UNDECIDED = "-"
"""The verdict's default: CVAT's menus need a value."""
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no form for."""
_HEAD_BYTES = 2**16


class CvatWriter:
    """`annotations.xml`, written image by image, and `labels.json` for the raw label constructor of a new task."""

    def __init__(self, context: ExportContext) -> None:
        labels = _labels(context)
        text = json.dumps(labels, ensure_ascii=False, indent=1) + "\n"
        (context.folder / LABELS_NAME).write_text(text, encoding="utf-8")
        self._file = (context.folder / XML_NAME).open("w", encoding="utf-8")
        self._file.write(_head(labels, num_images=context.num_labels, digest=context.labels_digest))
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
        self._file.close()


def read_cvat(path: str) -> Iterator[ReturnedLabel]:
    """Images of CVAT's XML (for images 1.1), or of its zip archive; one image is in memory at a time.

    Raises:
        ValueError: naming the image, for several categories or verdicts of one, and for XML that is damaged, of a
            video, or with a document type (which may hold entities that expand without end).
    """
    with open_export(path, within=".xml") as file:
        head = file.read(_HEAD_BYTES)
        if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
            raise ValueError(f"{path} has a document type, which CVAT does not write: export it again")
        try:
            yield from _images(_Joined(head, file), path=path)
        except ElementTree.ParseError as error:
            raise ValueError(f"{path} is not XML ({error}): export it again as CVAT for images 1.1") from error


class _Joined:
    """The head that was read, then the rest of the file."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        if self._head:
            found, self._head = self._head, b""
            return found
        return self._rest.read(size)


def _images(file: _Joined, *, path: str) -> Iterator[ReturnedLabel]:
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


def _head(labels: Sequence[dict[str, Any]], *, num_images: int, digest: str) -> str:
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        "  <meta><task>",
        f"    <name>labels {digest[:12]}</name><size>{num_images}</size><mode>annotation</mode>",
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


def _name(address: str) -> str:
    """CVAT knows an uploaded image by its path below the folder that was uploaded."""
    return address.removeprefix("images/")


def _escaped(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text))


def _quoted(text: str) -> str:
    if _NO_XML.search(text):
        raise ValueError(f"{text!r} holds a character that XML has no form for: use --images copy, or rename it")
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
