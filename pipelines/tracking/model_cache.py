"""Download a pinned model once per machine, and check its digests at every use.

MLflow is imported only for a download. So a process that scores with a cached model starts without it.
"""

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from ecor.config.checks import require
from ecor.storage import filesystem
from ecor.storage.atomic_write import move_into_place, write_folder
from ecor.storage.digests import text_sha256
from pipelines.config.infrastructure import TrackingConfig, tracking_uri
from pipelines.runtime.prometheus import MODEL_CACHE, count
from pipelines.tracking.model_versions import ModelVersion, checkpoint_version, read_model_record


def pin_model(model_uri: str, *, tracking: TrackingConfig) -> ModelVersion:
    """As `model_registry.resolve_model`; MLflow is not imported for the folder of a checkpoint."""
    if not model_uri.startswith("models:"):
        return checkpoint_version(model_uri)
    from pipelines.tracking.model_registry import resolve_model

    return resolve_model(model_uri, tracking=tracking)


def fetch_model(model: ModelVersion, *, tracking: TrackingConfig, cache_dir: str | Path | None = None) -> Path:
    """Return a local folder with a pinned model's checkpoint; its digests are checked.

    A model of the registry is downloaded once per machine. A checkpoint on a disk of this machine is not copied.

    Args:
        model: result of `model_registry.resolve_model`.
        tracking: the registry's server; pass `resolve_tracking(tracking)` to workers.
        cache_dir: folder of downloads that all processes of a machine share; None: `make_cache_dir()`.

    Raises:
        ValueError: when the digests differ from those of the registry's record.
        OSError: when the server fails.
    """
    if model.version is None and filesystem.is_local(model.uri):
        return _check_digests(filesystem.local_path(model.uri), model=model)
    cache = Path(cache_dir) if cache_dir is not None else make_cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    key = text_sha256(f"{tracking_uri(tracking)} {model.uri} {model.digest} {model.vocabulary_digest}")
    cached = cache / key[:32]
    with FileLock(f"{cached}.lock"):
        is_here = cached.exists()
        if not is_here:
            _download(model, target=cached, tracking=tracking)
    count(MODEL_CACHE, outcome="hit" if is_here else "miss")
    return _check_digests(cached, model=model)


def make_cache_dir() -> Path:
    """Make the folder of downloads: `$ECOR_CACHE/models`, else `ecor/models` in XDG_CACHE_HOME or `~/.cache`.

    A user without a home, as in many containers, has it in the folder for temporary files, closed to other users.

    Raises:
        OSError: when the folder cannot be made where a variable says.
        ValueError: when the folder for temporary files holds one of another user.
    """
    own, shared = os.environ.get("ECOR_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(own) if own else Path(shared or Path.home() / ".cache") / "ecor"
        (base / "models").mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        if own or shared:
            raise
        base = Path(tempfile.gettempdir()) / f"ecor-{os.getuid()}"
        (base / "models").mkdir(parents=True, exist_ok=True)
        require(
            base.lstat().st_uid == os.getuid(),
            f"{base} belongs to another user, and there is no home: name a folder for models with ECOR_CACHE",
        )
        base.chmod(0o700)
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


def _check_digests(folder: Path, *, model: ModelVersion) -> Path:
    checkpoint = read_model_record(folder)
    for name, expected, found in (
        ("model", model.digest, checkpoint.model_digest),
        ("vocabulary", model.vocabulary_digest, checkpoint.vocabulary_digest),
    ):
        if found != expected:
            raise ValueError(f"{model.uri} should be {name} {expected}, but {folder} holds {found}: register it again")
    return folder
