"""Probe `train`: two short runs of the stage itself, on few and on more images, and what their summaries say."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.training import TrainConfig
from pipelines.stages import train
from pipelines.stages.planning.estimates import (
    NOTHING,
    Cost,
    Estimate,
    Spent,
    Stopwatch,
    mean_of,
    measured_once,
    total,
)
from pipelines.stages.planning.workspace import Workspace, quiet

_EPOCHS = (1, 3, 8)
"""Of the run on few images; at least and at most of the other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProbe:
    """What two short runs show about `train`."""

    fixed: Cost
    """Imports, opening the model, what an epoch does for the first time, calibration, saving, MLflow."""
    opening: Cost
    """Per image of both splits: features, where they are computed once; else next to nothing."""
    step: Cost
    """Per optimizer step."""
    epoch: Cost
    """Per epoch, apart from steps and images: texts."""
    validation: Cost
    """Per image and epoch."""
    checkpoint: str
    """Folder of the trained model."""
    num_validation: int
    """Images of its validation split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A finished run, and its time."""

    spent: Spent
    summary: Mapping[str, Any]

    @property
    def num_images(self) -> int:
        return int(self.summary["num_train"] + self.summary["num_validation"])

    @property
    def steps_per_epoch(self) -> float:
        return float(self.summary["num_steps"] / self.summary["num_epochs"])

    def mean(self, name: str) -> float:
        """Mean of a figure of the epochs."""
        return float(np.mean([epoch[name] for epoch in self.summary["epochs"]]))

    @property
    def rest_s(self) -> float:
        """Seconds of the stage apart from opening and epochs."""
        return float(self.spent.wall_s - self.summary["opening_s"] - self.summary["tuning_s"])

    def cost(self, wall_s: Estimate) -> Cost:
        """With CPU seconds in the proportion that they have in the whole run."""
        return Cost(wall_s=wall_s, cpu_s=wall_s.times(self.spent.cpu_s / self.spent.wall_s))


def probe_train(
    config: TrainConfig, *, small: str, large: str, workspace: Workspace, cluster: ClusterConfig, seconds: float
) -> TrainProbe:
    """Train twice, with one worker on this machine.

    Args:
        config: of the pipeline.
        small: folder of shards of few images.
        large: folder of shards of more images.
        workspace: where the runs go.
        cluster: in this process, or on a Ray started here.
        seconds: of the epochs of the second run, about; it has 3 to 8 of them.

    Raises:
        ValueError: as `pipelines.stages.train.run`.
        OSError: when a disk or a store fails.
    """
    short = _train(config, shards=small, num_epochs=_EPOCHS[0], workspace=workspace, name="run-small", cluster=cluster)
    num_epochs = round(seconds / max(1e-3, short.mean("train_s") + short.mean("validation_s")) / 2)
    num_epochs = min(max(num_epochs, _EPOCHS[1]), _EPOCHS[2])
    long = _train(config, shards=large, num_epochs=num_epochs, workspace=workspace, name="run-large", cluster=cluster)
    return read_probe(short, long, checkpoint=workspace.path("run-large"))


def read_probe(short: _Run, long: _Run, *, checkpoint: str) -> TrainProbe:
    """Costs from the two runs: the difference of their sizes gives what an image costs."""
    few, many = short.summary["num_validation"], long.summary["num_validation"]
    per_image = _slope(short.mean("validation_s"), long.mean("validation_s"), few=few, many=many)
    opening = _slope(short.summary["opening_s"], long.summary["opening_s"], few=short.num_images, many=long.num_images)
    step = NOTHING
    if long.steps_per_epoch:
        step = long.cost(mean_of([epoch["train_s"] / long.steps_per_epoch for epoch in long.summary["epochs"]]))
    first = max(0.0, short.summary["opening_s"] - opening * short.num_images)
    texts_s = max(0.0, long.mean("validation_s") - per_image * many)
    usual_s = step.wall_s.value * short.steps_per_epoch + texts_s + per_image * few
    first += max(0.0, short.summary["tuning_s"] - usual_s * short.summary["num_epochs"])
    return TrainProbe(
        fixed=short.cost(measured_once(short.rest_s + first - per_image * few)),
        opening=long.cost(measured_once(opening)),
        step=step,
        epoch=long.cost(measured_once(texts_s)),
        validation=long.cost(measured_once(per_image)),
        checkpoint=checkpoint,
        num_validation=many,
    )


def train_cost(probe: TrainProbe, config: TrainConfig, *, num_train: Estimate, num_validation: Estimate) -> Cost:
    """Cost of the stage; all epochs in the middle, and at the low end as few as `patience` allows.

    With several workers, steps are divided by their number (our assumption: the exchange of gradients is not measured).

    Args:
        probe: of this machine.
        config: of the pipeline.
        num_train: images to learn from.
        num_validation: images to validate on.
    """
    has_steps = probe.step.wall_s.value > 0
    epochs = float(config.num_epochs if has_steps else 1)
    num_epochs = Estimate(value=epochs, low=min(epochs, config.patience + 1.0), high=epochs)
    size = config.batch_size * config.own_fit.accumulate
    steps = Estimate(**{end: max(1.0, getattr(num_train, end) // size) for end in ("value", "low", "high")})
    return total(
        [
            probe.fixed,
            probe.opening.times(num_train + num_validation),
            probe.step.times(1 / config.num_workers).times(steps).times(num_epochs),
            probe.epoch.times(num_epochs),
            probe.validation.times(num_validation).times(num_epochs),
            probe.validation.times(num_validation),  # calibration encodes them once more
        ]
    )


def _slope(first: float, second: float, *, few: int, many: int) -> float:
    return max(0.0, (second - first) / (many - few)) if many > few else 0.0


def _train(
    config: TrainConfig, *, shards: str, num_epochs: int, workspace: Workspace, name: str, cluster: ClusterConfig
) -> _Run:
    short = replace(
        config,
        shards=shards,
        output=workspace.path(name),
        cache_dir=workspace.path("train-cache"),
        text=replace(config.text, cache_dir=None),
        num_epochs=num_epochs,
        patience=num_epochs,
        num_workers=1,
        init_from=None,
        max_rejected=1.0,
        fresh=False,
    )
    watch = Stopwatch()
    with quiet():
        train.run(short, cluster=cluster, tracking=workspace.tracking)
    return _Run(spent=watch.read(), summary=json.loads(Path(short.output, "summary.json").read_text()))
