"""Make the model card of a registered version its description in MLflow, beside what a stage has done."""

from collections.abc import Sequence
from dataclasses import replace

from ecor.storage.model_records import Checkpoint
from pipelines.cards.model_card import NO_AUDIT, NO_EVALUATION, ModelFacts, model_card
from pipelines.cards.model_records import read_model_facts
from pipelines.config.infrastructure import TrackingConfig
from pipelines.runtime.console import say
from pipelines.tracking.model_cache import fetch_model
from pipelines.tracking.model_versions import ModelVersion, read_model_record
from pipelines.tracking.version_description import describe_version, read_description
from pipelines.tracking.version_lineage import trace_lineage


def describe(version: ModelVersion, facts: ModelFacts, *, tracking: TrackingConfig) -> str:
    """Make the card of these facts the description, unless a person wrote another one; returns what was done."""
    return describe_version(version, model_card(facts), tracking=tracking)


def read_version_facts(
    version: ModelVersion, *, tracking: TrackingConfig, evaluations: Sequence[str] = (), audits: Sequence[str] = ()
) -> ModelFacts:
    """The records of a registered version, which is downloaded once per machine; see `read_model_facts`.

    Raises:
        ValueError: for a record of another model, and as the readers of the records.
        OSError: when the server or a disk fails.
    """
    return read_model_facts(
        _name(version),
        folder=str(fetch_model(version, tracking=tracking)),
        lineage=trace_lineage(version, tracking=tracking),
        evaluations=evaluations,
        audits=audits,
    )


def _name(version: ModelVersion) -> str:
    return f"{version.name}, version {version.version}"


def describe_new_version(
    version: ModelVersion, *, checkpoint: str, with_backbone: bool, tracking: TrackingConfig
) -> None:
    """Give a version without description the card of its checkpoint. An error is only reported.

    Args:
        version: registered just now.
        checkpoint: folder that it was made from.
        with_backbone: the version holds the backbone, even where the checkpoint does not.
        tracking: the registry's server.
    """
    try:
        if read_description(version, tracking=tracking):
            return
        record = read_model_record(checkpoint)
        if isinstance(record, Checkpoint):
            record = replace(record, has_backbone=record.has_backbone or with_backbone)
        facts = ModelFacts(
            name=_name(version),
            checkpoint=record,
            lineage=trace_lineage(version, tracking=tracking),
        )
        describe(version, facts, tracking=tracking)
    except (ValueError, OSError) as error:
        _report(version, error)


def describe_judged_version(version: ModelVersion, *, evaluation: str, tracking: TrackingConfig) -> None:
    """Add an evaluation, and the decision about promotion, to the card of a version. An error is only reported.

    A description with an evaluation or an audit holds more than this, and stays, as does one that a person wrote.

    Args:
        version: that promotion was decided about.
        evaluation: folder of the evaluation that decided.
        tracking: the registry's server.
    """
    try:
        described = read_description(version, tracking=tracking)
        if described and not (NO_EVALUATION in described and NO_AUDIT in described):
            return
        facts = read_version_facts(version, tracking=tracking, evaluations=[evaluation])
        describe(version, facts, tracking=tracking)
    except (ValueError, OSError) as error:
        _report(version, error)


def _report(version: ModelVersion, error: Exception) -> None:
    say(f"{version.uri} has no new model card ({error}): write it with `ecor card {version.uri}`")
