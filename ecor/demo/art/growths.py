"""Parts that grow out of an invented body: on top, at the rear, at the sides, below."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ecor.demo.art.canvas import Colour, Pen, tint
from ecor.demo.art.silhouettes import Spot

DARK: Colour = (34, 30, 36)
Number = int | float
Place = tuple[Number, Number]
"""In units of a spot."""


class Patch:
    """A pen that draws in the units of a spot; widths and the radii of `ball` and `ring` are those of the thing."""

    def __init__(self, pen: Pen, spot: Spot) -> None:
        self._pen, self._spot = pen, spot
        self.rng = pen.rng

    def polygon(self, colour: Colour, *points: Place) -> None:
        self._pen.polygon(colour, *(self._spot.at(u, v) for u, v in points))

    def line(self, colour: Colour, width: float, *points: Place) -> None:
        self._pen.line(colour, width, *(self._spot.at(u, v) for u, v in points))

    def curve(self, colour: Colour, width: float, start: Place, pull: Place, end: Place) -> None:
        self._pen.curve(colour, width, self._spot.at(*start), self._spot.at(*pull), self._spot.at(*end))

    def oval(self, colour: Colour, u: Number, v: Number, ru: Number, rv: Number, turn: Number = 0) -> None:
        """An ellipse, in units of the spot, turned by `turn` degrees."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        circle = ((math.cos(k * math.pi / 9), math.sin(k * math.pi / 9)) for k in range(18))
        self.polygon(colour, *((u + c * ru * x - s * rv * y, v + s * ru * x + c * rv * y) for x, y in circle))

    def ball(self, colour: Colour, u: Number, v: Number, r: float) -> None:
        self._pen.ellipse(colour, *self._spot.at(u, v), r)

    def ring(self, colour: Colour, width: float, u: Number, v: Number, r: float) -> None:
        self._pen.ring(colour, width, *self._spot.at(u, v), r)

    def spiral(self, colour: Colour, width: float, u: Number, v: Number, r: float, *, first: Number = 0.0) -> None:
        """One turn and a half inwards; `r` in units of the spot, `first` the angle of its outer end."""
        steps = ((1 - k / 20, first + k * 3 * math.pi / 20) for k in range(19))
        self.line(colour, width, *((u + r * far * math.cos(a), v + r * far * math.sin(a)) for far, a in steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartKind:
    """One kind of part, in two forms."""

    # of the part: a key of `Silhouette.spots`
    spot: str
    # what each form is called; {} stands for its colour
    texts: tuple[str, str]
    # of a patch, a colour and the form
    draw: Callable[[Patch, Colour, int], None]


def _spikes(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for u in (-0.8, 0.0, 0.8):
            patch.polygon(colour, (u - 0.36, 0.2), (u + 0.36, 0.2), (u * 1.3, -0.85 - patch.rng.uniform(0, 0.2)))
    else:
        for u in (-1.1, -0.55, 0.0, 0.55, 1.1):
            patch.ball(colour, u, -0.1 - 0.25 * (1 - abs(u)), 0.12)


def _horns(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for u in (-1, 1):
            patch.curve(colour, 0.13, (0.5 * u, 0.15), (1.6 * u, -0.2), (1.0 * u, -1.0))
    else:
        lean = patch.rng.uniform(-0.3, 0.3)
        patch.polygon(colour, (-0.5, 0.15), (0.5, 0.15), (lean, -1.15))
        for v in (-0.1, -0.45):
            patch.line(tint(colour, by=-0.45), 0.04, (-0.4 - 0.35 * v, v), (0.4 + 0.35 * v, v - 0.1))


def _antennae(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for u in (-1, 1):
            patch.line(colour, 0.06, (0.3 * u, 0.1), (0.9 * u, -0.75))
            patch.ball(colour, 0.9 * u, -0.8, 0.12)
    else:
        patch.line(colour, 0.07, (0, 0.1), (0, -0.5))
        patch.ring(colour, 0.08, 0, -0.8, 0.16)


def _feathers(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for angle in (-1.1, -0.55, 0.0, 0.55, 1.1):
            patch.line(colour, 0.1, (0, 0.2), (1.3 * math.sin(angle), -math.cos(angle)))
    else:
        patch.curve(colour, 0.17, (0, 0.15), (-0.1, -1.5), (1.5, -0.45))


def _hat(patch: Patch, colour: Colour, form: int) -> None:
    band = tint(colour, by=-0.5)
    if form == 0:
        patch.polygon(colour, (-0.9, 0.15), (0.9, 0.15), (patch.rng.uniform(-0.2, 0.2), -1.15))
        patch.polygon(band, (-0.9, 0.15), (0.9, 0.15), (0.75, -0.08), (-0.75, -0.08))
    else:
        patch.polygon(colour, (-0.6, 0.1), (0.6, 0.1), (0.6, -0.8), (-0.6, -0.8))
        patch.polygon(band, (-0.6, -0.05), (0.6, -0.05), (0.6, -0.3), (-0.6, -0.3))
        patch.polygon(colour, (-1.15, 0.2), (1.15, 0.2), (1.15, 0.0), (-1.15, 0.0))


def _sprout(patch: Patch, colour: Colour, form: int) -> None:
    patch.line(colour, 0.06, (0, 0.1), (0, -0.55))
    if form == 0:
        for turn, u in ((-35, 0.55), (35, -0.55)):
            patch.oval(colour, u, -0.65, 0.6, 0.2, turn)
    else:
        for k in range(5):
            angle = k * 2 * math.pi / 5
            patch.ball(colour, 0.42 * math.cos(angle), -0.75 + 0.3 * math.sin(angle), 0.1)
        patch.ball(DARK, 0, -0.75, 0.06)


def _mast(patch: Patch, colour: Colour, form: int) -> None:
    patch.line((150, 120, 90), 0.06, (0, 0.1), (0, -1.0))
    if form == 0:
        patch.polygon(colour, (0, -1.05), (1.15, -0.78), (0, -0.45))
    else:
        for u in (-0.65, 0.65):
            patch.oval(colour, u, -0.9 + patch.rng.uniform(-0.08, 0.08), 0.62, 0.17)


def _crown(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        teeth = ((-0.9, -0.75), (-0.45, -0.25), (0.0, -0.85), (0.45, -0.25), (0.9, -0.75))
        patch.polygon(colour, (-0.75, 0.15), *teeth, (0.75, 0.15))
    else:
        circle = ((math.cos(k * math.pi / 10), math.sin(k * math.pi / 10)) for k in range(22))
        patch.line(colour, 0.09, *((0.95 * x, -0.5 + 0.22 * y) for x, y in circle))


def _tail(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.line(colour, 0.1, (-0.2, 0.1), (0.4, 0.25))
        patch.spiral(colour, 0.1, 0.55, -0.25, 0.55, first=1.8)
    else:
        points = (((k / 10) * 1.15 - 0.15, 0.35 * math.sin(k * 0.95)) for k in range(11))
        patch.line(colour, 0.11, *points)


def _tail_tip(patch: Patch, colour: Colour, form: int) -> None:
    patch.curve((105, 96, 100), 0.07, (-0.2, 0), (0.6, 0.4), (0.75, -0.3))
    if form == 0:
        patch.polygon(colour, (0.3, -0.25), (1.2, -0.3), (0.8, -1.1))
    else:
        patch.ball(colour, 0.78, -0.5, 0.17)


def _tail_fin(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        arc = [(1.05 * math.cos(a / 10), 1.05 * math.sin(a / 10)) for a in range(-9, 10, 3)]
        patch.polygon(colour, (-0.2, 0), *arc)
        for x, y in arc[1:-1:2]:
            patch.line(tint(colour, by=-0.45), 0.03, (0, 0), (x * 0.95, y * 0.95))
    else:
        patch.polygon(colour, (-0.2, -0.15), (0.4, -0.2), (1.1, -1.0), (0.75, 0), (1.1, 1.0), (0.4, 0.2), (-0.2, 0.15))


def _brush(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.oval(colour, 0.45, -0.3, 0.75, 0.42, -40)
    else:
        patch.line((105, 96, 100), 0.08, (-0.2, 0), (0.45, 0))
        for v in (-0.75, -0.38, 0.0, 0.38, 0.75):
            patch.line(colour, 0.055, (0.4, v * 0.3), (1.1, v))


def _engine(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.line(colour, 0.09, (-0.2, 0), (0.5, 0))
        for v in (-0.42, 0.42):
            patch.ring(colour, 0.08, 0.72, v, 0.13)
    else:
        patch.polygon(
            colour, (-0.1, -0.4), (0.6, -0.55), (0.45, -0.25), (1.15, 0.05), (0.45, 0.2), (0.6, 0.6), (-0.1, 0.4)
        )
        patch.polygon(tint(colour, by=0.6), (-0.1, -0.2), (0.55, 0.02), (-0.1, 0.2))


def _saw_tail(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        teeth = [(0.1 + 0.15 * k, -0.75 if k % 2 else -0.3) for k in range(7)]
        patch.polygon(colour, (-0.2, 0.25), (-0.2, -0.3), *teeth, (1.2, 0.1))
    else:
        patch.line(colour, 0.09, (-0.2, 0), (0.5, 0))
        patch.polygon(colour, (0.3, -0.65), (1.1, -0.65), (1.1, 0.65), (0.3, 0.65))


def _wings(patch: Patch, colour: Colour, form: int) -> None:
    lift = patch.rng.uniform(-0.15, 0.15)
    if form == 0:
        patch.polygon(colour, (-0.2, -0.3), (1.1, -1.1 + lift), (0.75, -0.2), (0.95, 0.5 + lift), (-0.2, 0.4))
    else:
        patch.oval(colour, 0.5, -0.5 + lift, 0.6, 0.5)
        patch.oval(colour, 0.35, 0.35 + lift, 0.45, 0.4)


def _arms(patch: Patch, colour: Colour, form: int) -> None:
    patch.line(colour, 0.09, (-0.2, 0.2), (0.5, -0.1))
    if form == 0:
        patch.polygon(colour, (0.4, 0.1), (0.45, -0.75), (0.75, -1.0), (0.7, -0.35), (1.1, -0.6), (0.95, 0.05))
    else:
        patch.ball(colour, 0.68, -0.25, 0.18)


def _handles(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.ring(colour, 0.1, 0.4, 0, 0.2)
    else:
        patch.line(colour, 0.1, (-0.2, -0.55), (0.75, -0.55), (0.75, 0.55), (-0.2, 0.55))


def _fins(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        teeth = ((1.0, -0.8), (0.55, -0.4), (1.05, -0.1), (0.55, 0.2), (0.95, 0.6))
        patch.polygon(colour, (-0.2, -0.6), *teeth, (-0.2, 0.55))
    else:
        patch.line(colour, 0.07, (-0.2, 0), (0.5, 0.3))
        patch.oval(colour, 0.72, 0.45, 0.34, 0.58)


def _ears(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.oval(colour, 0.15, -0.1, 0.28, 0.85, -12)
    else:
        patch.ball(colour, 0.25, -0.75, 0.23)
        patch.ball(tint(colour, by=-0.5), 0.25, -0.75, 0.1)


def _feelers(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for v, far in ((-0.35, -0.95), (0.25, 0.8)):
            patch.curve(colour, 0.065, (-0.2, v), (0.8, v), (1.0, far))
    else:
        patch.spiral(colour, 0.09, 0.5, 0.0, 0.6, first=3.3)


def _thorns(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for v in (-0.6, 0.05, 0.7):
            patch.polygon(colour, (-0.3, v - 0.26), (-0.3, v + 0.26), (0.8, v - 0.1))
    else:
        patch.line((105, 96, 100), 0.05, (-0.2, -0.6), (0.6, -0.6), (0.6, -0.1))
        patch.polygon(colour, (0.3, -0.15), (0.9, -0.15), (1.0, 0.75), (0.2, 0.75))


def _legs(patch: Patch, colour: Colour, form: int) -> None:
    swing = patch.rng.uniform(-0.12, 0.12)
    if form == 0:
        for u in (-0.55, 0.55):
            patch.line(colour, 0.1, (u, -0.2), (u + swing, 0.85), (u * 1.7 + swing, 0.85))
    else:
        for u in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0):
            patch.line(colour, 0.06, (u, -0.25), (u * 1.2 + swing, 0.5))


def _wheels(patch: Patch, colour: Colour, form: int) -> None:
    places, radius = ((-0.7, 0.7), 0.22) if form == 0 else ((-0.85, 0.0, 0.85), 0.14)
    for u in places:
        patch.ball(colour, u, 0.45, radius)
        patch.ball(DARK, u, 0.45, radius * 0.4)


def _spring(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.line(colour, 0.08, *((0.45 * (-1) ** k * (k > 0), -0.2 + 0.19 * k) for k in range(7)))
    else:
        patch.curve(colour, 0.13, (-1.3, 0.2), (0, 1.5), (1.3, 0.2))


def _roots(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for u in (-0.8, -0.4, 0.0, 0.4, 0.8):
            far = u * 1.6 + patch.rng.uniform(-0.15, 0.15)
            patch.line(colour, 0.055, (u, -0.2), (u * 1.1 + 0.15, 0.25), (far - 0.1, 0.5), (far, 0.9))
    else:
        for u in (-0.7, 0.0, 0.7):
            patch.curve(colour, 0.13, (u, -0.2), (u - 0.1, 0.9), (u + 0.5, 0.75))


def _skirt(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        teeth = [(1.2 - 0.3 * k, 0.7 if k % 2 else 0.2) for k in range(9)]
        patch.polygon(colour, (-0.9, -0.25), (0.9, -0.25), *teeth)
    else:
        for u in (-0.9, -0.3, 0.3, 0.9):
            for v in (0.0, 0.35, 0.7):
                patch.ball(colour, u, v, 0.075)


def _feet(patch: Patch, colour: Colour, form: int) -> None:
    for u in (-1, 1):
        if form == 0:
            leg = ((0.25 * u, -0.2), (0.75 * u, -0.2), (0.75 * u, 0.3), (1.25 * u, 0.4), (1.25 * u, 0.75))
            patch.polygon(colour, *leg, (0.25 * u, 0.75))
        else:
            patch.line(colour, 0.06, (0.5 * u, -0.2), (0.55 * u, 0.35))
            patch.polygon(
                colour,
                (0.5 * u, 0.15),
                (0.1 * u, 0.7),
                (0.4 * u, 0.55),
                (0.65 * u, 0.8),
                (0.9 * u, 0.55),
                (1.25 * u, 0.6),
            )


def _stand(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.polygon(colour, (-0.3, -0.2), (0.3, -0.2), (0.35, 0.4), (-0.35, 0.4))
        patch.polygon(colour, (-1.0, 0.35), (1.0, 0.35), (1.0, 0.65), (-1.0, 0.65))
    else:
        for u in (-1.1, 0.0, 1.1):
            patch.line(colour, 0.075, (0, -0.15), (u, 0.9))


GROWTHS: tuple[PartKind, ...] = (
    PartKind(spot="top", texts=("three straight {} spikes", "a row of {} bumps on top"), draw=_spikes),
    PartKind(spot="top", texts=("two curved {} horns", "one tall {} horn"), draw=_horns),
    PartKind(spot="top", texts=("two {} antennae with knobs", "a {} antenna with a ring"), draw=_antennae),
    PartKind(spot="top", texts=("a fan of {} feathers", "a drooping {} plume"), draw=_feathers),
    PartKind(spot="top", texts=("a pointed {} hat", "a tall {} hat with a brim"), draw=_hat),
    PartKind(spot="top", texts=("a {} sprout with two leaves", "a {} flower on a stalk"), draw=_sprout),
    PartKind(spot="top", texts=("a {} flag on a pole", "a {} propeller on a pole"), draw=_mast),
    PartKind(spot="top", texts=("a {} crown with three points", "a floating {} halo"), draw=_crown),
    PartKind(spot="rear", texts=("a curled {} tail", "a wavy {} tail"), draw=_tail),
    PartKind(spot="rear", texts=("a tail ending in a {} arrow", "a tail ending in a {} ball"), draw=_tail_tip),
    PartKind(spot="rear", texts=("a {} tail like a fan", "a forked {} tail"), draw=_tail_fin),
    PartKind(spot="rear", texts=("a bushy {} tail", "a tail of {} bristles"), draw=_brush),
    PartKind(spot="rear", texts=("a {} wind-up key", "a {} flame shooting out behind"), draw=_engine),
    PartKind(spot="rear", texts=("a {} tail with teeth like a saw", "a flat square {} tail"), draw=_saw_tail),
    PartKind(spot="side", texts=("two pointed {} wings", "four round {} wings"), draw=_wings),
    PartKind(spot="side", texts=("two {} pincers", "two {} fists"), draw=_arms),
    PartKind(spot="side", texts=("two {} ring handles", "two square {} handles"), draw=_handles),
    PartKind(spot="side", texts=("two jagged {} fins", "two {} paddles"), draw=_fins),
    PartKind(spot="side", texts=("two drooping {} ears", "two round {} ears"), draw=_ears),
    PartKind(spot="side", texts=("four thin {} feelers", "two {} arms rolled into spirals"), draw=_feelers),
    PartKind(spot="side", texts=("{} thorns on both sides", "two hanging {} buckets"), draw=_thorns),
    PartKind(spot="foot", texts=("two long {} legs", "six short {} legs"), draw=_legs),
    PartKind(spot="foot", texts=("two big {} wheels", "three small {} wheels"), draw=_wheels),
    PartKind(spot="foot", texts=("a zigzag {} spring below", "a curved {} rocker below"), draw=_spring),
    PartKind(spot="foot", texts=("trailing {} roots", "three thick {} tentacles"), draw=_roots),
    PartKind(spot="foot", texts=("a {} skirt with a jagged hem", "strings of {} beads below"), draw=_skirt),
    PartKind(spot="foot", texts=("two big {} boots", "two webbed {} feet"), draw=_feet),
    PartKind(spot="foot", texts=("a {} pedestal", "a {} tripod"), draw=_stand),
)
"""What stands out from a body."""
