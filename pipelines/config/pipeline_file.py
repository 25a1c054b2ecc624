"""Read the settings of a pipeline from a TOML file, and check them."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ecor.config.address_types import StoreAddress
from ecor.data.name_parsing import decode_utf8
from ecor.storage import filesystem
from pipelines.config.addresses import CheckedSettings, check_address
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.reporting import EvaluateConfig, ReportConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig, ShardConfig
from pipelines.config.training import TrainConfig

CANDIDATE, CHAMPION = "candidate", "champion"
"""Default aliases of the newly trained model, and of the model that scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig(CheckedSettings):
    """Settings of a whole pipeline, as in one TOML file. Folders that are not named are below `output`."""

    output: StoreAddress
    """Folder of all records: `shards/`, `run/`, `labels/`, `evaluation/`, `report.html`."""
    shard: ShardConfig
    train: TrainConfig
    register: RegisterConfig
    promote: PromoteConfig
    score: ScoreConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def read_pipeline(path: str | Path) -> PipelineConfig:
    """Read the settings of a pipeline from a TOML file.

    Raises:
        ValueError: names the file and every wrong, missing or unknown setting, with the nearest known name. Also when
            `path` is neither a path nor the address of a store.
        FileNotFoundError: when there is no such file.
    """
    source = str(path)
    check_address(source, name="pipeline")
    if not filesystem.is_file(source):
        raise FileNotFoundError(f"no pipeline file {source}")
    try:
        settings = tomllib.loads(decode_utf8(filesystem.read(source), source=source))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    return parse_pipeline(settings, source=source)


def parse_pipeline(settings: Mapping[str, Any], *, source: str) -> PipelineConfig:
    """Check the settings of a pipeline, given as nested tables.

    Folders that are not named are put below `output`.

    Args:
        settings: a table per stage, as in the TOML file.
        source: name of the file, for errors.

    Raises:
        ValueError: as `read_pipeline`.
    """
    unknown = _unknown_settings(PipelineConfig, settings)
    if unknown:
        raise ValueError(f"{source}: {'; '.join(unknown)}")
    complete = _fill_folders(settings, source=source)
    try:
        # Through JSON: the strict mode then accepts a list for a tuple, and nothing else
        return TypeAdapter(PipelineConfig).validate_json(json.dumps(complete), strict=True)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {_error_line(each)}" for each in error.errors()]
        raise ValueError(f"{source}: {'; '.join(wrong)}") from None


def _error_line(error: Mapping[str, Any]) -> str:
    """Pydantic's message without its prefix, with the value if the message does not hold it."""
    message = str(error["msg"]).removeprefix("Value error, ")
    given = "" if error["type"] in ("missing", "value_error") else f", got {error['input']!r}"
    return message + given


def _unknown_settings(kind: type, settings: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Make a message for every name that is no field of `kind`, at any depth."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    found = []
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            found.append(f"unknown setting {prefix}{name}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
        elif is_dataclass(hints[name]) and isinstance(value, Mapping):
            found += _unknown_settings(hints[name], value, prefix=f"{prefix}{name}.")
    return found


def _fill_folders(settings: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Fill in the default folder of every stage, below `output` or that of an earlier stage."""
    root = str(settings.get("output", "")).rstrip("/")
    defaults: dict[str, dict[str, Any]] = {
        "shard": {"output": f"{root}/shards"},
        "train": {"shards": f"{root}/shards", "output": f"{root}/run"},
        "register": {"checkpoint": f"{root}/run"},
        "promote": {},
        "score": {"input": f"{root}/shards/test", "output": f"{root}/labels/final"},
        "evaluate": {"predictions": [f"{root}/labels/final"], "output": f"{root}/evaluation/final"},
        "report": {"predictions": f"{root}/labels/final", "output": f"{root}/report.html"},
    }
    given = {name: settings.get(name, {}) for name in defaults}
    odd = [name for name, section in given.items() if not isinstance(section, Mapping)]
    if odd:
        raise ValueError(f"{source}: {odd[0]} must be a section [{odd[0]}] of settings, got {given[odd[0]]!r}")
    name = given["register"].get("name", "ecor")
    defaults["promote"] = {"model": f"models:/{name}@{CANDIDATE}"}
    defaults["score"]["model"] = f"models:/{name}@{given['promote'].get('alias', CHAMPION)}"
    return {**settings, **{section: defaults[section] | dict(given[section]) for section in defaults}}
