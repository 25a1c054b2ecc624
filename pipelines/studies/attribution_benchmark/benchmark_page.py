"""Write the page of the attribution benchmark, and its tables for the terminal."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from ecor.evaluation.confidence_intervals import Estimate
from ecor.explain.methods.registry import METHODS
from ecor.explain.metrics.measure_table import COST, FAITHFULNESS, LOCALISATION, MEASURES, Measure
from pipelines.config.studies import ExplainBenchmarkConfig
from pipelines.studies import markdown
from pipelines.studies.attribution_benchmark.cases import TargetKind
from pipelines.studies.attribution_benchmark.protocol import PRIORS

RESULTS, PAGE = "explanations.csv", "explanations.md"


MODEL_ROW = "the model"


def console_tables(part: Mapping[str, Any]) -> Iterator[Table]:
    """Make the tables of one kind of targets for a terminal, without intervals."""
    for each in part["tables"]:
        table = Table(title=f"{part['kind']}: {each.title}", box=None, pad_edge=False, title_justify="left")
        for number, title in enumerate(each.header):
            table.add_column(title, justify="right" if number else "left", overflow="fold")
        for name, *values in each.rows:
            table.add_row(name, *(value.partition(" ")[0] for value in values))
        yield table


def write_benchmark_page(
    config: ExplainBenchmarkConfig, *, parts: list[dict[str, Any]], root: Path, left_out: list[str]
) -> Path:
    page = root / PAGE
    text = markdown.render_template(
        "explanations.md.j2",
        package="pipelines.studies.attribution_benchmark",
        words=markdown.read_introduction(page),
        parts=parts,
        left_out=left_out,
        config=config,
        measures=MEASURES,
    )
    return markdown.write_parts(page, text)


def page_part(kind: TargetKind, rows: pd.DataFrame) -> dict[str, Any]:
    """Prepare the values that the template shows for one kind of targets."""
    found = {
        (str(row["method"]), str(row["measure"])): Estimate(
            value=row["value"], low=row["low"], high=row["high"], num_images=int(row["num_cases"])
        )
        for row in rows.to_dict("records")
    }
    known = set(rows["method"])
    names = [name for name in (*PRIORS, *METHODS) if name in known]
    tables = []
    for title, measures in (
        ("Where the map is", LOCALISATION),
        ("What the model does, and whether the map follows it", FAITHFULNESS),
        ("What it costs", COST),
    ):
        body = [
            (name, *(format_value(found.get((name, key)), measure) for key, measure in measures.items()))
            for name in names
            if any((name, key) in found for key in measures)
        ]
        header = ("", *(_column_title(each) for each in measures.values()))
        tables.append(markdown.MarkdownTable(title=title, header=header, rows=tuple(body)))
    model = {name: found.get((MODEL_ROW, name)) for name in ("prob", "fall", "falls", "area")}
    return {
        "kind": kind,
        "tables": tables,
        "num_looked_at": int(rows["num_looked_at"].max()),
        "model": {name: _format_percent(each) for name, each in model.items()},
    }


def _column_title(measure: Measure) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[measure.higher_is_better]
    return f"{measure.title}{arrow}"


def format_value(found: Estimate | None, measure: Measure) -> str:
    if found is None or math.isnan(found.value):
        return "–"
    value = f"{found.value:.{measure.digits}f}"
    if math.isnan(found.low):
        return value
    return f"{value} [{found.low:.{measure.digits}f}, {found.high:.{measure.digits}f}]"


def _format_percent(found: Estimate | None) -> str:
    return "–" if found is None else f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
