"""Vehicles and buildings, drawn part by part."""

import math

from ecor.demo.art.animals import BLACK, BLUE, BROWN, GREEN, GREY, ORANGE, RED, TAN, WHITE, YELLOW
from ecor.demo.art.canvas import Colour, Pen, star, tint

GLASS, STEEL, STONE = (185, 220, 240), (190, 195, 205), (170, 165, 160)


def _wheel(pen: Pen, x: float, y: float, r: float) -> None:
    pen.ellipse(BLACK, x, y, r)
    pen.ellipse(STEEL, x, y, r * 0.5)


def _car_body(pen: Pen, paint: Colour) -> None:
    """The body that car, taxi and police car share."""
    pen.polygon(paint, (-0.5, -0.02), (-0.32, -0.42), (0.3, -0.42), (0.55, -0.02))
    pen.polygon(GLASS, (-0.38, -0.04), (-0.26, -0.34), (-0.03, -0.34), (-0.03, -0.04))
    pen.polygon(GLASS, (0.05, -0.04), (0.05, -0.34), (0.26, -0.34), (0.42, -0.04))
    pen.polygon(paint, (-0.95, 0.42), (-0.92, 0.05), (-0.5, -0.05), (0.6, -0.05), (0.95, 0.1), (0.97, 0.42))
    _wheel(pen, -0.52, 0.44, 0.2)
    _wheel(pen, 0.55, 0.44, 0.2)


def _headlights(pen: Pen) -> None:
    with pen.part("shining headlights"):
        pen.ellipse((255, 250, 170), 0.88, 0.14, 0.1)
        pen.polygon((255, 248, 190), (0.96, 0.1), (1.25, -0.05), (1.25, 0.36), (0.96, 0.2))


def car(pen: Pen) -> None:
    paint = pen.colour(RED, BLUE, GREEN, WHITE, (110, 80, 140))
    _car_body(pen, paint)
    with pen.part("a roof rack with luggage"):
        pen.box((150, 100, 60), -0.26, -0.66, 0.08, -0.46)
        pen.box((90, 120, 90), 0.08, -0.6, 0.26, -0.46)
        pen.line(BLACK, 0.05, (-0.34, -0.45), (0.32, -0.45))
    _headlights(pen)


def taxi(pen: Pen) -> None:
    paint = pen.colour((250, 200, 40), (245, 190, 60), BLACK)
    _car_body(pen, paint)
    with pen.part("a glowing sign on the roof"):
        pen.box((255, 250, 200), -0.18, -0.62, 0.2, -0.43)
        pen.box(BLACK, -0.12, -0.56, 0.14, -0.49)
    with pen.part("a checkered band along the doors"):
        for k in range(12):
            for row in (0, 1):
                shade = BLACK if (k + row) % 2 else WHITE
                pen.box(shade, -0.85 + 0.14 * k, 0.05 + 0.09 * row, -0.71 + 0.14 * k, 0.14 + 0.09 * row)


def police_car(pen: Pen) -> None:
    paint = pen.colour(WHITE, (40, 60, 120), BLACK)
    _car_body(pen, paint)
    with pen.part("a blue and red light bar"):
        pen.box((50, 90, 250), -0.22, -0.58, 0.02, -0.43)
        pen.box((245, 40, 40), 0.02, -0.58, 0.26, -0.43)
    _headlights(pen)
    with pen.part("a gold star badge on the door"):
        pen.polygon((250, 205, 60), *star(0.02, 0.18, 0.19, 0.08, num=5, phase=-math.pi / 2))


def _lorry_body(pen: Pen, paint: Colour) -> None:
    """The chassis and cab that truck, fire engine and ambulance share."""
    pen.box((70, 70, 75), -0.95, 0.3, 0.9, 0.45)
    pen.polygon(paint, (0.4, 0.4), (0.4, -0.35), (0.72, -0.35), (0.94, 0.0), (0.94, 0.4))
    pen.polygon(GLASS, (0.5, -0.26), (0.68, -0.26), (0.82, 0.0), (0.5, 0.0))
    for x in (-0.62, -0.2, 0.62):
        _wheel(pen, x, 0.5, 0.18)


