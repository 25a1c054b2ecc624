"""Download a pinned model once per machine, and check its digests at every use.

MLflow is imported only for a download. So a process that scores with a cached model starts without it.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from filelock import FileLock

from ecor.config.checks import require
from ecor.config.choices import SystemName
from ecor.storage import filesystem
from ecor.storage.atomic_write import move_into_place, write_folder
from ecor.storage.digests import text_sha256
from ecor.storage.model_records import ArtifactRecord, Checkpoint, read_artifact, read_checkpoint, record_path
from pipelines.config.infrastructure import TrackingConfig, absolute_address, tracking_uri
from pipelines.runtime.prometheus import MODEL_CACHE, count


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


def pin_model(model_uri: str, *, tracking: TrackingConfig) -> ModelVersion:
    """As `model_registry.resolve_model`; MLflow is not imported for the folder of a checkpoint."""
    if not model_uri.startswith("models:"):
        return checkpoint_version(model_uri)
    from pipelines.tracking.model_registry import resolve_model

    return resolve_model(model_uri, tracking=tracking)


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


def fetch_model(model: ModelVersion, *, tracking: TrackingConfig, cache_dir: str | Path | None = None) -> Path:
    """Return a local folder with a pinned model's checkpoint; its digests are checked.

    A model of the registry is downloaded once per machine. A checkpoint on a disk of this machine is not copied.

    Args:
        model: result of `model_registry.resolve_model`.
        tracking: the registry's server; pass `resolve_tracking(tracking)` to workers.
        cache_dir: folder of downloads that all processes of a machine share; None: `default_cache_dir()`.

    Raises:
        ValueError: when the digests differ from those of the registry's record.
        OSError: when the server fails.
    """
    if model.version is None and filesystem.is_local(model.uri):
        return _check_digests(filesystem.local_path(model.uri), model=model)
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    key = text_sha256(f"{tracking_uri(tracking)} {model.uri} {model.digest} {model.vocabulary_digest}")
    cached = cache / key[:32]
    with FileLock(f"{cached}.lock"):
        is_here = cached.exists()
        if not is_here:
            _download(model, target=cached, tracking=tracking)
    count(MODEL_CACHE, outcome="hit" if is_here else "miss")
    return _check_digests(cached, model=model)


def default_cache_dir() -> Path:
    """Return the folder of downloads: `$ECOR_CACHE/models`, else `ecor/models` in XDG_CACHE_HOME or `~/.cache`."""
    own = os.environ.get("ECOR_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecor"
    return base / "models"


def _download(model: ModelVersion, *, target: Path, tracking: TrackingConfig) -> None:
    if model.version is None:
        with write_folder(target) as unfinished, filesystem.local_folder(model.uri) as found:
            _check_digests(shutil.copytree(found, unfinished, dirs_exist_ok=True), model=model)
        return
    # MLflow is slow to import, and only a download needs it
    from mlflow.artifacts import download_artifacts

    from pipelines.tracking.mlflow_client import (
        extract_credentials,
        make_client,
        silence_mlflow,
        translate_mlflow_errors,
    )
    from pipelines.tracking.model_package import ARTIFACT

    client = make_client(tracking)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, silence_mlflow(), translate_mlflow_errors(tracking):
        place = client.get_model_version_download_uri(model.name, str(model.version))
        uri = extract_credentials(tracking)
        found = download_artifacts(f"{place}/artifacts/{ARTIFACT}", dst_path=scratch, tracking_uri=uri)
        _check_digests(Path(found), model=model)
        move_into_place(Path(found), target)


def read_model_record(folder: str | Path) -> Checkpoint | ArtifactRecord:
    """Read the record of an output of `ecor train`, of any system.

    Raises:
        ValueError: when it is missing or altered.
    """
    for system in get_args(SystemName):
        if record_path(folder, system) is not None:
            return read_artifact(folder, system)
    return read_checkpoint(folder)


def _check_digests(folder: Path, *, model: ModelVersion) -> Path:
    checkpoint = read_model_record(folder)
    for name, expected, found in (
        ("model", model.digest, checkpoint.model_digest),
        ("vocabulary", model.vocabulary_digest, checkpoint.vocabulary_digest),
    ):
        if found != expected:
            raise ValueError(f"{model.uri} should be {name} {expected}, but {folder} holds {found}: register it again")
    return folder
