"""Tables of means over repetitions with 95 % intervals, and the selection of rows for them.

An interval is Student's t over repetitions. Each repetition has its own images and initial tokens, and (in turn) its
own pretrained CLIP, so the interval covers all three. Differences are taken within repetitions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecor.demo.worlds.registry import all_sets
from ecor.evaluation.confidence_intervals import RepeatedMean, mean_over_repetitions
from pipelines.studies.ablation.grid import QUESTIONS, Study
from pipelines.studies.ablation.results import plots
from pipelines.studies.markdown import MarkdownTable

RR = {"rr": "RR", "visible_rr": "visible RR", "accuracy": "accuracy"}
"""Columns of the CSV that most tables show, with their titles."""
REPETITION = ["pretraining_seed", "seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnComparison:
    """Arms side by side: a table per figure, and one plot of all."""

    tables: tuple[MarkdownTable, ...]
    plot: str
    """Name of a file beside the page."""


def comparison_tables(
    rows: pd.DataFrame,
    folder: Path,
    *,
    name: str,
    arms: Sequence[str],
    columns: str,
    against: str | None = None,
    figures: Mapping[str, str] = RR,
) -> ColumnComparison | None:
    """Compare arms by the values of a column, with the mean over columns and the difference from one arm.

    Args:
        rows: rows of the study, with a column `arm`.
        folder: folder of the plot.
        name: the plot is called `results-<name>.png`.
        arms: the arms, in order; those without rows are skipped.
        columns: the column whose values are the columns of the table.
        against: the arm from which the differences of the others are taken.
        figures: columns of the CSV, and their titles.

    Returns:
        A table per figure and one plot; None if no arm has a row.
    """
    arms = [arm for arm in arms if (rows["arm"] == arm).any()]
    if not arms:
        return None
    order = _set_order()
    names = sorted(rows[columns].unique(), key=lambda value: (order.get(value, 0), value))
    found = [_FigureCells.read(rows, figure=figure, arms=arms, columns=columns, values=names) for figure in figures]
    titled = list(zip(figures.values(), found, strict=True))
    plot = f"results-{name}.png"
    plots.draw_arms({title: cells.drawn_means() for title, cells in titled}, path=folder / plot)
    tables = tuple(cells.markdown(title=f"{title}, %", against=against) for title, cells in titled)
    return ColumnComparison(tables=tables, plot=plot)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FigureCells:
    """One figure of several arms, by the values of a column."""

    arms: Sequence[str]
    values: Sequence[object]
    cells: Mapping[tuple[str, object], "pd.Series[float]"]
    """Of an arm and a value: the figure per repetition; empty where nothing was measured."""

    @classmethod
    def read(
        cls, rows: pd.DataFrame, *, figure: str, arms: Sequence[str], columns: str, values: Sequence[object]
    ) -> "_FigureCells":
        measured = rows[rows["arm"].isin(arms)].dropna(subset=[figure])
        means = measured.groupby(["arm", columns, *REPETITION])[figure].mean()
        found: dict[object, pd.Series[float]] = {
            cell: part.droplevel([0, 1]) for cell, part in means.groupby(level=[0, 1])
        }
        empty = by_repetition(rows.iloc[:0], figure)
        cells = {(arm, value): found.get((arm, value), empty) for arm in arms for value in values}
        return cls(arms=arms, values=values, cells=cells)

    def mean(self, arm: str) -> "pd.Series[float]":
        """Per repetition, over all values."""
        return _mean_over([self.cells[arm, value] for value in self.values])

    def drawn_means(self) -> dict[str, dict[str, RepeatedMean]]:
        """Means over repetitions by arm and value, where there are any."""
        return {
            arm: {
                str(value): mean_over_repetitions(self.cells[arm, value].to_numpy())
                for value in self.values
                if len(self.cells[arm, value])
            }
            for arm in self.arms
        }

    def markdown(self, *, title: str, against: str | None) -> MarkdownTable:
        """A row per arm; the last columns are the mean and its difference from the arm `against`."""
        base = self.mean(against) if against is not None and against in self.arms else None
        body = []
        for arm in self.arms:
            cells = [*(_format_mean(self.cells[arm, value]) for value in self.values), _format_mean(self.mean(arm))]
            if against is not None:
                cells.append("" if arm == against else _format_gap(self.mean(arm), base))
            body.append((arm, *cells))
        header = ("", *map(str, self.values), "mean", *([f"minus {against}"] if against else []))
        return MarkdownTable(title=title, header=header, rows=tuple(body))


def figures_table(rows: pd.DataFrame, *, title: str, figures: Mapping[str, tuple[str, float, str]]) -> MarkdownTable:
    """Tabulate figures (name, scale and unit of each) by sets, for one arm."""
    names = sorted(rows["set_name"].unique(), key=_set_order().__getitem__)
    body = []
    for figure, (words, scale, unit) in figures.items():
        digits = 1 if scale > 1 else 3
        texts = [
            _format_interval(
                mean_over_repetitions(scale * by_repetition(rows[rows["set_name"] == name], figure).to_numpy()), digits
            )
            for name in names
        ]
        body.append((f"{words}, {unit}", *texts))
    return MarkdownTable(title=title, header=("", *names), rows=tuple(body))


def own_test_rows(rows: pd.DataFrame, *, whole: bool = True) -> pd.DataFrame:
    """Select rows judged on test images of the set they were tuned on, with one rationale each.

    Args:
        rows: rows of the study.
        whole: select only rows with all categories of the set.
    """
    found = rows[(rows["split"] == "test") & (rows["test_set"] == rows["set_name"]) & (rows["set_size"] == 1)]
    return found[found["num_categories"] == set_sizes(found)] if whole else found


def set_sizes(rows: pd.DataFrame) -> "pd.Series[float]":
    """Number of categories of each row's set."""
    return rows["set_name"].map({name: len(each.categories) for name, each in all_sets().items()})


