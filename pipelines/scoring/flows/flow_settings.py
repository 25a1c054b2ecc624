"""Settings of the decoders and scorers of a job, wherever they run."""

from typing import Any

from pipelines.runtime.actor_resources import Reservation
from pipelines.scoring.decoder import Decoder, images_per_part
from pipelines.scoring.feature_units import FeatureReader
from pipelines.scoring.job import ScoreJob, ScorerSettings, shared_text_config


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


def make_reader(job: ScoreJob) -> tuple[type, dict[str, Any]]:
    """The actor that makes parts of the units of a job, and its settings."""
    if job.kept is not None:
        return FeatureReader, {"batch_size": job.config.batch_size}
    num_images = images_per_part(job.preprocess, batch_size=job.config.batch_size)
    return Decoder, {"preprocess": job.preprocess, "num_images": num_images}
