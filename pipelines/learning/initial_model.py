"""The model that made some labels, which tuning starts from: its version, checkpoint, backbone and vocabulary."""

from dataclasses import dataclass, replace
from pathlib import Path

from ecor.checkpoint import BACKBONE, VOCABULARY
from ecor.config.checks import require
from ecor.config.model import BackboneConfig
from ecor.config.scoring import MethodName
from ecor.config.training import ObjectiveName
from ecor.data.predictions.manifest import PredictionSet
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage import filesystem
from ecor.storage.model_records import Checkpoint, read_checkpoint
from pipelines.config.infrastructure import TrackingConfig, absolute_address
from pipelines.config.learning import LearnConfig
from pipelines.tracking.model_cache import fetch_model, pin_model
from pipelines.tracking.model_versions import ModelVersion

OBJECTIVE_OF: dict[MethodName, ObjectiveName] = {
    "joint": "two_term",
    "inverted": "inverted",
    "independent": "independent",
    "pairs": "pairs",
    "pooled": "three_term",
}
"""The objective that fits the decoding of the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialModel:
    """The model of the labels."""

    version: ModelVersion
    folder: Path
    """Its checkpoint on this machine."""
    checkpoint: Checkpoint
    vocabulary: Vocabulary
    """That the labels were made with."""

    @property
    def backbone(self) -> BackboneConfig:
        """The backbone as the checkpoint names it, or the one inside, if the named one may not be here."""
        config = self.checkpoint.model.backbone
        is_here = config.pretrained in ("embedded", "random") or filesystem.is_file(config.pretrained or "")
        if is_here or not self.checkpoint.has_backbone:
            return config
        inside = self.folder / BACKBONE / BACKBONE
        return replace(config, name=f"{inside}.json", pretrained=f"{inside}.safetensors", preprocess_of=None)


def open_initial_model(config: LearnConfig, predictions: PredictionSet, *, tracking: TrackingConfig) -> InitialModel:
    """Find the model that made the labels.

    Raises:
        ValueError: when it is not where the labels say, is another one by now, has no learned tokens, or the labels
            were made with another vocabulary than its own and `config.vocabulary` does not name it.
    """
    parents = predictions.parents
    is_plain = parents.model_version is None
    uri = config.model or (parents.model_name if is_plain else f"models:/{parents.model_name}/{parents.model_version}")
    try:
        version = pin_model(uri, tracking=tracking)
    except ValueError as error:
        raise ValueError(f"{error}. Learning starts from the model of the labels: name it with --model") from error
    require(
        version.digest == parents.model_digest,
        f"{uri} is model {version.digest[:12]}…, but the labels were made by {parents.model_digest[:12]}…: name that "
        "model with --model",
    )
    folder = fetch_model(version, tracking=tracking)
    checkpoint = read_checkpoint(folder)
    require(
        not checkpoint.model.prompts.is_zero_shot,
        f"{uri} has no prompt tokens, so there is nothing to tune: make a model with `ecor train`, and label with it",
    )
    vocabulary = _vocabulary_of_labels(config, predictions, folder=folder)
    return InitialModel(version=version, folder=folder, checkpoint=checkpoint, vocabulary=vocabulary)


def _vocabulary_of_labels(config: LearnConfig, predictions: PredictionSet, *, folder: Path) -> Vocabulary:
    own = str(folder / VOCABULARY)
    place = own if config.vocabulary is None else absolute_address(config.vocabulary)
    vocabulary = read_vocabulary(place)
    wanted = predictions.parents.vocabulary_digest
    name = "the model's own" if config.vocabulary is None else config.vocabulary
    require(
        vocabulary.digest == wanted,
        f"the labels were made with the vocabulary {wanted[:12]}…, and {name} is {vocabulary.digest[:12]}…: name "
        "theirs with --vocabulary",
    )
    return vocabulary
