"""What a run of `ecor train` learns, in this process: what runs on clusters are compared with."""

from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.training.systems.local_run import build_local_trainer, train_to_end
from pipelines.training.systems.prompt_trainer import PromptTrainer
from pipelines.training.systems.train_state import TrainState
from tests.support.tiny_splits import VOCABULARY


def tuning_of(config: TrainConfig, rank: Rank | None = None) -> PromptTrainer:
    """The trainer of prompts on the tiny splits."""
    trainer = build_local_trainer(config, vocabulary=VOCABULARY, rank=rank)
    assert isinstance(trainer, PromptTrainer)
    return trainer


def finished(tuning: PromptTrainer, progress: TrainState | None = None) -> TrainState:
    """The last state of the run."""
    return train_to_end(tuning, progress=progress)
