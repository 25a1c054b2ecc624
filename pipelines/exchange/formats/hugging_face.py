"""A dataset of Hugging Face: Parquet files whose metadata name the features, and a README.md that names the files."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.heatmap_codec import EVIDENCE_COLUMN
from pipelines.exchange.exported_label import ExportedLabel, label_record
from pipelines.exchange.formats.writer import ExportContext

ROWS_PER_FILE = 50_000
BYTES_PER_FILE = 400 * 2**20
"""Of images; the Hub asks for files of at most 500 MB or so."""
_TEXTS = pa.list_(pa.string())
_NUMBERS = pa.list_(pa.float64())
_REVIEW = pa.struct(
    [
        pa.field("reviewer", pa.string()),
        pa.field("time", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("category_after", pa.string()),
        pa.field("rationales_after", _TEXTS),
        pa.field("note", pa.string()),
    ]
)
_COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "image": pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]),
    "source": pa.string(),
    "category": pa.string(),
    "rationale": pa.string(),
    "confidence": pa.float64(),
    "category_confidence": pa.float64(),
    "decision": pa.string(),
    "ranked_categories": _TEXTS,
    "category_probs": _NUMBERS,
    "ranked_rationales": _TEXTS,
    "rationale_probs": _NUMBERS,
    "ood_score": pa.float64(),
    "category_true": pa.string(),
    "rationales_true": _TEXTS,
    "visible_rationales": _TEXTS,
    "final_category": pa.string(),
    "final_rationales": _TEXTS,
    "reviews": pa.list_(_REVIEW),
    "model": pa.string(),
}
"""Columns of `label_record`; the image has bytes where it was copied, else its address."""


class HuggingFaceWriter:
    """`data/train-00000.parquet` and more, and `README.md`."""

    def __init__(self, context: ExportContext) -> None:
        self._context = context
        evidence = {EVIDENCE_COLUMN.name: EVIDENCE_COLUMN.type} if context.with_maps else {}
        columns = {**_COLUMNS, **evidence}
        features = {name: _feature(kind) for name, kind in columns.items()} | {"image": {"_type": "Image"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = pa.schema([pa.field(*each) for each in columns.items()], metadata=metadata)
        self._writer: pq.ParquetWriter | None = None
        self._num_files = self._num_rows = self._num_bytes = self._num_labels = 0
        (context.folder / "data").mkdir()

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        if not labels:
            return
        rows = [self._row(label) for label in labels]
        if self._writer is None or self._num_rows >= ROWS_PER_FILE or self._num_bytes >= BYTES_PER_FILE:
            self._begin_file()
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        self._num_rows += len(rows)
        self._num_labels += len(rows)
        self._num_bytes += sum(len(label.image.data or b"") for label in labels)

    def finish(self) -> None:
        if self._writer is None:
            self._begin_file()
        assert self._writer is not None
        self._writer.close()
        (self._context.folder / "README.md").write_text(self._readme(), encoding="utf-8")

    def _begin_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self._context.folder / "data" / f"train-{self._num_files:05d}.parquet"
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._num_files, self._num_rows, self._num_bytes = self._num_files + 1, 0, 0

    def _row(self, label: ExportedLabel) -> dict[str, Any]:
        row = label_record(label)
        row["image"] = {"bytes": label.image.data, "path": label.image.address}
        if self._context.with_maps and label.prediction.evidence is not None:
            row[EVIDENCE_COLUMN.name] = asdict(label.prediction.evidence)
        return row

    def _readme(self) -> str:
        return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
task_categories:
- image-classification
---

# Explained labels of images

{self._num_labels:,} labels with their rationales, made by ecor (labels `{self._context.labels_digest}`).

`category` and `rationale` are the model's, with the probability `confidence` of both; `decision` is an audit's
(accept, review or reject), `reviews` are people's, and `final_category` and `final_rationales` what counts after them.
"""


def _feature(kind: pa.DataType) -> Any:
    """The feature of `datasets` for an Arrow type."""
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return [inner] if pa.types.is_struct(kind.value_type) else {"feature": inner, "_type": "Sequence"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    dtype = {pa.float64(): "float64", pa.int32(): "int32", pa.binary(): "binary"}.get(kind, "string")
    return {"dtype": dtype, "_type": "Value"}
