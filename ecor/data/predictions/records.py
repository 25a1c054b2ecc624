"""One label of an image with its reasons, as a frozen record."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ecor.data.heatmap_codec import EVIDENCE_COLUMN, Evidence
from ecor.data.predictions.schema import OPTIONAL_COLUMNS, PREDICTION_SCHEMA, schema_with


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPair:
    """A category with the reason for it."""

    category: str
    rationale: str
    log_prob: float
    """log P(c, r | I) in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedCategory:
    """A category, summed over rationales."""

    category: str
    log_prob: float
    """log P(c | I) in nats, over the kept rationales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRationale:
    """A rationale, independent of the category."""

    rationale: str
    log_prob: float
    """log P(r | I) in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainablePrediction:
    """One image's label with its reasons; `PREDICTION_SCHEMA` and `OPTIONAL_COLUMNS` describe each field."""

    key: str
    source: str
    shard: str | None = None
    member_offset: int | None = None
    member_num_bytes: int | None = None
    category_true: str | None = None
    rationales_true: tuple[str, ...] | None = None
    visible_rationales: tuple[str, ...] | None = None
    category: str
    rationale: str
    confidence: float
    category_log_prob: float
    pairs: tuple[RankedPair, ...]
    categories: tuple[RankedCategory, ...]
    rationales: tuple[RankedRationale, ...]
    two_stage_category: str
    two_stage_rationale: str
    kept_mass: float
    pairs_exact: bool
    calibrated: bool
    method: str
    model_name: str
    model_version: str | None = None
    model_digest: str
    vocabulary_digest: str
    ood_score: float | None = None
    rationale_visible_probability: float | None = None
    evidence: Evidence | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ExplainablePrediction":
        """One row of a table, as `Table.to_pylist` gives it."""
        values = {name: row[name] for name in PREDICTION_SCHEMA.names}
        values |= {column.name: row.get(column.name) for column in OPTIONAL_COLUMNS}
        values[EVIDENCE_COLUMN.name] = Evidence.from_row(row)
        for name, kind in (("pairs", RankedPair), ("categories", RankedCategory), ("rationales", RankedRationale)):
            values[name] = tuple(kind(**entry) for entry in values[name])
        for name in ("rationales_true", "visible_rationales"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


def predictions_table(predictions: Iterable[ExplainablePrediction]) -> pa.Table:
    """Convert records to a table with `PREDICTION_SCHEMA`, and the optional columns that a record has."""
    rows = [asdict(prediction) for prediction in predictions]
    known = [column.name for column in OPTIONAL_COLUMNS if any(row[column.name] is not None for row in rows)]
    return pa.Table.from_pylist(rows, schema=schema_with(known))


def iterate_predictions(table: pa.Table) -> Iterator[ExplainablePrediction]:
    """Yield the rows of a table with `PREDICTION_SCHEMA` as records, one batch in memory at a time."""
    for batch in table.to_batches(max_chunksize=1024):
        yield from map(ExplainablePrediction.from_row, batch.to_pylist())
