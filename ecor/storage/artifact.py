"""Save and load what ECLIP and LICO learned: a folder of tensors with a record of settings and digests.

<system>.json          the record: settings, digests, parents, metrics
<system>.safetensors   what was learned, nothing else
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecor.config import BackboneConfig, parse_record
from ecor.storage import filesystem
from ecor.storage.atomic_write import write_folder
from ecor.storage.digests import file_sha256, json_digest

CHECKPOINT_FOLDER = "checkpoint"
"""Folder of the checkpoint in a run's output."""
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """Record of a learned artifact other than a Recognizer."""

    folder: str
    """Its address; not part of the digest."""
    system: str
    """The system that made it: `eclip` or `lico`."""
    settings: Mapping[str, Any]
    """All settings that change the result, except the backbone: JSON values."""
    backbone: BackboneConfig
    """The backbone it was trained on."""
    backbone_digest: str
    vocabulary_digest: str
    """Of the vocabulary it was trained on."""
    tensors_sha256: str
    """Of the tensors' file."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Digests of its inputs, by name (train_manifest, validation_manifest, config)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """On validation."""
    run_id: str | None = None
    """MLflow run that made it."""
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """sha256 of the record without folder and run."""
        return json_digest(_content(self))

    @property
    def model_digest(self) -> str:
        """sha256 of system, settings, backbone and tensors: of everything that changes its results."""
        facts = [self.system, dict(self.settings), self.backbone_digest, self.tensors_sha256]
        return json_digest(facts)


def save_artifact(
    system: str,
    tensors: Mapping[str, Tensor],
    folder: str | Path,
    *,
    settings: Mapping[str, Any],
    backbone: BackboneConfig,
    backbone_digest: str,
    vocabulary_digest: str,
    parents: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    run_id: str | None = None,
) -> ArtifactRecord:
    """Save tensors and their record in a folder, atomically; an existing folder is replaced.

    Args:
        system: `eclip` or `lico`: the name of both files.
        tensors: the learned tensors, by name.
        folder: local.
        settings: all settings that change the result, except the backbone: JSON values.
        backbone: the backbone that the tensors were trained on.
        backbone_digest: its digest.
        vocabulary_digest: of the vocabulary that they were trained on.
        parents: digests of the inputs, by name.
        metrics: on validation.
        run_id: MLflow run that made it.
    """
    with write_folder(folder) as unfinished:
        save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished / f"{system}.safetensors")
        record = ArtifactRecord(
            folder=str(Path(folder)),
            system=system,
            settings=json.loads(json.dumps(settings)),
            backbone=backbone,
            backbone_digest=backbone_digest,
            vocabulary_digest=vocabulary_digest,
            tensors_sha256=file_sha256(unfinished / f"{system}.safetensors"),
            parents=dict(parents or {}),
            metrics=dict(metrics or {}),
            run_id=run_id,
        )
        text = json.dumps({**_content(record), "run_id": run_id, "digest": record.digest}, indent=1, sort_keys=True)
        (unfinished / f"{system}.json").write_text(text + "\n", encoding="utf-8")
    return record


def read_artifact(folder: str | Path, system: str) -> ArtifactRecord:
    """Read the record of a folder, or of the run folder that holds it.

    Args:
        folder: local, or in a store.
        system: `eclip` or `lico`.

    Raises:
        ValueError: when there is no record of that system, or it was altered or has another format.
    """
    path = record_path(folder, system)
    if path is None:
        raise ValueError(
            f"neither {folder} nor its folder {CHECKPOINT_FOLDER}/ holds a {system}.json: name a folder of "
            f"`ecor train --system {system}`"
        )
    try:
        values = json.loads(filesystem.read(path))
        digest = values.pop("digest")
        backbone = parse_record(BackboneConfig, values.pop("backbone"))
        record = parse_record(ArtifactRecord, {**values, "backbone": backbone, "folder": path.rpartition("/")[0]})
        if record.format_version != FORMAT_VERSION:
            raise ValueError(f"it has format {record.format_version}, this version of ecor reads {FORMAT_VERSION}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no record of {system} ({error}): save it again") from error
    if record.digest != digest:
        raise ValueError(f"{path} was altered: it says {digest}, its content has {record.digest}")
    return record


def read_tensors(record: ArtifactRecord) -> dict[str, Tensor]:
    """Load the tensors of an artifact.

    Raises:
        ValueError: when the file is missing or altered, or holds no tensors.
    """
    with filesystem.local_folder(record.folder) as folder:
        path = folder / f"{record.system}.safetensors"
        found = file_sha256(path) if path.is_file() else "missing"
        if found != record.tensors_sha256:
            raise ValueError(f"{path} is {found}, its record says {record.tensors_sha256}: save it again")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} holds no tensors ({error}): save it again") from error


def record_path(folder: str | Path, system: str) -> str | None:
    """Find the address of a system's record; None where there is none.

    Args:
        folder: the folder of the record, or the run folder whose `checkpoint/` holds it.
        system: `eclip` or `lico`.
    """
    base = filesystem.local_path(folder) if filesystem.is_local(folder) else folder
    places = [filesystem.join(each, f"{system}.json") for each in (base, filesystem.join(base, CHECKPOINT_FOLDER))]
    return next((place for place in places if filesystem.is_file(place)), None)


def require_backbone(record: ArtifactRecord, *, digest: str) -> None:
    """Check that an artifact was trained on a backbone.

    Args:
        record: of the artifact.
        digest: of the backbone.

    Raises:
        ValueError: when the artifact was trained on another one.
    """
    if record.backbone_digest != digest:
        raise ValueError(
            f"{record.folder} was learned on backbone {record.backbone_digest} ({record.backbone.name}), not on "
            f"{digest}: open that one"
        )


def _content(record: ArtifactRecord) -> dict[str, Any]:
    content = asdict(replace(record, settings=dict(record.settings)))
    content["backbone"] = record.backbone.to_record()
    return {name: value for name, value in content.items() if name not in ("folder", "run_id")}
