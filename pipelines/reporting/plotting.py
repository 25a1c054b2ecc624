"""Shared parts of all plots: figures, colours, short names, PNG files with reproducible bytes."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, PALE = "#24313c", "#c9d3da"


MAX_NAME_LENGTH = 34


def shorten(name: str) -> str:
    """Shorten a name to at most `MAX_NAME_LENGTH` characters."""
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1].rstrip() + "…"


def new_figure(*, width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int = 144) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
