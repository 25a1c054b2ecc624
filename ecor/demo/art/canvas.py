"""A canvas that records which part owns which pixel while strokes are drawn."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageEnhance

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLING = 3
SHADOW_BRIGHTNESS = 0.5
_CIRCLE = tuple((math.cos(k * math.pi / 10), math.sin(k * math.pi / 10)) for k in range(20))


def tint(colour: Colour, *, by: float) -> Colour:
    """Make a colour lighter or darker.

    Args:
        colour: RGB, 0 to 255.
        by: above 0 lighter, up to white at 1; below 0 darker, down to black at -1.
    """
    goal = 255 if by > 0 else 0
    r, g, b = (round(channel + (goal - channel) * abs(by)) for channel in colour)
    return r, g, b


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """One filled polygon or thick line."""

    points: tuple[Point, ...]
    # colour to fill with
    colour: Colour
    # width of a line in units of the thing, 0 for a filled polygon
    width: float
    # index in the thing's parts, or -1 for its body
    part: int


class Pen:
    """Draws one thing in its own units: the thing spans about [-1, 1] in x (to the right) and y (down).

    A part left out is drawn with a lifted pen: every random choice is still made, so that the same thing with
    and without a part differs in that part alone.
    """

    def __init__(self, *, parts: Sequence[str], left_out: frozenset[str], rng: random.Random) -> None:
        self.rng = rng
        self.strokes: list[Stroke] = []
        self._parts = tuple(parts)
        self._left_out = left_out
        self._part = -1
        self._lifted = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Strokes made inside belong to the part `name`."""
        outer = self._part, self._lifted
        self._part, self._lifted = self._parts.index(name), name in self._left_out
        try:
            yield
        finally:
            self._part, self._lifted = outer

    def colour(self, *choices: Colour, spread: int = 22) -> Colour:
        """One of `choices`, each channel shifted by up to `spread`."""
        chosen = self.rng.choice(choices)
        r, g, b = (min(255, max(0, channel + self.rng.randint(-spread, spread))) for channel in chosen)
        return r, g, b

    def polygon(self, colour: Colour, *points: Point) -> None:
        if not self._lifted:
            self.strokes.append(Stroke(points=points, colour=colour, width=0.0, part=self._part))

    def line(self, colour: Colour, width: float, *points: Point) -> None:
        if not self._lifted:
            self.strokes.append(Stroke(points=points, colour=colour, width=width, part=self._part))

    def box(self, colour: Colour, left: float, top: float, right: float, bottom: float) -> None:
        self.polygon(colour, (left, top), (right, top), (right, bottom), (left, bottom))

    def ellipse(
        self, colour: Colour, x: float, y: float, rx: float, ry: float | None = None, turn: int | float = 0
    ) -> None:
        """An ellipse turned clockwise by `turn` degrees."""
        ry = rx if ry is None else ry
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        self.polygon(colour, *((x + c * rx * u - s * ry * v, y + s * rx * u + c * ry * v) for u, v in _CIRCLE))

    def curve(self, colour: Colour, width: float, start: Point, pull: Point, end: Point) -> None:
        """A thick quadratic Bézier curve."""
        self.line(colour, width, *bezier(start, pull, end))

    def ring(self, colour: Colour, width: float, x: float, y: float, r: float) -> None:
        self.line(colour, width, *((x + r * u, y + r * v) for u, v in (*_CIRCLE, _CIRCLE[0], _CIRCLE[1])))

    def bands(self, colour: Colour, x: float, y: float, rx: float, ry: float, *, num: int, lean: float = 0.0) -> None:
        """`num` upright stripes inside an ellipse."""
        half = rx / num / 2.1
        for k in range(num):
            dx = rx * (2 * (k + 0.5) / num - 1)
            top = ry * math.sqrt(1 - (dx / rx) ** 2) * 0.97
            self.polygon(
                colour,
                (x + dx - half + lean, y - top),
                (x + dx + half + lean, y - top),
                (x + dx + half * 0.6 - lean, y + top),
                (x + dx - half * 0.6 - lean, y + top),
            )

    def dots(self, colour: Colour, x: float, y: float, rx: float, ry: float, *, num: int, size: float) -> None:
        """`num` dots spread evenly, with jitter, inside an ellipse."""
        for k in range(num):
            far, angle = math.sqrt((k + 0.5) / num), 2.4 * k + self.rng.uniform(-0.2, 0.2)
            self.ellipse(colour, x + rx * far * 0.88 * math.cos(angle), y + ry * far * 0.88 * math.sin(angle), size)

    def eye(self, x: float, y: float, size: float = 0.06) -> None:
        self.ellipse((250, 250, 250), x, y, size)
        self.ellipse((20, 20, 20), x + size * 0.25, y, size * 0.6)


