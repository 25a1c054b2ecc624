"""Settings, splits and a rank in, reports of the run out: the loop that tunes prompt tokens, without Ray or MLflow.

Every random draw is a function of the seed and of the epoch or step it is made for. So the state of a run is its
tokens, its optimiser and a step number, and a run that goes on from them is the run that never stopped.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ecor.backbone import load_backbone
from ecor.calibration import fit_temperatures
from ecor.config import (
    FACTORS,
    BackboneConfig,
    FitConfig,
    Method,
    ObjectiveConfig,
    ObjectiveName,
    ScoringConfig,
    require,
)
from ecor.fitting import (
    ConstantSentences,
    LabelledBatch,
    Pictures,
    TuningModule,
    evaluation_step,
    optimizer_of,
    training_step,
)
from ecor.losses import Sentences, objective_of
from ecor.model import Recognizer
from ecor.probability import ImageFeatures
from ecor.prompts import PromptLearner
from ecor.text import TextFeatures
from ecor.vocabulary import Vocabulary
from pipelines.config import TrainConfig, located
from pipelines.features import cached_features
from pipelines.loader import (
    PictureReader,
    Rank,
    Split,
    ahead,
    batch_positions,
    fetch_shards,
    num_batches,
    order_of_epoch,
)

POINTS_PER_EPOCH = 20
"""Of the training curves."""
NO_LIMIT = 2**62
TunedModule = TuningModule | DistributedDataParallel


def settled(config: TrainConfig) -> TrainConfig:
    """The settings with presets written out, and with places that every worker finds.

    DROR's recipe replaces `fit` and `objective`. One softmax over pairs never reads Prompt_R, nor does the inverted
    order, so that prompt gets no learned tokens with these objectives (our choice: they would keep their random start).
    """
    if config.preset == "dror":
        objective = replace(config.objective, name="pairs")
        config = replace(config, fit=FitConfig.dror(), objective=objective, preset="none")
    if config.objective.name in ("pairs", "inverted"):
        config = replace(config, prompts=replace(config.prompts, rationale_tokens=0))
    return replace(
        config,
        shards=located(config.shards),
        backbone=_located(config.backbone),
        cache_dir=config.cache_dir and located(config.cache_dir),
    )


def _located(backbone: BackboneConfig) -> BackboneConfig:
    """Names that are files of this machine, made absolute."""

    def found(name: str) -> str:
        return located(name) if Path(name).is_file() else name

    return replace(backbone, name=found(backbone.name), pretrained=backbone.pretrained and found(backbone.pretrained))


def validation_objective(config: ObjectiveConfig) -> ObjectiveConfig:
    """What validation loss means: the objective over the full vocabulary, without sampling.

    In-batch losses depend on the company an image is in, so their tokens are judged by ECOR's two terms (our choice).
    """
    in_batch: tuple[ObjectiveName, ...] = ("in_batch_pairs", "in_batch_categories")
    name: ObjectiveName = "two_term" if config.name in in_batch else config.name
    return replace(config, name=name, max_sentences_per_step=NO_LIMIT)


def validation_scoring(config: ObjectiveConfig) -> ScoringConfig:
    """Decoding of validation verdicts: a rival's loss by the rival's decoding, ECOR's losses by the joint."""
    methods: dict[ObjectiveName, Method] = {"inverted": "inverted", "independent": "independent", "pairs": "pairs"}
    return ScoringConfig(method=methods.get(config.name, "joint"), top_k=1)


def calibrated_methods(config: ObjectiveConfig, *, text: TextFeatures) -> tuple[Method, ...]:
    """Decodings that get temperatures: all where every sentence is at hand, else those that need no more of them.

    These are the objective's own decoding, `joint` and `independent` (our choice).
    """
    return tuple(FACTORS) if text.is_table else ("joint", "independent", validation_scoring(config).method)


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is: all that going on needs."""

    tokens: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int = 0
    """Updates done; the epoch and the position in it follow."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every finished epoch."""
    best_tokens: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1
    seconds: float = 0.0
    """Spent on finished epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A moment of a run: a point of its curves, and its state where it is worth saving."""

    metrics: dict[str, float]
    epoch: int | None = None
    """Of the epoch that ends here, from 0; None within an epoch."""
    progress: Progress
    """How far the run is; it changes when the run goes on."""
    is_due: bool = False
    """Whether the progress is to be saved: every `checkpoint_every_steps`."""


