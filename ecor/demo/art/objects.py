"""Tools, furniture, food and plants, drawn part by part."""

import math

from ecor.demo.art.animals import BLACK, BLUE, BROWN, GREEN, GREY, ORANGE, PINK, RED, WHITE, YELLOW
from ecor.demo.art.canvas import Pen, star, tint, zigzag

WOOD, STEEL, GOLD, LEAF = (165, 110, 60), (180, 188, 200), (240, 195, 70), (70, 150, 60)


def hammer(pen: Pen) -> None:
    with pen.part("a wooden handle"):
        pen.line(pen.colour(WOOD, (190, 140, 80)), 0.16, (0.0, -0.4), (0.0, 0.95))
    if_metal = pen.colour((110, 115, 125), (80, 85, 95))
    pen.box(if_metal, -0.1, -0.72, 0.12, -0.36)
    with pen.part("a heavy flat striking face"):
        pen.box(if_metal, 0.1, -0.68, 0.45, -0.4)
        pen.box(tint(if_metal, by=-0.3), 0.42, -0.78, 0.6, -0.3)
    with pen.part("a forked nail claw"):
        pen.curve(if_metal, 0.13, (-0.08, -0.62), (-0.5, -0.66), (-0.66, -0.28))
        pen.curve(tint(if_metal, by=0.25), 0.09, (-0.08, -0.5), (-0.34, -0.5), (-0.46, -0.22))


def axe(pen: Pen) -> None:
    with pen.part("a wooden handle"):
        pen.line(pen.colour(WOOD, (190, 140, 80)), 0.14, (0.0, -0.85), (-0.02, 0.95))
    head = pen.colour((120, 125, 135), RED, (70, 75, 85))
    pen.box(head, -0.2, -0.74, 0.16, -0.32)
    with pen.part("a wide sharp blade"):
        pen.polygon(tint(head, by=0.15), (0.14, -0.7), (0.6, -0.98), (0.72, -0.5), (0.6, -0.04), (0.14, -0.36))
        pen.curve((235, 240, 245), 0.09, (0.6, -0.96), (0.84, -0.5), (0.6, -0.06))
    with pen.part("leather wrapped around the grip"):
        for k in range(4):
            pen.line((90, 45, 25), 0.08, (-0.12, 0.5 + 0.12 * k), (0.1, 0.42 + 0.12 * k))


def scissors(pen: Pen) -> None:
    with pen.part("two finger loops"):
        plastic = pen.colour(RED, BLUE, ORANGE, GREEN)
        pen.ring(plastic, 0.12, -0.32, 0.64, 0.24)
        pen.ring(plastic, 0.12, 0.32, 0.64, 0.24)
    with pen.part("two crossed blades"):
        pen.polygon(STEEL, (-0.26, 0.46), (-0.14, 0.4), (0.36, -0.7), (0.34, -0.98), (0.2, -0.8))
        pen.polygon(tint(STEEL, by=-0.18), (0.26, 0.46), (0.14, 0.4), (-0.36, -0.7), (-0.34, -0.98), (-0.2, -0.8))
    with pen.part("a screw at the pivot"):
        pen.ellipse(GOLD, 0.0, 0.08, 0.12)
        pen.line(BLACK, 0.04, (-0.07, 0.08), (0.07, 0.08))


def saw(pen: Pen) -> None:
    pen.polygon(pen.colour(STEEL, (200, 200, 205)), (-0.35, -0.3), (1.05, -0.06), (1.05, 0.16), (-0.35, 0.26))
    with pen.part("a row of jagged teeth"):
        pen.polygon((110, 115, 125), (1.05, 0.1), (-0.35, 0.2), *zigzag(-0.35, 1.05, 0.24, 0.42, num=8))
    with pen.part("a handle with a grip hole"):
        wood = pen.colour(WOOD, RED, (60, 60, 65))
        pen.polygon(wood, (-0.3, -0.36), (-0.3, 0.32), (-0.72, 0.46), (-0.98, 0.3), (-0.92, -0.3), (-0.6, -0.42))
        pen.ellipse((240, 240, 235), -0.64, 0.02, 0.13, 0.22, -10)


