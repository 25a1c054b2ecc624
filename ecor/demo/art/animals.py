"""Animals, drawn part by part."""

import math

from ecor.demo.art.canvas import Colour, Pen, bezier, star, tint

WHITE, BLACK, GREY = (245, 245, 240), (30, 30, 34), (140, 142, 150)
BROWN, TAN, ORANGE = (125, 80, 48), (205, 165, 110), (235, 135, 40)
RED, YELLOW, GREEN, BLUE, PINK = (210, 45, 45), (245, 205, 60), (80, 160, 75), (70, 120, 200), (240, 160, 175)


def _four_legs(pen: Pen, coat: Colour, *, top: float, foot: float, width: float = 0.13, spread: float = 0.42) -> None:
    swing = pen.rng.uniform(-0.1, 0.1)
    for x, shade in ((-spread + 0.14, -0.25), (spread - 0.14, -0.25), (-spread, 0.0), (spread, 0.0)):
        pen.line(tint(coat, by=shade), width, (x, top), (x + (swing if shade else -swing), foot))


def _hooves(pen: Pen, *, foot: float, width: float = 0.075, spread: float = 0.42) -> None:
    with pen.part("four dark hooves"):
        for x in (-spread + 0.14, spread - 0.14, -spread, spread):
            pen.box(BLACK, x - width, foot - 0.1, x + width, foot + 0.04)


def _hoofed_body(pen: Pen, coat: Colour) -> None:
    """The body that horse, zebra and unicorn share: only their parts tell them apart."""
    _four_legs(pen, coat, top=0.1, foot=0.85)
    pen.ellipse(coat, 0.0, 0.0, 0.58, 0.3)
    pen.polygon(coat, (0.28, -0.1), (0.6, 0.1), (0.86, -0.5), (0.6, -0.68))
    pen.ellipse(coat, 0.8, -0.52, 0.25, 0.13, 35)
    pen.polygon(coat, (0.6, -0.62), (0.62, -0.84), (0.72, -0.64))
    pen.eye(0.76, -0.58, 0.05)


def _blanket(pen: Pen, x: float, y: float) -> None:
    pen.polygon(RED, (x - 0.12, y), (x + 0.12, y), (x + 0.2, y + 0.46), (x - 0.2, y + 0.46))
    pen.line(YELLOW, 0.05, (x - 0.16, y + 0.26), (x + 0.16, y + 0.26))
    for k in range(4):
        pen.line(YELLOW, 0.04, (x - 0.16 + 0.1 * k, y + 0.44), (x - 0.16 + 0.1 * k, y + 0.56))


def horse(pen: Pen) -> None:
    coat = pen.colour(BROWN, (165, 105, 60), (90, 60, 45), WHITE)
    hair = pen.colour(BLACK, (70, 40, 20))
    with pen.part("a long hairy tail"):
        pen.curve(hair, 0.14, (-0.54, -0.08), (-0.9, 0.0), (-0.8, 0.6))
    _hoofed_body(pen, coat)
    _hooves(pen, foot=0.85)
    with pen.part("a leather saddle"):
        pen.polygon((110, 65, 35), (-0.26, -0.36), (-0.1, -0.28), (0.12, -0.38), (0.18, 0.06), (-0.26, 0.06))
        pen.line((60, 35, 20), 0.06, (-0.02, 0.0), (-0.02, 0.36))
    with pen.part("a flowing mane"):
        pen.polygon(hair, (0.62, -0.8), (0.5, -0.7), (0.12, -0.1), (0.3, 0.08), (0.42, -0.2), (0.58, -0.5))


def zebra(pen: Pen) -> None:
    coat = pen.colour(WHITE, spread=8)
    with pen.part("a tail ending in a tuft"):
        pen.curve(coat, 0.06, (-0.54, -0.05), (-0.78, 0.0), (-0.78, 0.35))
        pen.ellipse(BLACK, -0.78, 0.44, 0.09, 0.15)
    _hoofed_body(pen, coat)
    _hooves(pen, foot=0.85)
    with pen.part("black and white stripes"):
        pen.bands(BLACK, 0.0, 0.0, 0.56, 0.29, num=7, lean=0.04)
        for k in range(4):
            x, y = 0.4 + 0.085 * k, -0.08 - 0.14 * k
            pen.line(BLACK, 0.06, (x - 0.07, y - 0.05), (x + 0.2, y + 0.07))
        for x in (-0.42, 0.42):
            for y in (0.4, 0.55, 0.7):
                pen.line(BLACK, 0.05, (x - 0.07, y), (x + 0.07, y))
    with pen.part("a stiff upright mane"):
        for k in range(6):
            x, y = 0.3 + 0.06 * k, -0.16 - 0.105 * k
            pen.line(BLACK, 0.07, (x, y), (x - 0.17, y - 0.1))


def unicorn(pen: Pen) -> None:
    coat = pen.colour(WHITE, (250, 225, 240), spread=8)
    hair = pen.colour((220, 120, 220), (120, 160, 240))
    with pen.part("a rainbow tail"):
        for k, shade in enumerate((RED, YELLOW, GREEN, BLUE)):
            pen.curve(shade, 0.06, (-0.54, -0.08), (-0.95 + 0.09 * k, 0.0), (-0.95 + 0.09 * k, 0.55))
    _hoofed_body(pen, coat)
    _hooves(pen, foot=0.85)
    with pen.part("a lilac mane"):
        pen.polygon(hair, (0.62, -0.8), (0.5, -0.7), (0.12, -0.1), (0.3, 0.08), (0.42, -0.2), (0.58, -0.5))
    with pen.part("a spiral horn on the forehead"):
        pen.polygon((250, 215, 110), (0.72, -0.68), (0.83, -0.6), (1.02, -1.08))
        pen.line((190, 130, 40), 0.03, (0.78, -0.75), (0.88, -0.7))
        pen.line((190, 130, 40), 0.03, (0.85, -0.85), (0.93, -0.81))