class Tuning:
    """One rank's part of a run; all ranks do the same steps and make the same reports in the same order."""

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
        """Open the backbone and make the first tokens from the seed.

        Args:
            config: settled settings.
            vocabulary: of both splits.
            train: what is learned from.
            validation: what decides which tokens are kept.
            rank: of this worker; with several, their process group is open.
            cache_dir: folder of this node for remote shards and image features.
        """
        self.config = config
        self.vocabulary = vocabulary
        self.train, self.validation = train, validation
        self.rank = rank
        self.cache_dir = cache_dir
        self.backbone = load_backbone(config.backbone, device=rank.device)
        generator = torch.Generator().manual_seed(config.seed)
        self.prompts = PromptLearner(config.prompts, self.backbone, generator=generator)
        self.optimizer = None if config.prompts.is_zero_shot else optimizer_of(config.fit, self.prompts.parameters())
        self.images_per_step = config.batch_size * config.fit.accumulate
        self.steps_per_epoch = num_batches(len(train), batch_size=self.images_per_step)
        self.num_steps = self.steps_per_epoch * config.num_epochs
        self.opening_s = 0.0
        """Spent on verifying shards and computing image features."""
        self._num_unreadable = 0

    # The loop

    def module(self) -> TuningModule:
        """What is tuned: its forward gives the loss terms."""
        objective = objective_of(self.config.objective)
        return TuningModule(
            backbone=self.backbone, prompts=self.prompts, sentences=self._sentences(), objective=objective
        )

    def reports(self, module: TunedModule, *, progress: Progress | None = None) -> Iterator[Report]:
        """Tune from the beginning, or from where `progress` was, to the last epoch or to the end of patience.

        Without a token there is nothing to tune: the model is validated once.

        Args:
            module: `self.module()`, wrapped for several ranks or not.
            progress: a saved state of a run with the same settings.
        """
        self._open_pictures()
        if progress is None:
            progress = Progress(tokens=self._tokens(), optimizer={})
        elif self.optimizer is not None:
            self.prompts.load_state_dict(progress.tokens)
            self.optimizer.load_state_dict(progress.optimizer)
        while not self.is_finished(progress):
            if self.optimizer is None:
                yield self._end_of_epoch(progress, started=time.perf_counter(), num_steps=0)
            else:
                yield from self._epoch(module, progress=progress, optimizer=self.optimizer)

    def is_finished(self, progress: Progress) -> bool:
        """All epochs are done, or `patience` of them brought no better validation loss."""
        num_done = len(progress.epochs)
        num_epochs = 1 if self.optimizer is None else self.config.num_epochs
        return num_done >= num_epochs or num_done - 1 - progress.best_epoch >= self.config.patience

    def _epoch(self, module: TunedModule, *, progress: Progress, optimizer: Optimizer) -> Iterator[Report]:
        epoch, first_step = divmod(progress.step, self.steps_per_epoch)
        started, curve = time.perf_counter(), _Curve()
        for batches in self._batches(epoch=epoch, first_step=first_step):
            outcome = training_step(
                module,
                batches,
                optimizer=optimizer,
                config=self.config.fit,
                step=progress.step,
                num_steps=self.num_steps,
                generator=self._generator(progress.step),
            )
            progress.step += 1
            curve.add(outcome.terms, gradient_norm=outcome.gradient_norm, learning_rate=outcome.learning_rate)
            if progress.step % max(1, self.steps_per_epoch // POINTS_PER_EPOCH) == 0:
                yield Report(metrics=curve.mean_over(self.rank), progress=progress)
                curve = _Curve()
            if self._is_due(progress) and progress.step % self.steps_per_epoch != 0:
                yield Report(metrics={}, progress=self._saved(progress), is_due=True)
        yield self._end_of_epoch(progress, started=started, num_steps=self.steps_per_epoch - first_step)

    def _end_of_epoch(self, progress: Progress, *, started: float, num_steps: int) -> Report:
        trained_s = time.perf_counter() - started
        metrics = self._validated()
        metrics["num_unreadable"] = self._checked_unreadable(num_images=num_steps * self.images_per_step)
        metrics["images_per_s"] = num_steps * self.images_per_step / trained_s
        metrics["train_s"] = trained_s
        metrics["validation_s"] = time.perf_counter() - started - trained_s
        epoch, best = len(progress.epochs), progress.best_epoch
        if best < 0 or metrics["validation_loss"] < progress.epochs[best]["validation_loss"]:
            progress.best_epoch, progress.best_tokens = epoch, self._tokens()
        progress.epochs.append(metrics)
        progress.seconds += time.perf_counter() - started
        return Report(metrics=metrics, epoch=epoch, progress=self._saved(progress), is_due=self._is_due(progress))

    def _is_due(self, progress: Progress) -> bool:
        return progress.step % self.config.checkpoint_every_steps == 0

    def _checked_unreadable(self, *, num_images: int) -> int:
        """Pictures of the epoch that could not be read, on all ranks; ValueError when they are too many."""
        total, self._num_unreadable = sum(self.rank.gathered(self._num_unreadable)), 0
        require(
            total <= self.config.max_rejected * num_images,
            f"{total} of {num_images} pictures cannot be read, more than max_rejected = {self.config.max_rejected}: "
            f"shard them with --validate decode, or allow more",
        )
        return total

    def _saved(self, progress: Progress) -> Progress:
        progress.tokens = self._tokens()
        progress.optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        return progress

    def _tokens(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.prompts.state_dict().items()}

    def _generator(self, step: int) -> torch.Generator:
        """Draws a step's sampled negatives."""
        seed = np.random.SeedSequence([self.config.seed, step, self.rank.index]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(seed))

    # What a step learns from

    def _sentences(self) -> Sentences:
        """Encoded anew in each step where text tokens are learned, else once."""
        prompts = self.config.prompts
        if prompts.rationale_tokens or prompts.category_tokens:
            return self._recognizer().encoder
        by_columns = self.config.objective.name == "inverted"
        return ConstantSentences(self._recognizer().text, by_columns=by_columns)

    def _batches(self, *, epoch: int, first_step: int) -> Iterator[list[LabelledBatch]]:
        accumulate, size = self.config.fit.accumulate, self.config.batch_size
        order = order_of_epoch(len(self.train), seed=self.config.seed, epoch=epoch)
        numbers = range(first_step * accumulate, self.steps_per_epoch * accumulate)
        positions = [batch_positions(order, batch=n, batch_size=size, rank=self.rank) for n in numbers]
        rationales = self.train.rationales_of_epoch(epoch)
        ready: list[LabelledBatch] = []
        for wanted, (pictures, readable) in zip(positions, self._pictures(self.train, positions), strict=True):
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

    def _pictures(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Pictures, Bool[Tensor, " b"]]]:
        """Pixels, or cached features where no visual token is learned; and which of the pictures could be read."""
        if not self.config.prompts.tunes_text_only:
            yield from ahead(iter(positions), reader=self._readers[split.folder])
            return
        features_ND, readable_N = self._features[split.folder]
        for wanted in positions:
            features_bD = features_ND[wanted].nan_to_num()
            yield ImageFeatures(rationale=features_bD, category=features_bD), readable_N[wanted]

    def _open_pictures(self) -> None:
        """Where ranks meet: shards are verified, or image features computed, by all of them together."""
        started = time.perf_counter()
        if self.config.prompts.tunes_text_only:
            self._features.keys()
        else:
            self._readers.keys()
        self.opening_s = time.perf_counter() - started

    @cached_property
    def _features(self) -> dict[str, tuple[Float[Tensor, "N D"], Bool[Tensor, " N"]]]:
        """Image features of both splits, by folder."""
        return {
            split.folder: cached_features(
                split,
                backbone=self.backbone,
                reader=partial(self._reader, split),
                batch_size=self.config.batch_size,
                rank=self.rank,
                folder=self.cache_dir / "features",
            )
            for split in (self.train, self.validation)
        }

    @cached_property
    def _readers(self) -> dict[str, PictureReader]:
        """Pictures of both splits, by folder."""
        return {split.folder: self._reader(split) for split in (self.train, self.validation)}

    def _reader(self, split: Split) -> PictureReader:
        paths = fetch_shards(split, rank=self.rank, cache_dir=self.cache_dir)
        num_threads = max(1, int(self.config.cpus_per_worker))
        return PictureReader(split, paths=paths, preprocess=self.backbone.preprocess, num_threads=num_threads)

    # What decides which tokens are kept

    def finished_recognizer(self, progress: Progress) -> Recognizer:
        """The best tokens and, where asked for, temperatures fitted on validation; all ranks must call."""
        self._open_pictures()
        self.prompts.load_state_dict(progress.best_tokens)
        recognizer = self._recognizer()
        return self._calibrated(recognizer) if self.config.calibrate else recognizer

    def _recognizer(self) -> Recognizer:
        """The model as it stands; its text features are made anew and not kept on disk, as tokens change."""
        return Recognizer(
            backbone=self.backbone,
            prompts=self.prompts,
            vocabulary=self.vocabulary,
            templates=self.config.templates,
            text_config=replace(self.config.text, cache_dir=None),
        )

    def _validated(self) -> dict[str, float]:
        """Loss and strict verdicts on the validation split, each rank with its part of it."""
        recognizer, sums = self._recognizer(), []
        objective = objective_of(validation_objective(self.config.objective))
        for features, positions in self._validation_batches():
            step = evaluation_step(
                recognizer,
                features,
                categories=self.validation.categories[positions].to(self.rank.device),
                rationales=self.validation.rationales[positions].to(self.rank.device),
                objective=objective,
                scoring=validation_scoring(self.config.objective),
            )
            sums.append(step)
        found = [step for steps in self.rank.gathered(sums) for step in steps]
        require(bool(found), f"no picture of the split {self.config.validation_split} can be read")
        return {f"validation_{name}": value for name, value in reduce(add, found).means().items()}

    def _validation_batches(self) -> Iterator[tuple[ImageFeatures, Int[Tensor, " b"]]]:
        """Features of this rank's readable validation pictures with the tokens as they are, and their positions."""
        mine = np.arange(self.rank.index, len(self.validation), self.rank.num_ranks)
        parts = [mine[i : i + self.config.batch_size] for i in range(0, len(mine), self.config.batch_size)]
        for wanted, (pictures, readable) in zip(parts, self._pictures(self.validation, parts), strict=True):
            if not isinstance(pictures, ImageFeatures):
                with torch.no_grad():
                    pictures = self.prompts.image_features(self.backbone, pictures)
            kept = readable.nonzero()[:, 0]
            if len(kept):
                yield pictures.select(kept.to(pictures.rationale.device)), torch.from_numpy(wanted)[kept]

    def _calibrated(self, recognizer: Recognizer) -> Recognizer:
        """With temperatures fitted on the validation pictures of all ranks."""
        mine = [
            (positions, features.rationale.cpu(), features.category.cpu())
            for features, positions in self._validation_batches()
        ]
        found = [part for parts in self.rank.gathered(mine) for part in parts]
        positions, rationale, category = map(torch.cat, zip(*found, strict=True))
        device = self.rank.device
        temperatures = fit_temperatures(
            ImageFeatures(rationale=rationale.to(device), category=category.to(device)),
            recognizer.text,
            categories=self.validation.categories[positions].to(device),
            rationales=self.validation.rationales[positions, 0].to(device),
            logit_scale=self.backbone.logit_scale,
            methods=calibrated_methods(self.config.objective, text=recognizer.text),
        )
        return recognizer.with_temperatures(temperatures)


class _Curve:
    """Sums of a few steps' metrics, on the device until a point of the curve is wanted."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0

    def add(self, terms: dict[str, Tensor], *, gradient_norm: Tensor, learning_rate: float) -> None:
        loss = torch.stack(list(terms.values())).sum()
        rate = torch.tensor(learning_rate, device=loss.device)
        point = {**terms, "loss": loss, "gradient_norm": gradient_norm.detach(), "learning_rate": rate}
        self._sums = {name: self._sums.get(name, 0) + value for name, value in point.items()}
        self._num_steps += 1

    def mean_over(self, rank: Rank) -> dict[str, float]:
        """Means over the steps and the ranks; every rank must ask."""
        means = torch.stack(list(self._sums.values())) / self._num_steps
        if rank.num_ranks > 1:
            dist.all_reduce(means)
            means /= rank.num_ranks
        return dict(zip(self._sums, means.tolist(), strict=True))