def key(pen: Pen) -> None:
    metal = pen.colour(GOLD, STEEL, (185, 120, 60))
    pen.line(metal, 0.14, (-0.3, 0.0), (0.95, 0.0))
    with pen.part("a ring-shaped bow"):
        pen.ring(metal, 0.15, -0.6, 0.0, 0.33)
    with pen.part("notched teeth at the end"):
        for x, y in ((0.9, 0.36), (0.74, 0.24), (0.58, 0.34)):
            pen.line(metal, 0.1, (x, 0.0), (x, y))
    with pen.part("a paper name tag"):
        pen.line((150, 60, 60), 0.04, (-0.6, 0.3), (-0.36, 0.5))
        pen.polygon((250, 240, 200), (-0.44, 0.46), (-0.26, 0.36), (0.1, 0.66), (-0.1, 0.9))
        pen.line((120, 110, 90), 0.04, (-0.24, 0.56), (-0.06, 0.72))


def umbrella(pen: Pen) -> None:
    cloth = pen.colour(RED, BLUE, GREEN, (130, 70, 150))
    pen.line((80, 60, 50), 0.06, (0.0, -0.9), (0.0, 0.7))
    with pen.part("a curved hook handle"):
        pen.curve((110, 70, 40), 0.11, (0.0, 0.5), (0.02, 1.15), (0.34, 0.72))
    top = [(0.95 * math.cos(math.pi * (1 + k / 12)), 0.1 + 0.85 * math.sin(math.pi * (1 + k / 12))) for k in range(13)]
    pen.polygon(cloth, *top, (0.63, 0.0), (0.32, 0.12), (0.0, 0.0), (-0.32, 0.12), (-0.63, 0.0))
    with pen.part("a canopy with pale panels"):
        pale = tint(cloth, by=0.75)
        pen.polygon(pale, (0.0, -0.75), (-0.63, 0.0), (-0.32, 0.12))
        pen.polygon(pale, (0.0, -0.75), (0.63, 0.0), (0.32, 0.12))
    with pen.part("falling raindrops"):
        for x, y in ((-0.8, 0.5), (-0.45, 0.75), (0.62, 0.4), (0.85, 0.75), (-0.75, 0.95)):
            pen.polygon((60, 130, 220), (x, y - 0.18), (x + 0.07, y), (x, y + 0.06), (x - 0.07, y))


def chair(pen: Pen) -> None:
    wood = pen.colour(WOOD, BROWN, WHITE, (60, 50, 50))
    for x in (-0.36, 0.42):
        pen.line(tint(wood, by=-0.25), 0.09, (x, 0.2), (x * 1.1, 0.95))
    pen.line(wood, 0.1, (-0.44, 0.95), (-0.44, -0.9))
    pen.line(wood, 0.1, (0.34, 0.3), (0.34, 0.95))
    with pen.part("a slatted backrest"):
        pen.line(wood, 0.09, (0.3, 0.15), (0.3, -0.88))
        for y in (-0.85, -0.6, -0.35, -0.1):
            pen.line(wood, 0.12, (-0.44, y), (0.3, y + 0.02))
    pen.polygon(wood, (-0.5, 0.14), (0.46, 0.14), (0.54, 0.3), (-0.5, 0.3))
    with pen.part("a plump seat cushion"):
        pen.ellipse(pen.colour(RED, BLUE, GREEN), 0.0, 0.1, 0.48, 0.12)
    with pen.part("wooden rungs between the legs"):
        pen.line(wood, 0.07, (-0.44, 0.56), (0.4, 0.56))
        pen.line(wood, 0.07, (-0.44, 0.76), (0.4, 0.76))


def bed(pen: Pen) -> None:
    wood = pen.colour(WOOD, BROWN, (90, 60, 50))
    with pen.part("a carved headboard"):
        pen.polygon(wood, (-0.98, 0.7), (-0.98, -0.45), (-0.88, -0.62), (-0.78, -0.45), (-0.78, 0.7))
        pen.ellipse(tint(wood, by=-0.4), -0.88, -0.62, 0.12)
    pen.box(wood, -0.9, 0.32, 0.95, 0.5)
    pen.line(wood, 0.12, (0.9, 0.1), (0.9, 0.75))
    pen.line(wood, 0.12, (-0.85, 0.4), (-0.85, 0.75))
    pen.box((240, 240, 235), -0.8, 0.08, 0.88, 0.36)
    with pen.part("a soft white pillow"):
        pen.ellipse((252, 252, 255), -0.55, 0.0, 0.26, 0.15, -8)
    with pen.part("a patchwork blanket"):
        for k in range(6):
            for row in range(2):
                shade = ((200, 60, 70), (70, 110, 190), (240, 200, 90), (90, 160, 90))[(k + 3 * row) % 4]
                pen.box(shade, -0.28 + 0.195 * k, -0.04 + 0.2 * row, -0.085 + 0.195 * k, 0.16 + 0.2 * row)


