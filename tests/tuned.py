"""What a run of `ecor train` learns, in this process: what runs on clusters are held to."""

from pathlib import Path

from splits import VOCABULARY

from pipelines.config import TrainConfig
from pipelines.loader import Rank, read_split
from pipelines.tuning import Progress, Tuning, settled


def tuning_of(config: TrainConfig, rank: Rank | None = None) -> Tuning:
    return Tuning(
        settled(config),
        vocabulary=VOCABULARY,
        train=read_split(f"{config.shards}/train", vocabulary=VOCABULARY),
        validation=read_split(f"{config.shards}/validation", vocabulary=VOCABULARY),
        rank=rank or Rank(),
        cache_dir=Path(str(config.cache_dir)),
    )


def finished(tuning: Tuning, progress: Progress | None = None) -> Progress:
    for report in tuning.reports(tuning.module(), progress=progress):
        progress = report.progress
    assert progress is not None
    return progress
