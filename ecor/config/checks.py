"""Checks of values and of records: each raises ValueError with a message that names the value and the remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

_Kind = TypeVar("_Kind")


def parse_record(kind: type[_Kind], values: Any) -> _Kind:
    """Build a dataclass from JSON values.

    Args:
        kind: the dataclass.
        values: a mapping with one value per field, by name; fields with a default may be left out.

    Raises:
        ValueError: when `values` is no object, lacks a field or has an unknown one (the message names the nearest), or
            when the dataclass refuses a value.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"expected an object with the fields of {kind.__name__}, got {values!r}")
    known = {each.name: each for each in fields(kind) if each.init}  # type: ignore[arg-type]
    for name in set(values) - set(known):
        near = get_close_matches(str(name), known, n=1)
        raise ValueError(f"unknown field {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    for name, each in known.items():
        is_required = each.default is MISSING and each.default_factory is MISSING
        require(name in values or not is_required, f"the field {name!r} is missing")
    return kind(**values)


def require(condition: bool, message: str) -> None:
    """Check a condition.

    Args:
        condition: true where all is well.
        message: the value that was given, and what would do instead.

    Raises:
        ValueError: with `message`, when the condition is false.
    """
    if not condition:
        raise ValueError(message)


def name_some(names: Sequence[str], *, most: int) -> str:
    """The first names of a list, for a message: `a, b and 3 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def require_at_least(name: str, value: float | int, lowest: float | int) -> None:
    """Check the lower limit of a setting.

    Args:
        name: of the setting, for the message.
        value: as given.
        lowest: the smallest value that is allowed.

    Raises:
        ValueError: when `value` is below `lowest`.
    """
    require(value >= lowest, f"{name} must be at least {lowest}, got {value}")
