"""Draw heat maps over images in a perceptually uniform colour map, and figures of several panels."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from ecor.config.checks import require

_COLOURS = "inferno"
"""Of matplotlib's perceptually uniform maps: equal steps of a map look like equal steps, in grey print too."""
STRENGTH = 0.58
"""Share of the colour in an overlay; the rest is the picture, in grey (ours)."""
LIFTED = 0.3
"""Grey that black becomes below the colours, so that the picture is seen where a map is low (ours)."""
DIMMED = 0.25
"""Share of its brightness that a place keeps which the model did not see (ours)."""
_SMALL_PX = 128
"""Pictures up to this size are shown with hard pixels."""
_SOFTWARE = "ecor overlay"
"""In the metadata of a figure, so that it is known again."""
_LINE_INCHES, _GAP_INCHES, _BAR_INCHES = 0.15, 0.08, 0.62
"""Of a figure: height of a title line, gap between panels, width of the colour bar."""
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A picture of a figure, and what is said of it."""

    title: str
    note: str = ""
    """A second line."""
    map: Float[np.ndarray, "H W"] | None = None
    """From 0 to 1; None: the picture itself."""


def overlay(
    picture: UInt8[np.ndarray, "H W 3"],
    map_HW: Float[np.ndarray, "H W"],
    *,
    seen: Bool[np.ndarray, "H W"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the picture in grey under the colours of a map.

    Args:
        picture: 8-bit RGB.
        map_HW: from 0 (least) to 1 (most), of the picture's size.
        seen: pixels that the model saw; the others are dimmed and get no colour. None: all.

    Raises:
        ValueError: when the map has values beyond 0 and 1.
    """
    lowest, highest = float(map_HW.min()), float(map_HW.max())
    require(lowest >= -1e-4 and highest <= 1 + 1e-4, f"a map goes from 0 to 1, this one from {lowest} to {highest}")
    grey_HW1 = 255 * LIFTED + (1 - LIFTED) * (picture.astype(np.float32) @ _GREY)[..., None]
    colour_HW3 = 255 * colormaps[_COLOURS](map_HW)[..., :3].astype(np.float32)
    mixed_HW3 = (1 - STRENGTH) * grey_HW1 + STRENGTH * colour_HW3
    if seen is not None:
        mixed_HW3 = np.where(seen[..., None], mixed_HW3, DIMMED * picture)
    return np.round(mixed_HW3).clip(0, 255).astype(np.uint8)


def is_overlay(data: bytes) -> bool:
    """Whether a file is a figure of `panels_png`."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return image.info.get("Software") == _SOFTWARE
    except (OSError, SyntaxError, ValueError):
        return False


def panels_png(
    picture: UInt8[np.ndarray, "H W 3"],
    panels: Sequence[Panel],
    *,
    seen: Bool[np.ndarray, "H W"] | None = None,
    most_columns: int = 5,
    panel_inches: float = 2.1,
    dpi: int = 110,
) -> bytes:
    """Draw panels side by side with one colour bar, as PNG; the same arguments give the same bytes.

    Args:
        picture: 8-bit RGB.
        panels: maps with titles, row by row.
        seen: pixels that the model saw; None: all.
        most_columns: panels in a row at most.
        panel_inches: width of a panel.
        dpi: dots per inch.

    Raises:
        ValueError: when there is no panel, or a map has values beyond 0 and 1.
    """
    require(bool(panels), "no panel to draw")
    num_rows = -(-len(panels) // most_columns)
    titles = [_title_lines(panel) for panel in panels]
    layout = _Layout(
        num_rows=num_rows,
        num_columns=-(-len(panels) // num_rows),
        panel_width=panel_inches,
        panel_height=panel_inches * min(2.0, max(0.4, picture.shape[0] / picture.shape[1])),
        title_height=_LINE_INCHES * max(map(len, titles)) + _GAP_INCHES,
    )
    figure = Figure(figsize=(layout.width, layout.height))
    FigureCanvasAgg(figure)
    interpolation = "nearest" if max(picture.shape[:2]) <= _SMALL_PX else "antialiased"
    for number, (panel, lines) in enumerate(zip(panels, titles, strict=True)):
        axes = figure.add_axes(layout.panel_box(number))
        pixels = picture if panel.map is None else overlay(picture, panel.map, seen=seen)
        axes.imshow(pixels, interpolation=interpolation)
        axes.set_title("\n".join(lines), size=8, pad=3)
        axes.axis("off")
    _add_colour_bar(figure, box=layout.bar_box())
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=dpi, metadata={"Software": _SOFTWARE})
    return sink.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Places of panels and colour bar in a figure, in inches."""

    num_rows: int
    num_columns: int
    panel_width: float
    panel_height: float
    title_height: float

    @property
    def width(self) -> float:
        return self.num_columns * (self.panel_width + _GAP_INCHES) + _GAP_INCHES + _BAR_INCHES

    @property
    def height(self) -> float:
        return self.num_rows * (self.title_height + self.panel_height + _GAP_INCHES)

    def panel_box(self, number: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel, in shares of the figure."""
        row, column = divmod(number, self.num_columns)
        left = _GAP_INCHES + column * (self.panel_width + _GAP_INCHES)
        top = row * (self.title_height + self.panel_height + _GAP_INCHES) + self.title_height
        return self._box(left, top, self.panel_width)

    def bar_box(self) -> tuple[float, float, float, float]:
        """The same for the colour bar."""
        return self._box(self.width - _BAR_INCHES + _GAP_INCHES, self.title_height, 0.12)

    def _box(self, left: float, top: float, width: float) -> tuple[float, float, float, float]:
        bottom = 1 - (top + self.panel_height) / self.height
        return left / self.width, bottom, width / self.width, self.panel_height / self.height


def _add_colour_bar(figure: Figure, *, box: tuple[float, float, float, float]) -> None:
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), cax=figure.add_axes(box))
    bar.set_ticks([0, 1], labels=["least", "most"])
    bar.ax.tick_params(labelsize=7, length=0)
    bar.set_label("evidence, within each map", size=7, labelpad=-12)


def _title_lines(panel: Panel) -> list[str]:
    """Lines of a panel's title."""
    lines = textwrap.wrap(_escape_dollars(panel.title), 28, max_lines=2, placeholder=" …")
    return [*lines, _escape_dollars(panel.note)] if panel.note else lines


def _escape_dollars(text: str) -> str:
    """Matplotlib would read what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")
