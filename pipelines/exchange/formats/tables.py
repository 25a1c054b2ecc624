"""CSV and JSON Lines: a row per label, with columns to fill in that `ecor import` and `ecor audit --judged` read."""

import base64
import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ecor.data.heatmap_codec import Evidence
from pipelines.exchange.exported_label import ExportedLabel, label_record
from pipelines.exchange.formats.writer import ExportContext
from pipelines.exchange.returned_label import ReturnedLabel
from pipelines.review.decision import format_time
from pipelines.review.judged_file import TO_FILL, read_judged_rows, spreadsheet_text

CSV_NAME, JSONL_NAME = "labels.csv", "labels.jsonl"


class CsvWriter:
    """One CSV file; cells are quoted and a byte order mark leads, so that spreadsheets read names of any language."""

    def __init__(self, context: ExportContext) -> None:
        self._file = (context.folder / CSV_NAME).open("w", encoding="utf-8-sig", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self._columns: list[str] | None = None

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            row = _table_row(label)
            if self._columns is None:
                self._columns = list(row)
                self._writer.writerow(self._columns)
            self._writer.writerow([_cell(name, value) for name, value in row.items()])

    def finish(self) -> None:
        if self._columns is None:
            self._writer.writerow(["key", *TO_FILL])
        self._file.close()


class JsonLinesWriter:
    """One JSON Lines file; maps are in it as in the labels, their bytes in base64."""

    def __init__(self, context: ExportContext) -> None:
        self._file = (context.folder / JSONL_NAME).open("w", encoding="utf-8", newline="\n")
        self._with_maps = context.with_maps

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        for label in labels:
            row = _table_row(label)
            if self._with_maps and label.prediction.evidence is not None:
                row["evidence"] = evidence_record(label.prediction.evidence)
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        self._file.close()


def read_table(path: str) -> Iterator[ReturnedLabel]:
    """Rows of a CSV, JSON Lines or Parquet file, judged or not."""
    for judged in read_judged_rows(path):
        yield ReturnedLabel(
            where=judged.row.where,
            key=judged.key,
            verdict=judged.verdict,
            category=None if judged.after is None else judged.after.category,
            rationales=None if judged.after is None else judged.after.rationales,
            reviewer=judged.reviewer,
            time=judged.time,
            note=judged.note,
            image_sha256=judged.image_sha256,
            is_explicit=True,
            check_label=judged.check_label,
        )


def evidence_record(evidence: Evidence) -> dict[str, Any]:
    """Maps as JSON values, as `ecor.data.heatmap_codec` describes them, with the bytes of cells in base64."""
    return {
        "method": evidence.method,
        "category": evidence.category,
        "input_height": evidence.input_height,
        "input_width": evidence.input_width,
        "resize_mode": evidence.resize_mode,
        "maps": [
            {
                "rationale": each.rationale,
                "height": each.height,
                "width": each.width,
                "low": each.low,
                "high": each.high,
                "values": base64.b64encode(each.values).decode(),
            }
            for each in evidence.maps
        ],
    }


def _table_row(label: ExportedLabel) -> dict[str, Any]:
    """The label's columns, and those to fill in: as the only reviewer filled them in, if there is one."""
    record, (review, *others) = label_record(label), (label.reviews or (None,))
    is_one = review is not None and not others
    after = review.after if review is not None and is_one else None
    row = label.prediction
    return {
        **record,
        **{name: getattr(row, name) for name in ("shard", "member_offset", "member_num_bytes")},
        "verdict": review.verdict if review is not None and is_one else None,
        "category_after": None if after is None else after.category,
        "rationales_after": None if after is None else list(after.rationales),
        "reviewer": review.reviewer if review is not None and is_one else None,
        "time": format_time(review.time) if review is not None and is_one else None,
        "note": review.note if review is not None and is_one else None,
    }


def _cell(name: str, value: Any) -> str:
    """A cell's text: lists of names with `|` between them where that is enough, else as JSON."""
    if value is None:
        return ""
    if isinstance(value, list):
        texts = [each for each in value if isinstance(each, str)]
        is_plain = len(texts) == len(value) > 0 and not any("|" in each or not each.strip() for each in texts)
        if is_plain and not texts[0].lstrip().startswith("["):
            return spreadsheet_text("|".join(texts))
        return "" if not value and name == "reviews" else json.dumps(value, ensure_ascii=False)
    return str(value) if isinstance(value, int | float) else spreadsheet_text(str(value))
