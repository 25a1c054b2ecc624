"""Pinned models: name, version, digests and lineage, of the registry or of a folder. MLflow is not imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ecor.config.checks import require
from ecor.config.choices import SystemName
from ecor.storage.model_records import ArtifactRecord, Checkpoint, read_artifact, read_checkpoint, record_path
from pipelines.config.infrastructure import absolute_address

INITIAL_MODEL = "initial_model"
"""Name, among a model's parents, of the model whose tokens its tuning started from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A pinned model: its name, its version and the digests that it must have."""

    asked_for: str
    """The URI that was resolved; if it holds an alias, the alias may have moved since."""
    uri: str
    """`models:/<name>/<version>`, or the folder of a checkpoint."""
    name: str
    """Registered name, or the folder of a checkpoint."""
    version: str | None
    """None for a plain checkpoint."""
    digest: str
    """Digest of the model without its vocabulary (`ecor.model.Recognizer.digest`)."""
    vocabulary_digest: str
    backbone_digest: str
    run_id: str | None
    """MLflow run that trained it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """A model that tuning started from."""

    digest: str
    """Of the model."""
    uri: str | None
    """Of a version with that digest; None: none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionLineage:
    """What is recorded about the origin of a version."""

    ancestors: tuple[Ancestor, ...] = ()
    """The model that it was tuned from, then the one that that was tuned from, and so on."""
    contests: tuple[str, ...] = ()
    """Digests of the images that decided about its promotion."""
    promotions: tuple[str, ...] = ()
    """Decisions about its promotion, in words."""


def checkpoint_version(folder: str) -> ModelVersion:
    """The checkpoint in a folder as a pinned model without a version; ValueError when there is none."""
    require(
        any(record_path(folder, name) for name in ("checkpoint", *get_args(SystemName))),
        f"{folder} is no model (neither it nor its folder checkpoint/ holds a checkpoint.json): write "
        f"models:/<name>@<alias> or models:/<name>/<version>, or name a folder of `ecor train`",
    )
    checkpoint = read_model_record(folder)
    return ModelVersion(
        asked_for=folder,
        uri=absolute_address(checkpoint.folder),
        name=folder,
        version=None,
        digest=checkpoint.model_digest,
        vocabulary_digest=checkpoint.vocabulary_digest,
        backbone_digest=checkpoint.backbone_digest,
        run_id=checkpoint.run_id,
    )


def read_model_record(folder: str | Path) -> Checkpoint | ArtifactRecord:
    """Read the record of an output of `ecor train`, of any system.

    Raises:
        ValueError: when it is missing or altered.
    """
    for system in get_args(SystemName):
        if record_path(folder, system) is not None:
            return read_artifact(folder, system)
    return read_checkpoint(folder)