def cow(pen: Pen) -> None:
    coat = pen.colour(WHITE, (190, 125, 75))
    with pen.part("a pink udder"):
        pen.ellipse(PINK, -0.2, 0.4, 0.17, 0.13)
        pen.line(PINK, 0.06, (-0.27, 0.48), (-0.27, 0.6))
        pen.line(PINK, 0.06, (-0.14, 0.48), (-0.14, 0.6))
    _four_legs(pen, coat, top=0.2, foot=0.8, width=0.15, spread=0.45)
    _hooves(pen, foot=0.8, spread=0.45)
    pen.line(coat, 0.05, (-0.62, -0.15), (-0.78, 0.35))
    pen.box(coat, -0.64, -0.3, 0.55, 0.36)
    with pen.part("black patches on the hide"):
        pen.ellipse(BLACK, -0.36, -0.08, 0.17, 0.15, 30)
        pen.ellipse(BLACK, 0.06, 0.1, 0.19, 0.14, -20)
        pen.ellipse(BLACK, 0.36, -0.15, 0.11, 0.1)
    pen.ellipse(coat, 0.72, -0.35, 0.2, 0.25)
    pen.ellipse(PINK, 0.76, -0.16, 0.17, 0.12)
    pen.eye(0.72, -0.42, 0.05)
    with pen.part("short curved horns"):
        pen.curve((235, 225, 190), 0.08, (0.6, -0.54), (0.46, -0.64), (0.5, -0.84))
        pen.curve((235, 225, 190), 0.08, (0.84, -0.54), (0.98, -0.64), (0.94, -0.84))


def elephant(pen: Pen) -> None:
    hide = pen.colour(GREY, (120, 125, 140))
    _four_legs(pen, hide, top=0.2, foot=0.82, width=0.24, spread=0.42)
    pen.ellipse(hide, -0.1, 0.0, 0.65, 0.45)
    pen.line(hide, 0.05, (-0.72, -0.05), (-0.86, 0.35))
    pen.ellipse(hide, 0.58, -0.25, 0.3, 0.32)
    with pen.part("a long trunk"):
        pen.curve(hide, 0.17, (0.78, -0.2), (1.0, 0.25), (0.82, 0.66))
        pen.curve(tint(hide, by=-0.4), 0.03, (0.88, 0.0), (0.95, 0.02), (0.99, -0.02))
        pen.curve(tint(hide, by=-0.4), 0.03, (0.85, 0.3), (0.9, 0.32), (0.97, 0.3))
    with pen.part("white curved tusks"):
        pen.curve((255, 250, 225), 0.08, (0.66, 0.0), (0.7, 0.3), (0.92, 0.26))
    with pen.part("large flapping ears"):
        pen.ellipse(tint(hide, by=-0.25), 0.36, -0.22, 0.24, 0.36, 10)
        pen.ellipse(PINK, 0.36, -0.2, 0.13, 0.24, 10)
    with pen.part("a fringed saddle blanket"):
        _blanket(pen, -0.2, -0.42)
    pen.eye(0.7, -0.32, 0.05)


def giraffe(pen: Pen) -> None:
    coat = pen.colour((240, 205, 110), (230, 185, 90))
    _four_legs(pen, coat, top=0.3, foot=0.95, width=0.09, spread=0.32)
    pen.ellipse(coat, -0.08, 0.28, 0.44, 0.22)
    with pen.part("a very long neck"):
        pen.polygon(coat, (0.08, 0.25), (0.36, 0.3), (0.52, -0.8), (0.36, -0.8))
    pen.ellipse(coat, 0.54, -0.8, 0.2, 0.1, 25)
    pen.eye(0.5, -0.83, 0.04)
    with pen.part("brown patches on the coat"):
        pen.dots((150, 85, 35), -0.08, 0.28, 0.38, 0.18, num=9, size=0.075)
        for k in range(5):
            pen.ellipse((150, 85, 35), 0.26 + 0.035 * k + (0.05 if k % 2 else -0.03), 0.1 - 0.18 * k, 0.06, 0.07)
    with pen.part("two knobbed horns"):
        for x in (0.36, 0.48):
            pen.line((110, 65, 30), 0.05, (x, -0.85), (x - 0.02, -1.0))
            pen.ellipse((80, 45, 20), x - 0.02, -1.0, 0.055)


def _cat_body(pen: Pen, coat: Colour) -> None:
    """The body that lion, tiger and leopard share."""
    _four_legs(pen, coat, top=0.15, foot=0.75, width=0.16, spread=0.45)
    pen.ellipse(coat, -0.05, 0.08, 0.6, 0.27)


def _cat_head(pen: Pen, coat: Colour) -> None:
    for x in (0.42, 0.78):
        pen.ellipse(coat, x, -0.46, 0.1)
    pen.ellipse(coat, 0.6, -0.24, 0.28, 0.27)
    pen.ellipse(tint(coat, by=0.5), 0.64, -0.12, 0.15, 0.12)
    pen.polygon(BLACK, (0.57, -0.2), (0.71, -0.2), (0.64, -0.11))
    pen.eye(0.5, -0.31, 0.05)
    pen.eye(0.72, -0.31, 0.05)


def lion(pen: Pen) -> None:
    coat = pen.colour((225, 170, 85), TAN)
    mane = pen.colour((140, 75, 25), (165, 90, 30))
    with pen.part("a tail ending in a tuft"):
        pen.curve(coat, 0.07, (-0.6, 0.0), (-0.95, 0.0), (-0.86, -0.45))
        pen.ellipse(mane, -0.86, -0.52, 0.1, 0.15)
    _cat_body(pen, coat)
    with pen.part("a thick mane around the face"):
        pen.polygon(mane, *star(0.58, -0.22, 0.52, 0.42, num=11))
    _cat_head(pen, coat)
    with pen.part("sharp white fangs"):
        pen.ellipse((120, 25, 25), 0.64, -0.02, 0.12, 0.07)
        for x in (0.55, 0.67):
            pen.polygon(WHITE, (x, -0.08), (x + 0.07, -0.08), (x + 0.035, 0.07))


def tiger(pen: Pen) -> None:
    coat = pen.colour(ORANGE, (225, 170, 85))
    with pen.part("a ringed tail"):
        tail = bezier((-0.6, 0.0), (-1.0, -0.05), (-0.88, -0.6))
        pen.line(coat, 0.11, *tail)
        for k in (2, 4, 6):
            pen.line(BLACK, 0.12, tail[k], tail[k + 1])
    _cat_body(pen, coat)
    with pen.part("black stripes on orange fur"):
        pen.ellipse(ORANGE, -0.05, 0.08, 0.6, 0.27)
        pen.bands(BLACK, -0.08, 0.08, 0.52, 0.26, num=7, lean=0.03)
    _cat_head(pen, coat)
    with pen.part("white cheeks"):
        pen.ellipse(WHITE, 0.42, -0.14, 0.11, 0.09)
        pen.ellipse(WHITE, 0.82, -0.14, 0.11, 0.09)


