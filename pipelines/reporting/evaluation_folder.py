"""Write the tables, plots and summary of an evaluation, and publish them in its output folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import MANIFEST_NAME
from ecor.evaluation.correctness import Labels
from ecor.evaluation.metrics import confusions
from ecor.evaluation.record import EVALUATION_NAME, OBSERVATIONS_NAME, Evaluation, Result, slug
from ecor.storage import filesystem
from pipelines.reporting import evaluation_plots
from pipelines.runtime.balance import Balance, add_balances

EVALUATION_SUMMARY_NAME = "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSource:
    """Name, place and digests of one set of predictions."""

    path: str
    name: str
    digest: str
    parents: Mapping[str, Any]
    num_rows: int
    """That its manifest, or the file's own header, names."""
    num_rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """A set of predictions in memory, with the labels and metrics that its tables and plots share."""

    source: PredictionSource
    table: pa.Table
    labels: Labels
    """Labels of the rows whose true category is known."""
    observations: pa.Table
    """Every metric of each of these rows."""


def check_evaluation_output(output: str) -> None:
    """Refuse an output folder that holds the files of another stage.

    Raises:
        ValueError: when the folder holds predictions or shards.
        OSError: when the store fails.
    """
    require(
        not filesystem.exists(filesystem.join(output, MANIFEST_NAME)),
        f"{output} holds predictions or shards: choose another folder for the evaluation",
    )


def write_tables(record: Evaluation, folder: Path) -> None:
    """Write metrics.csv, per_category.csv and, for several sets, comparisons.csv; a table without rows is left out.

    Args:
        record: the evaluation.
        folder: an existing local folder.
    """
    metrics = [
        {"set": result.name, "metric": name, **asdict(estimate)}
        for result in record.results
        for name, estimate in result.metrics.items()
    ]
    per_category = [
        {
            "set": result.name,
            "category": each.category,
            "num_images": each.num_images,
            "rr": each.rr.value,
            "rr_low": each.rr.low,
            "rr_high": each.rr.high,
            **{name: getattr(each, name) for name in ("rw", "wr", "ww", "accuracy")},
        }
        for result in record.results
        for each in result.per_category
    ]
    comparisons = [
        {"first": each.first, "second": each.second, "metric": name, **asdict(estimate)}
        for each in record.comparisons
        for name, estimate in each.differences.items()
    ]
    tables = {"metrics": metrics, "per_category": per_category, "comparisons": comparisons}
    for name, rows in tables.items():
        if rows:
            pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def write_observations(sets: Sequence[LabelledSet], folder: Path) -> None:
    """Write every metric of every image, so that a difference can be tested later without scoring again.

    Args:
        sets: the evaluated sets.
        folder: an existing local folder.
    """
    seen = [
        each.observations.add_column(0, "name", pa.array([each.source.name] * len(each.observations), pa.string()))
        for each in sets
    ]
    pq.write_table(pa.concat_tables(seen, promote_options="default"), folder / OBSERVATIONS_NAME, compression="zstd")


def write_plots(record: Evaluation, sets: Sequence[LabelledSet], folder: Path) -> None:
    """Draw the plots of an evaluation; a plot that no image has labels for is left out.

    Args:
        record: the evaluation.
        sets: the evaluated sets, in the order of the record's results.
        folder: an existing local folder.
    """
    if any(result.num_explained for result in record.results):
        evaluation_plots.draw_rules(record.results, folder / "rules.png")
    if record.comparisons:
        evaluation_plots.draw_differences(record.comparisons, folder / "differences.png")
    for result, each in zip(record.results, sets, strict=True):
        evaluation_plots.draw_confusion(result, confusions(each.labels), folder / f"confusion-{slug(result.name)}.png")
        if result.num_explained:
            evaluation_plots.draw_reliability(result, folder / f"reliability-{slug(result.name)}.png")
            evaluation_plots.draw_categories(result, folder / f"per-category-{slug(result.name)}.png")
        if result.visible_reliability:
            path = folder / f"visible-reliability-{slug(result.name)}.png"
            evaluation_plots.draw_visible_reliability(result, path)


def balance_sets(record: Evaluation, *, sources: Sequence[PredictionSource]) -> dict[str, Balance]:
    """By set: the images that its manifest names, and what the evaluation made of them."""
    return {
        result.name: Balance(
            stage="evaluate",
            num_listed=source.num_rows + source.num_rejected,
            num_taken=result.num_images,
            rejected={"unreadable": result.num_rejected},
            left_out={"no_true_category": result.num_rows - result.num_images},
        )
        for result, source in zip(record.results, sources, strict=True)
    }


def summarise_evaluation(
    record: Evaluation, folder: Path, *, balances: Mapping[str, Balance], seconds: float
) -> dict[str, Any]:
    """Summarise an evaluation as JSON values, for scripts.

    Args:
        record: the evaluation.
        folder: local folder of the files to be published; the summary lists their names.
        balances: of each set, as `balance_sets` returns them.
        seconds: duration of the stage.
    """
    files = {each.name for each in folder.iterdir()} | {EVALUATION_SUMMARY_NAME}
    return {
        "stage": "evaluate",
        "seconds": round(seconds, 3),
        "evaluation_digest": record.digest,
        "run_id": record.run_id,
        "predictions": {each.name: each.predictions for each in record.results},
        "num_images": {each.name: each.num_images for each in record.results},
        "balance": add_balances("evaluate", balances.values()).to_record(),
        "balance_of": {name: each.to_record() for name, each in balances.items()},
        "strict_rr": {each.name: _value_of(each, "strict/rr") for each in record.results},
        "accuracy": {each.name: _value_of(each, "strict/accuracy") for each in record.results},
        "files": sorted(files),
    }


def _value_of(result: Result, metric: str) -> float | None:
    return result.metrics[metric].value if metric in result.metrics else None


def publish_evaluation(folder: Path, output: str) -> None:
    """Copy the files of an evaluation to its output folder; the record is written last.

    Files of an older evaluation in the output folder are removed first.

    Args:
        folder: local folder with all files.
        output: output folder, local or in a store.

    Raises:
        OSError: when the disk or the store fails.
    """
    for name in [EVALUATION_NAME, *_files_of_older(output)]:
        filesystem.remove(filesystem.join(output, name))
    filesystem.publish_files(folder, output, last=EVALUATION_NAME)


def _files_of_older(output: str) -> list[str]:
    """List the files of the evaluation that is in the folder, from its summary; none without a summary."""
    try:
        files = json.loads(filesystem.read(filesystem.join(output, EVALUATION_SUMMARY_NAME)))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return [Path(str(name)).name for name in files]