def bezier(start: Point, pull: Point, end: Point) -> tuple[Point, ...]:
    """Nine points along a quadratic Bézier curve."""
    return tuple(
        (
            (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * pull[0] + t * t * end[0],
            (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * pull[1] + t * t * end[1],
        )
        for t in (k / 8 for k in range(9))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a thing stands in the image; lengths in shares of the image's width."""

    x: float
    y: float
    # half the thing's extent
    scale: float
    # horizontal stretch, negative when mirrored
    stretch: float
    # clockwise, degrees
    turn: float


class Canvas:
    """Supersampled pixels and, drawn alongside, the label of whatever is on top."""

    def __init__(self, *, num_pixels: int, background: Colour, shadow: Point | None = None) -> None:
        """`shadow`: how far, in final pixels, every raised stroke throws a hard shadow."""
        self._side = num_pixels * SUPERSAMPLING
        self.pixels = Image.new("RGB", (self._side, self._side), background)
        self.labels = Image.new("L", (self._side, self._side), 0)
        self._paint = ImageDraw.Draw(self.pixels)
        self._mark = ImageDraw.Draw(self.labels)
        self._shadow = shadow
        self._shade = Image.new("L", (self._side, self._side) if shadow else (1, 1), 0)
        self._darken = ImageDraw.Draw(self._shade)

    def draw(
        self,
        strokes: Sequence[Stroke],
        *,
        at: Placement,
        first_label: int,
        outline: float,
        wash: float = 0.0,
        edge: float = -0.55,
        is_raised: bool = True,
    ) -> None:
        """Draw a thing: its body gets `first_label`, its part k `first_label` + 1 + k; label 0 hides what is below.

        `outline` is the width of contours in final pixels, `edge` how much lighter (above 0) or darker they are than
        their fills; `wash` in [-1, 1] pales the fills as pencils do, or darkens them.
        """
        side, c, s = self._side, math.cos(math.radians(at.turn)), math.sin(math.radians(at.turn))
        ax, ay = at.scale * at.stretch * c * side, -at.scale * s * side
        bx, by = at.scale * at.stretch * s * side, at.scale * c * side
        cx, cy = at.x * side, at.y * side
        for stroke in strokes:
            points = [(cx + ax * x + ay * y, cy + bx * x + by * y) for x, y in stroke.points]
            label = first_label + 1 + stroke.part if first_label else 0
            colour = tint(stroke.colour, by=wash * 0.4 if stroke.width else wash) if wash else stroke.colour
            if stroke.width:
                width = max(2, round(stroke.width * at.scale * side))
                self._paint.line(points, fill=colour, width=width, joint="curve" if width > 4 else None)
                self._mark.line(points, fill=label, width=width, joint="curve" if width > 4 else None)
                if self._shadow and is_raised:
                    self._darken.line(self._shifted(points), fill=255, width=width)
                    self._darken.line(points, fill=0, width=width)
            else:
                self._paint.polygon(points, fill=colour)
                self._mark.polygon(points, fill=label)
                if self._shadow and is_raised:
                    self._darken.polygon(self._shifted(points), fill=255)
                    self._darken.polygon(points, fill=0)
                if outline:
                    contour = tint(stroke.colour, by=edge)
                    self._paint.line([*points, points[0]], fill=contour, width=round(outline * SUPERSAMPLING))

    def _shifted(self, points: Sequence[Point]) -> list[Point]:
        assert self._shadow is not None
        dx, dy = (SUPERSAMPLING * step for step in self._shadow)
        return [(x + dx, y + dy) for x, y in points]

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """The antialiased image, and the label at the centre of each of its pixels."""
        size = (self._side // SUPERSAMPLING,) * 2
        if self._shadow:
            self.pixels.paste(ImageEnhance.Brightness(self.pixels).enhance(SHADOW_BRIGHTNESS), mask=self._shade)
        return self.pixels.reduce(SUPERSAMPLING), self.labels.resize(size, Image.Resampling.NEAREST)


def star(x: float, y: float, outer: float, inner: float, *, num: int, phase: float = 0.0) -> list[Point]:
    """The corners of a star with `num` rays."""
    radii = (outer, inner) * num
    return [
        (x + r * math.cos(phase + k * math.pi / num), y + r * math.sin(phase + k * math.pi / num))
        for k, r in enumerate(radii)
    ]


def zigzag(left: float, right: float, top: float, bottom: float, *, num: int) -> list[Point]:
    """Corners of `num` teeth from left to right between the heights `top` and `bottom`."""
    step = (right - left) / (2 * num)
    return [(left + k * step, bottom if k % 2 == 0 else top) for k in range(2 * num + 1)]


def along(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """The segments of a polyline."""
    return list(pairwise(points))
