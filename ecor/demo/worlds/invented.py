"""Worlds of invented things: bodies, parts, names and sets combined at random from a seed.

Neighbours (a family of three) share a silhouette and its papers; a category has two to four parts at different spots.
Most part texts belong to one category and some to a few, as in DROR. The numbers are ours.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from ecor.demo.art.canvas import Colour, Pen
from ecor.demo.art.growths import GROWTHS, PartKind, Patch
from ecor.demo.art.markings import MARKINGS
from ecor.demo.art.silhouettes import SILHOUETTES, Silhouette
from ecor.demo.worlds.schema import DrawnWorld, Kind, WorldSet
from ecor.demo.worlds.styles import CHALK, CUT_PAPER, MUTED

COLOURS: dict[str, Colour] = {
    "red": (222, 40, 44),
    "yellow": (252, 214, 44),
    "blue": (40, 116, 240),
    "green": (54, 190, 70),
    "white": (250, 250, 246),
    "pink": (255, 142, 196),
    "purple": (148, 62, 214),
}
"""What parts are named by."""
NUM_CATEGORIES, NUM_UNNAMED = 86, 10
FAMILY_SIZE = 3
PROPORTIONS = ((0.9, 1.16), (1.17, 0.9))
"""Width and height of tall and of squat bodies."""
NUM_PARTS = (2, 3, 3, 4)
SHARED_PER_SPOT, MOST_OWNERS, SHARED = 4, 4, 0.2
"""Texts that several categories may have, by how many at most, and the chance that a part is one of them."""
BEHIND = ("rear", "side", "top", "foot")
"""Sorts of parts that are drawn before the body."""
_ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gl",
    "gr",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "sk",
    "t",
    "tr",
    "v",
    "w",
    "y",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "oo", "ee")
_JOINTS = ("k", "l", "m", "n", "r", "s")
_MIDDLES = ("b", "d", "g", "m", "p", "t", "v", "z")
_CODAS = ("b", "k", "l", "m", "n", "p", "r", "sk", "t", "x", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class InventedPart:
    """One part of a category."""

    kind: PartKind
    form: int
    # a key of COLOURS
    colour: str

    @property
    def text(self) -> str:
        """The rationale."""
        return self.kind.texts[self.form].format(self.colour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Body shared by similar categories."""

    body: Silhouette
    # of which each specimen is cut from one
    papers: tuple[Colour, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Draws a category: its family's body with its own parts."""

    family: Family
    parts: tuple[InventedPart, ...]

    def __call__(self, pen: Pen) -> None:
        paper = pen.colour(*self.family.papers, spread=16)
        self._grow(pen, [part for part in self.parts if part.kind.spot in BEHIND])
        self.family.body.draw(pen, paper)
        self.family.body.draw_eyes(pen)
        self._grow(pen, [part for part in self.parts if part.kind.spot not in BEHIND])

    def _grow(self, pen: Pen, parts: Sequence[InventedPart]) -> None:
        for part in parts:
            spot = self.family.body.spots[part.kind.spot]
            with pen.part(part.text):
                colour = pen.colour(COLOURS[part.colour], spread=16)
                for place in (spot, spot.mirror()) if part.kind.spot == "side" else (spot,):
                    part.kind.draw(Patch(pen, place), colour, part.form)


def invented_world(*, name: str, structure_seed: int) -> DrawnWorld:
    """The world of a structure seed; another seed gives other names, other bodies and other parts.

    Args:
        name: of the world; its sets are `<name>-small` and so on.
        structure_seed: of everything that is put together at random.
    """
    rng = random.Random(f"structure/{structure_seed}")
    names = _names(rng)
    parts = _PartDealer(rng)
    families = _families(rng)
    kinds: dict[str, Kind] = {}
    members: list[tuple[str, ...]] = []
    for number, family in enumerate(families):
        size = min(FAMILY_SIZE, NUM_CATEGORIES - number * FAMILY_SIZE)
        members.append(tuple(next(names) for _ in range(size)))
        for category in members[-1]:
            own = parts.of_a_category()
            draw = Assembly(family=family, parts=own)
            kinds[category] = Kind(draw=draw, rationales=tuple(part.text for part in own))
    unnamed = tuple(sorted(family[-1] for family in rng.sample(members, NUM_UNNAMED)))
    named = [tuple(each for each in family if each not in unnamed) for family in members]
    return DrawnWorld(
        name=name,
        kinds=kinds,
        unnamed=unnamed,
        sets=_sets(name, kinds=kinds, unnamed=unnamed, families=named, rng=rng),
        look=CUT_PAPER,
    )


def _families(rng: random.Random) -> list[Family]:
    """As many as the categories need, no two of the same shape and proportions."""
    shapes = [(body, proportion) for body in SILHOUETTES.values() for proportion in PROPORTIONS]
    chosen = rng.sample(shapes, -(-NUM_CATEGORIES // FAMILY_SIZE))
    return [Family(body=body.stretch(*ratio), papers=tuple(rng.sample(MUTED, 2))) for body, ratio in chosen]


class _PartDealer:
    """Deals parts to categories: each once, but for those that may be shared."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        kinds = GROWTHS + MARKINGS
        self._spots = tuple(dict.fromkeys(kind.spot for kind in kinds))
        self._fresh: dict[str, list[InventedPart]] = {}
        self._shared: dict[str, list[InventedPart]] = {}
        for spot in self._spots:
            every = [
                InventedPart(kind=kind, form=form, colour=colour)
                for kind in kinds
                if kind.spot == spot
                for form in range(len(kind.texts))
                for colour in COLOURS
            ]
            rng.shuffle(every)
            self._shared[spot] = every[:SHARED_PER_SPOT] * MOST_OWNERS
            self._fresh[spot] = every[SHARED_PER_SPOT:]
            rng.shuffle(self._shared[spot])

    def of_a_category(self) -> tuple[InventedPart, ...]:
        spots = self._rng.sample(self._spots, self._rng.choice(NUM_PARTS))
        return tuple(self._part(spot) for spot in spots)

    def _part(self, spot: str) -> InventedPart:
        is_shared = self._rng.random() < SHARED and bool(self._shared[spot])
        return (self._shared if is_shared else self._fresh)[spot].pop()


def _names(rng: random.Random) -> Iterator[str]:
    """Pronounceable words of two syllables, no two with the same first one."""
    known: set[str] = set()
    while True:
        first = "".join(rng.choice(letters) for letters in (_ONSETS, _VOWELS, _JOINTS))
        second = "".join(rng.choice(letters) for letters in (_MIDDLES, _VOWELS, _CODAS))
        if first not in known:
            known.add(first)
            yield first + second


def _sets(
    name: str,
    *,
    kinds: dict[str, Kind],
    unnamed: tuple[str, ...],
    families: Sequence[tuple[str, ...]],
    rng: random.Random,
) -> dict[str, WorldSet]:
    """Sets of the first world's sizes; `families` are of named categories."""
    pairs = [rng.sample(family, 2) for family in families if len(family) >= 2]
    rng.shuffle(pairs)
    everything = sorted(chain(*families))
    chosen: dict[str, tuple[str, Iterable[str]]] = {
        "small": ("CIFAR-10+: few categories, in pairs that share a body", chain(*pairs[:5])),
        "main": (
            "CIFAR-100+: many categories, some of them neighbours",
            chain(*pairs[5:11], (first for first, _ in pairs[:5]), (second for _, second in pairs[11:24])),
        ),
        "twins": ("Food101+: neighbours share a body and a part tells them apart", chain(*rng.sample(pairs, 11))),
        "new-names": ("Caltech101+: categories whose names pretraining never said", unnamed),
        "chalk": ("SUN397+: another look of the world, in chalk on slate", rng.sample(everything, 30)),
        "large": ("ImageNet+: everything that pretraining named", everything),
    }
    return {
        f"{name}-{short}": WorldSet(
            kinds=kinds,
            categories=tuple(sorted(categories)),
            role=role,
            look=CHALK if short == "chalk" else CUT_PAPER,
        )
        for short, (role, categories) in chosen.items()
    }
