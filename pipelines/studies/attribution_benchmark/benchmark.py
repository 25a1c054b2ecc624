"""Benchmark every attribution method by every measure on drawn scenes, and write a CSV and a page."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from ecor.config.checks import require
from ecor.demo.worlds.registry import set_vocabulary
from ecor.evaluation.confidence_intervals import Estimate, Resampling, mean_estimates
from ecor.explain.methods.registry import METHODS, Method, build_prepared_method, missing_requirement
from ecor.explain.metrics.measure_table import MEASURES
from ecor.model import Recognizer
from ecor.storage.digests import bytes_sha256, json_digest
from pipelines.config.infrastructure import TrackingConfig, resolve_tracking
from pipelines.config.studies import ExplainBenchmarkConfig
from pipelines.runtime.console import say
from pipelines.storage.lexicons import open_concepts
from pipelines.studies.attribution_benchmark.benchmark_page import (
    MODEL_ROW,
    RESULTS,
    console_tables,
    format_value,
    page_part,
    write_benchmark_page,
)
from pipelines.studies.attribution_benchmark.cases import Cases, TargetKind, find_cases
from pipelines.studies.attribution_benchmark.protocol import PRIORS, EvaluationSettings, evaluate_method, evaluate_prior
from pipelines.studies.result_rows import append_rows, read_result_rows
from pipelines.tracking.model_loading import load_projection, open_model

_KINDS: tuple[TargetKind, ...] = get_args(TargetKind)
_SHARED = ("cell", "model", "set", "seed", "num_cases", "target", "method")
_COLUMNS = (*_SHARED, "measure", "value", "low", "high", "num_looked_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkCell:
    """A row of the table for one kind of targets; its measures are taken together."""

    kind: TargetKind
    row: str
    """Name of a method or a prior, or `the model`."""
    method: Method | None = None

    def digest(self, common: Mapping[str, Any]) -> str:
        content = {**common, "kind": self.kind, "row": self.row, "method": _method_settings(self.method)}
        return json_digest(content)[:16]


def run(config: ExplainBenchmarkConfig, *, tracking: TrackingConfig | None = None) -> Path:
    """Measure all cells that are not in the CSV yet, and write the page from the CSV; returns its path.

    Raises:
        ValueError: for unknown names, for a model that ranks too few images right, and for a page without rows.
    """
    config = replace(config, num_cases=24, num_checked=4, rise_masks=100) if config.quick else config
    root, tracking = Path(config.output), resolve_tracking(tracking or TrackingConfig())
    left_out = _available_methods(config, tracking=tracking)[1]
    if not config.only_page:
        names = set_vocabulary(config.set_name)
        model = open_model(config.model, tracking=tracking, names=names, demo_set=config.set_name)
        chosen, left_out = _available_methods(config, tracking=tracking, model=model)
        for reason in left_out:
            say(f"left out: {reason}")
        with _torch_threads(config.num_threads):
            _measure(config, model=model, chosen=chosen, root=root)
    parts = _page_parts(config, root=root)
    for part in parts:
        Console().print(*console_tables(part), sep="\n\n", end="\n\n")
    page = write_benchmark_page(config, parts=parts, root=root, left_out=left_out)
    say(str(page))
    return page


def _available_methods(
    config: ExplainBenchmarkConfig, *, tracking: TrackingConfig, model: Recognizer | None = None
) -> tuple[dict[str, Method], list[str]]:
    """List the methods that can run, and why the others cannot.

    Without a model, methods that need a projection or a lexicon are in neither list if the settings name one.
    """
    settings: dict[str, dict[str, Any]] = {"rise": {"num_masks": config.rise_masks}}
    named = {"eclip": config.projection, "convis": config.lexicon}
    if config.projection is not None and model is not None:
        digest = model.backbone.digest
        settings["eclip"] = dict(load_projection(config.projection, tracking=tracking, backbone_digest=digest))
    if config.lexicon is not None and model is not None:
        concepts = open_concepts(config.lexicon, backbone=model.backbone)
        settings["convis"] = {"concepts": concepts, "steps": config.convis_steps}
    chosen, left_out = {}, []
    for name in config.methods or METHODS:
        missing = missing_requirement(name, settings.get(name, {}))
        if missing is not None and named.get(name) is not None and model is None:
            continue  # it runs once there is a model
        if missing is not None:
            left_out.append(missing)
        else:
            chosen[name] = build_prepared_method(name, settings.get(name, {}))
    return chosen, left_out


def _measure(config: ExplainBenchmarkConfig, *, model: Recognizer, chosen: Mapping[str, Method], root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    common = {
        "model": model.digest,
        "set": config.set_name,
        "seed": config.seed,
        "num_cases": config.num_cases,
        "num_checked": config.num_checked,
        "num_resamples": config.num_resamples,
        "measures": sorted(MEASURES),
    }
    trial = EvaluationSettings(
        resampling=Resampling(num_resamples=config.num_resamples), num_checked=config.num_checked
    )
    done = set(_read_rows(root)["cell"])
    for kind in _KINDS:
        missing = [cell for cell in _cells(kind, chosen) if cell.digest(common) not in done]
        if not missing:
            continue
        cases = find_cases(model, set_name=config.set_name, kind=kind, num_cases=config.num_cases, seed=config.seed)
        for cell in missing:
            try:
                figures = _evaluate_cell(cell, cases, trial=trial)
            except ValueError as error:  # the tower lacks something that the method needs
                say(f"left out: {error}")
                continue
            _append_figures(cell, figures, cases=cases, config=config, digest=cell.digest(common), root=root)
            say(f"{kind}: {cell.row}, {_format_measure('iou', figures)} {_format_measure('contrast', figures)}")


def _cells(kind: TargetKind, chosen: Mapping[str, Method]) -> Iterator[BenchmarkCell]:
    yield BenchmarkCell(kind=kind, row=MODEL_ROW)
    for name in PRIORS:
        yield BenchmarkCell(kind=kind, row=name)
    for name, method in chosen.items():
        yield BenchmarkCell(kind=kind, row=name, method=method)


def _evaluate_cell(cell: BenchmarkCell, cases: Cases, *, trial: EvaluationSettings) -> dict[str, Estimate]:
    if cell.method is not None:
        return evaluate_method(cell.method, cases, trial=trial)
    if cell.row in PRIORS:
        return evaluate_prior(PRIORS[cell.row], cases, trial=trial)
    whole, without = (cases.prob(cases.tower.pixels(each)) for each in (cases.pixels, cases.lacking))
    columns = {"prob": whole, "fall": whole - without, "falls": (without < whole).float()}
    area = cases.masks.float().mean(dim=(1, 2))
    values = {name: each.double().numpy() for name, each in {**columns, "area": area}.items()}
    return mean_estimates(values, resampling=trial.resampling)


def _append_figures(
    cell: BenchmarkCell,
    figures: Mapping[str, Estimate],
    *,
    cases: Cases,
    config: ExplainBenchmarkConfig,
    digest: str,
    root: Path,
) -> None:
    """Append a row per measure to the CSV; no reader sees a partial file."""
    shared = (digest, config.model, config.set_name, config.seed, config.num_cases, cell.kind, cell.row)
    new = [(*shared, name, found.value, found.low, found.high, cases.num_looked_at) for name, found in figures.items()]
    append_rows(pd.DataFrame(new, columns=list(_COLUMNS)), root / RESULTS, float_format="%.5g")


def _read_rows(root: Path) -> pd.DataFrame:
    found = read_result_rows(root / RESULTS)
    if not len(found):
        return pd.DataFrame(columns=list(_COLUMNS))
    require(
        list(found.columns) == list(_COLUMNS),
        f"{root / RESULTS} is no table of this benchmark: name another --output, or move it",
    )
    return found


def _page_parts(config: ExplainBenchmarkConfig, *, root: Path) -> list[dict[str, Any]]:
    """Prepare a part of the page per kind of targets, from the rows with the asked model, set, seed and size."""
    rows = _read_rows(root)
    asked = {"model": config.model, "set": config.set_name, "seed": config.seed, "num_cases": config.num_cases}
    for column, value in asked.items():
        rows = rows[rows[column] == value]
    rows = rows.drop_duplicates(["target", "method", "measure"], keep="last")
    require(len(rows) > 0, f"{root / RESULTS} has no rows of {asked}: run the same command without --only-page")
    return [page_part(kind, rows[rows["target"] == kind]) for kind in _KINDS if (rows["target"] == kind).any()]


def _format_measure(name: str, figures: Mapping[str, Estimate]) -> str:
    return f"{MEASURES[name].title} {format_value(figures[name], MEASURES[name])}" if name in figures else ""


def _method_settings(method: Method | None) -> dict[str, Any] | None:
    """Settings of a method as JSON values; tensors by their digests."""
    if method is None:
        return None
    assert is_dataclass(method)
    values = {each.name: getattr(method, each.name) for each in fields(method)}
    return {
        "kind": type(method).__name__,
        **{name: _digest(each) if isinstance(each, Tensor) else _json_value(each) for name, each in values.items()},
    }


def _digest(tensor: Tensor) -> str:
    return bytes_sha256(tensor.detach().cpu().contiguous().numpy().tobytes())


def _json_value(value: Any) -> Any:
    """Convert a value to JSON; features of a lexicon become the digests of their tensors."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value):
        tensors = {each.name: getattr(value, each.name) for each in fields(value)}
        return {name: _digest(each) for name, each in tensors.items() if isinstance(each, Tensor)}
    return repr(value)


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """Use this number of torch threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
