"""Settings of the decoders and scorers of a job, wherever they run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ecor.clip.image_features import ImageSide
from ecor.config.choices import Precision
from ecor.config.model import TextConfig
from ecor.config.scoring import ScoringConfig
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.runtime.actor_resources import Reservation
from pipelines.scoring.decoder import Decoder, images_per_part
from pipelines.scoring.feature_units import FeatureReader
from pipelines.scoring.job import ScoreJob
from pipelines.tracking import model_cache
from pipelines.tracking.model_versions import ModelVersion

if TYPE_CHECKING:
    from pipelines.scoring.attributions import AttributionSettings


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
    image_side: ImageSide | None = None
    """What the model's image side must be, if features are kept or read."""
    keep_features: bool = False
    """Hand the features on with the rows."""


def make_scorer_settings(job: ScoreJob, *, reservation: Reservation) -> ScorerSettings:
    """The settings of a job's scorers."""
    config = job.config
    return ScorerSettings(
        model=job.model,
        tracking=job.tracking,
        vocabulary=job.vocabulary.to_json() if job.vocabulary else None,
        scoring=config.scoring,
        text=shared_text_config(config, num_scorers=reservation.num_scorers),
        batch_size=config.batch_size,
        precision=config.precision,
        use_gpu=config.use_gpu,
        num_threads=reservation.num_threads,
        evidence=job.evidence,
        image_side=job.image_side,
        keep_features=config.keep_features,
    )


def make_reader(job: ScoreJob, *, num_threads: int = 1) -> tuple[type, dict[str, Any]]:
    """The actor that makes parts of the units of a job, and its settings.

    Args:
        job: images or kept features.
        num_threads: threads that decode; an actor of a cluster has one, and there are several actors.
    """
    if job.kept is not None:
        return FeatureReader, {"batch_size": job.config.batch_size}
    return Decoder, {
        "preprocess": job.preprocess,
        "num_images": images_per_part(job.preprocess, batch_size=job.config.batch_size),
        "fast_jpeg": job.config.fast_jpeg,
        "num_threads": num_threads,
    }


def shared_text_config(config: ScoreConfig, *, num_scorers: int) -> TextConfig:
    """Text settings with a cache folder, so that several scorers of a machine share one file of text features."""
    if config.text.cache_dir is not None or num_scorers == 1:
        return config.text
    return replace(config.text, cache_dir=str(model_cache.make_cache_dir().with_name("text")))
