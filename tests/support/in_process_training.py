"""What a run of `ecor train` learns, in this process: what runs on clusters are held to."""

from pathlib import Path

from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.systems.prompt_trainer import PromptTrainer, resolve_config
from pipelines.training.systems.trainer import TrainState
from tests.support.tiny_splits import VOCABULARY


def tuning_of(config: TrainConfig, rank: Rank | None = None) -> PromptTrainer:
    return PromptTrainer(
        resolve_config(config),
        vocabulary=VOCABULARY,
        train=read_split(f"{config.shards}/train", vocabulary=VOCABULARY),
        validation=read_split(f"{config.shards}/validation", vocabulary=VOCABULARY),
        rank=rank or Rank(),
        cache_dir=Path(str(config.cache_dir)),
    )


def finished(tuning: PromptTrainer, progress: TrainState | None = None) -> TrainState:
    for report in tuning.reports(tuning.module(), progress=progress):
        progress = report.progress
    assert progress is not None
    return progress
