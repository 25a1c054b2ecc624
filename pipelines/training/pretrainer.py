"""Pretrain a small CLIP step by step on captioned images, on one rank, without Ray or MLflow.

Seed and step decide every batch, and the state of the generator that drops image tokens is saved. So a run that
resumes, also with another number of ranks, equals one that never stopped.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ecor.clip.backbone import Backbone
from ecor.config.checks import require
from ecor.training.caption_batches import BatchPart, CaptionSource, PretrainingBatch, TokenTable, tokenize_batch
from ecor.training.contrastive import (
    Pretrainer,
    build_pretrainer,
    full_weights,
    pretraining_optimizer,
    pretraining_step,
)
from ecor.training.distributed import Rank
from ecor.training.schedules import warmup_cosine
from pipelines.config.training import PretrainConfig
from pipelines.training.sample_use import merge_uses
from pipelines.training.unreadable import check_unreadable, merge_reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainState:
    """State of a run: everything that is needed to resume it."""

    weights: dict[str, Tensor]
    """Weights of the model with its small token table and its attribute head."""
    optimizer: dict[str, Any]
    generator: Tensor
    """State of the generator that drops image tokens."""
    step: int
    """Number of updates done."""
    num_unreadable: int
    """Pictures that could not be read, on all ranks."""
    seconds: float
    """Duration of these steps."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reason why each of the first `MOST_NAMED` unreadable pictures could not be read, by source."""
    uses: Tensor | None = None
    """State of each sample, as in `pipelines.training.sample_use`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainEvent:
    """An event of a run: points of its curves, with the state if it must be saved."""

    step: int
    metrics: dict[str, float]
    """Means since the last report, and `images_per_s`."""
    judged: dict[str, float]
    """Results of the source's own evaluation, on rank 0, every `judge_every_steps`."""
    unreadable: dict[str, str]
    """Reason why each of the first `MOST_NAMED` unreadable pictures could not be read so far, by source."""
    progress: PretrainState | None
    """State to be saved; None if it need not be saved now."""

    @property
    def figures(self) -> dict[str, float]:
        """Points of the curves, and results of the source's evaluation."""
        return self.metrics | self.judged


