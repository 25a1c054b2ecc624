"""Settings of the decoders and scorers of a job, wherever they run."""

from typing import Any

from pipelines.runtime.actor_resources import Reservation
from pipelines.scoring.decoder import images_per_part
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
    )


def decoder_settings(job: ScoreJob) -> dict[str, Any]:
    """The settings of a job's decoders."""
    num_images = images_per_part(job.preprocess, batch_size=job.config.batch_size)
    return {"preprocess": job.preprocess, "num_images": num_images}