def leopard(pen: Pen) -> None:
    coat = pen.colour((235, 190, 100), (225, 170, 85))
    with pen.part("a long drooping tail"):
        pen.curve(coat, 0.1, (-0.58, 0.0), (-1.05, 0.05), (-0.9, 0.7))
    _cat_body(pen, coat)
    _cat_head(pen, coat)
    with pen.part("dark rosette spots"):
        for k in range(11):
            x, y = -0.5 + 0.1 * k, (-0.04, 0.1, 0.22)[k % 3]
            pen.ellipse(BLACK, x, y, 0.065)
            pen.ellipse(coat, x, y, 0.025)
        for x, y in ((0.46, -0.42), (0.62, -0.44), (0.78, -0.4)):
            pen.ellipse(BLACK, x, y, 0.035)
    with pen.part("long white whiskers"):
        for dy in (-0.08, 0.02):
            pen.line(WHITE, 0.035, (0.74, -0.1), (1.04, -0.12 + dy))
            pen.line(WHITE, 0.035, (0.52, -0.1), (0.24, -0.12 + dy))


def camel(pen: Pen) -> None:
    coat = pen.colour(TAN, (190, 140, 80))
    _four_legs(pen, coat, top=0.2, foot=0.9, width=0.1, spread=0.4)
    with pen.part("two humps on the back"):
        pen.ellipse(coat, -0.28, -0.2, 0.2, 0.36)
        pen.ellipse(coat, 0.18, -0.2, 0.2, 0.36)
    pen.ellipse(coat, -0.05, 0.1, 0.56, 0.26)
    pen.curve(coat, 0.16, (0.42, 0.1), (0.78, 0.3), (0.74, -0.42))
    pen.ellipse(coat, 0.82, -0.45, 0.2, 0.12, 10)
    pen.eye(0.8, -0.5, 0.04)
    with pen.part("a fringed saddle blanket"):
        _blanket(pen, -0.04, -0.16)
    with pen.part("a rope bridle"):
        pen.line(BLUE, 0.06, (0.88, -0.6), (0.84, -0.32))
        pen.curve(BLUE, 0.05, (0.86, -0.36), (0.7, 0.1), (0.34, -0.1))


def deer(pen: Pen) -> None:
    coat = pen.colour((170, 105, 55), (150, 95, 60))
    with pen.part("a short white tail"):
        pen.ellipse(WHITE, -0.58, -0.02, 0.12, 0.16, 30)
    _four_legs(pen, coat, top=0.15, foot=0.9, width=0.09, spread=0.38)
    _hooves(pen, foot=0.9, width=0.06, spread=0.38)
    pen.ellipse(coat, -0.05, 0.12, 0.5, 0.24)
    pen.polygon(coat, (0.22, 0.05), (0.45, 0.16), (0.66, -0.34), (0.5, -0.42))
    pen.ellipse(coat, 0.64, -0.38, 0.2, 0.11, 25)
    pen.eye(0.62, -0.42, 0.04)
    with pen.part("branching antlers"):
        bone = (225, 200, 160)
        for lean in (-0.28, 0.22):
            pen.line(bone, 0.055, (0.56, -0.46), (0.56 + lean, -1.0))
            for t in (0.4, 0.7):
                x, y = 0.56 + lean * t, -0.46 - 0.54 * t
                pen.line(bone, 0.05, (x, y), (x + 0.17, y - 0.14))
                pen.line(bone, 0.05, (x, y), (x - 0.16, y - 0.12))
    with pen.part("white spots on the back"):
        for k in range(8):
            pen.ellipse(WHITE, -0.42 + 0.1 * k, 0.0 + 0.1 * (k % 2), 0.045)


def rabbit(pen: Pen) -> None:
    fur = pen.colour(WHITE, (185, 165, 145), GREY)
    with pen.part("a round fluffy tail"):
        pen.polygon(tint(fur, by=0.5), *star(-0.62, 0.45, 0.22, 0.17, num=8))
    pen.ellipse(fur, -0.15, 0.42, 0.5, 0.4)
    pen.ellipse(tint(fur, by=-0.1), -0.3, 0.72, 0.3, 0.13)
    pen.line(fur, 0.14, (0.25, 0.5), (0.3, 0.8))
    with pen.part("long upright ears"):
        for x, turn in ((0.26, -14), (0.5, 8)):
            pen.ellipse(fur, x, -0.55, 0.11, 0.38, turn)
            pen.ellipse(PINK, x, -0.53, 0.05, 0.27, turn)
    pen.ellipse(fur, 0.4, -0.02, 0.3, 0.27)
    pen.eye(0.48, -0.08, 0.06)
    pen.ellipse(PINK, 0.66, 0.0, 0.06)
    with pen.part("big front teeth"):
        pen.box((255, 255, 245), 0.52, 0.13, 0.7, 0.32)
        pen.line(BLACK, 0.025, (0.61, 0.13), (0.61, 0.32))


def pig(pen: Pen) -> None:
    skin = pen.colour(PINK, (235, 175, 165))
    with pen.part("a curly tail"):
        pen.ring(tint(skin, by=-0.25), 0.06, -0.76, -0.12, 0.12)
        pen.line(tint(skin, by=-0.25), 0.06, (-0.56, 0.0), (-0.68, -0.06))
    _four_legs(pen, skin, top=0.3, foot=0.75, width=0.17, spread=0.38)
    pen.ellipse(skin, -0.05, 0.12, 0.6, 0.42)
    pen.ellipse(skin, 0.5, -0.08, 0.32, 0.31)
    with pen.part("floppy triangular ears"):
        pen.polygon(tint(skin, by=-0.2), (0.26, -0.3), (0.46, -0.34), (0.24, -0.02))
        pen.polygon(tint(skin, by=-0.2), (0.6, -0.36), (0.78, -0.28), (0.84, -0.02))
    with pen.part("a flat round snout"):
        pen.ellipse(tint(skin, by=-0.25), 0.62, 0.04, 0.18, 0.15)
        pen.ellipse(BLACK, 0.56, 0.04, 0.04, 0.06)
        pen.ellipse(BLACK, 0.69, 0.04, 0.04, 0.06)
    pen.eye(0.48, -0.16, 0.05)


