"""Save and load what ECLIP and LICO learned: a folder of tensors with a record of settings and digests.

<system>.json          the record: settings, digests, parents, metrics
<system>.safetensors   what was learned, nothing else
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecor.config.model import BackboneConfig
from ecor.storage import filesystem
from ecor.storage.atomic_write import write_folder
from ecor.storage.digests import file_sha256
from ecor.storage.model_records import ArtifactRecord, artifact_content


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
        text = json.dumps(
            {**artifact_content(record), "run_id": run_id, "digest": record.digest}, indent=1, sort_keys=True
        )
        (unfinished / f"{system}.json").write_text(text + "\n", encoding="utf-8")
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