def lamp(pen: Pen) -> None:
    with pen.part("a glowing light bulb"):
        pen.polygon((255, 245, 170), (-0.45, -0.1), (0.45, -0.1), (0.72, 0.36), (-0.72, 0.36))
        pen.ellipse((255, 225, 90), 0.0, -0.04, 0.14)
    stem = pen.colour(GOLD, STEEL, BLACK)
    pen.line(stem, 0.08, (0.0, 0.0), (0.0, 0.8))
    pen.ellipse(stem, 0.0, 0.84, 0.36, 0.11)
    shade = pen.colour(RED, GREEN, (235, 200, 150), BLUE)
    with pen.part("a cone-shaped shade"):
        pen.polygon(shade, (-0.28, -0.85), (0.28, -0.85), (0.56, -0.1), (-0.56, -0.1))
    with pen.part("a dangling pull chain"):
        for k in range(6):
            pen.ellipse((60, 60, 60), 0.3, -0.04 + 0.1 * k, 0.045)
        pen.ellipse((60, 60, 60), 0.3, 0.54, 0.08)


def clock(pen: Pen) -> None:
    case = pen.colour(RED, BLUE, WOOD, GREEN)
    with pen.part("twin bells on top"):
        pen.ellipse(GOLD, -0.36, -0.72, 0.24, 0.19, -35)
        pen.ellipse(GOLD, 0.36, -0.72, 0.24, 0.19, 35)
        pen.line((110, 100, 90), 0.06, (0.0, -0.5), (0.0, -0.86))
    pen.line(case, 0.13, (-0.3, 0.5), (-0.5, 0.92))
    pen.line(case, 0.13, (0.3, 0.5), (0.5, 0.92))
    pen.ellipse(case, 0.0, 0.08, 0.66)
    pen.ellipse((252, 250, 240), 0.0, 0.08, 0.54)
    with pen.part("hour marks around the face"):
        for k in range(12):
            c, s = math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)
            pen.line(BLACK, 0.06, (0.4 * c, 0.08 + 0.4 * s), (0.5 * c, 0.08 + 0.5 * s))
    turn = pen.rng.uniform(0, 6.28)
    with pen.part("two pointing hands"):
        pen.line(BLACK, 0.07, (0.0, 0.08), (0.3 * math.cos(turn / 3), 0.08 + 0.3 * math.sin(turn / 3)))
        pen.line(RED, 0.055, (0.0, 0.08), (0.4 * math.cos(turn), 0.08 + 0.4 * math.sin(turn)))
        pen.ellipse(BLACK, 0.0, 0.08, 0.06)


def guitar(pen: Pen) -> None:
    wood = pen.colour((200, 130, 60), (160, 80, 40), RED, (225, 175, 100))
    pen.ellipse(wood, 0.0, 0.55, 0.46, 0.38)
    pen.ellipse(wood, 0.0, 0.12, 0.33, 0.28)
    pen.box((70, 45, 30), -0.08, -0.75, 0.08, 0.3)
    with pen.part("a dark round sound hole"):
        pen.ellipse((40, 25, 15), 0.0, 0.28, 0.16)
    with pen.part("tuning pegs on the head"):
        pen.polygon((70, 45, 30), (-0.13, -0.72), (0.13, -0.72), (0.16, -1.04), (-0.16, -1.04))
        for y in (-0.98, -0.86, -0.75):
            pen.ellipse((245, 240, 225), -0.22, y, 0.07, 0.045)
            pen.ellipse((245, 240, 225), 0.22, y, 0.07, 0.045)
    with pen.part("stretched silver strings"):
        for x in (-0.05, 0.0, 0.05):
            pen.line((240, 240, 245), 0.022, (x, -0.75), (x, 0.72))
        pen.box((50, 30, 20), -0.2, 0.68, 0.2, 0.76)