def _siren(pen: Pen) -> None:
    with pen.part("a blue siren"):
        pen.ellipse((60, 110, 255), 0.56, -0.42, 0.15, 0.13)
        pen.line((120, 170, 255), 0.05, (0.74, -0.52), (0.9, -0.64))
        pen.line((120, 170, 255), 0.05, (0.38, -0.52), (0.24, -0.64))


def truck(pen: Pen) -> None:
    paint = pen.colour(BLUE, GREEN, ORANGE, RED)
    with pen.part("an upright exhaust pipe"):
        pen.line((120, 120, 125), 0.09, (0.36, 0.2), (0.36, -0.66))
        for k in range(3):
            pen.ellipse((200, 200, 200), 0.3 - 0.12 * k, -0.74 - 0.08 * k, 0.08 + 0.03 * k)
    _lorry_body(pen, paint)
    with pen.part("a large cargo box"):
        pen.box(pen.colour(WHITE, TAN, STEEL), -0.98, -0.52, 0.28, 0.34)
        for k in range(5):
            pen.line((120, 120, 120), 0.03, (-0.8 + 0.22 * k, -0.48), (-0.8 + 0.22 * k, 0.3))


def fire_engine(pen: Pen) -> None:
    paint = pen.colour(RED, (190, 30, 40))
    _lorry_body(pen, paint)
    pen.box(paint, -0.95, -0.2, 0.36, 0.36)
    with pen.part("a long ladder on top"):
        pen.line(STEEL, 0.05, (-0.98, -0.52), (0.78, -0.52))
        pen.line(STEEL, 0.05, (-0.98, -0.32), (0.78, -0.32))
        for k in range(8):
            pen.line(STEEL, 0.045, (-0.9 + 0.22 * k, -0.52), (-0.9 + 0.22 * k, -0.32))
    _siren(pen)
    with pen.part("a coiled water hose"):
        for r in (0.21, 0.13, 0.06):
            pen.ring((250, 225, 130), 0.055, -0.56, 0.08, r)


def ambulance(pen: Pen) -> None:
    paint = pen.colour(WHITE, (245, 240, 215), spread=8)
    _lorry_body(pen, paint)
    pen.box(paint, -0.95, -0.48, 0.42, 0.36)
    with pen.part("a red cross on the side"):
        pen.box(RED, -0.36, -0.36, -0.2, 0.22)
        pen.box(RED, -0.57, -0.15, 0.01, 0.01)
    _siren(pen)


def bus(pen: Pen) -> None:
    paint = pen.colour(RED, YELLOW, GREEN, BLUE)
    pen.box(paint, -0.98, -0.46, 0.98, 0.4)
    pen.box(GLASS, 0.74, -0.34, 0.96, 0.02)
    with pen.part("a row of passenger windows"):
        for k in range(5):
            pen.box(GLASS, -0.9 + 0.27 * k, -0.34, -0.69 + 0.27 * k, -0.04)
    with pen.part("a folding door"):
        pen.box((60, 65, 75), 0.44, -0.3, 0.7, 0.38)
        pen.line(WHITE, 0.035, (0.57, -0.28), (0.57, 0.36))
    with pen.part("a white stripe along the side"):
        pen.box(WHITE, -0.98, 0.08, 0.42, 0.18)
    _wheel(pen, -0.58, 0.44, 0.18)
    _wheel(pen, 0.58, 0.44, 0.18)


