"""Plots of the ablation study: means with intervals per arm, and relations of two figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.lines import Line2D

from ecor.evaluation.confidence_intervals import RepeatedMean
from pipelines.reporting.plotting import INK, PALE, new_figure, save_figure

STUDY_DPI = 96
"""Low resolution, because the plots are kept beside the page, in version control."""


def draw_arms(figures: Mapping[str, Mapping[str, Mapping[str, RepeatedMean]]], *, path: Path) -> None:
    """Draw means with intervals: a panel per figure, a row per arm, a colour per column of the table."""
    arms = list(next(iter(figures.values())))
    columns = list(dict.fromkeys(name for panel in figures.values() for arm in panel.values() for name in arm))
    figure = new_figure(width=2.2 + 3.0 * len(figures), height=1.2 + len(arms) * (0.16 + 0.09 * len(columns)))
    panels = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    colours = colormaps["viridis"](np.linspace(0, 0.85, len(columns)))
    for axes, (title, panel) in zip(panels, figures.items(), strict=True):
        for number, (name, colour) in enumerate(zip(columns, colours, strict=True)):
            found = {row: panel[arm][name] for row, arm in enumerate(arms) if name in panel[arm]}
            means = [100 * each.value for each in found.values()]
            errors = [100 * each.half_width for each in found.values()]  # NaN draws no line
            places = [row + 0.7 * ((number + 0.5) / len(columns) - 0.5) for row in found]
            axes.errorbar(means, places, xerr=errors, fmt="o", ms=3.5, lw=1.2, color=colour)
        axes.set_title(f"{title}, %", fontsize=9)
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -1), min(high, 101))
        axes.grid(axis="x", color=PALE, linewidth=0.5)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].invert_yaxis()
    marks = [Line2D([], [], marker="o", ls="", ms=4, color=colour) for colour in colours]
    figure.legend(marks, columns, loc="outside lower center", ncols=min(6, len(columns)), frameon=False, fontsize=8)
    save_figure(figure, path, dpi=STUDY_DPI)


def draw_relation(points: pd.DataFrame, *, x: str, y: str, colour: str, marker: str, path: Path) -> None:
    """Draw one dot per row: a figure (x, in its own unit) against a difference of shares (y, in percentage points)."""
    figure = new_figure(width=6.5, height=4.2)
    axes = figure.subplots()
    names, kinds = sorted(points[colour].unique()), sorted(points[marker].unique())
    colours = dict(zip(names, colormaps["viridis"](np.linspace(0, 0.9, len(names))), strict=True))
    for kind, shape in zip(kinds, "osD^"[: len(kinds)], strict=True):
        part = points[points[marker] == kind]
        axes.scatter(part[x], 100 * part[y], c=[colours[name] for name in part[colour]], marker=shape, s=22, alpha=0.8)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(f"{x}, nats")
    axes.set_ylabel(f"{y}, percentage points")
    axes.grid(color=PALE, linewidth=0.5)
    marks = [Line2D([], [], marker="o", ls="", ms=4, color=colours[name]) for name in names]
    shapes = [Line2D([], [], marker=shape, ls="", ms=4, color=INK) for shape in "osD^"[: len(kinds)]]
    figure.legend(marks + shapes, names + kinds, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path, dpi=STUDY_DPI)
