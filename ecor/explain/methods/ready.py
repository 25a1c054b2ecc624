"""A method's name and what was prepared for it in, the method out; or in words what it lacks."""

from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ecor.config import require
from ecor.eclip.guidance import SYSTEM
from ecor.explain.methods.registry import METHODS, NEEDS, Method, method
from ecor.storage import filesystem
from ecor.storage.artifact import read_saved, read_tensors, record_path, require_backbone

PREPARED = {"training": ("projection", "projection"), "lexicon": ("concepts", "lexicon")}
"""Needs that somebody must meet beforehand, the setting that meets each, and what its user names for it."""


def lacking(name: str, settings: Mapping[str, Any]) -> str | None:
    """What a method still needs, in words; None where it can be used."""
    require(name in METHODS, f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    kind = METHODS[name]
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for need, (setting, named) in PREPARED.items():
        if need in kind.needs and settings.get(setting, defaults.get(setting)) is None:
            return f"{name} needs {NEEDS[need]}: give it a {named}"
    return None


def ready(name: str, settings: Mapping[str, Any]) -> Method:
    """The method; ValueError for one that lacks something, and as `ecor.explain.method` raises it."""
    missing = lacking(name, settings)
    require(missing is None, str(missing))
    return method(name, **settings)


def read_settings(name: str, given: Sequence[str]) -> dict[str, Any]:
    """A method's own settings from words such as `num_masks=500` or `compat=reference`.

    Raises ValueError for what is no setting that can be written so, naming those that can, and for a value of another
    kind.
    """
    require(name in METHODS, f"unknown method {name!r}: choose from {', '.join(METHODS)}")
    kinds = {field.name: field.type for field in fields(METHODS[name])}  # type: ignore[arg-type]
    kinds = {key: kind for key, kind in kinds.items() if _is_plain(kind)}
    found = {}
    for words in given:
        key, _, text = words.partition("=")
        require(
            key in kinds and bool(text),
            f"{words!r} is no setting of {name}: write name=value, with {', '.join(kinds) or 'nothing: it has none'}",
        )
        found[key] = _value(text)
        require(_fits(found[key], kinds[key]), f"{words!r}: {key} of {name} is {_told(kinds[key])}")
        found[key] = _as(found[key], kinds[key])
    return found


def _value(text: str) -> Any:
    """A number, True, False, None or a tuple; anything else is a word."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _is_plain(kind: Any) -> bool:
    """Whether values of a field can be written as words: no tensors."""
    if get_origin(kind) is Literal:
        return True
    parts = get_args(kind)
    return all(map(_is_plain, parts)) if parts else kind in (bool, int, float, type(None), ...)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if parts := get_args(kind):
        return any(_fits(value, each) for each in parts)
    return type(value) is kind or (type(value) is int and kind is float)


def _as(value: Any, kind: Any) -> Any:
    """A whole number as a float, where one is meant."""
    if isinstance(value, tuple):
        return tuple(_as(each, get_args(kind)[0]) for each in value)
    return float(value) if kind is float else value


def _told(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(parts)
    if get_origin(kind) is tuple:
        return str(kind)
    return " or ".join(map(_told, parts)) if parts else str(kind.__name__).removesuffix("Type")


def read_projection(path: str | Path, *, backbone_digest: str | None = None) -> dict[str, Float[Tensor, "D F"]]:
    """ECLIP's trained `projection`, and `text_projection` where there is one.

    Args:
        path: what `ecor train --system eclip` made (its run, or `checkpoint/`), or a safetensors file.
        backbone_digest: of the backbone whose patches it will be used on; only a run tells which it was learned on.

    Raises:
        ValueError: for a place that is not there, was altered or holds something else, and for another backbone.
    """
    if record_path(path, SYSTEM) is not None:
        record = read_saved(path, SYSTEM)
        if backbone_digest is not None:
            require_backbone(record, digest=backbone_digest)
        found = read_tensors(record)
    else:
        try:
            found = load(filesystem.read(path))
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path} is no run of `ecor train --system eclip`, and no safetensors file with a projection: {error}"
            ) from error
    expected = {"projection", "text_projection"}
    require(
        "projection" in found and set(found) <= expected and all(each.ndim == 2 for each in found.values()),
        f"{path} should hold a matrix called projection, and perhaps text_projection; it holds {sorted(found)}",
    )
    return found