def sheep(pen: Pen) -> None:
    fleece = pen.colour(WHITE, (225, 215, 195), spread=10)
    face = pen.colour(BLACK, (60, 50, 50))
    for x in (-0.36, -0.2, 0.2, 0.36):
        pen.line(face, 0.1, (x, 0.3), (x, 0.82))
    pen.ellipse(tint(fleece, by=-0.12), -0.03, 0.08, 0.5, 0.34)
    with pen.part("curly white wool"):
        for k in range(12):
            angle = k * math.pi / 6
            pen.ellipse(fleece, -0.03 + 0.48 * math.cos(angle), 0.06 + 0.32 * math.sin(angle), 0.17)
        pen.ellipse(fleece, -0.03, 0.06, 0.48, 0.32)
        for x, y in ((-0.3, 0.0), (0.0, -0.12), (-0.1, 0.2), (0.2, 0.08)):
            pen.ring(tint(fleece, by=-0.25), 0.03, x, y, 0.07)
    pen.ellipse(face, 0.62, -0.12, 0.17, 0.24, -15)
    pen.ellipse(face, 0.44, -0.18, 0.12, 0.06, 20)
    pen.eye(0.64, -0.2, 0.05)
    with pen.part("a golden neck bell"):
        pen.line(RED, 0.07, (0.46, 0.06), (0.74, 0.18))
        pen.ellipse(YELLOW, 0.6, 0.28, 0.12, 0.13)


def cat(pen: Pen) -> None:
    fur = pen.colour(GREY, BLACK, (200, 130, 70))
    with pen.part("a tail curled upwards"):
        pen.curve(fur, 0.13, (0.3, 0.7), (0.95, 0.8), (0.72, 0.02))
    pen.ellipse(fur, 0.0, 0.5, 0.38, 0.42)
    pen.line(tint(fur, by=0.2), 0.12, (-0.13, 0.5), (-0.13, 0.88))
    pen.line(tint(fur, by=0.2), 0.12, (0.13, 0.5), (0.13, 0.88))
    with pen.part("pointed ears"):
        for x in (-0.3, 0.3):
            pen.polygon(fur, (x * 1.4, -0.25), (x * 1.35, -0.86), (x * 0.25, -0.5))
            pen.polygon(PINK, (x * 1.25, -0.4), (x * 1.25, -0.7), (x * 0.6, -0.52))
    pen.ellipse(fur, 0.0, -0.2, 0.45, 0.38)
    for x in (-0.18, 0.18):
        pen.ellipse((190, 220, 80), x, -0.27, 0.1, 0.09)
        pen.ellipse(BLACK, x, -0.27, 0.035, 0.08)
    pen.polygon(PINK, (-0.07, -0.12), (0.07, -0.12), (0.0, -0.03))
    with pen.part("long white whiskers"):
        for side in (-1, 1):
            for dy in (-0.06, 0.04, 0.14):
                pen.line(WHITE, 0.03, (side * 0.12, -0.04), (side * 0.62, -0.08 + dy))


def dog(pen: Pen) -> None:
    fur = pen.colour((190, 130, 75), (120, 80, 50), (225, 205, 175))
    with pen.part("a wagging tail"):
        pen.curve(fur, 0.12, (-0.3, 0.62), (-0.8, 0.62), (-0.76, 0.12))
    pen.ellipse(fur, 0.0, 0.52, 0.36, 0.42)
    pen.line(tint(fur, by=0.2), 0.13, (-0.13, 0.5), (-0.13, 0.9))
    pen.line(tint(fur, by=0.2), 0.13, (0.13, 0.5), (0.13, 0.9))
    pen.ellipse(fur, 0.0, -0.25, 0.38, 0.38)
    pen.ellipse(tint(fur, by=0.5), 0.0, -0.06, 0.2, 0.18)
    pen.ellipse(BLACK, 0.0, -0.14, 0.09, 0.07)
    pen.eye(-0.15, -0.35, 0.07)
    pen.eye(0.15, -0.35, 0.07)
    with pen.part("floppy hanging ears"):
        pen.ellipse(tint(fur, by=-0.4), -0.42, -0.18, 0.14, 0.34, 14)
        pen.ellipse(tint(fur, by=-0.4), 0.42, -0.18, 0.14, 0.34, -14)
    with pen.part("a tongue hanging out"):
        pen.ellipse((235, 80, 100), 0.02, 0.16, 0.09, 0.16)
    with pen.part("a collar with a tag"):
        pen.line(RED, 0.1, (-0.28, 0.22), (0.28, 0.22))
        pen.ellipse(YELLOW, 0.0, 0.32, 0.09)


def fox(pen: Pen) -> None:
    fur = pen.colour((225, 105, 35), (200, 90, 40))
    with pen.part("a bushy tail with a white tip"):
        pen.ellipse(fur, -0.68, 0.18, 0.36, 0.17, 30)
        pen.ellipse(WHITE, -0.9, 0.06, 0.15, 0.13, 30)
    _four_legs(pen, fur, top=0.3, foot=0.8, width=0.1, spread=0.34)
    with pen.part("black stockings on the legs"):
        for x in (-0.34, 0.34, -0.2, 0.2):
            pen.line(BLACK, 0.12, (x, 0.52), (x, 0.82))
    pen.ellipse(fur, -0.02, 0.2, 0.48, 0.22)
    with pen.part("pointed ears"):
        pen.polygon(fur, (0.3, -0.28), (0.32, -0.72), (0.55, -0.42))
        pen.polygon(fur, (0.6, -0.42), (0.8, -0.72), (0.86, -0.28))
    pen.polygon(fur, (0.26, -0.36), (0.88, -0.36), (0.98, -0.06), (0.6, 0.22), (0.2, -0.06))
    pen.polygon(WHITE, (0.22, -0.06), (0.42, -0.1), (0.6, 0.22))
    pen.polygon(WHITE, (0.96, -0.06), (0.76, -0.1), (0.6, 0.22))
    pen.ellipse(BLACK, 0.6, 0.18, 0.06)
    pen.eye(0.46, -0.16, 0.05)
    pen.eye(0.74, -0.16, 0.05)


