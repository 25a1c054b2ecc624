"""Files in which people write verdicts on labels: CSV, JSON Lines or Parquet, a row per label and reviewer."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from ecor.data.name_parsing import normalise_name
from ecor.data.table_row import TableRow
from ecor.data.tables import read_rows
from pipelines.review.decision import VERDICTS, Correction, LabelBefore, Verdict, parse_time

TO_FILL = ("verdict", "category_after", "rationales_after", "reviewer", "note")
"""Columns that a person or a tool fills in."""
_IN_FILES = tuple(verdict for verdict in VERDICTS if verdict != "undo")
_OF_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
_FILLED_TEXTS = ("category_after", "rationales_after", "reviewer", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRow:
    """One row, parsed; which label it is about is not checked yet."""

    row: TableRow
    """For errors."""
    key: str
    verdict: Verdict | None
    """None: not judged yet."""
    after: Correction | None
    reviewer: str | None
    time: datetime | None
    note: str
    image_sha256: str | None
    """Of the image that was judged, where the file has it."""

    def check_label(self, before: LabelBefore) -> None:
        """Raise ValueError where the row shows another label than this one."""
        for name in ("category", "rationale"):
            shown, ours = self.row.text(name), getattr(before, name)
            if shown and normalise_name(ours) not in (normalise_name(shown), normalise_name(shown.removeprefix("'"))):
                raise self.row.error(name, f"is not the label that is judged ({ours}): judge these labels")


def read_judged_rows(path: str) -> Iterator[JudgedRow]:
    """The rows of a judged file in order, few in memory at a time.

    Args:
        path: a CSV, JSON Lines or Parquet file with the columns `key` and `verdict`, and where needed
            `category_after`, `rationales_after`, `reviewer`, `time`, `note` and `image_sha256`. Where it has `category`
            and `rationale`, they are the label that was judged.

    Raises:
        ValueError: naming the row, for unknown verdicts, corrections without a category or beside another verdict, and
            times that are none.
    """
    optional = ("category", "rationale", *TO_FILL[1:], "time", "image_sha256")
    for read in read_rows(path, required=("key", "verdict"), optional=optional):
        row = _without_apostrophes(read) if path.lower().endswith(".csv") else read
        verdict = (row.text("verdict") or "").strip().lower() or None
        if verdict is not None and verdict not in _IN_FILES:
            raise row.error("verdict", f"must be one of {', '.join(_IN_FILES)}")
        yield JudgedRow(
            row=row,
            key=row.text("key") or "",
            verdict=cast(Verdict | None, verdict),
            after=_correction(row, verdict=verdict),
            reviewer=(row.text("reviewer") or "").strip() or None,
            time=_time(row),
            note=row.text("note") or "",
            image_sha256=_digest(row),
        )


def find_key(key: str, known: Mapping[str, object]) -> str | None:
    """The key among known ones that a cell names, with or without the apostrophe of `spreadsheet_text`; None: none."""
    return next((each for each in (key, key.removeprefix("'")) if each in known), None)


def spreadsheet_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe before it, as they write it themselves."""
    return f"'{text}" if text.lstrip("'").startswith(_OF_FORMULAS) else text


def original_text(text: str) -> str:
    """The text that `spreadsheet_text` was given."""
    is_marked = text.startswith("'") and text.lstrip("'").startswith(_OF_FORMULAS)
    return text[1:] if is_marked else text


def _without_apostrophes(row: TableRow) -> TableRow:
    """The row of a CSV file with the texts that were meant; `find_key` and `check_label` do the same for the others."""
    texts = {name: text for name in _FILLED_TEXTS if isinstance(text := row.cells.get(name), str)}
    return replace(row, cells={**row.cells, **{name: original_text(text) for name, text in texts.items()}})


def _correction(row: TableRow, *, verdict: str | None) -> Correction | None:
    category = row.text("category_after")
    if verdict != "correct":
        filled = {"category_after": (category or "").strip(), "rationales_after": row.names("rationales_after")}
        for name in (each for each, value in filled.items() if value):
            raise row.error(
                name, f"stands beside {verdict or 'no verdict'}: write the verdict correct, or empty the cell"
            )
        return None
    if not category or not category.strip():
        raise row.error("category_after", "is empty, but the verdict is correct: write the category that is shown")
    return Correction(category=category, rationales=tuple(row.names("rationales_after") or ()))


def _digest(row: TableRow) -> str | None:
    digest = row.text("image_sha256")
    if digest and not re.fullmatch("[0-9a-f]{64}", digest):
        raise row.error("image_sha256", "must be 64 hexadecimal digits, or empty")
    return digest or None


def _time(row: TableRow) -> datetime | None:
    value = row.cells.get("time")
    if isinstance(value, datetime):  # of a Parquet file
        return value if value.utcoffset() is not None else value.replace(tzinfo=UTC)
    if value is None or value == "":
        return None
    try:
        return parse_time(value)
    except ValueError as error:
        raise row.error("time", "must be a time with its zone, such as 2026-01-31T12:00:00Z") from error
