"""A system's name in, what it says to the loop by which all systems learn out."""

from collections.abc import Mapping

from ecor.config import SystemName
from pipelines.training.eclip_trainer import EclipTraining
from pipelines.training.lico_trainer import LicoTraining
from pipelines.training.prompt_trainer import PromptTrainer
from pipelines.training.trainer import Trainer

SYSTEMS: Mapping[SystemName, type[Trainer]] = {"ecor": PromptTrainer, "eclip": EclipTraining, "lico": LicoTraining}
"""What `ecor train` can learn, by name."""
