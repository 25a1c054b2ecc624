"""Drawing styles: background, clutter and contours of a scene."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from ecor.demo.art.canvas import Canvas, Colour, Pen, Placement, tint

NUM_PIXELS = 64
WHOLE = Placement(x=0.0, y=0.0, scale=1.0, stretch=1.0, turn=0.0)
"""For strokes in shares of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Drawing style of scenes."""

    # background and clutter of a scene
    ground: Callable[[random.Random], Canvas]
    # width of a scene's contours in pixels
    contour: Callable[[random.Random], float]
    # draws a shape that means nothing, made paler by a share, its size multiplied by a factor
    scrap: Callable[[Pen, float, float], None]
    # how much fills are paled (above 0) or darkened (below)
    wash: float = 0.0
    # how much lighter or darker contours are than their fills
    edge: float = -0.55


def _plain_ground(rng: random.Random) -> Canvas:
    canvas = Canvas(
        num_pixels=NUM_PIXELS, background=(rng.randint(150, 240), rng.randint(160, 240), rng.randint(150, 245))
    )
    if rng.random() < 0.6:
        ground = (rng.randint(110, 215), rng.randint(130, 215), rng.randint(90, 190))
        pen, top = _blank(rng), rng.uniform(0.55, 0.8)
        left, right = top + rng.uniform(-0.07, 0.07), top + rng.uniform(-0.07, 0.07)
        pen.polygon(ground, (0.0, left), (1.0, right), (1.0, 1.0), (0.0, 1.0))
        canvas.draw(pen.strokes, at=WHOLE, first_label=0, outline=0.0)
    return _with_clutter(canvas, rng=rng, scrap=_blot)


def _pencil_ground(rng: random.Random) -> Canvas:
    paper = (rng.randint(225, 250), rng.randint(220, 245), rng.randint(205, 235))
    return _with_clutter(Canvas(num_pixels=NUM_PIXELS, background=paper), rng=rng, scrap=_blot)


def _blot(pen: Pen, paler: float, size: float) -> None:
    """An ellipse, a triangle or a line."""
    rng = pen.rng
    colour = tint((rng.randint(60, 230), rng.randint(60, 230), rng.randint(60, 230)), by=paler)
    x, y, r = rng.random(), rng.random(), rng.uniform(0.04, 0.1) * size
    shape = rng.randrange(3)
    if shape == 0:
        pen.ellipse(colour, x, y, r, r * rng.uniform(0.5, 1))
    elif shape == 1:
        pen.polygon(colour, *((x + rng.uniform(-r, r), y + rng.uniform(-r, r)) for _ in range(3)))
    else:
        pen.line(colour, r * 0.4, (x, y), (x + rng.uniform(-0.25, 0.25), y + rng.uniform(-0.25, 0.25)))


DEEP: tuple[Colour, ...] = ((24, 38, 78), (66, 22, 58), (18, 62, 52), (84, 30, 34), (40, 40, 46), (14, 60, 84))
"""Papers that cut-outs lie on."""


def _paper_ground(rng: random.Random) -> Canvas:
    """Deep-coloured paper with a printed texture; what lies on it throws a hard shadow, all to the same side."""
    base = _blank(rng).colour(*DEEP, spread=16)
    shadow = (rng.choice((-1, 1)) * rng.uniform(0.9, 1.5), rng.uniform(0.9, 1.5))
    canvas = Canvas(num_pixels=NUM_PIXELS, background=base, shadow=shadow)
    pen, tone = _blank(rng), tint(base, by=rng.uniform(0.1, 0.22))
    rng.choice((_hatching, _dot_grid, _strips))(pen, tone)
    canvas.draw(pen.strokes, at=WHOLE, first_label=0, outline=0.0, is_raised=False)
    return _with_clutter(canvas, rng=rng, scrap=_snippet, paler=-0.35)


def _hatching(pen: Pen, tone: Colour) -> None:
    gap, lean = pen.rng.uniform(0.07, 0.12), pen.rng.uniform(-0.6, 0.6)
    for k in range(-8, round(1 / gap) + 9):
        pen.line(tone, gap * 0.3, (k * gap, -0.05), (k * gap + lean, 1.05))


def _dot_grid(pen: Pen, tone: Colour) -> None:
    num, phase = pen.rng.randint(6, 9), pen.rng.random()
    for row in range(num + 1):
        for column in range(num + 1):
            pen.ellipse(tone, (column + phase + row % 2 / 2 - 0.7) / num, (row + phase - 0.5) / num, 0.22 / num)


def _strips(pen: Pen, tone: Colour) -> None:
    height = pen.rng.uniform(0.1, 0.2)
    for k in range(0, math.ceil(1 / height), 2):
        left, right = (k * height + pen.rng.uniform(-0.04, 0.04) for _ in range(2))
        pen.polygon(tone, (0.0, left), (1.0, right), (1.0, right + height), (0.0, left + height))


def _snippet(pen: Pen, paler: float, size: float) -> None:
    """A scrap of paper: a crooked quadrangle."""
    rng = pen.rng
    colour = tint(pen.colour(*MUTED, spread=30), by=paler)
    x, y, r, turn = rng.random(), rng.random(), rng.uniform(0.05, 0.1) * size, rng.uniform(0, math.pi)
    corners = ((turn + k * math.pi / 2 + rng.uniform(-0.4, 0.4), r * rng.uniform(0.5, 1.1)) for k in range(4))
    pen.polygon(colour, *((x + far * math.cos(angle), y + far * math.sin(angle)) for angle, far in corners))


MUTED: tuple[Colour, ...] = (
    (196, 172, 132),
    (128, 152, 118),
    (164, 128, 150),
    (120, 142, 168),
    (178, 122, 98),
    (150, 148, 140),
)
"""Papers that bodies are cut from: none is as strong as the colours that parts are named by."""


def _slate_ground(rng: random.Random) -> Canvas:
    """A blackboard with smudges."""
    base = _blank(rng).colour((34, 46, 42), (38, 40, 48), spread=10)
    canvas, pen = Canvas(num_pixels=NUM_PIXELS, background=base), _blank(rng)
    for _ in range(rng.randint(2, 5)):
        tone = tint(base, by=rng.uniform(0.05, 0.14))
        width, height, turn = rng.uniform(0.1, 0.4), rng.uniform(0.05, 0.15), rng.randint(0, 90)
        pen.ellipse(tone, rng.random(), rng.random(), width, height, turn)
    canvas.draw(pen.strokes, at=WHOLE, first_label=0, outline=0.0)
    return _with_clutter(canvas, rng=rng, scrap=_snippet, paler=-0.5)


def _blank(rng: random.Random) -> Pen:
    return Pen(parts=(), left_out=frozenset(), rng=rng)


def _with_clutter(
    canvas: Canvas, *, rng: random.Random, scrap: Callable[[Pen, float, float], None], paler: float = 0.35
) -> Canvas:
    """The canvas with up to four shapes that mean nothing."""
    pen = _blank(rng)
    for _ in range(rng.randint(0, 4)):
        scrap(pen, paler, 1.0)
    canvas.draw(pen.strokes, at=WHOLE, first_label=0, outline=0.0)
    return canvas


def _plain_contour(rng: random.Random) -> float:
    return rng.choice((0.0, 0.0, 0.4, 0.7))


def _no_contour(rng: random.Random) -> float:
    return 0.0


def _one_pixel(rng: random.Random) -> float:
    return 1.0


PLAIN = Look(ground=_plain_ground, contour=_plain_contour, scrap=_blot)
"""A picture book's."""
PENCIL = Look(ground=_pencil_ground, contour=_one_pixel, scrap=_blot, wash=0.55)
"""Pale fills and dark contours on paper."""
CUT_PAPER = Look(ground=_paper_ground, contour=_no_contour, scrap=_snippet)
"""Flat shapes with hard shadows on deep-coloured, printed paper."""
CHALK = Look(ground=_slate_ground, contour=_one_pixel, scrap=_snippet, wash=-0.5, edge=0.6)
"""Dark fills with pale contours on a blackboard."""
