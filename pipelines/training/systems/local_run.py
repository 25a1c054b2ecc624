"""Train a system in this process, on one rank and without Ray, as `ecor train` does on a cluster."""

from pathlib import Path

from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.systems.prompt_trainer import resolve_config
from pipelines.training.systems.registry import SYSTEMS
from pipelines.training.systems.trainer import Trainer, TrainState


def build_trainer(config: TrainConfig, *, vocabulary: Vocabulary, rank: Rank | None = None) -> Trainer:
    """The trainer of `config.system` on the splits of `config.shards`.

    Args:
        config: with a `cache_dir`.
        vocabulary: of the shards.
        rank: of this process; None for the only one.
    """
    assert config.cache_dir is not None
    return SYSTEMS[config.system](
        resolve_config(config),
        vocabulary=vocabulary,
        train=read_split(f"{config.shards}/train", vocabulary=vocabulary),
        validation=read_split(f"{config.shards}/{config.validation_split}", vocabulary=vocabulary),
        rank=rank or Rank(),
        cache_dir=Path(config.cache_dir),
    )


def train_to_end(trainer: Trainer, *, progress: TrainState | None = None) -> TrainState:
    """Train from the beginning, or from a saved state, to the end; returns the last state."""
    for event in trainer.reports(trainer.module(), progress=progress):
        progress = event.progress
    assert progress is not None, "a run makes at least one report"
    return progress
