"""Training and evaluation steps of prompt tuning, with the module and the optimizer.

No loop and no devices: a training stage, a test and a notebook share these steps.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.clip.prompts import PromptLearner
from ecor.config.checks import require
from ecor.config.training import FitConfig
from ecor.training.chunked_logits import Sentences
from ecor.training.losses.objective import Objective
from ecor.training.schedules import warmup_cosine

Pictures = UInt8[Tensor, "B 3 H W"] | ImageFeatures | Float[Tensor, "B P E"]
"""Pixels, or their features where no visual token is learned, or their patches with guidance (ECLIP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """Labelled images of one forward pass."""

    pictures: Pictures
    categories: Int[Tensor, " B"]
    rationales: Int[Tensor, " B"]
    """The one labelled rationale each image teaches."""

    def to(self, device: torch.device) -> "LabelledBatch":
        pictures = self.pictures
        if isinstance(pictures, ImageFeatures):
            same = pictures.rationale is pictures.category
            rationale = pictures.rationale.to(device)
            pictures = ImageFeatures(rationale=rationale, category=rationale if same else pictures.category.to(device))
        else:
            pictures = pictures.to(device, non_blocking=True)
        return LabelledBatch(
            pictures=pictures, categories=self.categories.to(device), rationales=self.rationales.to(device)
        )


class PromptTuningModule(nn.Module):
    """Compute an objective's loss terms for labelled images.

    Its parameters are the learned tokens and nothing else: the backbone is held outside of the module tree, so that
    what wraps the module (DistributedDataParallel) neither copies nor compares the frozen towers.
    """

    def __init__(
        self, *, backbone: Backbone, prompts: PromptLearner, sentences: Sentences, objective: Objective
    ) -> None:
        """Hold the tokens, and what they are tuned with.

        Args:
            backbone: frozen towers.
            prompts: the learned tokens.
            sentences: encoded from the tokens of `prompts`, or constant where no text token is learned.
            objective: gives the loss terms.
        """
        super().__init__()
        self.prompts = prompts
        self._frozen = (backbone, sentences, objective)  # a tuple, so that nothing in it is registered

    def forward(
        self,
        pictures: Pictures,
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute named loss terms, means over images; the loss is their sum.

        Args:
            pictures: pixels; or features where no visual token is learned.
            categories: ids, −1 where unknown.
            rationales: ids, −1 where unknown.
            generator: draws sampled negatives.
        """
        backbone, sentences, objective = self._frozen
        if not isinstance(pictures, ImageFeatures):
            pictures = self.prompts.image_features(backbone, pictures)
        return objective(
            pictures,
            categories=categories,
            rationales=rationales,
            sentences=sentences,
            logit_scale=backbone.logit_scale,
            generator=generator,
        )


class ConstantSentences:
    """Precomputed text features as `Sentences`: for tuning visual tokens only, and for validation."""

    def __init__(self, text: TextFeatureTable, *, by_columns: bool = False) -> None:
        """Hold the features.

        Args:
            text: features of the vocabulary's sentences.
            by_columns: read pairs category by category, as `inverted` does: each side may be encoded when read.
        """
        self._text, self._by_columns = text, by_columns
        self.num_rationales = text.rationales.shape[0]
        self.num_categories = text.categories.shape[0]

    def rationale_features(self, ids: Int[Tensor, " N"] | None = None) -> Tensor:
        features = self._text.rationales
        return features if ids is None else features[ids.to(features.device)]

    def categories(self, ids: Int[Tensor, " N"] | None = None) -> Tensor:
        features = self._text.categories
        return features if ids is None else features[ids.to(features.device)]

    def category_features(
        self, rationale_ids: Int[Tensor, " G"], category_ids: Int[Tensor, " N"] | None = None
    ) -> Tensor:
        device = self._text.categories.device
        chosen = torch.arange(self.num_categories) if category_ids is None else category_ids
        rationales, categories = rationale_ids.to(device), chosen.to(device)
        if self._by_columns:
            return torch.stack([self._text.column(c)[rationales] for c in categories.tolist()], dim=1)
        return torch.stack([self._text.row(r)[categories] for r in rationales.tolist()])


def optimizer_of(config: FitConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build AdamW, or SGD with momentum (DROR's choice).

    Args:
        config: names the optimizer and its settings.
        parameters: those with a gradient are learned.

    Raises:
        ValueError: when there is nothing to learn.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    require(bool(learned), "there is no token to tune: set rationale_tokens, category_tokens or visual_tokens above 0")
    if config.optimizer == "sgd":
        return SGD(learned, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamW(learned, lr=config.learning_rate, weight_decay=config.weight_decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """Result of a training step."""

    terms: dict[str, Tensor]
    """Named loss terms of this rank, averaged over the step's batches; scalars on the device."""
    gradient_norm: Tensor
    """Before clipping; a scalar on the device."""
    learning_rate: float


def training_step(
    module: nn.Module,
    batches: Sequence[LabelledBatch],
    *,
    optimizer: Optimizer,
    config: FitConfig,
    step: int,
    num_steps: int,
    generator: torch.Generator | None = None,
) -> StepOutcome:
    """Update the module once, from the averaged gradients of some batches; ranks exchange gradients once, at the last.

    Args:
        module: the module that is fitted, wrapped or not; its forward takes a batch's parts, and gives named terms.
        batches: `config.accumulate` of them, equally large.
        optimizer: from `optimizer_of`.
        config: schedule and clipping.
        step: number of the step, from 0.
        num_steps: of the whole run.
        generator: draws sampled negatives, or what else the module draws.

    Raises:
        ValueError: when the gradient is not finite.
    """
    rate = warmup_cosine(
        step,
        warmup=config.warmup_steps,
        total=max(num_steps, config.warmup_steps + 1),
        ramp_offset=1,
        peak=config.learning_rate,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    for index, batch in enumerate(batches):
        with _no_gradient_sync(module, last=index == len(batches) - 1):
            terms = module(
                batch.pictures, categories=batch.categories, rationales=batch.rationales, generator=generator
            )
            loss = torch.stack(list(terms.values())).sum() / len(batches)
            loss.backward()
        for name, value in terms.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
    limit = math.inf if config.clip_norm is None else config.clip_norm
    norm = nn.utils.clip_grad_norm_(module.parameters(), limit)
    if not bool(torch.isfinite(norm)):
        raise ValueError(f"the gradient is {float(norm)} at step {step}: lower the learning rate ({rate})")
    optimizer.step()
    return StepOutcome(terms=totals, gradient_norm=norm, learning_rate=rate)


def _no_gradient_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()
