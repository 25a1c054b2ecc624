"""State of a training run and the events that it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(slots=True, kw_only=True)
class TrainState:
    """State of a run: everything that is needed to resume it."""

    tokens: dict[str, Tensor]
    """All learned tensors by name; for ECOR the prompt tokens."""
    optimizer: dict[str, Any]
    step: int = 0
    """Number of updates done; it gives the epoch and the position in it."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every finished epoch."""
    best_tokens: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1
    seconds: float = 0.0
    """Duration of the finished epochs."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reason why each of the first `MOST_NAMED` unreadable pictures could not be read, by source."""
    uses: dict[str, Tensor] = field(default_factory=dict)
    """State of each sample, by folder of its split, as in `pipelines.training.sample_use`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainEvent:
    """An event of a run: a point of its curves or the end of an epoch, with the state to save."""

    metrics: dict[str, float]
    epoch: int | None = None
    """Number of the epoch that ends here, from 0; None within an epoch."""
    progress: TrainState
    """The state of the run; it changes when the run continues."""
    is_due: bool = False
    """Whether the progress is to be saved: every `checkpoint_every_steps`."""

    @property
    def step(self) -> int:
        """Number of updates done."""
        return self.progress.step

    @property
    def figures(self) -> dict[str, float]:
        """Points of the curves."""
        return self.metrics

    @property
    def unreadable(self) -> dict[str, str]:
        """Reasons why images could not be read so far, by source."""
        return self.progress.unreadable


class Save(Protocol):
    """Writes the result of a run into a new folder."""

    def __call__(
        self, folder: Path, *, parents: Mapping[str, str], metrics: Mapping[str, float], run_id: str | None
    ) -> object: ...
