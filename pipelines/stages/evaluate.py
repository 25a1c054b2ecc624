"""Evaluate explained labels whose truth is known: metrics, tables and plots, into a folder and MLflow.

The folder holds `evaluation.json` (the record, written last), `summary.json`, `metrics.csv`, `per_category.csv`,
`comparisons.csv`, `observations.parquet` (every metric image by image), and the plots `rules.png`, `differences.png`
and, per set, `reliability-<name>.png`, `confusion-<name>.png` and `per-category-<name>.png`; for rows that state how
probable it is that the rationale is visible, also `visible-reliability-<name>.png`.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import read_prediction_set
from ecor.data.predictions.parts import read_predictions
from ecor.data.predictions.schema import VISIBLE_COLUMN
from ecor.evaluation.confidence_intervals import Resampling
from ecor.evaluation.metrics import differences, observations_table
from ecor.evaluation.record import EVALUATION_NAME, Comparison, Evaluation, read_evaluation, slug
from ecor.evaluation.table_evaluation import evaluate, known_labels
from ecor.storage import filesystem
from ecor.storage.digests import file_sha256
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.reporting import EvaluateConfig
from pipelines.reporting import evaluation_plots
from pipelines.reporting.evaluation_folder import (
    EVALUATION_SUMMARY_NAME,
    LabelledSet,
    PredictionSource,
    balance_sets,
    check_evaluation_output,
    publish_evaluation,
    summarise_evaluation,
    write_observations,
    write_plots,
    write_tables,
)
from pipelines.runtime.balance import Balance, add_balances, say_balance
from pipelines.runtime.console import say
from pipelines.tracking import model_registry

_COLUMNS = (
    *("key", "category_true", "rationales_true", "visible_rationales", "confidence", "pairs", "categories"),
    *("rationales", "two_stage_category", "two_stage_rationale", "pairs_exact", "calibrated", "method"),
)


def run(config: EvaluateConfig, *, tracking: TrackingConfig | None = None) -> Evaluation:
    """Evaluate every set of predictions, the first against each other one; a finished evaluation is returned as it is.

    A set is a folder written by `ecor score`, verified against its manifest, or one Parquet file.

    Raises ValueError when a set is unfinished, altered or has no known truth, when two have one name, or when sets that
    are compared have no image in common.
    """
    started = time.perf_counter()
    check_evaluation_output(config.output)
    sources = [open_source(path, name=name) for path, name in zip(config.sets, names_of(config), strict=True)]
    finished = finished_record(config, sources=sources)
    if finished is not None:
        report_figures(finished, output=config.output, seconds=time.perf_counter() - started)
        say_balance(add_balances("evaluate", balance_sets(finished, sources=sources).values()))
        return finished
    sets = [read_set(source) for source in sources]
    record = record_of(config, sets=sets)
    balances = balance_sets(record, sources=sources)
    balance = add_balances("evaluate", balances.values())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tables(record, folder)
        write_observations(sets, folder)
        write_plots(record, sets, folder)
        record = _log_to_mlflow(record, folder, balance=balance, tracking=tracking or TrackingConfig())
        seconds = time.perf_counter() - started
        summary = summarise_evaluation(record, folder, balances=balances, seconds=seconds)
        (folder / EVALUATION_SUMMARY_NAME).write_text(json.dumps(summary, indent=1) + "\n")
        publish_evaluation(folder, config.output)
    report_figures(record, output=config.output, seconds=seconds)
    say_balance(balance)
    return record


def names_of(config: EvaluateConfig) -> tuple[str, ...]:
    """The names given, or those of the folders; ValueError for two that are the same."""
    names = config.names or tuple(Path(path.rstrip("/")).name for path in config.sets)
    repeated = {name for name in names if names.count(name) > 1}
    require(not repeated, f"two sets of predictions are called {', '.join(sorted(repeated))}: tell them apart by names")
    slugs = [slug(name) for name in names]
    require(len(set(slugs)) == len(slugs), f"the names {', '.join(names)} give the same file names: choose others")
    return names


def open_source(path: str, *, name: str) -> PredictionSource:
    """Where a set comes from, as its manifest says; a single Parquet file is identified by its bytes."""
    if path.endswith(".parquet"):
        with filesystem.open_file(path) as file:
            num_rows = pq.ParquetFile(file).metadata.num_rows
        return PredictionSource(
            path=path, name=name, digest=file_sha256(path), parents={}, num_rows=num_rows, num_rejected=0
        )
    manifest = read_prediction_set(path)
    return PredictionSource(
        path=path,
        name=name,
        digest=manifest.digest,
        parents=manifest.parents.to_record(),
        num_rows=manifest.num_rows,
        num_rejected=manifest.num_rejected,
    )


def read_set(source: PredictionSource) -> LabelledSet:
    """Read a set; ValueError when it was altered, or has no row with known truth."""
    table = read_predictions(source.path, columns=[*_COLUMNS, *_optional_columns(source.path)])
    labels = known_labels(table, name=source.name)
    return LabelledSet(source=source, table=table, labels=labels, observations=observations_table(labels))


def _optional_columns(path: str) -> list[str]:
    """Optional columns that are evaluated, where a set has them."""
    if path.endswith(".parquet"):
        with filesystem.open_file(path) as file:
            return [VISIBLE_COLUMN.name] if VISIBLE_COLUMN.name in pq.ParquetFile(file).schema_arrow.names else []
    return [VISIBLE_COLUMN.name] if read_prediction_set(path).scoring.visible_probability else []


def _log_to_mlflow(record: Evaluation, folder: Path, *, balance: Balance, tracking: TrackingConfig) -> Evaluation:
    """The record with its MLflow run, which gets the folder's files; the record lies among them, before and after."""
    path = folder / EVALUATION_NAME
    path.write_text(record.to_json(), encoding="utf-8")
    run_id = model_registry.log_evaluation(
        tracking, metrics={**logged_metrics(record), **balance.metrics()}, folder=folder, tags=tags_of(record)
    )
    record = replace(record, run_id=run_id)
    path.write_text(record.to_json(), encoding="utf-8")
    return record


