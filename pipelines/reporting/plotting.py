"""Shared parts of all plots: figures, colours, short names, PNG files with reproducible bytes."""

import warnings
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, PALE = "#24313c", "#c9d3da"
MAX_NAME_LENGTH = 34


def shorten_name(name: str) -> str:
    """Shorten a name to at most `MAX_NAME_LENGTH` characters."""
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1].rstrip() + "…"


def new_figure(*, width: float, height: float) -> Figure:
    """Make an empty figure.

    Args:
        width: inches.
        height: inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, *, dpi: int = 144) -> None:
    """Write a figure as PNG; the same figure gives the same bytes.

    Names are shown as they are: a dollar sign starts no formula. Characters that the font lacks are drawn as boxes.

    Args:
        figure: the figure; its top and right spines are hidden.
        path: local file.
        dpi: pixels per inch.
    """
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
