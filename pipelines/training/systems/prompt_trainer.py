"""Tune ECOR's prompt tokens: the module, inputs and validation of the system `ecor`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer

from ecor.checkpoint import load_tokens, save_checkpoint
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.prompts import PromptLearner
from ecor.clip.text_features import TextFeatures
from ecor.clip.weights.named_models import takes_visual_tokens
from ecor.config.model import PromptConfig
from ecor.config.scoring import FACTORS, MethodName, ScoringConfig
from ecor.config.training import FitConfig, ObjectiveConfig, ObjectiveName
from ecor.model import Recognizer
from ecor.probability.temperature_scaling import fit_temperatures
from ecor.training.chunked_logits import Sentences
from ecor.training.evaluation_step import EvaluationSums, evaluation_step
from ecor.training.losses.objective import objective_of
from ecor.training.steps import ConstantSentences, Pictures, PromptTuningModule
from pipelines.config.infrastructure import absolute_address
from pipelines.config.training import TrainConfig
from pipelines.training.data_loader import Split, ahead
from pipelines.training.feature_cache import cached_features
from pipelines.training.systems.probability_maps import fit_probability_maps
from pipelines.training.systems.train_state import Save, TrainState
from pipelines.training.systems.trainer import Trainer
from pipelines.training.systems.visible_truth import read_visible_rationales

NO_LIMIT = 2**62
TEXT_TOKENS, TEXT_LEARNING_RATE = 6, 0.016
"""Chosen by the ablation study (`docs/results.md`)."""


def resolve_config(config: TrainConfig) -> TrainConfig:
    """Write out presets and defaults that hang on the tower; make paths absolute so that every worker finds the files.

    DROR's recipe replaces `fit` and `objective`. With one softmax over pairs or the inverted order, Prompt_R is never
    used. So it gets no learned tokens with these objectives (our choice: they would keep their random start).
    """
    if config.preset == "dror":
        objective = replace(config.objective, name="pairs")
        config = replace(config, fit=FitConfig.dror(), objective=objective, preset="none")
    if config.system == "ecor":
        config = _with_fitting_tokens(config)
    if config.objective.name in ("pairs", "inverted"):
        config = replace(config, prompts=replace(config.prompts, rationale_tokens=0))
    is_folder = config.init_from is not None and not config.init_from.startswith("models:")
    return replace(
        config,
        shards=absolute_address(config.shards),
        backbone=config.backbone.with_absolute_paths(),
        init_from=absolute_address(str(config.init_from)) if is_folder else config.init_from,
        cache_dir=config.cache_dir and absolute_address(config.cache_dir),
    )


def _with_fitting_tokens(config: TrainConfig) -> TrainConfig:
    """Learn text tokens instead of the default visual ones where the image tower takes none.

    Their number and their learning rate are those of the ablation study (our choice), unless a rate was asked for.
    """
    if config.prompts != PromptConfig() or takes_visual_tokens(config.backbone):
        return config
    prompts = replace(config.prompts, visual_tokens=0, rationale_tokens=TEXT_TOKENS, category_tokens=TEXT_TOKENS)
    fit = config.fit
    if fit.learning_rate == FitConfig().learning_rate:
        fit = replace(fit, learning_rate=TEXT_LEARNING_RATE)
    return replace(config, prompts=prompts, fit=fit)


def validation_objective(config: ObjectiveConfig) -> ObjectiveConfig:
    """Choose the objective of the validation loss: the same loss over the full vocabulary, without sampling.

    In-batch losses depend on the other images of the batch. So their tokens are judged by ECOR's two terms, without
    matching manifolds (our choice).
    """
    in_batch: tuple[ObjectiveName, ...] = ("in_batch_pairs", "in_batch_categories")
    name: ObjectiveName = "two_term" if config.name in in_batch else config.name
    return replace(config, name=name, max_sentences_per_step=NO_LIMIT, manifold_weight=0.0)


def tuned_method(config: ObjectiveConfig) -> MethodName:
    """The decoding that an objective tunes for, which judges its epochs: a rival's, or for ECOR's losses the joint.

    The model decodes by it where no other is named. `pooled`, that of `three_term`, has weight 1 until one is fitted.
    """
    methods: dict[ObjectiveName, MethodName] = {
        "inverted": "inverted",
        "independent": "independent",
        "pairs": "pairs",
        "three_term": "pooled",
    }
    return methods.get(config.name, "joint")


def calibrated_methods(config: ObjectiveConfig, *, text: TextFeatures) -> tuple[MethodName, ...]:
    """Choose the decodings that get temperatures: all if every sentence is in memory, else those that need no others.

    The latter are the objective's own decoding, `joint` and `independent` (our choice).
    """
    return tuple(FACTORS) if text.is_table else ("joint", "independent", tuned_method(config))


class PromptTrainer(Trainer):
    """One rank's part of a run that tunes prompt tokens."""

    def __init__(self, config: TrainConfig, **parts: Any) -> None:
        """Open the backbone and make the first tokens: from the seed, or those of `config.init_from`, a folder.

        `parts` as `Trainer` takes them. Raises ValueError as `ecor.checkpoint.load_tokens`.
        """
        super().__init__(config, **parts)
        generator = torch.Generator().manual_seed(config.seed)
        self.learned = self.prompts = PromptLearner(config.prompts, self.backbone, generator=generator)
        if config.init_from is not None:
            tokens = load_tokens(config.init_from, backbone=self.backbone, prompts=config.prompts)
            self.prompts.load_state_dict(tokens)

    @cached_property
    def optimizer(self) -> Optimizer | None:
        return None if self.config.prompts.is_zero_shot else super().optimizer

    @property
    def num_sentences_cut(self) -> int:
        return self._recognizer().encoder.num_truncated

    def module(self) -> PromptTuningModule:
        """Return the module to tune: its forward gives the loss terms."""
        objective = objective_of(self.config.objective)
        return PromptTuningModule(
            backbone=self.backbone, prompts=self.prompts, sentences=self._sentences(), objective=objective
        )

    # What a step learns from

    def _sentences(self) -> Sentences:
        """Encode the sentences: in each step if text tokens are learned, else once."""
        prompts = self.config.prompts
        if prompts.rationale_tokens or prompts.category_tokens:
            return self._recognizer().encoder
        by_columns = self.config.objective.name == "inverted"
        return ConstantSentences(self._recognizer().text, by_columns=by_columns)

    def _pictures(
        self, split: Split, positions: list[Int[np.ndarray, " b"]]
    ) -> Iterator[tuple[Pictures, Bool[Tensor, " b"]]]:
        """Yield pixels, or cached features if no visual token is learned; and which of the pictures could be read."""
        if not self.config.prompts.tunes_text_only:
            yield from ahead(iter(positions), reader=self._readers[split.folder])
            return
        features_ND, readable_N = self._features[split.folder]
        for wanted in positions:
            features_bD = features_ND[wanted].nan_to_num()
            yield ImageFeatures(rationale=features_bD, category=features_bD), readable_N[wanted]

    def _open(self) -> None:
        if self.config.prompts.tunes_text_only:
            self._features.keys()
        else:
            self._readers.keys()

    @cached_property
    def _features(self) -> dict[str, tuple[Float[Tensor, "N D"], Bool[Tensor, " N"]]]:
        """Image features of both splits, by folder."""
        return self._cache(partial(cached_features, backbone=self.backbone))

    # What decides which tokens are kept

    def prepare_save(self, progress: TrainState) -> Save:
        return partial(save_checkpoint, self.best_recognizer(progress))

    def best_recognizer(self, progress: TrainState) -> Recognizer:
        """Load the best tokens and, if asked for, fit temperatures on validation; all ranks must call."""
        self._open()
        self.prompts.load_state_dict(progress.best_tokens)
        recognizer = self._recognizer()
        return self._calibrate(recognizer) if self.config.calibrate else recognizer

    def _recognizer(self) -> Recognizer:
        """Make a model with the present tokens; its text features are not kept on disk, because tokens change."""
        return Recognizer(
            backbone=self.backbone,
            prompts=self.prompts,
            vocabulary=self.vocabulary,
            templates=self.config.templates,
            method=tuned_method(self.config.objective),
            text_config=replace(self.config.text, cache_dir=None),
        )

    def _evaluate(self) -> Iterator[EvaluationSums]:
        recognizer = self._recognizer()
        objective = objective_of(validation_objective(self.config.objective))
        for features, positions in self._validation_batches():
            yield evaluation_step(
                recognizer,
                features,
                categories=self.validation.categories[positions].to(self.rank.device),
                rationales=self.validation.rationales[positions].to(self.rank.device),
                objective=objective,
                scoring=ScoringConfig(method=tuned_method(self.config.objective), top_k=1),
            )

    def _validation_batches(self) -> Iterator[tuple[ImageFeatures, Int[Tensor, " b"]]]:
        """Yield features of this rank's readable validation pictures with the present tokens, and their positions."""
        for wanted, pictures, readable in self._read(self.validation, self._validation_parts()):
            if not isinstance(pictures, ImageFeatures):
                with torch.no_grad():
                    pictures = self.prompts.image_features(self.backbone, pictures)
            kept = readable.nonzero()[:, 0]
            if len(kept):
                yield pictures.select(kept.to(pictures.rationale.device)), torch.from_numpy(wanted)[kept]

    def _calibrate(self, recognizer: Recognizer) -> Recognizer:
        """Add temperatures, fitted on the validation pictures of all ranks.

        And the maps that say how probable it is that the best pair is right and, where visible rationales are known,
        that the named one is visible.
        """
        mine = [
            (positions, features.rationale.cpu(), features.category.cpu())
            for features, positions in self._validation_batches()
        ]
        found = [part for parts in self.rank.all_gather(mine) for part in parts]
        positions, rationale, category = map(torch.cat, zip(*found, strict=True))
        device = self.rank.device
        features = ImageFeatures(rationale=rationale.to(device), category=category.to(device))
        methods = calibrated_methods(self.config.objective, text=recognizer.text)
        truth = {
            "categories": self.validation.categories[positions].to(device),
            "rationales": self.validation.rationales[positions, 0].to(device),
        }
        temperatures = fit_temperatures(
            features, recognizer.text, **truth, logit_scale=self.backbone.logit_scale, methods=methods
        )
        maps = fit_probability_maps(
            recognizer.with_temperatures(temperatures),
            features,
            **truth,
            visible=read_visible_rationales(self.validation, positions=positions, vocabulary=self.vocabulary),
            methods=methods,
        )
        return recognizer.with_temperatures(temperatures, visibility=maps.visibility, confidence_maps=maps.confidence)