def teapot(pen: Pen) -> None:
    clay = pen.colour(BLUE, (225, 225, 235), RED, (130, 170, 140))
    with pen.part("a curved pouring spout"):
        pen.curve(clay, 0.17, (0.45, 0.35), (0.85, 0.25), (0.88, -0.25))
    with pen.part("rising steam"):
        for k in range(2):
            x = 0.86 - 0.16 * k
            pen.curve((230, 235, 240), 0.07, (x, -0.36), (x + 0.22, -0.6), (x - 0.04, -0.92))
    pen.curve(clay, 0.1, (-0.42, 0.0), (-1.05, 0.1), (-0.46, 0.55))
    pen.ellipse(clay, 0.0, 0.28, 0.56, 0.48)
    with pen.part("a lid with a round knob"):
        pen.ellipse(tint(clay, by=-0.3), 0.0, -0.18, 0.34, 0.12)
        pen.ellipse(GOLD, 0.0, -0.36, 0.12)
    with pen.part("painted flowers on the side"):
        for x, y in ((-0.2, 0.3), (0.2, 0.4)):
            pen.polygon((250, 245, 250), *star(x, y, 0.19, 0.09, num=5))
            pen.ellipse(YELLOW, x, y, 0.07)


def pizza(pen: Pen) -> None:
    pen.ellipse((250, 205, 95), 0.0, 0.0, 0.86)
    with pen.part("a golden crust"):
        pen.ring((190, 115, 45), 0.16, 0.0, 0.0, 0.84)
    with pen.part("slices of pepperoni"):
        pen.dots((195, 50, 40), 0.0, 0.0, 0.68, 0.68, num=7, size=0.16)
    with pen.part("green basil leaves"):
        for k in range(5):
            angle = 1.3 * k + 0.6
            pen.ellipse((45, 130, 50), 0.42 * math.cos(angle), 0.42 * math.sin(angle), 0.15, 0.07, 70 * k)
    with pen.part("black olive rings"):
        for k in range(5):
            angle = 1.25 * k
            pen.ring((40, 40, 45), 0.06, 0.32 * math.cos(angle) * (1 + 0.6 * (k % 2)), 0.34 * math.sin(angle), 0.08)


def apple(pen: Pen) -> None:
    skin = pen.colour(RED, (120, 180, 60), (225, 190, 70))
    pen.ellipse(skin, -0.24, 0.15, 0.46, 0.6)
    pen.ellipse(skin, 0.24, 0.15, 0.46, 0.6)
    pen.ellipse(tint(skin, by=0.5), -0.42, -0.1, 0.09, 0.18, 20)
    with pen.part("a leaf on the stem"):
        pen.line((95, 60, 35), 0.08, (0.0, -0.36), (0.06, -0.8))
        pen.ellipse(LEAF, 0.32, -0.72, 0.26, 0.12, -20)
    with pen.part("a bite taken out"):
        pen.ellipse((255, 245, 215), 0.66, 0.1, 0.22, 0.28)
        pen.ellipse((60, 40, 25), 0.58, 0.12, 0.05, 0.09)
    with pen.part("a crawling worm"):
        pen.curve((150, 210, 90), 0.13, (-0.3, 0.4), (-0.62, 0.14), (-0.86, 0.3))
        pen.ellipse((150, 210, 90), -0.9, 0.28, 0.11)
        pen.ellipse(BLACK, -0.93, 0.25, 0.04)


def pineapple(pen: Pen) -> None:
    skin = pen.colour((225, 165, 50), (205, 150, 60))
    with pen.part("a crown of spiky leaves"):
        for x, y in ((-0.42, -0.62), (-0.24, -0.86), (0.0, -1.04), (0.24, -0.86), (0.42, -0.62)):
            pen.polygon((60, 140, 65), (-0.14, -0.26), (x, y), (0.14, -0.26))
    pen.ellipse(skin, 0.0, 0.3, 0.46, 0.62)
    with pen.part("a criss-cross skin"):
        for k in range(-2, 3):
            x = 0.19 * k
            pen.line((140, 85, 25), 0.045, (x - 0.24, 0.72 - abs(k) * 0.1), (x + 0.24, -0.14 + abs(k) * 0.1))
            pen.line((140, 85, 25), 0.045, (x + 0.24, 0.72 - abs(k) * 0.1), (x - 0.24, -0.14 + abs(k) * 0.1))