def finished_record(config: EvaluateConfig, *, sources: list[PredictionSource]) -> Evaluation | None:
    """The record that the output folder already holds, if it is of the same predictions, names and settings."""
    try:
        record = read_evaluation(config.output)
    except ValueError:
        return None
    same_sets = [(each.name, each.predictions) for each in record.results] == [(s.name, s.digest) for s in sources]
    same_settings = (record.resampling, record.num_bins) == (resampling_of(config), config.num_bins)
    return record if same_sets and same_settings else None


def resampling_of(config: EvaluateConfig) -> Resampling:
    return Resampling(confidence=config.confidence, num_resamples=config.num_resamples, seed=config.seed)


def record_of(config: EvaluateConfig, *, sets: Sequence[LabelledSet]) -> Evaluation:
    """All metrics, and the paired differences of the first set and each other one."""
    resampling = resampling_of(config)
    results = tuple(
        evaluate(
            each.table,
            name=each.source.name,
            predictions=each.source.digest,
            parents=each.source.parents,
            num_rejected=each.source.num_rejected,
            resampling=resampling,
            num_bins=config.num_bins,
            labels=each.labels,
        )
        for each in sets
    )
    first, *others = sets
    comparisons = tuple(compare_sets(first, other, resampling=resampling) for other in others)
    return Evaluation(results=results, comparisons=comparisons, resampling=resampling, num_bins=config.num_bins)


def compare_sets(first: LabelledSet, second: LabelledSet, *, resampling: Resampling) -> Comparison:
    """Paired differences of two sets; ValueError when they have no image in common."""
    names = (first.source.name, second.source.name)
    gaps = differences(first.observations, second.observations, names=names, resampling=resampling)
    return Comparison(first=names[0], second=names[1], differences=gaps)


def logged_metrics(record: Evaluation) -> dict[str, float]:
    """Values and ends of intervals under names that MLflow takes; with several sets, each under its own."""
    found: dict[str, float] = {}
    for result in record.results:
        prefix = f"{slug(result.name)}/" if len(record.results) > 1 else ""
        for name, estimate in result.metrics.items():
            key = prefix + name.replace("@", "_at_")
            found |= {key: estimate.value, f"{key}/low": estimate.low, f"{key}/high": estimate.high}
        found[f"{prefix}num_images"] = float(result.num_images)
    for each in record.comparisons:
        for name, estimate in each.differences.items():
            key = f"difference/{slug(each.first)}-{slug(each.second)}/{name.replace('@', '_at_')}"
            found |= {key: estimate.value, f"{key}/low": estimate.low, f"{key}/high": estimate.high}
    return {name: value for name, value in found.items() if value == value}  # without NaN


def tags_of(record: Evaluation) -> dict[str, str]:
    """What the evaluation is of."""
    tags = {"ecor.evaluation_digest": record.digest, "ecor.sets": ", ".join(each.name for each in record.results)}
    for number, result in enumerate(record.results):
        start = f"ecor.{slug(result.name)}." if number else "ecor."
        tags[f"{start}predictions_digest"] = result.predictions
        for name in ("model_name", "model_version", "model_digest", "vocabulary_digest", "input_digest"):
            if result.parents.get(name) is not None:
                tags[start + name] = str(result.parents[name])
    return tags


def report_figures(record: Evaluation, *, output: str, seconds: float) -> None:
    """A line per set, and per comparison."""
    for result in record.results:
        shown = [
            f"{words} {evaluation_plots.format_estimate(result.metrics[metric])}"
            for metric, words in (("strict/rr", "strict RR"), ("strict/accuracy", "accuracy"))
            if metric in result.metrics
        ]
        lacking = result.num_images - result.num_explained
        note = f"; {lacking} of them have no labelled rationale, and no part in RR" if lacking else ""
        say(f"{result.name}: {', '.join(shown)} of {result.num_images} images{note}")
    for each in record.comparisons:
        gap = each.differences.get("strict/rr") or each.differences["strict/accuracy"]
        words = "strict RR" if "strict/rr" in each.differences else "accuracy"
        gap_text = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        say(f"{each.first} less {each.second}: {words} {gap_text} over {gap.num_images} images")
    say(f"evaluated in {seconds:.1f} s: {output}")
