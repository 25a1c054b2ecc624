"""A system's name in, what it says to the loop by which all systems learn out."""

from collections.abc import Mapping

from ecor.config import SystemName
from pipelines.training.systems.eclip_trainer import EclipTraining
from pipelines.training.systems.lico_trainer import LicoTraining
from pipelines.training.systems.prompt_trainer import PromptTrainer
from pipelines.training.systems.trainer import Trainer

SYSTEMS: Mapping[SystemName, type[Trainer]] = {"ecor": PromptTrainer, "eclip": EclipTraining, "lico": LicoTraining}
"""What `ecor train` can learn, by name."""
