"""Types of drawn worlds: kinds of things with their parts, and named evaluation sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ecor.demo.art.canvas import Pen
from ecor.demo.worlds.styles import PLAIN, Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A category of drawn things."""

    # draws one thing of the kind; every rationale is a part that it may leave out
    draw: Callable[[Pen], None]
    # the parts by which the kind is recognised, in the order of their labels
    rationales: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSet:
    """A named evaluation set: which categories, drawn how."""

    # of the whole world: how the categories are drawn
    kinds: Mapping[str, Kind] = field(repr=False, compare=False)
    categories: tuple[str, ...]
    # the DROR set whose role it plays
    role: str
    # share of scenes with a second, smaller thing of the same set
    two_things: float = 0.3
    # chance that a specimen lacks a given part
    part_missing: float = 0.35
    # range of the factor by which things are smaller or larger than a picture book's
    size: tuple[float, float] = (0.65, 1.0)
    # shapes that may stand in front, the chance of each, and the factor of their size
    num_occluders: int = 3
    occlusion: float = 0.45
    occluder_size: float = 1.5
    # the strongest film grain, in grey levels of 255
    grain: float = 14.0
    # spread of the things' turns, in degrees
    tilt: float = 16.0
    # the largest share of contrast that fog takes away
    fog: float = 0.5
    # of the world, or one that pretraining never saw
    look: Look = PLAIN


@dataclass(frozen=True, kw_only=True)
class DrawnWorld:
    """Everything that can be drawn of one world; its sets are named `<name>-<role>`."""

    name: str
    kinds: Mapping[str, Kind]
    # pretraining draws these and captions their parts, but never says their names
    unnamed: tuple[str, ...]
    # small, main, twins, new names, another look, large
    sets: Mapping[str, WorldSet]
    # that pretraining sees
    look: Look

    @cached_property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @cached_property
    def rationales(self) -> tuple[str, ...]:
        """Every rationale text of the world, each once, in order of first use."""
        return tuple(dict.fromkeys(text for kind in self.kinds.values() for text in kind.rationales))

    @cached_property
    def own_rationales(self) -> tuple[tuple[int, ...], ...]:
        """Per category the ids of its rationales."""
        return tuple(tuple(self.rationales.index(text) for text in kind.rationales) for kind in self.kinds.values())

    @cached_property
    def named(self) -> tuple[int, ...]:
        """Ids of the categories whose names pretraining says."""
        return tuple(k for k, category in enumerate(self.categories) if category not in self.unnamed)
