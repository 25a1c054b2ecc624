"""Plan a scoring job before the first image is read: pinned model, input, vocabulary, preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ecor.checkpoint import read_preprocess
from ecor.config import Preprocess, TextConfig
from ecor.data.predictions import PredictionParents
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring.attributions import AttributionSettings, read_attribution_settings
from pipelines.scoring.work_units import Input, read_input
from pipelines.tracking import model_cache, model_registry
from pipelines.tracking.model_cache import ModelVersion
from pipelines.tracking.model_loading import load_projection

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
    evidence: AttributionSettings | None
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
    model = model_registry.resolve_model(config.model, tracking=tracking)
    images = read_input(config.input, unit_size=config.unit_size, follow_links=config.follow_links)
    vocabulary = read_vocabulary(config.vocabulary) if config.vocabulary else None
    preprocess = read_preprocess(model_cache.fetch_model(model, tracking=tracking))
    projection = None
    if config.explain_projection is not None:
        digest = model.backbone_digest
        projection = load_projection(config.explain_projection, tracking=tracking, backbone_digest=digest)
    return ScoreJob(
        config=config,
        model=model,
        tracking=tracking,
        cluster=cluster,
        input=images,
        vocabulary=vocabulary,
        preprocess=preprocess,
        evidence=read_attribution_settings(config, num_images=images.num_images, projection=projection),
    )


def shared_text_config(config: ScoreConfig, *, num_scorers: int) -> TextConfig:
    """Text settings with a cache folder, so that several scorers of a machine share one file of text features."""
    if config.text.cache_dir is not None or num_scorers == 1:
        return config.text
    return replace(config.text, cache_dir=str(model_cache.default_cache_dir().with_name("text")))
