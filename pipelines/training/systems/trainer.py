"""Train a system epoch by epoch with validation, early stopping and resumption, on one rank, without Ray or MLflow.

The seed and the epoch or step decide every random draw. So the state of a run is its learned tensors, its optimizer and
a step number, and a resumed run equals one that never stopped.
"""

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from ecor.config.checks import require
from ecor.training.evaluation_step import EvaluationSums
from ecor.training.steps import LabelledBatch, optimizer_of, training_step
from pipelines.training.data_loader import (
    batch_positions,
    num_batches,
    order_of_epoch,
)
from pipelines.training.sample_use import merge_uses
from pipelines.training.systems.picture_input import PictureInput
from pipelines.training.systems.train_state import Save, TrainEvent, TrainState
from pipelines.training.systems.training_curve import TrainingCurve
from pipelines.training.unreadable import check_unreadable

POINTS_PER_EPOCH = 20
"""Points of the training curves per epoch."""


class Trainer(PictureInput):
    """One rank's part of a run; all ranks take the same steps and report the same events in the same order.

    A system defines what is learned, which input is made from an image, and how the result is validated.
    """

    learned: nn.Module
    """The module whose state is saved; set by the system."""
    opening_s = 0.0
    """Duration of verifying shards and computing image features."""

    # What a system defines

    @abstractmethod
    def module(self) -> nn.Module:
        """Return the module to fit: its forward gives the loss terms of a `LabelledBatch`."""

    @abstractmethod
    def _open(self) -> None:
        """Verify the shards or compute the features; all ranks do this together."""

    @abstractmethod
    def _evaluate(self) -> Iterator[EvaluationSums]:
        """Yield loss and verdicts of this rank's readable validation pictures (`_validation_parts`)."""

    @abstractmethod
    def prepare_save(self, progress: TrainState) -> Save:
        """Prepare the result of the best epoch to be saved; all ranks must call."""

    def describe_metrics(self, metrics: Mapping[str, float]) -> str:
        """Format the metrics of an epoch for its printed line."""
        return (
            f"loss {metrics['validation_loss']:.3f}  RR {metrics['validation_rr']:.1%}  "
            f"accuracy {metrics['validation_accuracy']:.1%}"
        )

    @property
    def num_sentences_cut(self) -> int | None:
        """Number of sentences of the vocabulary that the text tower truncates; None if they were not counted."""
        return None

    @cached_property
    def optimizer(self) -> Optimizer | None:
        """The optimizer; None if there is nothing to learn: the model is then validated once."""
        return optimizer_of(self.fit, self.learned.parameters())

    @property
    def images_per_step(self) -> int:
        return self.config.batch_size * self.fit.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.train), batch_size=self.images_per_step)

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.config.num_epochs

    # The loop

    def reports(self, module: nn.Module, *, progress: TrainState | None = None) -> Iterator[TrainEvent]:
        """Train from the beginning, or from a saved state, until the last epoch ends or `patience` is used up.

        Args:
            module: `self.module()`, wrapped for several ranks or not.
            progress: a saved state of a run with the same settings.

        Raises:
            ValueError: when too many pictures, or all of the validation split, could not be read.
        """
        started = time.perf_counter()
        self._open()
        self.opening_s = time.perf_counter() - started
        if progress is None:
            progress = TrainState(tokens=self._state(), optimizer={})
        elif self.optimizer is not None:
            self.learned.load_state_dict(progress.tokens)
            self.optimizer.load_state_dict(progress.optimizer)
        while not self.is_finished(progress):
            if self.optimizer is None:
                yield self._end_of_epoch(progress, started=time.perf_counter(), num_steps=0)
            else:
                yield from self._epoch(module, progress=progress, optimizer=self.optimizer)

    def is_finished(self, progress: TrainState) -> bool:
        """Whether all epochs are done, or `patience` of them brought no better validation loss."""
        num_done = len(progress.epochs)
        num_epochs = 1 if self.optimizer is None else self.config.num_epochs
        return num_done >= num_epochs or num_done - 1 - progress.best_epoch >= self.config.patience

    def _epoch(self, module: nn.Module, *, progress: TrainState, optimizer: Optimizer) -> Iterator[TrainEvent]:
        epoch, first_step = divmod(progress.step, self.steps_per_epoch)
        started, curve = time.perf_counter(), TrainingCurve()
        for batches in self._batches(epoch=epoch, first_step=first_step):
            outcome = training_step(
                module,
                batches,
                optimizer=optimizer,
                config=self.fit,
                step=progress.step,
                num_steps=self.num_steps,
                generator=self._generator(progress.step),
            )
            progress.step += 1
            curve.add(outcome.terms, gradient_norm=outcome.gradient_norm, learning_rate=outcome.learning_rate)
            if progress.step % max(1, self.steps_per_epoch // POINTS_PER_EPOCH) == 0:
                yield TrainEvent(metrics=curve.mean_over(self.rank), progress=progress)
                curve = TrainingCurve()
            if self._is_due(progress) and progress.step % self.steps_per_epoch != 0:
                yield TrainEvent(metrics={}, progress=self._update_state(progress), is_due=True)
        yield self._end_of_epoch(progress, started=started, num_steps=self.steps_per_epoch - first_step)

    def _end_of_epoch(self, progress: TrainState, *, started: float, num_steps: int) -> TrainEvent:
        trained_s = time.perf_counter() - started
        metrics = self._validate()
        progress.unreadable = self._unreadable_reasons(before=progress.unreadable)
        metrics["num_unreadable"] = check_unreadable(
            self._num_unreadable,
            num_images=num_steps * self.images_per_step,
            reasons=progress.unreadable,
            max_rejected=self.config.max_rejected,
            rank=self.rank,
        )
        self._num_unreadable = 0
        metrics["images_per_s"] = num_steps * self.images_per_step / trained_s
        metrics["train_s"] = trained_s
        metrics["validation_s"] = time.perf_counter() - started - trained_s
        epoch, best = len(progress.epochs), progress.best_epoch
        if best < 0 or metrics["validation_loss"] < progress.epochs[best]["validation_loss"]:
            progress.best_epoch, progress.best_tokens = epoch, self._state()
        progress.epochs.append(metrics)
        progress.seconds += time.perf_counter() - started
        return TrainEvent(
            metrics=metrics, epoch=epoch, progress=self._update_state(progress), is_due=self._is_due(progress)
        )

    def _validate(self) -> dict[str, float]:
        """Compute loss and strict verdicts on the validation split; each rank takes a part of it."""
        found = [step for steps in self.rank.all_gather(list(self._evaluate())) for step in steps]
        require(bool(found), f"no picture of the split {self.config.validation_split} can be read")
        return {f"validation_{name}": value for name, value in reduce(add, found).means().items()}

    def _is_due(self, progress: TrainState) -> bool:
        return progress.step % self.config.checkpoint_every_steps == 0

    def _update_state(self, progress: TrainState) -> TrainState:
        progress.tokens = self._state()
        progress.optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        progress.uses = {
            folder: merge_uses(uses, rank=self.rank, before=progress.uses.get(folder))
            for folder, uses in self._uses.items()
        }
        return progress

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.learned.state_dict().items()}

    def _generator(self, step: int) -> torch.Generator:
        """Make the generator of a step's random numbers; each rank has its own."""
        return make_generator(self.config.seed, step, self.rank.index)

    # What a step learns from

    def _batches(self, *, epoch: int, first_step: int) -> Iterator[list[LabelledBatch]]:
        accumulate, size = self.fit.accumulate, self.config.batch_size
        order = order_of_epoch(len(self.train), seed=self.config.seed, epoch=epoch)
        numbers = range(first_step * accumulate, self.steps_per_epoch * accumulate)
        positions = [batch_positions(order, batch=n, batch_size=size, rank=self.rank) for n in numbers]
        rationales = self._sample_rationales(epoch)
        ready: list[LabelledBatch] = []
        for wanted, pictures, readable in self._read(self.train, positions):
            unknown = torch.full((len(wanted),), -1)
            batch = LabelledBatch(
                pictures=pictures,
                categories=self.train.categories[wanted].where(readable, unknown),
                rationales=rationales[wanted].where(readable, unknown),
            )
            self._num_unreadable += int((~readable).sum())
            ready.append(batch.to(torch.device(self.rank.device)))
            if len(ready) == accumulate:
                yield ready
                ready = []

    def _sample_rationales(self, epoch: int) -> Int[Tensor, " N"]:
        """Choose the rationale that each training picture is trained with in this epoch, by id."""
        return self.train.rationales_of_epoch(epoch)


def make_generator(*numbers: int) -> torch.Generator:
    """Make a generator that is seeded by these numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