def bicycle(pen: Pen) -> None:
    paint = pen.colour(RED, BLUE, GREEN, BLACK)
    for x in (-0.56, 0.56):
        pen.ring(BLACK, 0.08, x, 0.35, 0.38)
    with pen.part("wheels with thin spokes"):
        for x in (-0.56, 0.56):
            for k in range(4):
                c, s = 0.36 * math.cos(k * math.pi / 4), 0.36 * math.sin(k * math.pi / 4)
                pen.line((110, 110, 120), 0.03, (x - c, 0.35 - s), (x + c, 0.35 + s))
    for a, b in (
        ((-0.56, 0.35), (-0.25, -0.25)),
        ((-0.25, -0.25), (0.4, -0.22)),
        ((-0.05, 0.35), (0.4, -0.22)),
        ((-0.56, 0.35), (-0.05, 0.35)),
        ((-0.05, 0.35), (-0.28, -0.4)),
        ((0.56, 0.35), (0.36, -0.5)),
    ):
        pen.line(paint, 0.075, a, b)
    with pen.part("curved handlebars"):
        pen.curve((60, 60, 60), 0.08, (0.36, -0.5), (0.7, -0.7), (0.64, -0.36))
    with pen.part("a leather saddle"):
        pen.ellipse((110, 65, 35), -0.3, -0.44, 0.22, 0.08)
    with pen.part("a pair of pedals"):
        pen.ring((90, 90, 95), 0.05, -0.05, 0.35, 0.12)
        pen.line((90, 90, 95), 0.06, (-0.05, 0.35), (0.08, 0.6))
        pen.box(BLACK, 0.0, 0.58, 0.2, 0.65)


def tractor(pen: Pen) -> None:
    paint = pen.colour(GREEN, RED, (60, 110, 180))
    with pen.part("an upright exhaust pipe"):
        pen.line((80, 80, 85), 0.08, (0.5, 0.0), (0.5, -0.6))
        for k in range(3):
            pen.ellipse((180, 180, 180), 0.46 - 0.12 * k, -0.68 - 0.09 * k, 0.07 + 0.03 * k)
    pen.box(paint, -0.1, -0.08, 0.85, 0.35)
    pen.box(paint, -0.7, -0.72, 0.05, -0.6)
    pen.line(paint, 0.07, (-0.6, -0.65), (-0.6, 0.1))
    pen.line(paint, 0.07, (-0.02, -0.65), (-0.02, 0.1))
    pen.box(GLASS, -0.54, -0.56, -0.08, -0.08)
    pen.box(paint, -0.7, -0.1, 0.0, 0.3)
    with pen.part("a huge treaded rear wheel"):
        pen.polygon(BLACK, *star(-0.42, 0.35, 0.52, 0.44, num=14))
        pen.ellipse(YELLOW, -0.42, 0.35, 0.23)
    _wheel(pen, 0.66, 0.58, 0.24)
    with pen.part("a front grille with slots"):
        pen.box((50, 50, 50), 0.72, -0.06, 0.9, 0.32)
        for k in range(3):
            pen.line(STEEL, 0.04, (0.73, 0.02 + 0.11 * k), (0.89, 0.02 + 0.11 * k))


def train(pen: Pen) -> None:
    paint = pen.colour((40, 60, 50), BLACK, (120, 30, 40), (40, 60, 110))
    with pen.part("a smoking chimney"):
        pen.polygon(tint(paint, by=-0.3), (0.42, -0.1), (0.36, -0.5), (0.66, -0.5), (0.6, -0.1))
        for k in range(3):
            pen.ellipse((215, 215, 215), 0.42 - 0.24 * k, -0.66 - 0.07 * k, 0.14 + 0.03 * k)
    pen.box(paint, -0.9, -0.52, -0.32, 0.36)
    pen.box(RED, -0.98, -0.6, -0.24, -0.5)
    pen.box(GLASS, -0.76, -0.38, -0.46, -0.1)
    pen.box(paint, -0.4, -0.14, 0.76, 0.34)
    pen.ellipse((220, 180, 80), 0.76, 0.1, 0.12, 0.24)
    with pen.part("a row of driving wheels with a rod"):
        for x in (-0.66, -0.26, 0.14, 0.54):
            pen.ellipse((150, 40, 40), x, 0.48, 0.19)
            pen.ellipse(STEEL, x, 0.48, 0.08)
        pen.line(STEEL, 0.07, (-0.66, 0.5), (0.54, 0.5))
    with pen.part("a pointed cowcatcher"):
        pen.polygon((230, 180, 60), (0.78, 0.3), (0.78, 0.68), (1.12, 0.68))
        pen.line(BLACK, 0.03, (0.86, 0.44), (0.88, 0.66))


