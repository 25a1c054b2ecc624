"""Promote a registered version to an alias, unless it is worse than the version that has it (`ecor promote`)."""

import logging
from collections.abc import Mapping
from typing import Any

from ecor.config.checks import require
from ecor.evaluation.record import difference_of_folders, read_evaluation
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import PromoteConfig
from pipelines.runtime.console import say
from pipelines.tracking.mlflow_client import make_client, translate_mlflow_errors
from pipelines.tracking.model_registry import find_version, record_contest, resolve_model
from pipelines.tracking.model_versions import ModelVersion

_log = logging.getLogger(__name__)


def run(config: PromoteConfig, *, tracking: TrackingConfig | None = None) -> ModelVersion:
    """Move the alias to a version, unless that is worse than the version that has it.

    The rule (ours): the difference in strict RR, candidate minus champion, over the held-out images that both have
    labelled, with its paired bootstrap interval. If the whole interval is below zero, or the two were not compared,
    the champion stays, unless `force` is set. The decision and its numbers are written to tags of the candidate, and
    with the evaluation to its model card. The caller chooses the held-out images: `ecor run` uses validation
    (`pipelines.stages.pipeline`).

    Returns:
        The version that has the alias now.

    Raises:
        ValueError: when the model is not a registered version, only the champion's evaluation is given, an evaluation
            does not exist or is of another version, or the two evaluations are of different images.
    """
    tracking = tracking or TrackingConfig()
    candidate = resolve_model(config.model, tracking=tracking)
    require(candidate.version is not None, f"{config.model} is not registered: run `ecor register` first")
    require(
        config.champion_evaluation is None or config.evaluation is not None,
        "champion_evaluation is compared with evaluation: name both",
    )
    champion = find_version(f"models:/{candidate.name}@{config.alias}", tracking=tracking)
    is_barred, grounds = _compare_with_champion(config, candidate=candidate, champion=champion)
    decision = ("forced" if config.force else "refused") if is_barred else "promoted"
    if config.evaluation is not None:
        decided_on = str(read_evaluation(config.evaluation).results[0].parents["input_digest"])
        for version in [candidate, *([champion] if champion is not None else [])]:
            record_contest(version, input_digest=decided_on, tracking=tracking)
    client = make_client(tracking, probe=False)
    with translate_mlflow_errors(tracking):
        client.set_model_version_tag(candidate.name, candidate.version, f"ecor.{config.alias}.{decision}", grounds)
        if decision != "refused":
            client.set_registered_model_alias(candidate.name, config.alias, str(candidate.version))
    if config.evaluation is not None:
        _describe(candidate, evaluation=config.evaluation, tracking=tracking)
    if decision != "refused":
        say(f"{config.alias} is now {candidate.uri}", to_stdout=True)
        return candidate
    assert champion is not None, "only a rival bars a candidate"
    _log.warning("%s is not promoted: %s; --force promotes it all the same", candidate.uri, grounds)
    say(f"{config.alias} is still {champion.uri}", to_stdout=True)
    return champion


def _describe(version: ModelVersion, *, evaluation: str, tracking: TrackingConfig) -> None:
    """Add evaluation and decision to the model card of a version."""
    from pipelines.cards.version_card import describe_judged_version  # the card reads what a decision does not need

    describe_judged_version(version, evaluation=evaluation, tracking=tracking)


def _compare_with_champion(
    config: PromoteConfig, *, candidate: ModelVersion, champion: ModelVersion | None
) -> tuple[bool, str]:
    """Whether the champion stays, and the reason in words."""
    images = (
        None if config.evaluation is None else _check_evaluation(config.evaluation, version=candidate)["input_digest"]
    )
    if champion is None or champion.version == candidate.version:
        return False, "no rival"
    if config.evaluation is None or config.champion_evaluation is None:
        return True, f"not compared with {champion.uri}: name evaluation and champion_evaluation"
    inputs = {images, _check_evaluation(config.champion_evaluation, version=champion)["input_digest"]}
    if len(inputs) > 1:
        raise ValueError(
            f"{config.evaluation} is of other images than {config.champion_evaluation} "
            f"({' and '.join(sorted(inputs))}): score the same split with both"
        )
    gap = difference_of_folders(config.evaluation, config.champion_evaluation)
    grounds = f"strict RR less that of {champion.uri}: {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
    return gap.high < 0, f"{grounds} over {gap.num_images} images"


def _check_evaluation(evaluation: str, *, version: ModelVersion) -> Mapping[str, Any]:
    """The parents of an evaluation's predictions; ValueError when they are of another model."""
    parents = read_evaluation(evaluation).results[0].parents
    if parents.get("model_digest") != version.digest:
        raise ValueError(
            f"{evaluation} is of model {parents.get('model_digest')}, but {version.uri} is {version.digest}: evaluate "
            f"the labels that it made"
        )
    return parents