def strawberry(pen: Pen) -> None:
    flesh = pen.colour((220, 40, 50), (235, 70, 70))
    pen.polygon(
        flesh, (-0.6, -0.2), (-0.45, -0.5), (0.0, -0.55), (0.45, -0.5), (0.6, -0.2), (0.4, 0.4), (0.0, 0.9), (-0.4, 0.4)
    )
    with pen.part("tiny yellow seeds"):
        for y, xs in (
            (-0.2, (-0.36, -0.12, 0.12, 0.36)),
            (0.08, (-0.26, 0.0, 0.26)),
            (0.36, (-0.14, 0.14)),
            (0.6, (0.0,)),
        ):
            for x in xs:
                pen.ellipse((250, 225, 110), x, y, 0.045, 0.065)
    with pen.part("a cap of green leaves"):
        pen.polygon(LEAF, *star(0.0, -0.54, 0.46, 0.18, num=6, phase=0.3))
        pen.line(LEAF, 0.08, (0.0, -0.54), (0.04, -0.9))
    with pen.part("a dollop of whipped cream"):
        for x, y, r in ((-0.34, 0.62, 0.2), (-0.56, 0.72, 0.16), (-0.14, 0.76, 0.18), (-0.36, 0.44, 0.13)):
            pen.ellipse((255, 252, 245), x, y, r)


def ice_cream(pen: Pen) -> None:
    scoop = pen.colour(PINK, (250, 235, 190), (150, 95, 60), (170, 220, 170))
    with pen.part("a crisp waffle cone"):
        pen.polygon((225, 165, 85), (-0.38, 0.0), (0.38, 0.0), (0.0, 1.0))
        for k in range(3):
            pen.line((160, 100, 40), 0.04, (-0.3 + 0.2 * k, 0.04), (-0.02 + 0.1 * k, 0.7))
            pen.line((160, 100, 40), 0.04, (0.3 - 0.2 * k, 0.04), (0.02 - 0.1 * k, 0.7))
    pen.ellipse(scoop, 0.0, -0.24, 0.46, 0.42)
    pen.ellipse(scoop, -0.28, 0.02, 0.16, 0.1)
    pen.ellipse(scoop, 0.22, 0.02, 0.2, 0.11)
    with pen.part("colourful sprinkles"):
        for k in range(9):
            x, y = 0.32 * math.cos(2.4 * k), -0.28 + 0.28 * math.sin(2.4 * k) * (0.4 + 0.06 * k)
            pen.line((RED, BLUE, YELLOW, GREEN)[k % 4], 0.055, (x - 0.05, y - 0.04), (x + 0.05, y + 0.04))
    with pen.part("a cherry on top"):
        pen.ellipse((200, 20, 50), 0.0, -0.74, 0.15)
        pen.curve((80, 60, 30), 0.04, (0.0, -0.86), (0.06, -1.02), (0.22, -1.06))


def cake(pen: Pen) -> None:
    icing = pen.colour(PINK, (250, 245, 235), (110, 65, 45), (170, 205, 240))
    sponge = pen.colour((235, 190, 120), (120, 75, 50))
    with pen.part("burning candles"):
        for x in (-0.36, 0.36) if pen.rng.random() < 0.5 else (-0.4, 0.0, 0.4):
            pen.box((240, 240, 250), x - 0.05, -0.66, x + 0.05, -0.24)
            pen.ellipse((255, 190, 50), x, -0.78, 0.07, 0.12)
    with pen.part("a cherry on top"):
        pen.ellipse((200, 20, 50), 0.16, -0.36, 0.14)
        pen.curve((80, 60, 30), 0.04, (0.16, -0.46), (0.2, -0.64), (0.32, -0.66))
    pen.box(sponge, -0.68, -0.2, 0.68, 0.75)
    with pen.part("layers of cream filling"):
        pen.box((255, 250, 235), -0.7, 0.2, 0.7, 0.32)
        pen.box((255, 250, 235), -0.7, 0.5, 0.7, 0.6)
    pen.box(icing, -0.72, -0.28, 0.72, -0.02)
    for k in range(5):
        pen.ellipse(icing, -0.58 + 0.29 * k, 0.0, 0.13, 0.12 + 0.05 * (k % 2))
    pen.ellipse(STEEL, 0.0, 0.8, 0.9, 0.09)


