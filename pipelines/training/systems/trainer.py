"""Train a system epoch by epoch with validation, early stopping and resumption, on one rank, without Ray or MLflow.

The seed and the epoch or step decide every random draw. So the state of a run is its learned tensors, its optimizer and
a step number, and a resumed run equals one that never stopped.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from operator import add, or_
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from ecor.clip.loading import load_backbone
from ecor.config.checks import require
from ecor.config.model import Preprocess
from ecor.data.vocabulary import Vocabulary
from ecor.training.distributed import Rank
from ecor.training.steps import EvaluationSums, LabelledBatch, Pictures, optimizer_of, training_step
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import (
    PictureReader,
    Split,
    batch_positions,
    fetch_shards,
    num_batches,
    order_of_epoch,
)
from pipelines.training.sample_use import mark_samples, merge_uses
from pipelines.training.systems.train_state import Save, TrainEvent, TrainState
from pipelines.training.systems.training_curve import TrainingCurve
from pipelines.training.unreadable import MOST_NAMED, check_unreadable, merge_reasons

POINTS_PER_EPOCH = 20
"""Points of the training curves per epoch."""


class Trainer(ABC):
    """One rank's part of a run; all ranks take the same steps and report the same events in the same order.

    A system defines what is learned, which input is made from an image, and how the result is validated.
    """

    learned: nn.Module
    """The module whose state is saved; set by the system."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        vocabulary: Vocabulary,
        train: Split,
        validation: Split,
        rank: Rank,
        cache_dir: Path,
    ) -> None:
        """Open the backbone.

        Args:
            config: resolved settings.
            vocabulary: vocabulary of both splits.
            train: samples to learn from.
            validation: samples that decide which state is kept.
            rank: this worker; with several, their process group is open.
            cache_dir: folder of this node for remote shards and image features.

        Raises:
            ValueError: as `ecor.clip.loading.load_backbone`.
        """
        self.config, self.fit = config, config.own_fit
        self.vocabulary = vocabulary
        self.train, self.validation = train, validation
        self.rank = rank
        self.cache_dir = cache_dir
        self.backbone = load_backbone(config.backbone, device=rank.device)
        self.images_per_step = config.batch_size * self.fit.accumulate
        self.steps_per_epoch = num_batches(len(train), batch_size=self.images_per_step)
        self.num_steps = self.steps_per_epoch * config.num_epochs
        self.opening_s = 0.0
        """Duration of verifying shards and computing image features."""
        self._num_unreadable = 0
        self._unreadable: dict[str, str] = {}
        self._opened: list[PictureReader] = []
        self._uses = {each.folder: torch.zeros(len(each), dtype=torch.uint8) for each in (train, validation)}

    # What a system defines

    @abstractmethod
    def module(self) -> nn.Module:
        """Return the module to fit: its forward gives the loss terms of a `LabelledBatch`."""

    @abstractmethod
    def _open(self) -> None:
        """Verify the shards or compute the features; all ranks do this together."""

    @abstractmethod
    def _pictures(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Pictures, Bool[Tensor, " b"]]]:
        """Yield the module's input for each batch of pictures; and which of the pictures could be read."""

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

    def _unreadable_reasons(self, *, before: Mapping[str, str]) -> dict[str, str]:
        """Collect the reasons of both splits from all ranks; every rank must call."""
        reasons = reduce(or_, (reader.reasons for reader in self._opened), self._unreadable)
        return merge_reasons(self.rank.all_gather(reasons), before=before)

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

    def _read(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Pictures, Bool[Tensor, " b"]]]:
        """Yield positions with their `_pictures`; unreadable ones are recorded."""
        for wanted, (pictures, readable) in zip(positions, self._pictures(split, positions), strict=True):
            for position in wanted[~readable.numpy()][: MOST_NAMED - len(self._unreadable)].tolist():
                self._unreadable.setdefault(split.source(position), "")
            mark_samples(self._uses[split.folder], wanted, readable=readable)
            yield wanted, pictures, readable

    def _sample_rationales(self, epoch: int) -> Int[Tensor, " N"]:
        """Choose the rationale that each training picture is trained with in this epoch, by id."""
        return self.train.rationales_of_epoch(epoch)

    def _validation_parts(self) -> list[Int[np.ndarray, " b"]]:
        """Positions of this rank's validation pictures, in batches."""
        mine = np.arange(self.rank.index, len(self.validation), self.rank.num_ranks)
        return [mine[i : i + self.config.batch_size] for i in range(0, len(mine), self.config.batch_size)]

    @property
    def preprocess(self) -> Preprocess:
        """The transform from pictures to pixels."""
        return self.backbone.preprocess

    @cached_property
    def _readers(self) -> dict[str, PictureReader]:
        """Readers of the pictures of both splits, by folder."""
        return {split.folder: self._reader(split) for split in (self.train, self.validation)}

    def _reader(self, split: Split) -> PictureReader:
        paths = fetch_shards(split, rank=self.rank, cache_dir=self.cache_dir)
        num_threads = max(1, int(self.config.cpus_per_worker))
        reader = PictureReader(split, paths=paths, preprocess=self.preprocess, num_threads=num_threads)
        self._opened.append(reader)
        return reader


def make_generator(*numbers: int) -> torch.Generator:
    """Make a generator that is seeded by these numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
