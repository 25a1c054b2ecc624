"""Look up drawn worlds and their sets by name."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import get_args

from ecor.config.choices import WorldName
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.demo.worlds.invented import invented_world
from ecor.demo.worlds.schema import DrawnWorld, WorldSet

WORLDS: tuple[WorldName, ...] = get_args(WorldName)

_MADE: Mapping[str, Callable[[], DrawnWorld]] = {
    "demo": lambda: FAMILIAR,
    "other": lambda: invented_world(name="other", structure_seed=1),
}


@cache
def get_world(name: str) -> DrawnWorld:
    """Return the world of a name.

    Raises:
        ValueError: when there is none; the message lists the names.
    """
    if name not in _MADE:
        raise ValueError(f"no drawn world {name!r}: choose one of {', '.join(_MADE)}")
    return _MADE[name]()


@cache
def all_sets() -> Mapping[str, WorldSet]:
    """The sets of all worlds, world by world."""
    return {name: each for world in WORLDS for name, each in get_world(world).sets.items()}


def world_set(name: str) -> WorldSet:
    """Return the set of a name.

    Raises:
        ValueError: when there is none; the message lists the names.
    """
    if name not in all_sets():
        raise ValueError(f"no set {name!r} in the drawn worlds: choose one of {', '.join(all_sets())}")
    return all_sets()[name]


def set_vocabulary(set_name: str) -> dict[str, list[str]]:
    """Return the categories of a set with their rationales, in DROR's flat form.

    Raises:
        ValueError: when there is no set of that name.
    """
    chosen = world_set(set_name)
    return {category: list(chosen.kinds[category].rationales) for category in chosen.categories}