def airplane(pen: Pen) -> None:
    paint = pen.colour(WHITE, (225, 230, 240), (245, 230, 200), spread=10)
    trim = pen.colour(RED, BLUE, GREEN)
    with pen.part("an upright tail fin"):
        pen.polygon(trim, (-0.6, -0.06), (-0.92, -0.55), (-0.72, -0.55), (-0.36, -0.08))
    pen.polygon(tint(paint, by=-0.25), (0.1, -0.06), (-0.14, -0.46), (0.0, -0.46), (0.36, -0.06))
    pen.ellipse(paint, 0.02, 0.02, 0.95, 0.18)
    pen.polygon(GLASS, (0.72, -0.08), (0.62, 0.0), (0.88, 0.0))
    with pen.part("a line of small round portholes"):
        for k in range(7):
            pen.ellipse((50, 90, 150), -0.5 + 0.16 * k, -0.02, 0.055)
    with pen.part("swept-back wings with engines"):
        pen.polygon(tint(paint, by=-0.35), (0.3, 0.08), (-0.3, 0.66), (-0.08, 0.66), (0.56, 0.1))
        pen.ellipse(trim, 0.12, 0.42, 0.17, 0.08)


def helicopter(pen: Pen) -> None:
    paint = pen.colour(RED, BLUE, YELLOW, (80, 100, 80))
    pen.polygon(paint, (-0.2, -0.1), (-0.95, -0.16), (-0.95, -0.04), (-0.1, 0.25))
    pen.ellipse(paint, 0.18, 0.05, 0.48, 0.34)
    pen.polygon(GLASS, (0.24, -0.2), (0.5, -0.12), (0.62, 0.12), (0.24, 0.12))
    with pen.part("spinning rotor blades on top"):
        pen.line((60, 60, 65), 0.08, (0.12, -0.25), (0.12, -0.48))
        pen.ellipse((60, 60, 65), -0.4, -0.52, 0.52, 0.05, -3)
        pen.ellipse((60, 60, 65), 0.62, -0.52, 0.52, 0.05, 3)
    with pen.part("a small tail rotor"):
        for turn in (20, 110):
            pen.ellipse((60, 60, 65), -0.94, -0.12, 0.24, 0.045, turn)
    with pen.part("landing skids"):
        pen.line((70, 70, 75), 0.06, (0.02, 0.34), (-0.04, 0.6))
        pen.line((70, 70, 75), 0.06, (0.4, 0.34), (0.44, 0.6))
        pen.line((70, 70, 75), 0.07, (-0.35, 0.62), (0.66, 0.62), (0.78, 0.52))


def sailboat(pen: Pen) -> None:
    hull = pen.colour(BROWN, RED, BLUE, WHITE)
    pen.polygon(hull, (-0.85, 0.4), (0.9, 0.4), (0.6, 0.78), (-0.6, 0.78))
    with pen.part("a tall wooden mast"):
        pen.line((120, 80, 50), 0.07, (0.02, 0.4), (0.02, -1.0))
    with pen.part("triangular white sails"):
        pen.polygon((252, 250, 245), (0.08, -0.92), (0.08, 0.28), (0.75, 0.28))
        pen.polygon((238, 236, 228), (-0.04, -0.75), (-0.04, 0.28), (-0.62, 0.28))
    with pen.part("a small red pennant"):
        pen.polygon(RED, (0.02, -1.06), (0.02, -0.86), (-0.34, -0.96))
    with pen.part("choppy blue waves"):
        pen.polygon((50, 110, 190), (-1.1, 0.74), *star_wave(-1.1, 1.1, 0.74), (1.1, 0.98), (-1.1, 0.98))


