"""The trainers of all systems that `ecor train` knows, by name."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ecor.config.choices import SystemName
from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.systems.eclip_trainer import EclipTrainer
from pipelines.training.systems.lico_trainer import LicoTrainer
from pipelines.training.systems.prompt_trainer import PromptTrainer
from pipelines.training.systems.trainer import Trainer

SYSTEMS: Mapping[SystemName, type[Trainer]] = {"ecor": PromptTrainer, "eclip": EclipTrainer, "lico": LicoTrainer}
"""Trainers by name of the system."""


def build_trainer(config: TrainConfig, *, vocabulary: Vocabulary, rank: Rank) -> Trainer:
    """Build the trainer of `config.system` on the splits of `config.shards`.

    Args:
        config: resolved settings (`prompt_trainer.resolve_config`).
        vocabulary: vocabulary of the shards.
        rank: this worker; with several, their process group is open.

    Raises:
        ValueError: as `read_split` and `ecor.clip.loading.load_backbone`.
    """
    return SYSTEMS[config.system](
        config,
        vocabulary=vocabulary,
        train=read_split(f"{config.shards}/train", vocabulary=vocabulary),
        validation=read_split(f"{config.shards}/{config.validation_split}", vocabulary=vocabulary),
        rank=rank,
        cache_dir=Path(config.cache_dir or Path(tempfile.gettempdir()) / "ecor-cache"),
    )
