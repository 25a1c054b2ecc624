"""Markings on an invented body: patterns of the hide and features of the face."""

import math

from ecor.demo.art.canvas import Colour, star, tint
from ecor.demo.art.growths import DARK, PartKind, Patch


def _stripes(patch: Patch, colour: Colour, form: int) -> None:
    for place in (-0.75, -0.25, 0.25, 0.75):
        half = math.sqrt(1 - place**2)
        if form == 0:
            patch.line(colour, 0.075, (place, -half), (place, half))
        else:
            patch.line(colour, 0.065, (-half, place), (half, place))


def _dots(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for k in range(11):
            far, angle = math.sqrt((k + 0.5) / 11), 2.4 * k + patch.rng.uniform(-0.15, 0.15)
            patch.ball(colour, 0.95 * far * math.cos(angle), 0.95 * far * math.sin(angle), 0.045)
    else:
        turn = patch.rng.uniform(0, 2)
        for k in range(3):
            angle = turn + k * 2.1
            patch.ball(colour, 0.6 * math.cos(angle), 0.6 * math.sin(angle), 0.12)


def _band(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.line(colour, 0.09, *((-1 + k / 3, 0.4 if k % 2 else -0.4) for k in range(7)))
    else:
        patch.line(colour, 0.12, *((-1 + k / 9, 0.4 * math.sin(k * 0.75)) for k in range(19)))


def _tiles(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for row in range(3):
            for column in range(4):
                if (row + column) % 2:
                    u, v = -0.8 + 0.4 * column, -0.8 + 0.53 * row
                    patch.polygon(colour, (u, v), (u + 0.4, v), (u + 0.4, v + 0.53), (u, v + 0.53))
    else:
        patch.polygon(colour, (0, -1), (0.75, 0), (0, 1), (-0.75, 0))
        patch.polygon(tint(colour, by=-0.55), (0, -0.4), (0.3, 0), (0, 0.4), (-0.3, 0))


def _emblem(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.polygon(colour, *star(0.0, 0.0, 1.0, 0.42, num=5, phase=-math.pi / 2))
    else:
        outer = [(0.9 * math.cos(a / 4), 0.95 * math.sin(a / 4)) for a in range(4, 22)]
        inner = [(0.3 + 0.7 * math.cos(a / 4), 0.7 * math.sin(a / 4)) for a in range(21, 3, -1)]
        patch.polygon(colour, *outer, *inner)


def _round(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.spiral(colour, 0.075, 0, 0, 0.95, first=patch.rng.uniform(0, 6))
    else:
        patch.ring(colour, 0.065, 0, 0, 0.23)
        patch.ball(colour, 0, 0, 0.1)


def _covering(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for row, places in enumerate(((-0.55, 0.0, 0.55), (-0.8, -0.27, 0.27, 0.8), (-0.55, 0.0, 0.55))):
            for u in places:
                v = -0.75 + 0.55 * row
                patch.polygon(colour, (u - 0.25, v), (u + 0.25, v), (u, v + 0.45))
    else:
        for k in (-0.6, 0.0, 0.6):
            patch.line(colour, 0.05, (k - 0.5, -0.8), (k + 0.5, 0.8))
            patch.line(colour, 0.05, (k + 0.5, -0.8), (k - 0.5, 0.8))


def _pocket(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        arc = [(0.75 * math.cos(a / 4), -0.3 + 1.1 * math.sin(a / 4)) for a in range(0, 13)]
        patch.polygon(colour, *arc)
        patch.line(tint(colour, by=-0.55), 0.06, (-0.75, -0.3), (0.75, -0.3))
    else:
        patch.line(colour, 0.12, (0, -0.95), (0, 0.95))
        patch.line(colour, 0.12, (-0.7, 0), (0.7, 0))


def _eyes(patch: Patch, colour: Colour, form: int) -> None:
    places, radius = (((0.0, -0.1),), 0.19) if form == 0 else (((-0.8, 0.1), (0.0, -0.35), (0.8, 0.1)), 0.1)
    for u, v in places:
        patch.ball(colour, u, v, radius)
        patch.ball(DARK, u + 0.08, v, radius * 0.45)


def _beak(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.polygon(colour, (-0.5, 0.05), (0.5, 0.05), (0, 1.15))
    else:
        patch.oval(colour, 0, 0.5, 0.95, 0.45)
        patch.line(tint(colour, by=-0.55), 0.04, (-0.85, 0.5), (0.85, 0.5))


def _mouth(patch: Patch, colour: Colour, form: int) -> None:
    patch.oval(DARK, 0, 0.5, 0.85, 0.4)
    if form == 0:
        patch.polygon(colour, (-0.8, 0.3), *((-0.8 + 0.2 * k, 0.75 if k % 2 else 0.3) for k in range(9)), (0.8, 0.2))
        patch.polygon(colour, (-0.8, 0.15), (0.8, 0.15), (0.8, 0.35), (-0.8, 0.35))
    else:
        lean = patch.rng.uniform(-0.3, 0.3)
        patch.line(colour, 0.16, (0, 0.5), (lean, 1.3))
        patch.ball(colour, lean, 1.3, 0.08)


def _tusks(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        for u in (-1, 1):
            patch.curve(colour, 0.1, (0.4 * u, 0.2), (0.55 * u, 1.1), (1.15 * u, 0.9))
    else:
        side = patch.rng.choice((-1, 1))
        patch.curve(colour, 0.16, (0, 0.1), (0.1 * side, 1.9), (0.9 * side, 1.4))


def _mask(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.oval(colour, 0, -0.2, 1.15, 0.55)
        for u in (-0.5, 0.5):
            patch.ball(DARK, u, -0.2, 0.06)
    else:
        for u in (-0.62, 0.62):
            patch.ring(colour, 0.075, u, -0.2, 0.13)
        patch.line(colour, 0.05, (-0.2, -0.2), (0.2, -0.2))


def _hair(patch: Patch, colour: Colour, form: int) -> None:
    for u in (-1, 1):
        if form == 0:
            patch.curve(colour, 0.1, (0, 0.4), (0.8 * u, 0.9), (1.1 * u, 0.1))
        else:
            for v in (0.2, 0.5, 0.8):
                patch.line(colour, 0.045, (0.3 * u, 0.45), (1.7 * u, v * 1.6 - 0.3))


def _nose(patch: Patch, colour: Colour, form: int) -> None:
    if form == 0:
        patch.ball(colour, 0, 0.35, 0.15)
    else:
        side = patch.rng.choice((-1, 1))
        patch.polygon(colour, (-0.2 * side, 0.0), (-0.2 * side, 0.7), (1.9 * side, 0.45))


def _cheeks(patch: Patch, colour: Colour, form: int) -> None:
    for u in (-1, 1):
        if form == 0:
            patch.ball(colour, 0.85 * u, 0.45, 0.11)
        else:
            patch.line(colour, 0.1, (0.15 * u, -0.55), (1.1 * u, -0.9))


MARKINGS: tuple[PartKind, ...] = (
    PartKind(spot="hide", texts=("upright {} stripes", "level {} stripes"), draw=_stripes),
    PartKind(spot="hide", texts=("many small {} dots", "three big {} spots"), draw=_dots),
    PartKind(spot="hide", texts=("a zigzag {} band", "a wavy {} band"), draw=_band),
    PartKind(spot="hide", texts=("a checkered {} pattern", "a {} diamond on the belly"), draw=_tiles),
    PartKind(spot="hide", texts=("a {} star on the belly", "a {} moon on the belly"), draw=_emblem),
    PartKind(spot="hide", texts=("a {} spiral on the belly", "a {} target on the belly"), draw=_round),
    PartKind(spot="hide", texts=("rows of {} scales", "a net of {} lines"), draw=_covering),
    PartKind(spot="hide", texts=("a round {} pocket", "a {} cross on the belly"), draw=_pocket),
    PartKind(spot="face", texts=("one huge {} eye", "three {} eyes"), draw=_eyes),
    PartKind(spot="face", texts=("a pointed {} beak", "a broad {} bill"), draw=_beak),
    PartKind(spot="face", texts=("a mouth full of {} teeth", "a hanging {} tongue"), draw=_mouth),
    PartKind(spot="face", texts=("two {} tusks", "a bent {} trunk"), draw=_tusks),
    PartKind(spot="face", texts=("a {} mask around the eyes", "round {} goggles"), draw=_mask),
    PartKind(spot="face", texts=("a curled {} moustache", "long {} whiskers"), draw=_hair),
    PartKind(spot="face", texts=("a round {} nose", "a long pointed {} nose"), draw=_nose),
    PartKind(spot="face", texts=("round {} cheeks", "heavy {} eyebrows"), draw=_cheeks),
)
"""What a body wears on it."""
