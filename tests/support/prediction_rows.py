"""Names in, rows of predictions out: what tests of metrics and of evaluation are made from."""

import math

import numpy as np
import pyarrow as pa

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.records import (
    ExplainablePrediction,
    RankedCategory,
    RankedPair,
    RankedRationale,
    predictions_table,
)


def row(
    key: str,
    *pairs: tuple[str, str],
    category: str | None = None,
    rationales: tuple[str, ...] | None = None,
    visible: tuple[str, ...] | None = None,
    said: tuple[str, ...] = (),
    two_stage: tuple[str, str] | None = None,
    marginal: str = "",
    confidence: float = 0.5,
) -> ExplainablePrediction:
    """Ranked `pairs` and `said` rationales against the truth; what is left out follows from the best pair."""
    best = pairs[0]
    stated = said or tuple(dict.fromkeys(rationale for _, rationale in pairs))
    return ExplainablePrediction(
        key=key,
        source=f"{key}.jpg",
        category_true=category,
        rationales_true=rationales,
        visible_rationales=visible,
        category=best[0],
        rationale=best[1],
        confidence=confidence,
        category_log_prob=math.log(confidence),
        pairs=tuple(RankedPair(category=c, rationale=r, log_prob=-1.0 - i) for i, (c, r) in enumerate(pairs)),
        categories=(RankedCategory(category=marginal or best[0], log_prob=-0.5),),
        rationales=tuple(RankedRationale(rationale=r, log_prob=-0.5 - i) for i, r in enumerate(stated)),
        two_stage_category=(two_stage or best)[0],
        two_stage_rationale=(two_stage or best)[1],
        kept_mass=0.9,
        pairs_exact=True,
        calibrated=True,
        method="joint",
        model_name="ecor",
        model_version="3",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )


def random_table(
    num_rows: int, *, seed: int = 0, num_categories: int = 4, num_rationales: int = 6, skill: float = 0.5
) -> pa.Table:
    """Rows that are right about as often as `skill` says; the truth depends on the key alone."""
    said, truth = np.random.default_rng(seed), np.random.default_rng(99)
    rows = []
    for index in range(num_rows):
        category, *shown = truth.integers(num_categories), *truth.integers(num_rationales, size=3)
        pairs = [
            (f"c{c}", f"r{r}")
            for c, r in zip(said.integers(num_categories, size=5), said.integers(num_rationales, size=5), strict=True)
        ]
        if said.random() < skill:
            pairs[0] = (f"c{category}", pairs[0][1])
        if said.random() < skill:
            pairs[0] = (pairs[0][0], f"r{shown[0]}")
        rows.append(
            row(
                f"k{index:05d}",
                *pairs,
                category=f"c{category}",
                rationales=(f"r{shown[0]}",),
                visible=tuple(f"r{each}" for each in dict.fromkeys(shown)) if index % 3 else None,
                said=tuple(f"r{r}" for r in said.permutation(num_rationales)[:5]),
                two_stage=(f"c{said.integers(num_categories)}", f"r{said.integers(num_rationales)}"),
                confidence=float(said.random()),
            )
        )
    return predictions_table(rows)


def write_labels(
    folder: str, table: pa.Table, *, rows_per_part: int = 50, scoring: ScoringConfig | None = None
) -> PredictionSet:
    """A finished folder of predictions, as `ecor score` leaves it."""
    parts = tuple(
        write_part(folder, table.slice(start, rows_per_part), name=f"part-{start}.parquet", unit=f"unit-{start}")
        for start in range(0, table.num_rows, rows_per_part)
    )
    parents = PredictionParents(
        input="shards/test",
        input_digest="i" * 64,
        model_uri="models:/ecor@champion",
        model_name="ecor",
        model_version="3",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )
    record = PredictionSet(parts=parts, parents=parents, scoring=scoring or ScoringConfig(), num_rejected=2)
    write_prediction_set(folder, record)
    return record
