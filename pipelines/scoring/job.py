"""Plan a scoring job before the first image is read: pinned model, input, vocabulary, preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecor.config.choices import Precision
from ecor.config.model import Preprocess, TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions import PredictionParents
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.storage.model_records import read_checkpoint
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring.inputs import Input, read_input
from pipelines.tracking import model_cache
from pipelines.tracking.model_versions import ModelVersion

if TYPE_CHECKING:
    from pipelines.scoring.attributions import AttributionSettings

_DIGESTS = ("input_digest", "model_digest", "vocabulary_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """A planned scoring job."""

    config: ScoreConfig
    model: ModelVersion
    tracking: TrackingConfig
    cluster: ClusterConfig
    input: Input
    vocabulary: Vocabulary | None
    """Vocabulary to use instead of the model's own."""
    preprocess: Preprocess
    evidence: "AttributionSettings | None"
    """Which images get heat maps, and how."""

    @property
    def vocabulary_digest(self) -> str:
        return self.vocabulary.digest if self.vocabulary else self.model.vocabulary_digest

    @property
    def identity(self) -> dict[str, Any]:
        """The values that must be equal for finished units to be reused; all rows of a folder are of one model."""
        return {
            "input_digest": self.input.digest,
            "model_name": self.model.name,
            "model_version": self.model.version,
            "model_digest": self.model.digest,
            "vocabulary_digest": self.vocabulary_digest,
            **output_settings(self.config),
            **({} if self.evidence is None else {"evidence": self.evidence.identity}),
        }

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of input, model and vocabulary, written to each commit record and to the MLflow run."""
        return {name: self.identity[name] for name in _DIGESTS}

    @property
    def parents(self) -> PredictionParents:
        return PredictionParents(
            input=self.config.input,
            input_digest=self.input.digest,
            model_uri=self.model.asked_for,
            model_name=self.model.name,
            model_version=self.model.version,
            model_digest=self.model.digest,
            vocabulary_digest=self.vocabulary_digest,
        )

    def exceeds_rejected(self, num_rejected: int) -> bool:
        """Whether more than the allowed share of all images is rejected."""
        return num_rejected > self.config.max_rejected * self.input.num_images


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings:
    """Settings of a scoring actor; sent to the actor's machine."""

    model: ModelVersion
    tracking: TrackingConfig
    """With an absolute URI (`pipelines.config.infrastructure.resolve_tracking`)."""
    vocabulary: str | None
    """JSON of the vocabulary to use instead of the model's own."""
    scoring: ScoringConfig
    text: TextConfig
    batch_size: int
    precision: Precision
    use_gpu: bool
    num_threads: int
    """Torch threads on the CPU; Ray's default is one."""
    evidence: "AttributionSettings | None" = None
    """Which rows get heat maps; None: no heat maps, and no column for them."""


def plan_job(config: ScoreConfig, *, cluster: ClusterConfig, tracking: TrackingConfig) -> ScoreJob:
    """Pin the model and list the input; the model is downloaded, but not loaded.

    Args:
        config: settings of the stage.
        cluster: where the job runs.
        tracking: the registry's server.

    Raises:
        ValueError: for a model, input, vocabulary or attribution method that does not exist or does not fit.
        OSError: when the registry's server or a store fails.
    """
    model = model_cache.pin_model(config.model, tracking=tracking)
    images = read_input(config.input, unit_size=config.unit_size, follow_links=config.follow_links)
    vocabulary = read_vocabulary(config.vocabulary) if config.vocabulary else None
    preprocess = _read_preprocess(model_cache.fetch_model(model, tracking=tracking))
    return ScoreJob(
        config=config,
        model=model,
        tracking=tracking,
        cluster=cluster,
        input=images,
        vocabulary=vocabulary,
        preprocess=preprocess,
        evidence=_read_evidence(config, model=model, tracking=tracking, num_images=images.num_images),
    )


def _read_preprocess(folder: Path) -> Preprocess:
    """As `ecor.checkpoint.read_preprocess`; torch is imported for older records only."""
    found = read_checkpoint(folder).preprocess
    if found is not None:
        return found
    from ecor.checkpoint import read_preprocess

    return read_preprocess(folder)


def _read_evidence(
    config: ScoreConfig, *, model: ModelVersion, tracking: TrackingConfig, num_images: int
) -> "AttributionSettings | None":
    """Which images get heat maps; torch is imported only where the settings speak of them."""
    names = ("explain", "explain_projection", "explain_lexicon", "explain_settings")
    if not any(getattr(config, name) for name in names):
        return None
    from pipelines.scoring.attributions import read_attribution_settings
    from pipelines.tracking.model_loading import load_projection

    projection = None
    if config.explain_projection is not None:
        digest = model.backbone_digest
        projection = load_projection(config.explain_projection, tracking=tracking, backbone_digest=digest)
    return read_attribution_settings(config, num_images=num_images, projection=projection)


def shared_text_config(config: ScoreConfig, *, num_scorers: int) -> TextConfig:
    """Text settings with a cache folder, so that several scorers of a machine share one file of text features."""
    if config.text.cache_dir is not None or num_scorers == 1:
        return config.text
    return replace(config.text, cache_dir=str(model_cache.default_cache_dir().with_name("text")))
