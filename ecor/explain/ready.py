"""A method's name and what was prepared for it in, the method out; or in words what it lacks."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ecor import store
from ecor.config import require
from ecor.explain.methods import METHODS, NEEDS, Method, method

PREPARED = {"training": "projection", "lexicon": "concepts"}
"""Needs that somebody must meet beforehand, and the setting that meets each."""


def lacking(name: str, settings: Mapping[str, Any]) -> str | None:
    """What a method still needs, in words; None where it can be used."""
    require(name in METHODS, f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    kind = METHODS[name]
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for need, setting in PREPARED.items():
        if need in kind.needs and settings.get(setting, defaults.get(setting)) is None:
            return f"{name} needs {NEEDS[need]}: give it a {setting}"
    return None


def ready(name: str, settings: Mapping[str, Any]) -> Method:
    """The method; ValueError for one that lacks something, and as `ecor.explain.method` raises it."""
    missing = lacking(name, settings)
    require(missing is None, str(missing))
    return method(name, **settings)


def read_projection(path: str | Path) -> dict[str, Float[Tensor, "D F"]]:
    """ECLIP's trained `projection`, and `text_projection` where there is one, from a safetensors file anywhere.

    Raises ValueError for a file that is not there, or holds something else.
    """
    try:
        found = load(store.read(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no safetensors file with a projection: {error}") from error
    expected = {"projection", "text_projection"}
    require(
        "projection" in found and set(found) <= expected and all(each.ndim == 2 for each in found.values()),
        f"{path} should hold a matrix called projection, and perhaps text_projection; it holds {sorted(found)}",
    )
    return found