def panda(pen: Pen) -> None:
    fur = pen.colour(WHITE, spread=8)
    pen.ellipse(fur, 0.0, 0.5, 0.46, 0.42)
    for x in (-1.0, 1.0):
        pen.ellipse(BLACK, x * 0.42, 0.42, 0.14, 0.28, x * -25)
        pen.ellipse(BLACK, x * 0.3, 0.84, 0.2, 0.12)
    with pen.part("round black ears"):
        pen.ellipse(BLACK, -0.36, -0.6, 0.17)
        pen.ellipse(BLACK, 0.36, -0.6, 0.17)
    pen.ellipse(fur, 0.0, -0.25, 0.48, 0.42)
    with pen.part("black patches around the eyes"):
        pen.ellipse(BLACK, -0.19, -0.28, 0.12, 0.16, 25)
        pen.ellipse(BLACK, 0.19, -0.28, 0.12, 0.16, -25)
    pen.eye(-0.17, -0.28, 0.05)
    pen.eye(0.17, -0.28, 0.05)
    pen.ellipse(BLACK, 0.0, -0.08, 0.08, 0.05)
    with pen.part("a green bamboo stalk"):
        pen.line(GREEN, 0.1, (-0.62, 0.75), (0.5, 0.12))
        pen.ellipse(GREEN, 0.56, 0.02, 0.16, 0.07, -60)
        pen.ellipse(GREEN, 0.64, 0.16, 0.16, 0.07, 10)


def owl(pen: Pen) -> None:
    plumage = pen.colour((130, 90, 60), (110, 100, 95), (160, 120, 80))
    pen.ellipse(plumage, 0.0, 0.15, 0.52, 0.68)
    with pen.part("feathered ear tufts"):
        pen.polygon(tint(plumage, by=-0.35), (-0.46, -0.22), (-0.52, -0.8), (-0.1, -0.46))
        pen.polygon(tint(plumage, by=-0.35), (0.46, -0.22), (0.52, -0.8), (0.1, -0.46))
    with pen.part("a speckled breast"):
        pen.ellipse((235, 215, 180), 0.0, 0.38, 0.34, 0.4)
        pen.dots(tint(plumage, by=-0.4), 0.0, 0.38, 0.3, 0.36, num=10, size=0.05)
    with pen.part("huge round eyes"):
        for x in (-0.22, 0.22):
            pen.ellipse((250, 235, 180), x, -0.2, 0.23)
            pen.ellipse((245, 160, 30), x, -0.2, 0.16)
            pen.ellipse(BLACK, x, -0.2, 0.09)
    pen.polygon((240, 170, 50), (-0.08, -0.05), (0.08, -0.05), (0.0, 0.12))
    with pen.part("talons gripping a branch"):
        pen.line((110, 75, 45), 0.13, (-0.8, 0.88), (0.8, 0.84))
        for x in (-0.26, -0.16, 0.14, 0.24):
            pen.line((240, 170, 50), 0.07, (x, 0.74), (x, 0.92))


def penguin(pen: Pen) -> None:
    back = pen.colour(BLACK, (45, 50, 70))
    with pen.part("orange webbed feet"):
        pen.ellipse((245, 150, 40), -0.2, 0.86, 0.2, 0.1)
        pen.ellipse((245, 150, 40), 0.2, 0.86, 0.2, 0.1)
    pen.ellipse(back, 0.0, 0.2, 0.44, 0.66)
    pen.ellipse(back, 0.0, -0.5, 0.3, 0.3)
    with pen.part("a white belly"):
        pen.ellipse(WHITE, 0.0, 0.28, 0.3, 0.5)
    with pen.part("flippers at the sides"):
        pen.ellipse(tint(back, by=0.18), -0.52, 0.18, 0.12, 0.42, 22)
        pen.ellipse(tint(back, by=0.18), 0.52, 0.18, 0.12, 0.42, -22)
    pen.ellipse(WHITE, -0.12, -0.54, 0.1)
    pen.ellipse(WHITE, 0.12, -0.54, 0.1)
    pen.ellipse(BLACK, -0.11, -0.54, 0.05)
    pen.ellipse(BLACK, 0.11, -0.54, 0.05)
    pen.polygon((245, 150, 40), (-0.12, -0.42), (0.12, -0.42), (0.0, -0.24))


def flamingo(pen: Pen) -> None:
    plumage = pen.colour((245, 130, 150), (250, 150, 140))
    with pen.part("long thin pink legs"):
        pen.line(tint(plumage, by=-0.15), 0.06, (-0.1, 0.2), (-0.12, 0.95), (0.02, 0.95))
        pen.line(tint(plumage, by=-0.15), 0.06, (0.08, 0.2), (0.28, 0.52), (0.02, 0.6))
    with pen.part("a curved slender neck"):
        pen.curve(plumage, 0.12, (0.26, 0.0), (0.95, -0.2), (0.42, -0.5))
        pen.curve(plumage, 0.12, (0.42, -0.5), (0.2, -0.72), (0.46, -0.84))
    pen.ellipse(plumage, -0.08, 0.05, 0.46, 0.26, 10)
    pen.ellipse(tint(plumage, by=-0.25), -0.16, 0.05, 0.3, 0.15, 10)
    pen.ellipse(plumage, 0.5, -0.82, 0.14, 0.12)
    with pen.part("a hooked beak with a black tip"):
        pen.polygon((250, 225, 210), (0.58, -0.9), (0.84, -0.78), (0.72, -0.68), (0.58, -0.74))
        pen.polygon(BLACK, (0.84, -0.82), (0.8, -0.5), (0.68, -0.72))
    pen.eye(0.5, -0.85, 0.04)


def peacock(pen: Pen) -> None:
    body = pen.colour((30, 90, 190), (20, 120, 150))
    with pen.part("a fan of tail feathers with eye spots"):
        for k in range(11):
            angle = math.pi * (1.06 + 0.088 * k)
            x, y = 0.8 * math.cos(angle), 0.35 + 1.05 * math.sin(angle)
            pen.line((60, 140, 80), 0.2, (0.0, 0.35), (x, y))
            pen.ellipse((60, 150, 90), x, y, 0.15)
            pen.ellipse((240, 190, 60), x, y, 0.1)
            pen.ellipse((30, 60, 170), x, y, 0.055)
    pen.line((120, 90, 60), 0.06, (-0.08, 0.6), (-0.1, 0.92))
    pen.line((120, 90, 60), 0.06, (0.08, 0.6), (0.1, 0.92))
    pen.ellipse(body, 0.0, 0.4, 0.22, 0.34)
    pen.line(body, 0.15, (0.0, 0.2), (0.0, -0.18))
    pen.ellipse(body, 0.0, -0.2, 0.13)
    pen.eye(0.02, -0.22, 0.05)
    pen.polygon((240, 190, 80), (0.1, -0.24), (0.1, -0.13), (0.26, -0.17))
    with pen.part("a crown of tiny plumes"):
        for dx in (-0.14, 0.0, 0.14):
            pen.line(body, 0.04, (0.0, -0.3), (dx, -0.5))
            pen.ellipse((90, 210, 230), dx, -0.52, 0.055)