class Pretraining:
    """One rank's part of a run; all ranks take the same steps and report the same events in the same order."""

    def __init__(self, config: PretrainConfig, *, backbone: Backbone, source: CaptionSource, rank: Rank) -> None:
        """Make the first weights from the seed.

        Args:
            config: settings of the run.
            backbone: a model of the architecture to train, with any weights, on the CPU. It also evaluates the weights.
            source: gives the batches.
            rank: this worker; with several, their process group is open.

        Raises:
            ValueError: when the architecture does not fit the settings or the source.
        """
        self.config, self.source, self.rank = config, source, rank
        self.backbone = backbone
        self._part = BatchPart(index=rank.index, num=rank.num_ranks)
        self.table = TokenTable(backbone.tokenizer, texts=source.texts())
        self._pretrainer, self._dropout, self._generator = build_pretrainer(
            backbone,
            num_rows=len(self.table.rows),
            num_attributes=source.num_attributes,
            seed=config.seed,
            part=self._part,
        )
        require(
            self._dropout is not None or config.patch_dropout == 0,
            f"{config.model} has no ViT, whose image tokens could be dropped: set patch_dropout to 0",
        )
        self._pretrainer.to(rank.device)
        self._optimizer = pretraining_optimizer(
            self._pretrainer, learning_rate=config.learning_rate, weight_decay=config.weight_decay
        )
        self._num_unreadable, self._seconds = 0, 0.0
        self._unreadable: dict[str, str] = {}
        self._uses: Tensor | None = None

    def module(self) -> Pretrainer:
        """Return the module to train: its forward gives the loss terms."""
        return self._pretrainer

    def weights(self) -> dict[str, Tensor]:
        """Return the present weights as open_clip loads them: fp16, with the full token table."""
        num_rows = self.backbone.token_embedding.num_embeddings
        return full_weights(self._pretrainer.clip, rows=self.table.rows, num_rows=num_rows)

    def reports(
        self, module: Pretrainer | DistributedDataParallel, *, progress: PretrainState | None = None
    ) -> Iterator[PretrainEvent]:
        """Train from the beginning, or from a saved state, to the last step.

        Args:
            module: `self.module()`, wrapped for several ranks or not.
            progress: a saved state of a run with the same settings.

        Raises:
            ValueError: when too many pictures could not be read.
        """
        config, first_step = self.config, 0 if progress is None else self._restore(progress)
        began, terms = time.perf_counter(), list[dict[str, Tensor]]()
        for step, batch in self._batches(first_step):
            terms.append(self._step(module, batch, step=step))
            done = step + 1
            is_last, is_judged = done == config.last_step, done % config.judge_every_steps == 0
            is_due = is_last or done % config.checkpoint_every_steps == 0
            if is_due or is_judged or done % config.report_every_steps == 0:
                metrics = self._curves(terms, seconds=time.perf_counter() - began, done=done)
                judged = self._judged() if is_last or is_judged else {}
                state = self._progress(done) if is_due else None
                yield PretrainEvent(
                    step=done, metrics=metrics, judged=judged, unreadable=self._unreadable, progress=state
                )
                began, terms = time.perf_counter(), []

    def _step(
        self, module: Pretrainer | DistributedDataParallel, batch: PretrainingBatch, *, step: int
    ) -> dict[str, Tensor]:
        config = self.config
        if self._dropout is not None:
            whole_from = round(config.num_steps * (1 - config.whole_images))
            self._dropout.share = config.patch_dropout if step < whole_from else 0.0
        return pretraining_step(
            module,
            self._optimizer,
            batch.to(self.rank.device),
            learning_rate=config.learning_rate * warmup_cosine((step + 1) / config.num_steps, warmup=config.warmup),
            attribute_weight=config.attribute_weight,
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
        )

    def _batches(self, first_step: int) -> Iterator[tuple[int, PretrainingBatch]]:
        """Yield the batch of each step; it is made while the step before runs."""
        last_step = self.config.last_step
        if first_step >= last_step:
            return
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[PretrainingBatch] = ahead.submit(self._batch, first_step)
            for step in range(first_step, last_step):
                batch = coming.result()
                if step + 1 < last_step:
                    coming = ahead.submit(self._batch, step + 1)
                self._num_unreadable += int((~batch.readable).sum())
                yield step, batch

    def _batch(self, step: int) -> PretrainingBatch:
        return tokenize_batch(self.source.batch(step, part=self._part), table=self.table, part=self._part)

    def _curves(self, terms: list[dict[str, Tensor]], *, seconds: float, done: int) -> dict[str, float]:
        """Average the steps since the last point.

        Raises:
            ValueError: when too many pictures could not be read.
        """
        self._unreadable = merge_reasons(self.rank.all_gather(self.source.unreadable()), before=self._unreadable)
        num_unreadable = check_unreadable(
            self._num_unreadable,
            num_images=done * self.config.batch_size,
            reasons=self._unreadable,
            max_rejected=self.config.max_rejected,
            rank=self.rank,
        )
        self._seconds += seconds
        means = {name: float(torch.stack([each[name] for each in terms]).float().mean()) for name in terms[0]}
        return {
            **means,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "logit_scale": float(self._pretrainer.clip.logit_scale.detach().exp()),
            "images_per_s": len(terms) * self.config.batch_size / seconds,
            "num_unreadable": num_unreadable,
        }

    def _judged(self) -> dict[str, float]:
        """Evaluate the present weights; the other ranks wait at the next step."""
        if self.rank.index != 0:
            return {}
        self.backbone.model.load_state_dict(self.weights())
        return self.source.evaluate(self.backbone.model)

    def _progress(self, step: int) -> PretrainState:
        return PretrainState(
            weights={name: value.detach().cpu().clone() for name, value in self._pretrainer.state_dict().items()},
            optimizer=self._optimizer.state_dict(),
            generator=self._generator.get_state(),
            step=step,
            num_unreadable=sum(self.rank.all_gather(self._num_unreadable)),
            seconds=self._seconds,
            unreadable=self._unreadable,
            uses=merge_uses(self.source.uses(), rank=self.rank, before=self._uses),
        )

    def _restore(self, progress: PretrainState) -> int:
        self._pretrainer.load_state_dict(progress.weights)
        self._optimizer.load_state_dict(progress.optimizer)
        self._generator.set_state(progress.generator)
        self._num_unreadable = progress.num_unreadable if self.rank.index == 0 else 0
        self._seconds, self._unreadable = progress.seconds, progress.unreadable
        self._uses = progress.uses
        return progress.step
