"""Label Studio: tasks with predictions, and the labeling configuration that goes with them.

https://labelstud.io/guide/predictions
"""

import json
from collections.abc import Sequence
from typing import Any, TextIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipelines.exchange.exported_label import ExportedLabel, model_text, review_text
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.known_names import KnownNames
from pipelines.exchange.returned_label import VERDICTS_OF_TOOLS
from pipelines.review.decision import Decision, format_time

_CONFIG_NAME = "labeling_config.xml"
TASKS_PER_FILE = 50_000
"""Ours: files that a browser can still upload."""
LOCAL_FILES = "/data/local-files/?d="
"""Prefix under which Label Studio serves local files, with LOCAL_FILES_DOCUMENT_ROOT=/."""
_MOST_BUTTONS = 30
"""With more names than this, a menu is shown instead of buttons."""


class LabelStudioWriter:
    """`tasks-00000.json` and more, each an array of at most `TASKS_PER_FILE` tasks, and the configuration."""

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        self._file: TextIO | None = None
        self._num_tasks = 0
        (context.folder / _CONFIG_NAME).write_text(labeling_config(context.names), encoding="utf-8")

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            if self._num_tasks % TASKS_PER_FILE == 0:
                self._close()
                name = f"tasks-{self._num_tasks // TASKS_PER_FILE:05d}.json"
                self._file = (self._context.folder / name).open("w", encoding="utf-8")
            assert self._file is not None
            self._file.write("[\n" if self._num_tasks % TASKS_PER_FILE == 0 else ",\n")
            self._file.write(json.dumps(self._task(label), ensure_ascii=False))
            self._num_tasks += 1

    def finish(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.write("\n]\n")
            self._file.close()

    def _task(self, label: ExportedLabel) -> dict[str, Any]:
        row = label.prediction
        task: dict[str, Any] = {
            "data": {
                "image": self._image(label),
                "key": row.key,
                "headline": f"{row.category} because of {row.rationale} ({row.confidence:.0%})",
                "label_category": row.category,
                "label_rationale": row.rationale,
                "confidence": row.confidence,
                "decision": label.decision or "",
                "reviews": "; ".join(map(review_text, label.reviews)),
                "source": row.source,
            },
            "predictions": [
                {
                    "model_version": model_text(row),
                    "score": row.confidence,
                    "result": _results(row.category, (row.rationale,)),
                }
            ],
        }
        return {**task, "annotations": list(map(_annotation, label.reviews))} if label.reviews else task

    def _image(self, label: ExportedLabel) -> str:
        address = label.image.address
        if label.image.is_within:
            address = f"{self._context.address}/{address}"
        return address if "://" in address else LOCAL_FILES + quote(address.lstrip("/"))


def labeling_config(names: KnownNames) -> str:
    """The labeling configuration that goes with the tasks: choices of names, verdict, new names and a note."""
    lines = [
        "<View>",
        '  <Header value="$headline"/>',
        '  <Image name="image" value="$image"/>',
        *_choices("category", names.categories, choice="single", title="Category"),
        *_choices("rationales", names.rationales, choice="multiple", title="Rationales that the image shows"),
        '  <TextArea name="new_category" toName="image" maxSubmissions="1" placeholder="another category"/>',
        '  <TextArea name="new_rationales" toName="image" placeholder="other rationales"/>',
        *_choices("verdict", VERDICTS_OF_TOOLS, choice="single", title="Verdict, if the names stay as they are"),
        '  <TextArea name="note" toName="image" maxSubmissions="1" placeholder="note"/>',
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def _choices(name: str, values: Sequence[str], *, choice: str, title: str) -> list[str]:
    layout = ' layout="select"' if len(values) > _MOST_BUTTONS else ' showInline="true"'
    options = [f"    <Choice value={quoteattr(value)}/>" for value in values]
    return [
        f"  <Header value={quoteattr(title)}/>",
        f'  <Choices name="{name}" toName="image" choice="{choice}"{layout}>',
        *options,
        "  </Choices>",
    ]


def _results(category: str, rationales: Sequence[str]) -> list[dict[str, Any]]:
    return [_choice("category", [category])] + ([_choice("rationales", list(rationales))] if rationales else [])


def _choice(name: str, values: list[str]) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "image", "type": "choices", "value": {"choices": values}}


def _text(name: str, value: str) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "image", "type": "textarea", "value": {"text": [value]}}


def _annotation(review: Decision) -> dict[str, Any]:
    """A reviewer's decision as an annotation; Label Studio keeps the reviewer if it has a user of this address."""
    before, after = review.before, review.after
    if after is not None:
        results = _results(after.category, after.rationales)
    else:
        seen = () if review.verdict == "rationale_not_visible" else (before.rationale,)
        results = [*_results(before.category, seen), _choice("verdict", [review.verdict])]
    results += [_text("note", review.note)] if review.note else []
    author = {"completed_by": {"email": review.reviewer}} if "@" in review.reviewer else {}
    return {
        **author,
        "was_cancelled": review.verdict == "skip",
        "created_at": format_time(review.time),
        "result": results,
    }
