"""Save a Recognizer to a checkpoint folder, and load it again with every part checked by digest.

checkpoint.json      the record: settings, temperatures, digests, parents, metrics
tokens.safetensors   learned tokens, nothing else
vocabulary.json      DROR's flat form
backbone/            optional: architecture and weights, for machines without a model hub
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.choices import Precision
from ecor.config.model import BackboneConfig, Preprocess, PromptConfig, TextConfig
from ecor.data.vocabulary import read_vocabulary
from ecor.model import Recognizer
from ecor.storage import filesystem
from ecor.storage.atomic_write import write_folder
from ecor.storage.digests import file_sha256
from ecor.storage.model_records import RECORD, Checkpoint, checkpoint_content, read_checkpoint

TOKENS, VOCABULARY, BACKBONE = "tokens.safetensors", "vocabulary.json", "backbone"


def save_checkpoint(
    recognizer: Recognizer,
    folder: str | Path,
    *,
    parents: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    run_id: str | None = None,
    with_backbone: bool = False,
) -> Checkpoint:
    """Save a model as a checkpoint folder; an existing one is replaced atomically.

    Args:
        recognizer: the model.
        folder: a local folder.
        parents: digests of what it was made from, by name.
        metrics: of the model, on validation.
        run_id: of the MLflow run that made it.
        with_backbone: put the backbone's weights inside.
    """
    with write_folder(folder) as unfinished:
        save_file(recognizer.tokens(), unfinished / TOKENS)
        (unfinished / VOCABULARY).write_text(recognizer.vocabulary.to_json(), encoding="utf-8")
        if with_backbone:
            recognizer.backbone.save(unfinished / BACKBONE)
        record = Checkpoint(
            folder=str(Path(folder)),
            model=recognizer.config,
            temperatures=recognizer.temperatures,
            calibrated_on=recognizer.calibrated_on,
            visibility=recognizer.visibility,
            confidence_maps=recognizer.confidence_maps,
            method=recognizer.method,
            model_digest=recognizer.digest,
            backbone_digest=recognizer.backbone.digest,
            vocabulary_digest=recognizer.vocabulary.digest,
            tokens_sha256=file_sha256(unfinished / TOKENS),
            has_backbone=with_backbone,
            parents=dict(parents or {}),
            metrics=dict(metrics or {}),
            run_id=run_id,
            preprocess=recognizer.backbone.preprocess,
            image_side_digest=recognizer.image_side.model_digest,
        )
        beside = {
            "run_id": run_id,
            "preprocess": asdict(recognizer.backbone.preprocess),
            "image_side_digest": record.image_side_digest,
            "digest": record.digest,
        }
        text = json.dumps({**checkpoint_content(record), **beside}, indent=1, sort_keys=True)
        (unfinished / RECORD).write_text(text + "\n", encoding="utf-8")
    return record


def read_preprocess(folder: str | Path) -> Preprocess:
    """Read the preprocessing of a saved model from its record; older records lack it, then the model is loaded.

    Args:
        folder: local, or in a store.

    Raises:
        ValueError: when there is no such model, or its record was altered.
    """
    return read_checkpoint(folder).preprocess or load(folder).backbone.preprocess


def read_image_side(folder: str | Path) -> str:
    """Read `ImageSide.model_digest` of a saved model from its record; older records lack it, then the model is loaded.

    Args:
        folder: local, or in a store.

    Raises:
        ValueError: when there is no such model, or its record was altered.
    """
    return read_checkpoint(folder).image_side_digest or load(folder).image_side.model_digest


def load(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: Precision | None = None,
    text: TextConfig | None = None,
    backbone: Backbone | None = None,
) -> Recognizer:
    """Load a saved model, and check every part against its digest.

    Args:
        folder: written by `save_checkpoint`, or the run folder that holds it as `checkpoint/`; local, or a URL that
            fsspec opens.
        device: where it runs.
        precision: another than it was tuned with; None: the same.
        text: where text features are kept; None: the default.
        backbone: towers that are open already; None: open those that the record names.

    Raises:
        ValueError: when there is no checkpoint, a part is missing or altered, or the backbone is not the one the tokens
            were tuned on.

    Example:
        >>> import ecor
        >>> model = ecor.load("run/checkpoint")  # doctest: +SKIP
        >>> model.predict(["a.jpg"]).to_pandas()  # doctest: +SKIP
    """
    if not filesystem.is_local(folder):
        with filesystem.local_folder(read_checkpoint(folder).folder) as local:
            copy = load(local, device=device, precision=precision, text=text, backbone=backbone)
            return copy.with_name(str(folder))
    record = read_checkpoint(folder)
    vocabulary = read_vocabulary(Path(record.folder) / VOCABULARY)
    _require_digest(vocabulary.digest, record.vocabulary_digest, what=f"{VOCABULARY} of {record.folder}")
    backbone = backbone or load_backbone(
        _backbone_config(record, precision=precision), device=device, digest=record.backbone_digest
    )
    _require_backbone(record, backbone)
    recognizer = Recognizer(
        backbone=backbone,
        prompts=_load_prompts(record, backbone),
        vocabulary=vocabulary,
        templates=record.model.templates,
        temperatures=record.temperatures,
        calibrated_on=record.calibrated_on,
        visibility=record.visibility,
        confidence_maps=record.confidence_maps,
        method=record.method,
        text_config=text,
        name=str(folder),
    )
    _require_digest(recognizer.digest, record.model_digest, what=f"the model in {record.folder}")
    return recognizer


def load_tokens(folder: str | Path, *, backbone: Backbone, prompts: PromptConfig) -> dict[str, Tensor]:
    """Load the learned tokens of a saved model, for tuning that starts from them.

    Args:
        folder: as for `load`.
        backbone: that they will be tuned on.
        prompts: numbers and places of the tokens that will be tuned.

    Raises:
        ValueError: when there is no checkpoint or it was altered, the backbone is another one, or the model has other
            numbers or places of tokens.
    """
    if not filesystem.is_local(folder):
        with filesystem.local_folder(read_checkpoint(folder).folder) as local:
            return load_tokens(local, backbone=backbone, prompts=prompts)
    record = read_checkpoint(folder)
    if backbone.digest != record.backbone_digest:
        raise ValueError(
            f"tuning cannot start from {folder}: its tokens are of the backbone {record.backbone_digest[:12]}… "
            f"({record.model.backbone.name}), not of {backbone.digest[:12]}… ({backbone.config.name}): "
            "name that backbone"
        )
    places = ["rationale_tokens", "category_tokens", "visual_tokens"]
    places += ["visual_depth", "visual_shared"] if prompts.visual_tokens else []
    theirs, ours = ({name: getattr(each, name) for name in places} for each in (record.model.prompts, prompts))
    differing = [f"{name} {theirs[name]}, not {ours[name]}" for name in places if theirs[name] != ours[name]]
    if differing:
        raise ValueError(f"tuning cannot start from {folder}, which has {'; '.join(differing)}: set prompts to its own")
    return {name: value.cpu() for name, value in _load_prompts(record, backbone).state_dict().items()}


def _require_backbone(record: Checkpoint, backbone: Backbone) -> None:
    """Raise ValueError unless the backbone and its preprocessing are those of the record."""
    if backbone.digest != record.backbone_digest:
        raise ValueError(
            f"the tokens of {record.folder} were tuned on backbone {record.backbone_digest}, but "
            f"{record.model.backbone.name} is {backbone.digest}: name those weights, or save the checkpoint with its "
            f"backbone inside"
        )
    if record.preprocess not in (None, backbone.preprocess):
        raise ValueError(
            f"{RECORD} of {record.folder} was altered: it says {record.preprocess}, the backbone has "
            f"{backbone.preprocess}"
        )


def _load_prompts(record: Checkpoint, backbone: Backbone) -> PromptLearner:
    """The learned tokens, checked against their digest."""
    path = Path(record.folder) / TOKENS
    _require_digest(_tokens_sha256(path), record.tokens_sha256, what=f"{TOKENS} of {record.folder}")
    prompts = PromptLearner(record.model.prompts, backbone)
    try:
        prompts.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold the tokens of its record ({error}): save it again") from error
    return prompts


def _backbone_config(record: Checkpoint, *, precision: Precision | None) -> BackboneConfig:
    """Config of the backbone inside the checkpoint if there is one, else of the one it names."""
    config = record.model.backbone
    if record.has_backbone:
        inside = Path(record.folder) / BACKBONE / BACKBONE
        config = replace(config, name=f"{inside}.json", pretrained=f"{inside}.safetensors", preprocess_of=None)
    return config if precision is None else replace(config, precision=precision)


def _tokens_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: save the model again") from error


def _require_digest(found: str, expected: str, *, what: str) -> None:
    if found != expected:
        raise ValueError(f"{what} was altered: its digest is {found}, the record says {expected}")
