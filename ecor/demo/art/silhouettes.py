"""Outlines of invented bodies, with the places where parts grow on them."""

import math
from dataclasses import dataclass

from ecor.demo.art.canvas import Colour, Pen, Point, bezier, star


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where parts of one sort grow: a point of the body, and the room there is from it along both axes."""

    x: float
    y: float
    rx: float
    ry: float

    def at(self, u: int | float, v: int | float) -> Point:
        """A point in units of the thing; (0, 0) is where parts are fixed."""
        return self.x + self.rx * u, self.y + self.ry * v

    def stretch(self, across: float, along: float) -> "Spot":
        return Spot(x=self.x * across, y=self.y * along, rx=self.rx * across, ry=self.ry * along)

    def mirror(self) -> "Spot":
        return Spot(x=-self.x, y=self.y, rx=-self.rx, ry=self.ry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silhouette:
    """A body without parts."""

    outlines: tuple[tuple[Point, ...], ...]
    # by sort of part: "top" (parts grow up), "rear" and "side" (outwards), "foot" (down), "hide" and "face" (on it)
    spots: dict[str, Spot]

    def stretch(self, across: float, along: float) -> "Silhouette":
        """The body made wider and taller by two factors."""
        outlines = tuple(tuple((x * across, y * along) for x, y in outline) for outline in self.outlines)
        return Silhouette(
            outlines=outlines, spots={name: spot.stretch(across, along) for name, spot in self.spots.items()}
        )

    def draw(self, pen: Pen, colour: Colour) -> None:
        """The bare body."""
        for outline in self.outlines:
            pen.polygon(colour, *outline)

    def draw_eyes(self, pen: Pen) -> None:
        """Two dots, which every body has; a part of its face may cover them."""
        for u in (-0.5, 0.5):
            pen.ellipse((28, 26, 30), *self.spots["face"].at(u, -0.2), 0.045)


def _round(x: float, y: float, rx: float, ry: float, *, first: int = 0, last: int = 360) -> tuple[Point, ...]:
    """An ellipse, or the piece of it between two angles in degrees, clockwise from the right."""
    steps = (math.radians(first + (last - first) * k / 24) for k in range(25))
    return tuple((x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in steps)


def _body(
    *outlines: tuple[Point, ...],
    top: Point = (0.0, -0.46),
    rear: Point = (-0.42, 0.22),
    side: Point = (0.44, -0.04),
    foot: Point = (0.0, 0.44),
    hide: Spot | None = None,
    face: Point = (0.0, -0.2),
) -> Silhouette:
    return Silhouette(
        outlines=outlines,
        spots={
            "top": Spot(x=top[0], y=top[1], rx=0.3, ry=0.42),
            "rear": Spot(x=rear[0], y=rear[1], rx=-0.46, ry=0.36),
            "side": Spot(x=side[0], y=side[1], rx=0.44, ry=0.36),
            "foot": Spot(x=foot[0], y=foot[1], rx=0.36, ry=0.42),
            "hide": hide or Spot(x=0.0, y=0.17, rx=0.36, ry=0.24),
            "face": Spot(x=face[0], y=face[1], rx=0.26, ry=0.2),
        },
    )


def _spot(x: float, y: float, rx: float, ry: float) -> Spot:
    return Spot(x=x, y=y, rx=rx, ry=ry)


def _drop() -> tuple[Point, ...]:
    right = bezier((0.0, -0.66), (0.12, -0.3), (0.4, -0.06))
    left = bezier((-0.4, -0.06), (-0.12, -0.3), (0.0, -0.66))
    return (*right, *_round(0.0, 0.1, 0.43, 0.38, first=-20, last=200), *left)


_ARCH = (
    *_round(0.0, -0.02, 0.52, 0.5, first=180, last=360),
    (0.52, 0.5),
    (0.2, 0.5),
    (0.2, 0.38),
    (-0.2, 0.38),
    (-0.2, 0.5),
    (-0.52, 0.5),
)
_CROSS = (
    *((-0.22, -0.52), (0.22, -0.52), (0.22, -0.2), (0.56, -0.2), (0.56, 0.22), (0.22, 0.22)),
    *((0.22, 0.52), (-0.22, 0.52), (-0.22, 0.22), (-0.56, 0.22), (-0.56, -0.2), (-0.22, -0.2)),
)
_HOURGLASS = ((-0.46, -0.52), (0.46, -0.52), (0.17, -0.02), (0.46, 0.5), (-0.46, 0.5), (-0.17, -0.02))

SILHOUETTES: dict[str, Silhouette] = {
    "ball": _body(_round(0.0, 0.0, 0.5, 0.48)),
    "pear": _body(_round(0.0, -0.24, 0.27, 0.28), _round(0.0, 0.17, 0.48, 0.34), side=(0.3, -0.1), top=(0.0, -0.48)),
    "block": _body(((-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45))),
    "cone": _body(
        ((0.0, -0.6), (0.54, 0.46), (-0.54, 0.46)),
        top=(0.0, -0.5),
        side=(0.24, -0.08),
        rear=(-0.4, 0.24),
        face=(0.0, -0.1),
    ),
    "gem": _body(((0.0, -0.56), (0.54, 0.0), (0.0, 0.56), (-0.54, 0.0)), top=(0.0, -0.46), rear=(-0.3, 0.22)),
    "peanut": _body(_round(-0.3, 0.0, 0.32, 0.4), _round(0.3, 0.0, 0.32, 0.4), top=(0.0, -0.26), foot=(0.0, 0.3)),
    "star": _body(
        tuple(star(0.0, 0.02, 0.66, 0.36, num=5, phase=-math.pi / 2)),
        side=(0.5, -0.18),
        rear=(-0.3, 0.2),
        foot=(0.0, 0.3),
    ),
    "bowl": _body(
        _round(0.0, -0.3, 0.56, 0.76, first=0, last=180),
        top=(0.0, -0.28),
        side=(0.5, -0.12),
        face=(0.0, -0.12),
        rear=(-0.36, 0.2),
        hide=_spot(0.0, 0.2, 0.32, 0.18),
    ),
    "dome": _body(
        _round(0.0, 0.4, 0.54, 0.84, first=180, last=360), foot=(0.0, 0.38), top=(0.0, -0.4), side=(0.4, -0.06)
    ),
    "arch": _body(_ARCH, hide=_spot(0.0, 0.14, 0.4, 0.2), side=(0.48, 0.0)),
    "bell": _body(
        ((-0.24, -0.5), (0.24, -0.5), (0.36, 0.2), (0.58, 0.46), (-0.58, 0.46), (-0.36, 0.2)),
        side=(0.28, -0.1),
        rear=(-0.4, 0.26),
        hide=_spot(0.0, 0.17, 0.3, 0.24),
    ),
    "cross": _body(_CROSS, side=(0.5, 0.0), rear=(-0.24, 0.36), hide=_spot(0.0, 0.14, 0.36, 0.22), face=(0.0, -0.26)),
    "hourglass": _body(
        _HOURGLASS, side=(0.26, -0.14), rear=(-0.3, 0.3), hide=_spot(0.0, 0.3, 0.27, 0.17), face=(0.0, -0.3)
    ),
    "drop": _body(_drop(), top=(0.0, -0.56), side=(0.36, 0.0), face=(0.0, -0.08), hide=_spot(0.0, 0.22, 0.32, 0.2)),
    "toadstool": _body(
        _round(0.0, -0.12, 0.58, 0.4, first=180, last=360),
        ((-0.24, -0.14), (0.24, -0.14), (0.3, 0.5), (-0.3, 0.5)),
        side=(0.26, 0.06),
        rear=(-0.26, 0.32),
        face=(0.0, -0.24),
        hide=_spot(0.0, 0.22, 0.24, 0.22),
        top=(0.0, -0.48),
    ),
}
