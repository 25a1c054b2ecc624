"""The trainers of all systems that `ecor train` knows, by name."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ecor.config import SystemName
from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import read_split
from pipelines.training.systems.eclip_trainer import EclipTrainer
from pipelines.training.systems.lico_trainer import LicoTrainer
from pipelines.training.systems.prompt_trainer import PromptTrainer
from pipelines.training.systems.trainer import Trainer

SYSTEMS: Mapping[SystemName, type[Trainer]] = {"ecor": PromptTrainer, "eclip": EclipTrainer, "lico": LicoTrainer}
"""What `ecor train` can learn, by name."""


def build_trainer(config: TrainConfig, *, vocabulary: Vocabulary, rank: Rank) -> Trainer:
    """The trainer of `config.system` on the splits of `config.shards`.

    Args:
        config: resolved settings (`prompt_trainer.resolve_config`).
        vocabulary: of the shards.
        rank: of this worker; with several, their process group is open.
    """
    return SYSTEMS[config.system](
        config,
        vocabulary=vocabulary,
        train=read_split(f"{config.shards}/train", vocabulary=vocabulary),
        validation=read_split(f"{config.shards}/{config.validation_split}", vocabulary=vocabulary),
        rank=rank,
        cache_dir=Path(config.cache_dir or Path(tempfile.gettempdir()) / "ecor-cache"),
    )