def star_wave(left: float, right: float, y: float) -> list[tuple[float, float]]:
    """A row of wave crests."""
    return [(left + (right - left) * k / 14, y + (0.08 if k % 2 else -0.06)) for k in range(15)]


def submarine(pen: Pen) -> None:
    paint = pen.colour(YELLOW, GREY, (60, 90, 110))
    with pen.part("a raised periscope"):
        pen.line((80, 80, 90), 0.08, (0.12, -0.3), (0.12, -0.8), (0.36, -0.8))
    pen.polygon(paint, (-0.2, 0.0), (-0.12, -0.4), (0.26, -0.4), (0.34, 0.0))
    pen.ellipse(paint, 0.02, 0.16, 0.85, 0.3)
    with pen.part("a bronze propeller"):
        pen.ellipse((190, 130, 60), -0.92, 0.02, 0.08, 0.18, 15)
        pen.ellipse((190, 130, 60), -0.92, 0.3, 0.08, 0.18, -15)
    with pen.part("three big bolted portholes"):
        for x in (-0.36, 0.02, 0.4):
            pen.ellipse((70, 70, 75), x, 0.14, 0.15)
            pen.ellipse(GLASS, x, 0.14, 0.1)


def rocket(pen: Pen) -> None:
    paint = pen.colour(WHITE, STEEL, spread=10)
    trim = pen.colour(RED, BLUE, ORANGE)
    with pen.part("flames shooting out below"):
        pen.polygon((250, 140, 30), (-0.22, 0.55), (0.22, 0.55), (0.13, 0.85), (0.0, 1.08), (-0.13, 0.85))
        pen.polygon((255, 230, 90), (-0.11, 0.55), (0.11, 0.55), (0.0, 0.86))
    with pen.part("swept side fins"):
        pen.polygon(trim, (-0.22, 0.12), (-0.6, 0.62), (-0.2, 0.55))
        pen.polygon(trim, (0.22, 0.12), (0.6, 0.62), (0.2, 0.55))
    pen.polygon(paint, (-0.25, 0.58), (-0.27, -0.4), (0.27, -0.4), (0.25, 0.58))
    pen.polygon(paint, (-0.27, -0.4), (0.0, -0.86), (0.27, -0.4))
    with pen.part("a pointed nose cone"):
        pen.polygon(trim, (-0.27, -0.4), (-0.17, -0.72), (0.0, -1.02), (0.17, -0.72), (0.27, -0.4))
    with pen.part("a single round window"):
        pen.ellipse((70, 75, 85), 0.0, -0.14, 0.17)
        pen.ellipse((120, 200, 240), 0.0, -0.14, 0.11)


def balloon(pen: Pen) -> None:
    cloth = pen.colour(RED, (90, 60, 160), BLUE)
    with pen.part("ropes holding the load"):
        pen.line((90, 70, 50), 0.045, (-0.36, 0.2), (-0.14, 0.72))
        pen.line((90, 70, 50), 0.045, (0.36, 0.2), (0.14, 0.72))
        pen.line((90, 70, 50), 0.045, (0.0, 0.3), (0.0, 0.72))
    pen.ellipse(cloth, 0.0, -0.32, 0.64, 0.64)
    pen.polygon(cloth, (-0.56, -0.02), (0.56, -0.02), (0.18, 0.46), (-0.18, 0.46))
    with pen.part("bright vertical panels"):
        for x, rx in ((-0.38, 0.09), (0.0, 0.13), (0.38, 0.09)):
            pen.ellipse(YELLOW, x, -0.28, rx, 0.6 - abs(x) * 0.3, -x * 25)
    with pen.part("a wicker basket"):
        pen.polygon((160, 105, 55), (-0.2, 0.68), (0.2, 0.68), (0.16, 0.98), (-0.16, 0.98))
        pen.line((110, 70, 35), 0.035, (-0.18, 0.82), (0.18, 0.82))