def rooster(pen: Pen) -> None:
    body = pen.colour((170, 75, 35), (235, 225, 205), (60, 45, 40))
    with pen.part("long curved tail feathers"):
        for k, shade in enumerate(((20, 90, 70), (30, 50, 90), (20, 110, 60))):
            pen.curve(shade, 0.13, (-0.3, 0.1), (-0.5 - 0.15 * k, -0.7 + 0.2 * k), (-0.95, -0.3 + 0.3 * k))
    for x in (-0.08, 0.12):
        pen.line((240, 180, 50), 0.06, (x, 0.5), (x, 0.88), (x + 0.14, 0.92))
    pen.ellipse(body, -0.02, 0.2, 0.42, 0.34, -15)
    pen.polygon(body, (0.1, 0.1), (0.4, 0.2), (0.58, -0.45), (0.3, -0.45))
    with pen.part("a red comb on the head"):
        pen.polygon(
            RED, (0.22, -0.5), (0.22, -0.82), (0.36, -0.66), (0.44, -0.9), (0.54, -0.66), (0.68, -0.78), (0.6, -0.5)
        )
    pen.ellipse(body, 0.44, -0.46, 0.18)
    pen.polygon((245, 190, 60), (0.58, -0.54), (0.58, -0.38), (0.82, -0.44))
    with pen.part("a dangling red wattle"):
        pen.ellipse(RED, 0.56, -0.22, 0.09, 0.17)
    pen.eye(0.48, -0.5, 0.05)


def duck(pen: Pen) -> None:
    body = pen.colour(WHITE, YELLOW, (170, 140, 105))
    with pen.part("orange webbed feet"):
        pen.polygon(ORANGE, (-0.1, 0.55), (-0.3, 0.9), (0.02, 0.9))
        pen.polygon(ORANGE, (0.16, 0.55), (0.04, 0.9), (0.36, 0.9))
    pen.ellipse(body, -0.1, 0.3, 0.58, 0.34)
    pen.polygon(body, (-0.5, 0.15), (-0.86, -0.08), (-0.58, 0.45))
    with pen.part("a folded wing"):
        pen.ellipse(tint(body, by=-0.3), -0.16, 0.28, 0.34, 0.17, 15)
    pen.line(body, 0.22, (0.34, 0.2), (0.42, -0.3))
    pen.ellipse(body, 0.46, -0.38, 0.26, 0.24)
    with pen.part("a shiny green head"):
        pen.ellipse((20, 110, 70), 0.46, -0.38, 0.26, 0.24)
        pen.line(WHITE, 0.06, (0.26, -0.12), (0.58, -0.1))
    with pen.part("a flat orange bill"):
        pen.ellipse(ORANGE, 0.8, -0.32, 0.22, 0.08)
    pen.eye(0.5, -0.44, 0.05)


def fish(pen: Pen) -> None:
    body = pen.colour(ORANGE, (240, 90, 70), YELLOW, BLUE)
    fin = tint(body, by=-0.3)
    with pen.part("a forked tail fin"):
        pen.polygon(fin, (-0.4, 0.0), (-0.95, -0.46), (-0.76, 0.0), (-0.95, 0.46))
    pen.polygon(fin, (-0.25, -0.3), (0.1, -0.66), (0.3, -0.3))
    pen.ellipse(body, 0.08, 0.0, 0.62, 0.38)
    with pen.part("rows of shiny scales"):
        for row in (-0.16, 0.0, 0.16):
            for k in range(4):
                x = -0.34 + 0.17 * k + (0.08 if row == 0.0 else 0.0)
                pen.curve(tint(body, by=0.65), 0.045, (x, row - 0.09), (x + 0.14, row), (x, row + 0.09))
    pen.eye(0.48, -0.1, 0.08)
    with pen.part("a trail of air bubbles"):
        for x, y, r in ((0.78, -0.3, 0.09), (0.88, -0.54, 0.07), (0.74, -0.76, 0.1)):
            pen.ellipse((235, 248, 255), x, y, r)
            pen.ellipse((170, 215, 245), x, y, r * 0.55)


def shark(pen: Pen) -> None:
    hide = pen.colour((110, 130, 155), (90, 105, 125))
    with pen.part("a tall triangular dorsal fin"):
        pen.polygon(tint(hide, by=-0.2), (-0.2, -0.15), (0.02, -0.72), (0.28, -0.15))
    pen.polygon(hide, (-0.55, 0.02), (-0.98, -0.5), (-0.82, 0.02), (-0.96, 0.36))
    pen.polygon(hide, (1.0, -0.02), (0.55, -0.24), (0.0, -0.27), (-0.7, 0.0), (0.0, 0.3), (0.6, 0.3))
    pen.polygon((235, 240, 245), (0.85, 0.1), (0.6, 0.3), (0.0, 0.3), (-0.4, 0.14), (0.2, 0.16))
    pen.polygon(hide, (0.1, 0.2), (-0.12, 0.62), (0.32, 0.26))
    with pen.part("gill slits behind the head"):
        for k in range(3):
            pen.curve(BLACK, 0.045, (0.2 + 0.1 * k, -0.14), (0.14 + 0.1 * k, 0.0), (0.2 + 0.1 * k, 0.14))
    with pen.part("a row of sharp teeth"):
        pen.polygon((110, 20, 30), (0.58, 0.1), (0.92, 0.02), (0.74, 0.26))
        for k in range(3):
            x = 0.6 + 0.1 * k
            pen.polygon(WHITE, (x, 0.1 - 0.025 * k), (x + 0.1, 0.08 - 0.025 * k), (x + 0.06, 0.2 - 0.02 * k))
    pen.eye(0.62, -0.1, 0.05)