def hamburger(pen: Pen) -> None:
    bun = pen.colour((220, 150, 70), (205, 130, 60))
    pen.polygon(bun, (-0.78, 0.42), (0.78, 0.42), (0.66, 0.72), (-0.66, 0.72))
    pen.box((100, 55, 35), -0.8, 0.22, 0.8, 0.42)
    with pen.part("a slice of melted cheese"):
        pen.polygon(
            (255, 195, 40),
            (-0.84, 0.14),
            (0.84, 0.14),
            (0.6, 0.26),
            (0.3, 0.46),
            (0.1, 0.26),
            (-0.4, 0.26),
            (-0.6, 0.4),
        )
    with pen.part("crinkled green lettuce"):
        pen.polygon((110, 190, 70), (-0.9, 0.06), (0.9, 0.06), *reversed(zigzag(-0.9, 0.9, 0.24, 0.12, num=6)))
    pen.polygon(
        bun, (-0.8, 0.06), (-0.74, -0.26), (-0.5, -0.52), (0.0, -0.64), (0.5, -0.52), (0.74, -0.26), (0.8, 0.06)
    )
    with pen.part("sesame seeds on the bun"):
        for x, y in (
            (-0.45, -0.3),
            (-0.2, -0.46),
            (0.05, -0.28),
            (0.28, -0.46),
            (0.5, -0.24),
            (-0.25, -0.14),
            (0.25, -0.1),
        ):
            pen.ellipse((255, 245, 205), x, y, 0.065, 0.045, 20)


def watermelon(pen: Pen) -> None:
    arc = [(0.95 * math.cos(math.pi * k / 12), -0.3 + 0.95 * math.sin(math.pi * k / 12)) for k in range(13)]
    pen.polygon((235, 240, 200), *arc)
    with pen.part("a striped green rind"):
        for a, b, shade in ((k, k + 1, ((30, 110, 50), (120, 190, 90))[k % 2]) for k in range(12)):
            (x0, y0), (x1, y1) = arc[a], arc[b]
            pen.polygon(
                shade, (x0, y0), (x1, y1), (x1 * 0.86, -0.3 + (y1 + 0.3) * 0.86), (x0 * 0.86, -0.3 + (y0 + 0.3) * 0.86)
            )
    flesh = pen.colour((235, 70, 80), (250, 110, 100), (250, 205, 80))
    pen.polygon(flesh, *((x * 0.8, -0.3 + (y + 0.3) * 0.8) for x, y in arc))
    with pen.part("black pips in the flesh"):
        for x, y in (
            (-0.5, -0.14),
            (-0.2, -0.12),
            (0.12, -0.14),
            (0.46, -0.12),
            (-0.34, 0.12),
            (0.0, 0.14),
            (0.32, 0.12),
            (0.0, 0.36),
        ):
            pen.ellipse((30, 20, 20), x, y, 0.045, 0.075)


def mushroom(pen: Pen) -> None:
    stem = (245, 235, 215)
    pen.polygon(stem, (-0.2, 0.0), (0.2, 0.0), (0.28, 0.85), (-0.28, 0.85))
    with pen.part("a ragged skirt around the stem"):
        pen.polygon((225, 205, 170), (-0.2, 0.24), (0.2, 0.24), *reversed(zigzag(-0.4, 0.4, 0.36, 0.54, num=4)))
    cap = pen.colour(RED, (170, 110, 60), ORANGE)
    arc = [(0.82 * math.cos(math.pi * (1 + k / 12)), 0.04 + 0.82 * math.sin(math.pi * (1 + k / 12))) for k in range(13)]
    pen.polygon(cap, *arc)
    with pen.part("pale gills under the cap"):
        pen.ellipse((235, 215, 185), 0.0, 0.05, 0.8, 0.15)
        for k in range(7):
            pen.line((150, 120, 95), 0.035, (-0.6 + 0.2 * k, 0.16), (-0.45 + 0.15 * k, -0.05))
    with pen.part("white warts on the cap"):
        for x, y, r in ((-0.42, -0.3, 0.13), (0.02, -0.52, 0.15), (0.42, -0.28, 0.12), (-0.1, -0.2, 0.09)):
            pen.ellipse((252, 250, 245), x, y, r)


