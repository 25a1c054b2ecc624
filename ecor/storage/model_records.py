"""Records of saved models: what `ecor.checkpoint` and `ecor.storage.artifact` write, read without torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from ecor.config.checks import parse_record
from ecor.config.choices import SystemName
from ecor.config.model import BackboneConfig, ModelConfig, Preprocess, PromptConfig, TemplateConfig
from ecor.config.scoring import ConfidenceMap, MethodName, Temperatures, VisibilityMap
from ecor.storage import filesystem
from ecor.storage.digests import json_digest

CHECKPOINT_FOLDER = "checkpoint"
"""Folder of the checkpoint in a run's output."""
RECORD = "checkpoint.json"
"""File of a checkpoint's record."""
FORMAT_VERSION = 1
_OPTIONAL = ("visibility", "confidence_maps", "method")
"""Fields that are written only where there are any: older records lack them."""
_Map = TypeVar("_Map", VisibilityMap, ConfidenceMap)
_NOT_IN_DIGEST = ("folder", "run_id", "preprocess", "image_side_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The record of a saved model."""

    folder: str
    """Its address; not part of the digest."""
    model: ModelConfig
    temperatures: Temperatures
    calibrated_on: str | None
    """Digest of the vocabulary that the temperatures were fitted on."""
    model_digest: str
    """`Recognizer.digest`: of all that decides its numbers except the vocabulary."""
    backbone_digest: str
    vocabulary_digest: str
    tokens_sha256: str
    """Of tokens.safetensors."""
    has_backbone: bool
    """Whether the folder contains the backbone's weights."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Digests of its inputs, by name (train_manifest, validation_manifest, config)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the saved tokens, on validation."""
    run_id: str | None = None
    """MLflow run that made it."""
    preprocess: Preprocess | None = None
    """Preprocessing of the backbone, for decoders that do not load the model; None in older records."""
    image_side_digest: str | None = None
    """`ImageSide.model_digest`, to compare image sides without loading a model; None in older records."""
    visibility: Mapping[MethodName, VisibilityMap] = field(default_factory=dict)
    """By decoding method, the map that gives `rationale_visible_probability`; none in older records."""
    confidence_maps: Mapping[MethodName, ConfidenceMap] = field(default_factory=dict)
    """By decoding method, what calibrates `confidence` and P(c | I); none in older records."""
    method: MethodName | None = None
    """The decoding that it was tuned for; none in older records, which decode by `joint`."""
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """sha256 of the record without folder, run, preprocessing and image side."""
        return json_digest(checkpoint_content(self))


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
        return json_digest(artifact_content(self))

    @property
    def model_digest(self) -> str:
        """sha256 of system, settings, backbone and tensors: of everything that changes its results."""
        facts = [self.system, dict(self.settings), self.backbone_digest, self.tensors_sha256]
        return json_digest(facts)


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read the record of a checkpoint folder, or of the run folder that holds it.

    Args:
        folder: local, or in a store.

    Raises:
        ValueError: when there is no checkpoint, or it was altered or has another format.
    """
    found = _find_checkpoint(folder)
    path = filesystem.join(found, RECORD)
    try:
        values = json.loads(filesystem.read(path))
        digest = values.pop("digest")
        model = values.pop("model")
        records = {
            "folder": found,
            "model": ModelConfig(
                backbone=parse_record(BackboneConfig, model["backbone"]),
                prompts=parse_record(PromptConfig, model["prompts"]),
                templates=parse_record(TemplateConfig, model["templates"]),
            ),
            "temperatures": parse_record(Temperatures, values.pop("temperatures")),
            "preprocess": _parse_preprocess(values.pop("preprocess", None)),
            "visibility": _parse_maps(VisibilityMap, values.pop("visibility", {})),
            "confidence_maps": _parse_maps(ConfidenceMap, values.pop("confidence_maps", {})),
        }
        version = values.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:  # before the fields are parsed, which depend on it
            raise ValueError(f"it has format {version}, this version of ecor reads {FORMAT_VERSION}")
        record = parse_record(Checkpoint, {**values, **records})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no checkpoint's record ({error}): save the model again") from error
    if record.digest != digest:
        raise ValueError(f"{path} was altered: it says {digest}, its content has {record.digest}")
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


def _parse_maps(kind: type[_Map], maps: Mapping[MethodName, Mapping[str, Any]]) -> dict[MethodName, _Map]:
    """Maps by decoding method; what JSON has as a list is a tuple in them."""
    return {
        method: parse_record(
            kind, {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
        )
        for method, each in maps.items()
    }


def record_path(folder: str | Path, system: str) -> str | None:
    """Find the address of a system's record; None where there is none.

    Args:
        folder: the folder of the record, or the run folder whose `checkpoint/` holds it.
        system: `eclip` or `lico`.
    """
    base = filesystem.local_path(folder) if filesystem.is_local(folder) else folder
    places = [filesystem.join(each, f"{system}.json") for each in (base, filesystem.join(base, CHECKPOINT_FOLDER))]
    return next((place for place in places if filesystem.is_file(place)), None)


def checkpoint_content(record: Checkpoint) -> dict[str, Any]:
    """What the digest of a checkpoint covers, as JSON values."""
    content = {**asdict(record), "temperatures": record.temperatures.to_record()}
    content["model"]["backbone"] = record.model.backbone.to_record()
    for maps in ("visibility", "confidence_maps"):
        content[maps] = {method: each.to_record() for method, each in getattr(record, maps).items()}
    left_out = {*_NOT_IN_DIGEST, *(name for name in _OPTIONAL if not getattr(record, name))}
    return {name: value for name, value in content.items() if name not in left_out}


def artifact_content(record: ArtifactRecord) -> dict[str, Any]:
    """What the digest of an artifact covers, as JSON values."""
    content = asdict(replace(record, settings=dict(record.settings)))
    content["backbone"] = record.backbone.to_record()
    return {name: value for name, value in content.items() if name not in ("folder", "run_id")}


def _find_checkpoint(folder: str | Path) -> str:
    if filesystem.is_local(folder):
        folder = filesystem.local_path(folder)
    for candidate in (str(folder).rstrip("/"), filesystem.join(folder, CHECKPOINT_FOLDER)):
        if filesystem.is_file(filesystem.join(candidate, RECORD)):
            return candidate
    for system in get_args(SystemName):
        if record_path(folder, system) is not None:
            raise ValueError(
                f"{folder} was made by `ecor train --system {system}` and labels no pictures: `ecor explain` takes it"
            )
    raise ValueError(
        f"neither {folder} nor its folder {CHECKPOINT_FOLDER}/ holds a {RECORD}: name a folder of `ecor train`"
    )


def _parse_preprocess(values: Mapping[str, Any] | None) -> Preprocess | None:
    """Parse preprocessing from JSON, whose lists become tuples."""
    if values is None:
        return None
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return parse_record(Preprocess, lists)
