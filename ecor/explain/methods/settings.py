"""Parse settings of an attribution method from `name=value` arguments such as num_masks=500."""

from ast import literal_eval
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from ecor.config.checks import require
from ecor.explain.methods.registry import METHODS


def read_settings(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Parse a method's settings from words such as `num_masks=500` or `compat=reference`.

    Args:
        name: a key of `METHODS`.
        given: words, one per setting.

    Raises:
        ValueError: when the name is unknown, a word sets nothing that can be written so (the message names what can),
            or a value is of another kind.
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
        found[key] = _parse_value(text)
        require(_fits(found[key], kinds[key]), f"{words!r}: {key} of {name} is {_type_text(kinds[key])}")
        found[key] = _convert(found[key], kinds[key])
    return found


def _parse_value(text: str) -> Any:
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


def _convert(value: Any, kind: Any) -> Any:
    """A whole number as a float, where one is meant."""
    if isinstance(value, tuple):
        return tuple(_convert(each, get_args(kind)[0]) for each in value)
    return float(value) if kind is float else value


def _type_text(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(parts)
    if get_origin(kind) is tuple:
        return str(kind)
    return " or ".join(map(_type_text, parts)) if parts else str(kind.__name__).removesuffix("Type")
