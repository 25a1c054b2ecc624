"""Read what people did in Label Studio: its JSON and JSON-MIN exports.

https://labelstud.io/guide/task_format
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pipelines.exchange.json_stream import read_json_items
from pipelines.exchange.returned_label import VERDICTS_OF_TOOLS, ReturnedLabel
from pipelines.review.decision import Verdict, parse_time


def read_label_studio(path: str) -> Iterator[ReturnedLabel]:
    """Annotations of Label Studio's JSON export (also of several exports), or rows of its JSON-MIN export.

    Raises:
        ValueError: for anything else, with the place.
    """
    for number, (_, task) in enumerate(read_json_items(path), start=1):
        where = f"{path}: task {number}"
        if not isinstance(task, dict):
            raise ValueError(f"{where} is no object: export the project as JSON or JSON-MIN")
        try:
            found = _read_any(task, where=where)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{where} is not as Label Studio writes it ({error}): export the project again") from error
        if found is None:
            raise ValueError(f"{where} has neither data nor an annotator: export the project as JSON or JSON-MIN")
        yield from found


def _read_any(task: Mapping[str, Any], *, where: str) -> list[ReturnedLabel] | None:
    if "data" in task or "annotations" in task:
        return list(_read_task(task, where=where))
    if "annotator" in task or "annotation_id" in task:
        return [_read_flat(task, where=where)]
    return None


def _read_task(task: Mapping[str, Any], *, where: str) -> Iterator[ReturnedLabel]:
    data = task.get("data") or {}
    for annotation in task.get("annotations") or ():
        if not isinstance(annotation, dict):
            raise ValueError(f"{where}: its annotations are numbers: export the project as JSON, not a snapshot")
        values: dict[str, list[str]] = {}
        for result in annotation.get("result") or ():
            value = result.get("value") or {}
            found = value.get("choices") or value.get("text") or []
            values.setdefault(str(result.get("from_name")), []).extend([found] if isinstance(found, str) else found)
        yield _returned(
            values,
            data=data,
            where=where,
            is_cancelled=bool(annotation.get("was_cancelled")),
            reviewer=_reviewer(annotation.get("completed_by")),
            time=_time(annotation.get("updated_at") or annotation.get("created_at"), where=where),
        )


def _read_flat(task: Mapping[str, Any], *, where: str) -> ReturnedLabel:
    """A row of JSON-MIN: values by the name of the control; several choices are an object, one is a text."""
    values: dict[str, list[str]] = {}
    for name in ("category", "rationales", "new_category", "new_rationales", "verdict", "note"):
        value = task.get(name)
        value = value.get("choices", value.get("text")) if isinstance(value, dict) else value
        if value is not None:
            values[name] = [value] if isinstance(value, str) else list(value)
    return _returned(
        values,
        data=task,
        where=where,
        is_cancelled=False,
        reviewer=_reviewer(task.get("annotator")),
        time=_time(task.get("updated_at") or task.get("created_at"), where=where),
    )


def _returned(
    values: Mapping[str, list[str]],
    *,
    data: Mapping[str, Any],
    where: str,
    is_cancelled: bool,
    reviewer: str | None,
    time: datetime | None,
) -> ReturnedLabel:
    verdict = _verdict(values.get("verdict"), is_cancelled=is_cancelled, where=where)
    categories = [*values.get("category", []), *values.get("new_category", [])]
    return ReturnedLabel(
        where=where,
        key=data.get("key"),
        image=data.get("image"),
        verdict=verdict,
        category=categories[-1] if categories else None,
        rationales=(*values.get("rationales", []), *values.get("new_rationales", [])),
        reviewer=reviewer,
        time=time,
        note=" ".join(values.get("note", [])),
        is_seen=True,
        is_explicit=is_cancelled,  # names of a skipped task are a draft
    )


def _verdict(chosen: Sequence[str] | None, *, is_cancelled: bool, where: str) -> Verdict | None:
    if is_cancelled:
        return "skip"
    if not chosen:
        return None
    found: dict[str, Verdict] = {each: each for each in VERDICTS_OF_TOOLS}
    if chosen[0] not in found:
        raise ValueError(f"{where}: the verdict must be one of {', '.join(found)}, got {chosen[0]!r}")
    return found[chosen[0]]


def _reviewer(author: Any) -> str | None:
    """Name of an annotator: an address where the export has it, else the number of the user."""
    if isinstance(author, dict):
        author = author.get("email") or author.get("username") or author.get("id")
    if author is None or author == "":
        return None
    return f"Label Studio user {author}" if isinstance(author, int) else str(author)


def _time(text: Any, *, where: str) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