def cactus(pen: Pen) -> None:
    skin = pen.colour((60, 140, 75), (90, 150, 90))
    pot = pen.colour((190, 100, 60), BLUE, GREY)
    with pen.part("raised side arms"):
        for x in (-1.0, 1.0):
            pen.line(skin, 0.2, (x * 0.14, 0.1 - 0.08 * x), (x * 0.56, 0.1 - 0.08 * x), (x * 0.56, -0.42 - 0.1 * x))
            pen.ellipse(skin, x * 0.56, -0.42 - 0.1 * x, 0.1)
    pen.ellipse(skin, 0.0, -0.1, 0.25, 0.68)
    with pen.part("rows of sharp spines"):
        for y in (-0.55, -0.32, -0.09, 0.14):
            for x in (-0.14, 0.02, 0.18):
                pen.line((250, 245, 210), 0.035, (x - 0.05, y - 0.05), (x + 0.04, y + 0.05))
                pen.line((250, 245, 210), 0.035, (x + 0.04, y - 0.05), (x - 0.05, y + 0.05))
    with pen.part("a pink blossom"):
        pen.polygon((245, 90, 160), *star(0.0, -0.8, 0.26, 0.13, num=6))
        pen.ellipse(YELLOW, 0.0, -0.8, 0.08)
    pen.polygon(pot, (-0.42, 0.45), (0.42, 0.45), (0.3, 0.95), (-0.3, 0.95))


def tree(pen: Pen) -> None:
    trunk = pen.colour(BROWN, (100, 70, 50))
    pen.polygon(trunk, (-0.12, 0.0), (0.12, 0.0), (0.2, 0.92), (-0.2, 0.92))
    with pen.part("a hollow in the trunk"):
        pen.ellipse((45, 28, 20), 0.0, 0.58, 0.1, 0.15)
    leaves = pen.colour(LEAF, (50, 120, 60), (200, 140, 50))
    for x, y, r in ((-0.4, -0.1, 0.36), (0.4, -0.1, 0.36), (-0.2, -0.5, 0.38), (0.24, -0.5, 0.38), (0.0, -0.15, 0.42)):
        pen.ellipse(leaves, x, y, r)
    with pen.part("ripe red fruit"):
        for x, y in ((-0.5, -0.12), (-0.18, -0.6), (0.3, -0.5), (0.5, -0.05), (-0.05, -0.16)):
            pen.ellipse((225, 40, 45), x, y, 0.095)
    with pen.part("a bird nest with eggs"):
        pen.ellipse((120, 80, 45), 0.16, -0.22, 0.28, 0.12)
        for x in (0.04, 0.17, 0.3):
            pen.ellipse((190, 225, 240), x, -0.32, 0.08, 0.1)


def candle(pen: Pen) -> None:
    wax = pen.colour((245, 235, 210), RED, (130, 90, 160), (120, 170, 160))
    pen.box(wax, -0.2, -0.4, 0.2, 0.72)
    pen.line(BLACK, 0.05, (0.0, -0.4), (0.0, -0.54))
    with pen.part("a flickering flame"):
        pen.polygon((255, 170, 40), (0.0, -1.02), (0.17, -0.66), (0.0, -0.48), (-0.17, -0.66))
        pen.polygon((255, 240, 150), (0.0, -0.84), (0.08, -0.64), (0.0, -0.54), (-0.08, -0.64))
    with pen.part("drips of melted wax"):
        for x, y in ((-0.18, 0.1), (-0.02, -0.1), (0.16, 0.22)):
            pen.line(tint(wax, by=0.45), 0.1, (x, -0.38), (x, y))
            pen.ellipse(tint(wax, by=0.45), x, y, 0.075)
    with pen.part("a saucer with a finger ring"):
        metal = pen.colour(GOLD, STEEL)
        pen.ellipse(metal, 0.0, 0.76, 0.56, 0.14)
        pen.ring(metal, 0.08, 0.66, 0.66, 0.17)


