"""Train a system in this process, on one rank and without Ray, as `ecor train` does on a cluster."""

from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.training.systems.prompt_trainer import resolve_config
from pipelines.training.systems.registry import build_trainer
from pipelines.training.systems.train_state import TrainState
from pipelines.training.systems.trainer import Trainer


def build_local_trainer(config: TrainConfig, *, vocabulary: Vocabulary, rank: Rank | None = None) -> Trainer:
    """Build the trainer that `ecor train` would build from the same settings.

    Args:
        config: settings; presets and paths are resolved here.
        vocabulary: vocabulary of the shards.
        rank: this worker; None: the only one.

    Raises:
        ValueError: as `build_trainer`.
    """
    return build_trainer(resolve_config(config), vocabulary=vocabulary, rank=rank or Rank())


def train_to_end(trainer: Trainer, *, progress: TrainState | None = None) -> TrainState:
    """Train from the beginning, or from a saved state, to the end; returns the last state.

    Args:
        trainer: result of `build_local_trainer`.
        progress: a saved state of a run with the same settings.

    Raises:
        ValueError: as `Trainer.reports`.
    """
    for event in trainer.reports(trainer.module(), progress=progress):
        progress = event.progress
    assert progress is not None, "a run makes at least one report"
    return progress