def house(pen: Pen) -> None:
    wall = pen.colour((235, 220, 190), (240, 200, 160), WHITE, (190, 110, 90))
    with pen.part("a brick chimney"):
        pen.box((165, 75, 60), 0.3, -0.84, 0.54, -0.3)
        pen.line((110, 50, 40), 0.03, (0.3, -0.62), (0.54, -0.62))
    pen.box(wall, -0.66, -0.16, 0.66, 0.8)
    pen.polygon(pen.colour((170, 60, 50), (90, 80, 90), (130, 80, 50)), (-0.85, -0.12), (0.0, -0.8), (0.85, -0.12))
    with pen.part("a wooden front door"):
        pen.box((115, 70, 40), -0.16, 0.24, 0.16, 0.8)
        pen.ellipse(YELLOW, 0.09, 0.54, 0.045)
    with pen.part("square windows with frames"):
        for x in (-0.42, 0.42):
            pen.box(WHITE, x - 0.17, 0.02, x + 0.17, 0.36)
            pen.box((120, 180, 220), x - 0.12, 0.06, x + 0.12, 0.32)
            pen.line(WHITE, 0.04, (x, 0.04), (x, 0.34))
    with pen.part("a white picket fence"):
        for side in (-1, 1):
            pen.line(WHITE, 0.05, (side * 0.34, 0.72), (side * 1.05, 0.72))
            for k in range(4):
                pen.line(WHITE, 0.08, (side * (0.4 + 0.19 * k), 0.88), (side * (0.4 + 0.19 * k), 0.56))


def castle(pen: Pen) -> None:
    wall = pen.colour(STONE, (190, 175, 150), (150, 150, 165))
    for x in (-0.66, 0.66):
        pen.box(tint(wall, by=-0.12), x - 0.22, -0.4, x + 0.22, 0.85)
    pen.box(wall, -0.5, -0.06, 0.5, 0.85)
    with pen.part("battlements on the walls"):
        for x in (-0.82, -0.5, 0.5, 0.82):
            pen.box(tint(wall, by=-0.25), x - 0.07, -0.54, x + 0.07, -0.38)
        for k in range(4):
            pen.box(tint(wall, by=-0.25), -0.4 + 0.23 * k, -0.2, -0.28 + 0.23 * k, -0.04)
    with pen.part("flags flying from the towers"):
        cloth = pen.colour(RED, BLUE, YELLOW)
        for x in (-0.66, 0.66):
            pen.line(BLACK, 0.04, (x, -0.42), (x, -1.0))
            pen.polygon(cloth, (x, -1.02), (x, -0.74), (x + 0.36, -0.88))
    with pen.part("narrow arrow slits"):
        for x in (-0.66, 0.66):
            for y in (-0.12, 0.32):
                pen.box((40, 35, 40), x - 0.05, y - 0.13, x + 0.05, y + 0.13)
    with pen.part("an arched drawbridge gate"):
        pen.ellipse((80, 50, 30), 0.0, 0.4, 0.24)
        pen.box((80, 50, 30), -0.24, 0.4, 0.24, 0.85)
        for x in (-0.1, 0.1):
            pen.line((40, 25, 15), 0.035, (x, 0.22), (x, 0.85))