def book(pen: Pen) -> None:
    cover = pen.colour(RED, BLUE, GREEN, (110, 70, 50))
    pen.polygon(cover, (-1.0, -0.48), (0.0, -0.36), (1.0, -0.48), (1.0, 0.62), (0.0, 0.74), (-1.0, 0.62))
    pen.polygon((250, 246, 230), (-0.92, -0.55), (0.0, -0.4), (0.0, 0.64), (-0.92, 0.5))
    pen.polygon((240, 235, 215), (0.92, -0.55), (0.0, -0.4), (0.0, 0.64), (0.92, 0.5))
    with pen.part("lines of printed text"):
        for k in range(5):
            y = -0.32 + 0.17 * k
            pen.line((90, 85, 80), 0.05, (-0.78, y - 0.04), (-0.16, y + 0.06))
    with pen.part("a framed picture on the page"):
        pen.polygon((70, 140, 200), (0.16, -0.26), (0.78, -0.36), (0.78, 0.16), (0.16, 0.26))
        pen.polygon((70, 150, 70), (0.16, 0.26), (0.44, -0.06), (0.78, 0.16))
        pen.ellipse(YELLOW, 0.62, -0.18, 0.09)
    with pen.part("a ribbon bookmark"):
        pen.line((200, 30, 60), 0.09, (0.04, -0.36), (0.1, 0.5), (0.22, 0.98))


def sword(pen: Pen) -> None:
    metal = pen.colour(STEEL, (215, 220, 230), spread=10)
    pen.polygon(metal, (-0.11, 0.4), (-0.11, -0.8), (0.0, -1.08), (0.11, -0.8), (0.11, 0.4))
    pen.line(tint(metal, by=-0.4), 0.035, (0.0, -0.9), (0.0, 0.4))
    with pen.part("a golden cross guard"):
        pen.box(GOLD, -0.46, 0.36, 0.46, 0.5)
        pen.ellipse(GOLD, -0.46, 0.43, 0.1)
        pen.ellipse(GOLD, 0.46, 0.43, 0.1)
    pen.box((90, 50, 30), -0.08, 0.5, 0.08, 0.86)
    with pen.part("a ruby in the pommel"):
        pen.ellipse((150, 110, 60), 0.0, 0.92, 0.17)
        pen.ellipse((230, 20, 60), 0.0, 0.92, 0.11)


def crown(pen: Pen) -> None:
    metal = pen.colour(GOLD, (245, 210, 100), STEEL)
    pen.polygon(metal, (-0.8, 0.6), (-0.9, -0.4), (-0.45, 0.05), (0.0, -0.65), (0.45, 0.05), (0.9, -0.4), (0.8, 0.6))
    with pen.part("pearls on the tips"):
        for x, y in ((-0.9, -0.45), (0.0, -0.72), (0.9, -0.45)):
            pen.ellipse((252, 250, 250), x, y, 0.13)
    with pen.part("set with coloured jewels"):
        for x, shade in ((-0.5, RED), (0.0, (40, 120, 220)), (0.5, (40, 160, 80))):
            pen.polygon(shade, (x - 0.13, 0.22), (x, 0.04), (x + 0.13, 0.22), (x, 0.4))
    with pen.part("a trim of white fur"):
        pen.box((250, 248, 242), -0.86, 0.5, 0.86, 0.72)
        for k in range(6):
            pen.line(BLACK, 0.05, (-0.7 + 0.28 * k, 0.55), (-0.7 + 0.28 * k, 0.67))


def lollipop(pen: Pen) -> None:
    candy = pen.colour(PINK, RED, (110, 190, 230))
    pen.line((245, 240, 230), 0.09, (0.0, 0.1), (0.0, 1.0))
    pen.ellipse(candy, 0.0, -0.35, 0.58)
    with pen.part("a white candy swirl"):
        turns = [(k * 0.5, 0.05 + 0.025 * k) for k in range(20)]
        pen.line((252, 250, 250), 0.1, *((r * math.cos(a), -0.35 + r * math.sin(a)) for a, r in turns))
    with pen.part("a bow tied on the stick"):
        bow = pen.colour(YELLOW, (120, 80, 190), GREEN)
        pen.polygon(bow, (0.0, 0.42), (-0.38, 0.24), (-0.38, 0.6))
        pen.polygon(bow, (0.0, 0.42), (0.38, 0.24), (0.38, 0.6))
        pen.ellipse(tint(bow, by=-0.4), 0.0, 0.42, 0.09)
