"""Evaluate a table of explained labels with known truth: every metric, with intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ecor.config.checks import require
from ecor.evaluation.calibration import calibration_estimates, reliability_bins
from ecor.evaluation.confidence_intervals import Resampling, mean_estimates
from ecor.evaluation.correctness import Labels
from ecor.evaluation.label_columns import read_labels
from ecor.evaluation.metrics import CategoryResult, category_results, observations
from ecor.evaluation.record import Result


def evaluate(
    table: pa.Table,
    *,
    name: str,
    predictions: str = "",
    parents: Mapping[str, Any] | None = None,
    num_rejected: int = 0,
    resampling: Resampling | None = None,
    num_bins: int = 15,
    labels: Labels | None = None,
) -> Result:
    """Compute every metric of a table of predictions with known truth, with intervals.

    Args:
        table: has `ecor.data.predictions.schema.PREDICTION_SCHEMA`.
        name: of the set, for tables and plots.
        predictions: digest of the set.
        parents: what the set was made from.
        num_rejected: images without a row.
        resampling: level, number and seed of the bootstrap; None: the default.
        num_bins: of the calibration error.
        labels: `known_labels` of the table, where they were read before; None: read here.

    Raises:
        ValueError: when no row has a known category, a key occurs twice, or a row has no ranked pair.
    """
    resampling = resampling or Resampling()
    labels = labels or known_labels(table, name=name)
    answers, truth = labels.answers, labels.truth
    metrics = mean_estimates(observations(answers, truth), resampling=resampling)
    metrics |= calibration_estimates(answers, truth, num_bins=num_bins, resampling=resampling)
    chosen = truth.explained.nonzero()[0]
    per_category: tuple[CategoryResult, ...] = ()
    if len(chosen):
        per_category, means = category_results(labels, resampling=resampling)
        metrics |= means
    return Result(
        name=name,
        predictions=predictions,
        parents=parents or {},
        method=" and ".join(sorted(set(table["method"].to_pylist()))),
        num_rows=table.num_rows,
        num_images=len(answers.keys),
        num_explained=len(chosen),
        num_visible=int(truth.visible_known.sum()),
        num_rejected=num_rejected,
        share_calibrated=share(table["calibrated"]),
        share_exact=share(table["pairs_exact"]),
        metrics=dict(sorted(metrics.items())),
        per_category=per_category,
        reliability=reliability_bins(answers, truth, num_bins=num_bins),
        visible_reliability=reliability_bins(answers, truth, num_bins=num_bins, of="rationale_visible"),
    )


def known_labels(table: pa.Table, *, name: str) -> Labels:
    """Read the rows whose true category is known.

    Args:
        table: has `ecor.data.predictions.schema.PREDICTION_SCHEMA`.
        name: of the set, for errors.

    Raises:
        ValueError: when there are none, a key occurs twice among them, or a row has no ranked pair.
    """
    require(table.num_rows > 0, f"{name} has no predictions: there is nothing to evaluate")
    known = table.filter(table["category_true"].is_valid())
    require(
        known.num_rows > 0,
        f"none of the {table.num_rows} rows of {name} has a true category: only labels of images whose truth is known "
        "can be evaluated; score a split that `ecor shard` wrote, or a table with columns category and rationales",
    )
    repeated = known.num_rows - len(known["key"].unique())
    require(not repeated, f"{repeated} keys occur more than once in {name}: were its parts put together by hand?")
    return read_labels(known)


def share(column: pa.ChunkedArray) -> float:
    """Share of rows that are true."""
    return float(np.mean(column.to_numpy().astype(bool)))