def whale(pen: Pen) -> None:
    hide = pen.colour((60, 90, 150), (70, 110, 170), (70, 80, 100))
    with pen.part("a spout of water"):
        for dx in (-0.24, 0.0, 0.24):
            pen.curve((190, 230, 255), 0.08, (0.34, -0.28), (0.34 + dx * 0.2, -0.75), (0.34 + dx, -0.82 + abs(dx)))
    with pen.part("a broad tail fluke"):
        pen.polygon(
            hide, (-0.5, 0.14), (-0.74, -0.12), (-1.0, -0.42), (-0.76, -0.36), (-0.6, -0.56), (-0.56, -0.2), (-0.3, 0.0)
        )
    pen.ellipse(hide, 0.18, 0.16, 0.7, 0.46)
    with pen.part("a grooved pale throat"):
        pen.polygon((225, 235, 240), (0.86, 0.2), (0.78, 0.42), (0.4, 0.6), (-0.02, 0.58), (0.2, 0.34))
        for k in range(3):
            pen.line((150, 165, 180), 0.035, (0.8, 0.24 + 0.08 * k), (0.16, 0.4 + 0.08 * k))
    pen.eye(0.62, 0.06, 0.06)


def octopus(pen: Pen) -> None:
    skin = pen.colour((200, 80, 110), (150, 90, 180), (230, 110, 70))
    with pen.part("eight curling arms"):
        for k in range(8):
            x = -0.42 + 0.12 * k
            pen.curve(skin, 0.11, (x * 0.6, 0.1), (x * 1.3, 0.6), (x * 2.1, 0.62 + 0.3 * (k % 2)))
    pen.ellipse(skin, 0.0, -0.3, 0.44, 0.52)
    with pen.part("rings of pale suckers"):
        for k in range(8):
            x = -0.42 + 0.12 * k
            pen.ellipse(tint(skin, by=0.75), x * 1.25, 0.48 + 0.1 * (k % 2), 0.055)
            pen.ellipse(tint(skin, by=0.75), x * 0.95, 0.3 + 0.05 * (k % 2), 0.05)
    pen.eye(-0.16, -0.2, 0.11)
    pen.eye(0.16, -0.2, 0.11)


def crab(pen: Pen) -> None:
    shell = pen.colour((220, 70, 40), (235, 120, 60))
    for x in (-1.0, 1.0):
        for k in range(3):
            pen.line(
                tint(shell, by=-0.2),
                0.08,
                (x * 0.3, 0.2),
                (x * (0.62 + 0.1 * k), 0.1 + 0.2 * k),
                (x * (0.7 + 0.08 * k), 0.36 + 0.22 * k),
            )
    with pen.part("two big claws"):
        for x in (-1.0, 1.0):
            pen.line(shell, 0.11, (x * 0.4, 0.1), (x * 0.72, -0.24))
            pen.ellipse(shell, x * 0.76, -0.46, 0.22, 0.26)
            pen.polygon(tint(shell, by=-0.7), (x * 0.76, -0.42), (x * 0.72, -0.76), (x * 0.92, -0.7))
    with pen.part("eyes on stalks"):
        for x in (-0.16, 0.16):
            pen.line(shell, 0.07, (x, 0.0), (x, -0.38))
            pen.eye(x, -0.42, 0.1)
    pen.ellipse(shell, 0.0, 0.2, 0.52, 0.34)
    pen.curve(BLACK, 0.04, (-0.2, 0.3), (0.0, 0.42), (0.2, 0.3))


def turtle(pen: Pen) -> None:
    skin = pen.colour((120, 170, 80), (95, 140, 90))
    with pen.part("short stubby legs"):
        for x in (-0.46, -0.2, 0.18, 0.44):
            pen.line(skin, 0.2, (x, 0.3), (x * 1.1, 0.72))
    pen.polygon(skin, (-0.6, 0.3), (-0.9, 0.44), (-0.6, 0.46))
    pen.line(skin, 0.2, (0.5, 0.3), (0.78, 0.02))
    pen.ellipse(skin, 0.82, -0.06, 0.2, 0.17)
    pen.eye(0.87, -0.1, 0.05)
    shell = pen.colour((110, 85, 45), (70, 110, 60))
    pen.polygon(shell, (-0.72, 0.4), (-0.62, -0.1), (-0.3, -0.42), (0.1, -0.46), (0.46, -0.22), (0.64, 0.4))
    with pen.part("a shell of hexagon plates"):
        for x, y in ((-0.42, 0.12), (-0.05, 0.12), (0.32, 0.12), (-0.24, -0.2), (0.14, -0.2)):
            pen.polygon(tint(shell, by=0.55), *star(x, y, 0.16, 0.145, num=3))
            pen.polygon(tint(shell, by=0.2), *star(x, y, 0.08, 0.075, num=3))


def snail(pen: Pen) -> None:
    skin = pen.colour((200, 180, 130), (170, 150, 120))
    with pen.part("a trail of slime"):
        pen.line((215, 240, 225), 0.12, (-1.05, 0.72), (-0.4, 0.74))
        pen.ellipse((215, 240, 225), -0.98, 0.72, 0.14, 0.07)
    pen.line(skin, 0.24, (-0.6, 0.62), (0.6, 0.62))
    pen.line(skin, 0.22, (0.55, 0.62), (0.72, 0.1))
    pen.ellipse(skin, 0.74, 0.04, 0.16)
    with pen.part("two thin feelers"):
        for x in (0.6, 0.96):
            pen.line(skin, 0.055, (0.74, 0.0), (x, -0.42))
            pen.ellipse(BLACK, x, -0.44, 0.065)
    shell = pen.colour((180, 95, 50), (200, 130, 60), (150, 90, 110))
    pen.ellipse(shell, -0.12, 0.05, 0.5)
    with pen.part("a spiral on the shell"):
        turns = [(k * 0.45, 0.4 - 0.02 * k) for k in range(19)]
        pen.line(tint(shell, by=-0.6), 0.08, *((-0.12 + r * math.cos(a), 0.05 + r * math.sin(a)) for a, r in turns))


def butterfly(pen: Pen) -> None:
    wing = pen.colour((240, 140, 40), (90, 110, 220), (230, 90, 140), YELLOW)
    for x in (-1.0, 1.0):
        pen.ellipse(wing, x * 0.46, -0.32, 0.4, 0.46, x * 40)
        pen.ellipse(wing, x * 0.38, 0.36, 0.28, 0.36, x * -30)
    with pen.part("wings with coloured rings"):
        for x in (-1.0, 1.0):
            pen.ellipse(tint(wing, by=-0.55), x * 0.5, -0.36, 0.2)
            pen.ellipse((250, 240, 200), x * 0.5, -0.36, 0.11)
            pen.ellipse(tint(wing, by=-0.55), x * 0.4, 0.4, 0.14)
    pen.ellipse((60, 45, 40), 0.0, 0.05, 0.08, 0.5)
    with pen.part("curled antennae"):
        for x in (-1.0, 1.0):
            pen.curve(BLACK, 0.045, (0.0, -0.4), (x * 0.1, -0.85), (x * 0.34, -0.88))
            pen.ellipse(BLACK, x * 0.34, -0.86, 0.06)


