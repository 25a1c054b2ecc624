"""The trainers of all systems that `ecor train` knows, by name."""

from collections.abc import Mapping

from ecor.config import SystemName
from pipelines.training.systems.eclip_trainer import EclipTrainer
from pipelines.training.systems.lico_trainer import LicoTrainer
from pipelines.training.systems.prompt_trainer import PromptTrainer
from pipelines.training.systems.trainer import Trainer

SYSTEMS: Mapping[SystemName, type[Trainer]] = {"ecor": PromptTrainer, "eclip": EclipTrainer, "lico": LicoTrainer}
"""What `ecor train` can learn, by name."""