def lighthouse(pen: Pen) -> None:
    with pen.part("a sweeping beam of light"):
        pen.polygon((255, 245, 160), (0.0, -0.66), (1.1, -1.0), (1.1, -0.4))
    pen.ellipse(STONE, 0.0, 0.9, 0.75, 0.17)
    pen.polygon(WHITE, (-0.34, 0.88), (-0.2, -0.45), (0.2, -0.45), (0.34, 0.88))
    with pen.part("red and white bands"):
        for top in (-0.36, 0.08, 0.52):
            a, b = 0.2 + 0.105 * (top + 0.45), 0.2 + 0.105 * (top + 0.67)
            pen.polygon(RED, (-a, top), (a, top), (b, top + 0.22), (-b, top + 0.22))
    with pen.part("a railed gallery"):
        pen.box(BLACK, -0.34, -0.5, 0.34, -0.43)
        for k in range(5):
            pen.line(BLACK, 0.035, (-0.31 + 0.155 * k, -0.48), (-0.31 + 0.155 * k, -0.66))
        pen.line(BLACK, 0.035, (-0.33, -0.66), (0.33, -0.66))
    pen.box((255, 240, 150), -0.14, -0.78, 0.14, -0.5)
    pen.polygon((60, 60, 70), (-0.22, -0.76), (0.0, -1.0), (0.22, -0.76))


def windmill(pen: Pen) -> None:
    wall = pen.colour((235, 225, 205), (180, 130, 95), STONE)
    pen.polygon(wall, (-0.42, 0.9), (-0.26, -0.25), (0.26, -0.25), (0.42, 0.9))
    pen.polygon((120, 70, 50), (-0.32, -0.22), (0.0, -0.58), (0.32, -0.22))
    with pen.part("a small arched doorway"):
        pen.ellipse((90, 60, 40), 0.0, 0.6, 0.12)
        pen.box((90, 60, 40), -0.12, 0.6, 0.12, 0.9)
    start = pen.rng.uniform(0.3, 1.2)
    with pen.part("four lattice sails"):
        for k in range(4):
            c, s = math.cos(start + k * math.pi / 2), math.sin(start + k * math.pi / 2)
            x, y = 0.82 * c, -0.22 + 0.82 * s
            pen.polygon(
                (250, 245, 230),
                (0.15 * c, -0.22 + 0.15 * s),
                (x, y),
                (x - 0.24 * s, y + 0.24 * c),
                (0.15 * c - 0.2 * s, -0.22 + 0.15 * s + 0.2 * c),
            )
            pen.line((100, 70, 45), 0.055, (0.0, -0.22), (x, y))
            pen.line((100, 70, 45), 0.03, (0.5 * c, -0.22 + 0.5 * s), (0.5 * c - 0.22 * s, -0.22 + 0.5 * s + 0.22 * c))
    pen.ellipse((70, 50, 35), 0.0, -0.22, 0.08)


def church(pen: Pen) -> None:
    wall = pen.colour((235, 230, 220), STONE, (205, 180, 150))
    roof = pen.colour((110, 60, 50), (80, 85, 100))
    pen.box(wall, -0.15, 0.1, 0.85, 0.85)
    pen.polygon(roof, (-0.2, 0.12), (0.05, -0.3), (0.7, -0.3), (0.95, 0.12))
    pen.box(wall, -0.62, -0.3, -0.1, 0.85)
    pen.polygon(roof, (-0.68, -0.28), (-0.36, -0.76), (-0.04, -0.28))
    with pen.part("a cross on the steeple"):
        pen.line((205, 165, 50), 0.07, (-0.36, -0.7), (-0.36, -1.1))
        pen.line((205, 165, 50), 0.07, (-0.52, -0.96), (-0.2, -0.96))
    with pen.part("tall stained-glass windows"):
        for x, shade in ((0.08, (200, 60, 90)), (0.36, (60, 110, 210)), (0.64, (230, 180, 50))):
            pen.ellipse(shade, x, 0.34, 0.1)
            pen.box(shade, x - 0.1, 0.34, x + 0.1, 0.7)
    with pen.part("a bronze bell in the tower"):
        pen.box((60, 50, 50), -0.5, -0.18, -0.22, 0.16)
        pen.polygon((215, 160, 50), (-0.42, -0.12), (-0.3, -0.12), (-0.24, 0.1), (-0.48, 0.1))
    pen.box((100, 65, 40), -0.46, 0.48, -0.26, 0.85)
