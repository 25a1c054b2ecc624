"""Select the settings that shape a stage's output; a run resumes only where these are equal.

A setting shapes the output unless its field says otherwise, so a new setting counts by default.
"""

from collections.abc import Mapping
from dataclasses import Field, asdict, fields, is_dataclass
from types import MappingProxyType
from typing import Any

from ecor.config.choices import SystemName

_KEY = "shapes_output"
NOT_IN_OUTPUT: Mapping[str, Any] = MappingProxyType({_KEY: False})
"""Metadata of a setting that does not change the output, or whose content is already in a digest."""


def shapes_output_of(*systems: SystemName) -> Mapping[str, Any]:
    """Metadata of a setting that shapes the output of these systems only."""
    return MappingProxyType({_KEY: systems})


def output_settings(config: Any) -> dict[str, Any]:
    """Select the settings that shape a stage's output, by name, as JSON values.

    Args:
        config: settings of a stage, a dataclass. If fields name systems, those of `config.system` count.
    """
    system: SystemName | None = getattr(config, "system", None)
    return {
        each.name: _json_value(getattr(config, each.name))
        for each in fields(config)
        if _shapes_output(each, system=system)
    }


def describe_changes(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Name the settings of a record that are not those asked for: `top_k was 5, is 3; …`; empty where all are equal."""
    names = [name for name in {**found, **asked} if found.get(name) != asked.get(name)]
    return "; ".join(f"{name} was {found.get(name)}, is {asked.get(name)}" for name in names)


def _shapes_output(setting: Field[Any], *, system: SystemName | None) -> bool:
    shapes = setting.metadata.get(_KEY, True)
    return shapes if isinstance(shapes, bool) else system in shapes


def _json_value(value: Any) -> Any:
    if hasattr(value, "to_record"):
        return value.to_record()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