def bee(pen: Pen) -> None:
    body = pen.colour((250, 200, 50), (240, 180, 40))
    with pen.part("a pointed sting"):
        pen.polygon(BLACK, (-0.5, 0.12), (-0.9, 0.24), (-0.5, 0.34))
    pen.ellipse(body, -0.02, 0.2, 0.56, 0.38)
    with pen.part("yellow and black bands"):
        pen.bands(BLACK, -0.04, 0.2, 0.5, 0.37, num=3)
    pen.ellipse((60, 45, 30), 0.58, 0.1, 0.24)
    pen.eye(0.66, 0.04, 0.08)
    pen.curve(BLACK, 0.045, (0.6, -0.1), (0.66, -0.35), (0.84, -0.36))
    with pen.part("see-through wings"):
        pen.ellipse((215, 235, 250), -0.16, -0.4, 0.2, 0.42, -25)
        pen.ellipse((195, 220, 245), 0.16, -0.42, 0.2, 0.42, 20)


def ladybird(pen: Pen) -> None:
    wing = pen.colour(RED, (235, 100, 30), YELLOW)
    with pen.part("six tiny black legs"):
        for x in (-1.0, 1.0):
            for k in range(3):
                pen.line(BLACK, 0.06, (x * 0.4, -0.15 + 0.3 * k), (x * 0.86, -0.3 + 0.42 * k))
    pen.ellipse(BLACK, 0.0, -0.55, 0.28, 0.24)
    pen.ellipse(WHITE, -0.13, -0.62, 0.07)
    pen.ellipse(WHITE, 0.13, -0.62, 0.07)
    pen.ellipse(wing, 0.0, 0.1, 0.58, 0.62)
    pen.line(BLACK, 0.05, (0.0, -0.5), (0.0, 0.7))
    with pen.part("black dots on the wings"):
        for x in (-1.0, 1.0):
            for dx, y in ((0.22, -0.2), (0.36, 0.14), (0.18, 0.42)):
                pen.ellipse(BLACK, x * dx, y, 0.1)


def spider(pen: Pen) -> None:
    body = pen.colour(BLACK, (90, 55, 40))
    with pen.part("a web of silk threads"):
        thread = (235, 235, 245)
        for k in range(8):
            angle = k * math.pi / 4 + 0.2
            pen.line(thread, 0.035, (0.0, 0.0), (1.1 * math.cos(angle), 1.1 * math.sin(angle)))
        for r in (0.5, 0.75, 1.0):
            pen.line(
                thread,
                0.03,
                *((r * math.cos(k * math.pi / 4 + 0.2), r * math.sin(k * math.pi / 4 + 0.2)) for k in range(9)),
            )
    with pen.part("eight long jointed legs"):
        for x in (-1.0, 1.0):
            for k in range(4):
                pen.line(body, 0.07, (x * 0.1, 0.0), (x * 0.5, -0.55 + 0.28 * k), (x * 0.85, -0.35 + 0.38 * k))
    pen.ellipse(body, 0.0, 0.26, 0.3, 0.36)
    pen.ellipse(body, 0.0, -0.16, 0.2)
    pen.ellipse(RED, -0.07, -0.22, 0.045)
    pen.ellipse(RED, 0.07, -0.22, 0.045)
    with pen.part("a red hourglass mark"):
        pen.polygon(RED, (-0.15, 0.1), (0.15, 0.1), (-0.15, 0.46), (0.15, 0.46))


def snake(pen: Pen) -> None:
    skin = pen.colour((110, 150, 60), (190, 160, 80), (150, 80, 60))
    path = (
        *bezier((-0.95, 0.5), (-0.6, -0.4), (-0.3, 0.3)),
        *bezier((-0.3, 0.3), (0.0, 0.95), (0.3, 0.2)),
        *bezier((0.3, 0.2), (0.45, -0.3), (0.68, -0.3)),
    )
    pen.line(skin, 0.24, *path)
    with pen.part("a diamond pattern along the back"):
        for k in range(1, 22, 3):
            x, y = path[k]
            pen.polygon(tint(skin, by=-0.65), (x - 0.1, y), (x, y - 0.1), (x + 0.1, y), (x, y + 0.1))
    pen.ellipse(skin, 0.76, -0.34, 0.22, 0.16, -10)
    pen.eye(0.8, -0.4, 0.05)
    with pen.part("a forked tongue"):
        pen.line(RED, 0.055, (0.94, -0.34), (1.1, -0.34), (1.22, -0.46))
        pen.line(RED, 0.055, (1.1, -0.34), (1.22, -0.22))
    with pen.part("a rattle at the tail"):
        for k in range(3):
            pen.ellipse((230, 210, 160), -0.95 - 0.05 * k, 0.56 + 0.12 * k, 0.11 - 0.015 * k)


def snowman(pen: Pen) -> None:
    snow = pen.colour((250, 252, 255), spread=6)
    for y, r in ((0.55, 0.42), (0.0, 0.32), (-0.45, 0.25)):
        pen.ellipse(snow, 0.0, y, r)
    pen.line((110, 75, 45), 0.05, (-0.28, 0.0), (-0.75, -0.3))
    pen.line((110, 75, 45), 0.05, (0.28, 0.0), (0.75, -0.3))
    pen.ellipse(BLACK, -0.09, -0.5, 0.04)
    pen.ellipse(BLACK, 0.09, -0.5, 0.04)
    with pen.part("a carrot nose"):
        pen.polygon((245, 130, 30), (0.0, -0.48), (0.0, -0.36), (0.42, -0.38))
    with pen.part("a black top hat"):
        pen.box(BLACK, -0.2, -1.02, 0.2, -0.64)
        pen.box(BLACK, -0.34, -0.7, 0.34, -0.62)
    with pen.part("coal buttons"):
        for y in (-0.1, 0.08, 0.36, 0.58):
            pen.ellipse(BLACK, 0.0, y, 0.065)
    with pen.part("a knitted scarf"):
        scarf = pen.colour(RED, GREEN, BLUE)
        pen.line(scarf, 0.13, (-0.24, -0.24), (0.24, -0.24))
        pen.line(scarf, 0.13, (0.16, -0.22), (0.24, 0.14))
