"""One TOML file in, a registered model and a page of explained labels out: the stages chained by their records.

    shard -> train -> register (candidate) -> score and evaluate it on validation, and the champion of the day too
          -> promote, unless the candidate is worse -> score with the champion -> evaluate, if truth is known -> report

Every stage returns its finished record when its parents are the same, so that running the flow again goes on where it
stopped.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ecor.config import require
from ecor.data.predictions import PredictionSet
from ecor.storage import filesystem
from pipelines.config.addresses import check_address
from pipelines.config.infrastructure import resolve_tracking
from pipelines.config.stages import EvaluateConfig, PipelineConfig
from pipelines.runtime import cluster
from pipelines.runtime.prometheus import timed
from pipelines.stages import evaluate, report, score, shard, train
from pipelines.tracking import model_registry
from pipelines.tracking.model_cache import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """Where a pipeline's results are."""

    champion: ModelVersion
    """The version that scored."""
    predictions: PredictionSet
    report: str
    """The page."""


def read_pipeline(path: str | Path) -> PipelineConfig:
    """Settings from a TOML file.

    Raises:
        ValueError: naming the file and every wrong, missing or unknown setting (with the nearest known name); or when
            the path is no path and no address of a store.
        FileNotFoundError: when there is no such file.
    """
    source = str(path)
    check_address(source, name="pipeline")
    if not filesystem.is_file(source):
        raise FileNotFoundError(f"no pipeline file {source}")
    try:
        settings = tomllib.loads(filesystem.read(source).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not TOML: {error}") from error
    return pipeline_from(settings, source=source)


def pipeline_from(settings: Mapping[str, Any], *, source: str) -> PipelineConfig:
    """Settings from nested tables; folders that are left out are put below `output`. Raises ValueError as above."""
    unknown = _unknown_settings(PipelineConfig, settings)
    if unknown:
        raise ValueError(f"{source}: {'; '.join(unknown)}")
    complete = _with_folders(settings, source=source)
    try:
        # By way of JSON, so that strictness allows a list where a tuple is meant and nothing else
        return TypeAdapter(PipelineConfig).validate_json(json.dumps(complete), strict=True)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {_told(each)}" for each in error.errors()]
        raise ValueError(f"{source}: {'; '.join(wrong)}") from None


def _told(error: Mapping[str, Any]) -> str:
    """What pydantic found, without its preamble; the value too where the message does not hold it."""
    message = str(error["msg"]).removeprefix("Value error, ")
    given = "" if error["type"] in ("missing", "value_error") else f", got {error['input']!r}"
    return message + given


def _unknown_settings(kind: type, settings: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """A sentence for every name that `kind` does not have, at any depth."""
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


def _with_folders(settings: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """The settings with every folder that follows from another one written out."""
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


def run(config: PipelineConfig) -> PipelineResult:
    """Run every stage in order; see the module's first lines. ValueError for a system that labels nothing."""
    require(
        config.train.system == "ecor",
        f"a pipeline labels pictures, which {config.train.system} does not: set train.system to ecor, or run "
        f"`ecor train` alone",
    )
    tracking = resolve_tracking(config.tracking)
    with cluster.connect(config.cluster):
        shard.run(config.shard, cluster=config.cluster)
        train.run(config.train, cluster=config.cluster, tracking=tracking)
        with timed("register"):
            candidate = model_registry.register(config.register, tracking=tracking)
        champion = _promoted(replace(config, tracking=tracking), candidate=candidate)
        final = replace(config.score, model=champion.uri)
        predictions = score.run(final, cluster=config.cluster, tracking=tracking)
        if predictions.has_truth:
            with timed("evaluate"):
                evaluate.run(config.evaluate, tracking=tracking)
            config = replace(config, report=replace(config.report, evaluation=config.evaluate.output))
        with timed("report"):
            page = report.run(config.report)
    return PipelineResult(champion=champion, predictions=predictions, report=page)


def _promoted(config: PipelineConfig, *, candidate: ModelVersion) -> ModelVersion:
    """The champion after the contest: the candidate, or the champion of the day where that is better.

    Validation decides (ours). Test must not: the figures at the end are of that split, and would flatter what was
    chosen on it. Nothing was learned on validation, but the candidate's epoch and temperatures were chosen there, which
    favours it a little over a champion that comes from other shards. Who wants a stricter judge gives `ecor promote`
    the evaluations of another split.
    """
    old = model_registry.find(f"models:/{candidate.name}@{config.promote.alias}", tracking=config.tracking)
    if old is not None and old.version == candidate.version:
        return old
    promotion = replace(
        config.promote,
        model=candidate.uri,
        evaluation=_contest(config, version=candidate, role=CANDIDATE),
        champion_evaluation=_contest(config, version=old, role=CHAMPION) if old else None,
    )
    return model_registry.promote(promotion, tracking=config.tracking)


def _contest(config: PipelineConfig, *, version: ModelVersion, role: str) -> str:
    """Score and evaluate one version on the validation split; the folder of the evaluation."""
    place = f"{role}-{version.version}"
    labels = f"{config.output}/labels/{place}"
    scoring = replace(
        config.score,
        input=f"{config.shard.output}/{config.train.validation_split}",
        output=labels,
        model=version.uri,
        vocabulary=f"{config.shard.output}/vocabulary.json",
        explain=None,
    )
    score.run(scoring, cluster=config.cluster, tracking=config.tracking)
    evaluation = EvaluateConfig(predictions=(labels,), output=f"{config.output}/evaluation/{place}")
    evaluate.run(evaluation, tracking=config.tracking)
    return evaluation.output
