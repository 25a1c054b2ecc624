"""A system's name in, what it says to the loop by which all systems learn out."""

from collections.abc import Mapping

from ecor.config import SystemName
from pipelines.eclip import EclipTraining
from pipelines.learning import Learning
from pipelines.lico import LicoTraining
from pipelines.tuning import Tuning

SYSTEMS: Mapping[SystemName, type[Learning]] = {"ecor": Tuning, "eclip": EclipTraining, "lico": LicoTraining}
"""What `ecor train` can learn, by name."""