def growing_rows(rows: pd.DataFrame, *, study: Study) -> pd.DataFrame:
    """Select rows of the set that was judged with several numbers of categories; none if there was one number."""
    found = rows[rows["set_name"] == study.growing_set]
    if study.growing_set not in study.sets:
        found = found[found["num_categories"].isin(study.vocabulary_sizes)]
    return found if found["num_categories"].nunique() > 1 else found.iloc[:0]


def by_repetition(rows: pd.DataFrame, figure: str) -> "pd.Series[float]":
    """Return the figure of each repetition, the mean over its rows."""
    return rows.dropna(subset=[figure]).groupby(REPETITION)[figure].mean()


def _set_order() -> dict[str, int]:
    return {name: number for number, name in enumerate(all_sets())}


def _mean_over(parts: Sequence["pd.Series[float]"]) -> "pd.Series[float]":
    """Mean over columns per repetition, for repetitions that have all columns."""
    return pd.concat(parts, axis=1).dropna().mean(axis=1)


def _format_interval(estimate: RepeatedMean, digits: int, *, sign: str = "") -> str:
    """Format a mean, with half the width of its interval if there is one."""
    mean = f"{estimate.value:{sign}.{digits}f}"
    return mean if np.isnan(estimate.half_width) else f"{mean} ± {estimate.half_width:.{digits}f}"


def _format_mean(values: "pd.Series[float]") -> str:
    return _format_interval(mean_over_repetitions(100 * values.to_numpy()), 1) if len(values) else "–"


def _format_gap(values: "pd.Series[float]", others: "pd.Series[float] | None") -> str:
    """Format the mean difference within repetitions; effects that both arms share cancel."""
    if others is None:
        return "–"
    return format_difference((values - others).dropna())


def format_difference(differences: "pd.Series[float]") -> str:
    """Format the mean of differences with its interval, signed, in percentage points."""
    return (
        _format_interval(mean_over_repetitions(100 * differences.to_numpy()), 1, sign="+") if len(differences) else "–"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Title, note, tables and plot that answer one question on the page."""

    title: str
    note: str
    tables: tuple[MarkdownTable, ...]
    plot: str
    """Name of a file beside the page."""


def answer_by_comparison(
    rows: pd.DataFrame,
    folder: Path,
    *,
    question: str,
    note: str,
    arms: Sequence[str],
    columns: str,
    against: str | None,
    study: Study | None = None,
) -> Answer | None:
    """Answer a question by one comparison; that of the study `shipped` has a plot of its own name."""
    is_shipped = study is not None and study.name == "shipped" and question != "shipped"
    name = f"shipped-{question}" if is_shipped else question
    found = comparison_tables(rows, folder, name=name, arms=arms, columns=columns, against=against)
    return Answer(title=QUESTIONS[question], note=note, tables=found.tables, plot=found.plot) if found else None
