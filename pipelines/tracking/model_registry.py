"""Register checkpoints as versions of MLflow models, and resolve model URIs to pinned versions.

`mlflow_runs` handles runs, and `model_package` the content of a model. Stages call the functions of this module.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from ecor.config.checks import require
from ecor.storage.model_records import ArtifactRecord, Checkpoint
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import RegisterConfig
from pipelines.tracking.mlflow_client import display_uri, make_client, silence_mlflow, translate_mlflow_errors
from pipelines.tracking.mlflow_runs import (
    finish_run,
    has_run,
    log_balance,
    log_evaluation,
    log_folder,
    log_metrics,
    log_tags,
    recorded_run,
    start_training_run,
)
from pipelines.tracking.model_versions import ModelVersion, checkpoint_version, read_model_record
from pipelines.tracking.run_params import flatten
from pipelines.tracking.version_lookup import describe_registry, look_up_version

__all__ = [
    "CONTEST_TAG",
    "DIGEST_TAG",
    "PARENT_TAG",
    "find_version",
    "finish_run",
    "has_run",
    "log_balance",
    "log_evaluation",
    "log_folder",
    "log_metrics",
    "log_tags",
    "read_lineage",
    "read_version_lineage",
    "record_contest",
    "recorded_run",
    "register_model",
    "resolve_model",
    "start_training_run",
]


_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_DIGEST_TAGS = {name: f"ecor.{name}" for name in ("digest", "vocabulary_digest", "backbone_digest")}
DIGEST_TAG = _DIGEST_TAGS["digest"]
_CHECKPOINT_TAG, _BACKBONE_INSIDE_TAG = "ecor.checkpoint_digest", "ecor.with_backbone"
_SYSTEM_TAG = "ecor.system"
PARENT_TAG, CONTEST_TAG = "ecor.parent.", "ecor.promotion_decided_on."


def register_model(config: RegisterConfig, *, tracking: TrackingConfig) -> ModelVersion:
    """Register a checkpoint as a version of a model, and set the alias on it.

    An artifact of another system than ECOR is registered without a pyfunc flavor: it is downloaded and loaded by
    `ecor`. Registering the same checkpoint again, packed the same way, returns the existing version.

    Raises:
        ValueError: when the folder holds no checkpoint, or the server does not answer.
    """
    checkpoint = read_model_record(config.checkpoint)
    client = make_client(tracking)
    tags = _version_tags(checkpoint, with_backbone=config.with_backbone)
    with silence_mlflow(), translate_mlflow_errors(tracking):
        version = _find_same_version(client, name=config.name, tags=tags)
        if version is None:
            run_id = _training_run(checkpoint, tracking=tracking)
            model_id, location = _log_model(client, checkpoint=checkpoint, config=config, run_id=run_id)
            _ensure_registered_model(client, name=config.name)
            made = client.create_model_version(
                config.name, source=location, run_id=run_id, tags=tags, model_id=model_id
            )
            version = str(made.version)
            linked = json.dumps([{"name": config.name, "version": version}])
            client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: linked})
        if config.alias:
            client.set_registered_model_alias(config.name, config.alias, version)
    return resolve_model(f"models:/{config.name}/{version}", tracking=tracking)


def resolve_model(model_uri: str, *, tracking: TrackingConfig) -> ModelVersion:
    """Pin a model: resolve an alias to its current version. Call it once, on the driver.

    Args:
        model_uri: `models:/<name>@<alias>`, `models:/<name>/<version>`, or the folder of a checkpoint.
        tracking: the registry's server; not used for a folder.

    Raises:
        ValueError: when the model, alias or version does not exist; the message lists those that do.
    """
    if not model_uri.startswith("models:"):
        return checkpoint_version(model_uri)
    parts = _URI.fullmatch(model_uri)
    if parts is None:
        raise ValueError(f"{model_uri} is no model URI: write models:/<name>@<alias> or models:/<name>/<version>")
    client = make_client(tracking)
    with silence_mlflow(), translate_mlflow_errors(tracking):
        found = look_up_version(client, **parts.groupdict())
    if found is None:
        raise ValueError(
            f"there is no {model_uri} on {display_uri(tracking)}: {describe_registry(client, name=parts['name'])}"
        )
    digests = {name: found.tags.get(tag) for name, tag in _DIGEST_TAGS.items()}
    require(None not in digests.values(), f"{model_uri} was not registered by `ecor register`: register its checkpoint")
    return ModelVersion(
        asked_for=model_uri,
        uri=f"models:/{found.name}/{found.version}",
        name=found.name,
        version=str(found.version),
        run_id=found.run_id,
        **digests,
    )


def find_version(model_uri: str, *, tracking: TrackingConfig) -> ModelVersion | None:
    """Pin a model as `resolve_model`, but return None for a registered model, alias or version that does not exist.

    Args:
        model_uri: as `resolve_model` takes it.
        tracking: the registry's server; not used for a folder.

    Raises:
        ValueError: for a text that is no model URI and no checkpoint folder, and for a version that `ecor register` did
            not make.
        OSError: when the server fails.
    """
    parts = _URI.fullmatch(model_uri)
    with translate_mlflow_errors(tracking):
        if parts is not None and look_up_version(make_client(tracking), **parts.groupdict()) is None:
            return None
    return resolve_model(model_uri, tracking=tracking)


def read_lineage(name: str, version: str, *, tracking: TrackingConfig) -> tuple[str, dict[str, str]]:
    """Digest of a version, and digests of what it was made from and chosen by; ValueError if it does not exist."""
    with silence_mlflow(), translate_mlflow_errors(tracking):
        found = look_up_version(make_client(tracking), name=name, version=version, alias=None)
    require(found is not None, f"there is no models:/{name}/{version} on {display_uri(tracking)}")
    chosen_by = (PARENT_TAG, CONTEST_TAG)
    lineage = {tag.removeprefix(PARENT_TAG): value for tag, value in found.tags.items() if tag.startswith(chosen_by)}
    return found.tags.get(DIGEST_TAG, ""), lineage


def read_version_lineage(version: ModelVersion, *, tracking: TrackingConfig) -> dict[str, str]:
    """As `read_lineage`, of a pinned model that may be a plain checkpoint; without its digest."""
    if version.version is None:
        return dict(read_model_record(version.uri).parents)
    return read_lineage(version.name, version.version, tracking=tracking)[1]


def record_contest(version: ModelVersion, *, input_digest: str, tracking: TrackingConfig) -> None:
    """Note on a version that images with this digest decided about its promotion."""
    client = make_client(tracking, probe=False)
    with translate_mlflow_errors(tracking):
        client.set_model_version_tag(version.name, version.version, CONTEST_TAG + input_digest[:16], input_digest)


def _version_tags(checkpoint: Checkpoint | ArtifactRecord, *, with_backbone: bool) -> dict[str, str]:
    return {
        _DIGEST_TAGS["digest"]: checkpoint.model_digest,
        _DIGEST_TAGS["vocabulary_digest"]: checkpoint.vocabulary_digest,
        _DIGEST_TAGS["backbone_digest"]: checkpoint.backbone_digest,
        _CHECKPOINT_TAG: checkpoint.digest,
        _BACKBONE_INSIDE_TAG: str(
            isinstance(checkpoint, Checkpoint) and (checkpoint.has_backbone or with_backbone)
        ).lower(),
        _SYSTEM_TAG: checkpoint.system if isinstance(checkpoint, ArtifactRecord) else "ecor",
        **{f"{PARENT_TAG}{name}": digest for name, digest in checkpoint.parents.items()},
    }


def _find_same_version(client: MlflowClient, *, name: str, tags: Mapping[str, str]) -> str | None:
    """Find the newest version with these tags; None if there is none."""
    found = client.search_model_versions(f"name = '{name}' AND tag.`{_CHECKPOINT_TAG}` = '{tags[_CHECKPOINT_TAG]}'")
    same = [each for each in found if each.tags.get(_BACKBONE_INSIDE_TAG) == tags[_BACKBONE_INSIDE_TAG]]
    return max((str(each.version) for each in same), key=int, default=None)


def _training_run(checkpoint: Checkpoint | ArtifactRecord, *, tracking: TrackingConfig) -> str:
    """Return the run that trained the checkpoint if this server has it, else a new run for the registration."""
    if checkpoint.run_id is not None and has_run(tracking, run_id=checkpoint.run_id):
        return checkpoint.run_id
    parents = {f"{PARENT_TAG}{name}": digest for name, digest in checkpoint.parents.items()}
    with recorded_run(tracking, name="register_model", params={}, tags=parents) as run_id:
        return run_id


def _log_model(
    client: MlflowClient, *, checkpoint: Checkpoint | ArtifactRecord, config: RegisterConfig, run_id: str
) -> tuple[str, str]:
    """Upload the packed model; returns its id and its location.

    The steps of `mlflow.pyfunc.log_model`, without its global state (tracking URI and run).
    """
    # Both import what a served model needs; a job that only looks up a version does without
    from mlflow.models import Model

    from pipelines.tracking.model_package import write_artifact, write_model

    settings = checkpoint.settings if isinstance(checkpoint, ArtifactRecord) else asdict(checkpoint.model)
    params = {name: str(value) for name, value in flatten(settings)}
    logged = client.create_logged_model(
        client.get_run(run_id).info.experiment_id, name=config.name, source_run_id=run_id, params=params
    )
    with tempfile.TemporaryDirectory() as scratch:
        record = Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id
        )
        folder = Path(scratch) / "model"
        if isinstance(checkpoint, ArtifactRecord):
            write_artifact(checkpoint, folder, model=record)
        else:
            write_model(checkpoint, folder, model=record, with_backbone=config.with_backbone)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged.model_id, logged.artifact_location


def _ensure_registered_model(client: MlflowClient, *, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise ValueError(f"the registry refuses the model name {name!r}: {error.message}") from error
