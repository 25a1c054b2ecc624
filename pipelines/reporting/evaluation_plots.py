"""Plots of an evaluation: outcomes per rule, reliability, confusion, categories, differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.stats import binomtest

from ecor.evaluation.calibration import ReliabilityBin
from ecor.evaluation.confidence_intervals import Estimate
from ecor.evaluation.correctness import RULES
from ecor.evaluation.metrics import CategoryResult
from ecor.evaluation.record import Comparison, Result
from pipelines.reporting.plotting import INK, PALE, new_figure, save_figure, shorten_name

_OUTCOMES = {
    "rr": ("right, right reason", "#1b7f5c"),
    "rw": ("right, wrong reason", "#a6d8c3"),
    "wr": ("wrong, right reason", "#f3c78f"),
    "ww": ("wrong, wrong reason", "#c2502e"),
}
MAX_MATRIX_CATEGORIES = 30
"""Largest confusion matrix; with more categories, the most frequent confusions are plotted."""
MAX_BARS = 40
MAX_CONFUSIONS = 25
COMPARED_METRICS = ("strict/rr", "strict/accuracy", "strict/visible_rr", "dror_vote/rr", "two_stage/rr")


def draw_rules(results: Sequence[Result], path: Path) -> None:
    """Plot RR, RW, WR and WW of every set of predictions by every rule, as stacked bars."""
    shown = [(result, rule) for result in results for rule in RULES if f"{rule}/rr" in result.metrics]
    figure = new_figure(width=8.5, height=1.3 + 0.36 * len(shown) + 0.25 * len(results))
    axes = figure.subplots()
    places, place = [], 0.0
    for row, (result, rule) in enumerate(shown):
        place += 1.0 + (0.7 if row and shown[row - 1][0] is not result else 0.0)
        places.append(place)
        left = 0.0
        for part, (_, colour) in _OUTCOMES.items():
            value = result.metrics[f"{rule}/{part}"].value
            axes.barh(place, value, left=left, color=colour, height=0.82, edgecolor="white", linewidth=0.6)
            if value >= 0.045:
                ink = "white" if part in ("rr", "ww") else INK
                axes.text(left + value / 2, place, f"{100 * value:.0f}", ha="center", va="center", color=ink, size=8)
            left += value
    labels = [f"{shorten_name(result.name)} · {rule.replace('_', ' ')}" for result, rule in shown]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.margins(y=0.02)
    draw_legend(figure)
    save_figure(figure, path)


def draw_reliability(result: Result, path: Path) -> None:
    """Plot the reliability diagram of the best pair's probability.

    The error in the title is corrected for its bias; records of earlier versions have only the plain one.
    """
    error = result.metrics.get("calibration/error", result.metrics["calibration/ece"])
    _draw_bins(
        result.reliability,
        path,
        title=f"{shorten_name(result.name)}: calibration error {format_estimate(error)}",
        shares="share right (strict RR)",
        probabilities="probability of the best pair",
    )


def draw_visible_reliability(result: Result, path: Path) -> None:
    """Plot the reliability diagram of the probability that the named rationale is visible."""
    error = result.metrics["calibration/rationale_visible/error"]
    _draw_bins(
        result.visible_reliability,
        path,
        title=f"{shorten_name(result.name)}: calibration error {format_estimate(error)}",
        shares="share visible",
        probabilities="probability that the rationale is visible",
    )


def _draw_bins(bins: Sequence[ReliabilityBin], path: Path, *, title: str, shares: str, probabilities: str) -> None:
    """Plot the share per bin with its interval and the mean stated probability, and a histogram below."""
    figure = new_figure(width=4.8, height=5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = 1 / len(bins)
    for each in bins:
        if not each.num_images:
            continue
        assert each.accuracy is not None
        assert each.confidence is not None
        upper.bar(each.low, each.accuracy, width=width, align="edge", color="#5b8fb0", edgecolor="white")
        upper.plot([each.low + width / 2] * 2, share_interval(each), color=INK, linewidth=1.2, zorder=4)
        upper.plot([each.low, each.low + width], [each.confidence] * 2, color=_OUTCOMES["ww"][1], linewidth=2, zorder=3)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    upper.plot([], [], color=_OUTCOMES["ww"][1], linewidth=2, label="mean confidence")
    upper.bar(0, 0, color="#5b8fb0", label=shares)
    upper.plot([], [], color=INK, linewidth=1.2, label="95 % interval of the share")
    upper.legend(frameon=False, fontsize=8, loc="upper left")
    upper.set_ylim(0, 1)
    upper.set_ylabel(shares.partition(" (")[0])
    upper.set_title(title)
    counts = [each.num_images for each in bins]
    lower.bar([each.low for each in bins], counts, width=width, align="edge", color=PALE, edgecolor="white")
    lower.set_xlim(0, 1)
    lower.set_xlabel(probabilities)
    lower.set_ylabel("images")
    save_figure(figure, path)


def share_interval(bin_of_images: ReliabilityBin) -> tuple[float, float]:
    """95 % interval of the share of right answers in a bin that has images (Wilson's, by scipy)."""
    assert bin_of_images.accuracy is not None
    num_right = round(bin_of_images.accuracy * bin_of_images.num_images)
    found = binomtest(num_right, bin_of_images.num_images).proportion_ci(0.95, method="wilson")
    return found.low, found.high


def draw_confusion(result: Result, counts: Mapping[tuple[str, str], int], path: Path) -> None:
    """Plot a confusion matrix, or with many categories the most frequent confusions."""
    names = sorted({name for pair in counts for name in pair})
    if len(names) <= MAX_MATRIX_CATEGORIES:
        draw_matrix(result, counts, names, path)
    else:
        draw_confusions(result, counts, path)


def draw_matrix(result: Result, counts: Mapping[tuple[str, str], int], names: Sequence[str], path: Path) -> None:
    """Plot a confusion matrix; colours are shares of each true category, numbers are images."""
    matrix = np.array([[counts.get((true, said), 0) for said in names] for true in names], dtype=float)
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    side = 2.2 + 0.36 * len(names)
    figure = new_figure(width=side + 0.6, height=side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*matrix.nonzero(), strict=True):
        ink = "white" if share[row, column] > 0.6 else INK
        axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=ink, size=7)
    ticks = range(len(names))
    axes.set_xticks(ticks, [shorten_name(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [shorten_name(name) for name in names])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("said")
    axes.set_ylabel("true")
    axes.set_title(f"{shorten_name(result.name)}: categories (strict), images", size=10)
    save_figure(figure, path)


def draw_confusions(result: Result, counts: Mapping[tuple[str, str], int], path: Path) -> None:
    """Plot the most frequent pairs of a true category and a different predicted one."""
    wrong = sorted((-count, pair) for pair, count in counts.items() if pair[0] != pair[1])[:MAX_CONFUSIONS]
    figure = new_figure(width=7.5, height=1.4 + 0.27 * max(1, len(wrong)))
    axes = figure.subplots()
    axes.barh(range(len(wrong)), [-count for count, _ in wrong], color=_OUTCOMES["ww"][1], height=0.75)
    axes.set_yticks(range(len(wrong)), [f"{shorten_name(true)} → {shorten_name(said)}" for _, (true, said) in wrong])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images")
    axes.set_title(f"{shorten_name(result.name)}: most frequent confusions, true → said (strict)", size=10)
    save_figure(figure, path)


def draw_categories(result: Result, path: Path) -> None:
    """Plot strict outcomes per true category with the interval of RR; of many categories, the best and the worst."""
    ordered = sorted(result.per_category, key=lambda each: (-each.rr.value, -each.accuracy, each.category))
    cut = len(ordered) > MAX_BARS
    if cut:
        ordered = [*ordered[: MAX_BARS // 2], *ordered[-MAX_BARS // 2 :]]
    figure = new_figure(width=7.5, height=1.5 + 0.27 * len(ordered))
    axes = figure.subplots()
    places = [place + (0.8 if cut and place >= MAX_BARS // 2 else 0.0) for place in range(len(ordered))]
    for place, each in zip(places, ordered, strict=True):
        draw_category(axes, each, place=place)
    axes.set_yticks(places, [f"{shorten_name(each.category)} ({each.num_images})" for each in ordered])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    of_all = f", the {MAX_BARS // 2} best and worst of {len(result.per_category)}" if cut else ""
    axes.set_title(f"{shorten_name(result.name)}: strict outcomes per category{of_all}", size=10)
    axes.margins(y=0.01)
    draw_legend(figure)
    save_figure(figure, path)


def draw_legend(figure: Figure) -> None:
    """Add a legend of the colours of outcomes."""
    handles = [Patch(color=colour, label=words) for words, colour in _OUTCOMES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def draw_category(axes: Axes, result: CategoryResult, *, place: float) -> None:
    """Draw one stacked bar, with a whisker for the interval of RR."""
    left = 0.0
    for part, value in zip(_OUTCOMES, (result.rr.value, result.rw, result.wr, result.ww), strict=True):
        axes.barh(place, value, left=left, color=_OUTCOMES[part][1], height=0.78)
        left += value
    axes.plot([result.rr.low, result.rr.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")


def draw_differences(comparisons: Sequence[Comparison], path: Path) -> None:
    """Plot paired differences with their intervals: above zero, the first set is better."""
    rows = [
        (f"{shorten_name(each.first)} − {shorten_name(each.second)}", metric, each.differences[metric])
        for each in comparisons
        for metric in COMPARED_METRICS
        if metric in each.differences
    ]
    figure = new_figure(width=7.5, height=1.2 + 0.32 * max(1, len(rows)))
    axes = figure.subplots()
    for place, (_, _, gap) in enumerate(rows):
        sure = gap.low > 0 or gap.high < 0
        colour = _OUTCOMES["rr"][1] if gap.low > 0 else _OUTCOMES["ww"][1] if sure else "#7a8790"
        axes.plot([gap.low, gap.high], [place, place], color=colour, linewidth=2)
        axes.plot(gap.value, place, "o", color=colour, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{names} · {metric}" for names, metric, _ in rows])
    axes.invert_yaxis()
    axes.margins(y=0.08)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+g}")
    axes.set_xlabel("difference, percentage points")
    save_figure(figure, path)


def format_estimate(estimate: Estimate) -> str:
    """Format a share with its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
