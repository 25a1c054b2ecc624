"""Training objectives by name: sums of loss terms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.checks import require
from ecor.config.training import ObjectiveConfig
from ecor.training.chunked_logits import LossBatch, Sentences
from ecor.training.distributed import gather_features, gather_ids
from ecor.training.losses.in_batch import in_batch_categories_loss, in_batch_pairs_loss
from ecor.training.losses.manifold_matching import manifold_matching
from ecor.training.losses.terms import independent_loss, inverted_loss, pairs_loss, three_term_loss, two_term_loss
from ecor.training.negative_sampling import distinct_ids, positions_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A training objective: the sum of named loss terms, each a mean over images.

    Labels are ids, −1 where unknown: such an image counts in the terms for which its labels are known. Between ranks of
    a process group (while gradients are recorded) the mean of a term over ranks is its mean over all images, so that
    averaging gradients as DDP does equals one process with the whole batch; every rank must bring as many images. Under
    `no_grad` nothing is exchanged: a rank may evaluate alone.
    """

    terms: Callable[[LossBatch], dict[str, Tensor]]
    max_sentences: int
    """Encoded per call; above it negatives are sampled."""
    sentences_per_chunk: int

    def __call__(
        self,
        image: ImageFeatures,
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        sentences: Sentences,
        logit_scale: float,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named loss terms.

        Args:
            image: features of B images.
            categories: ids, −1 where unknown.
            rationales: ids, −1 where unknown.
            sentences: encode the vocabulary's sentences, with gradient where text tokens are learned.
            logit_scale: s, not its logarithm.
            generator: draws sampled negatives.
        """
        return self.terms(
            LossBatch(
                image=image,
                categories=categories,
                rationales=rationales,
                sentences=sentences,
                logit_scale=logit_scale,
                max_sentences=self.max_sentences,
                sentences_per_chunk=self.sentences_per_chunk,
                generator=generator,
            )
        )


def objective_of(config: ObjectiveConfig) -> Objective:
    """Return the objective that `config` names.

    Raises:
        ValueError: when the name is unknown; the message lists the known ones.
    """
    objectives: dict[str, Callable[[LossBatch], dict[str, Tensor]]] = {
        "two_term": two_term_loss,
        "in_batch_pairs": in_batch_pairs_loss,
        "in_batch_categories": in_batch_categories_loss,
        "inverted": inverted_loss,
        "independent": independent_loss,
        "pairs": pairs_loss,
        "three_term": partial(three_term_loss, category_weight=config.category_weight),
    }
    require(config.name in objectives, f"unknown objective {config.name!r}: choose from {', '.join(objectives)}")
    terms = objectives[config.name]
    return Objective(
        terms=add_manifold_matching(terms, config) if config.manifold_weight else terms,
        max_sentences=config.max_sentences_per_step,
        sentences_per_chunk=config.sentences_per_chunk,
    )


def add_manifold_matching(
    terms: Callable[[LossBatch], dict[str, Tensor]], config: ObjectiveConfig
) -> Callable[[LossBatch], dict[str, Tensor]]:
    """An objective's terms, and LICO's manifold matching (arXiv:2310.09821) of images and their Prompt_R.

    Ours: features of whole images and sentences, over the images of all ranks. Optimal transport has no place here, for
    where text tokens alone are learned there are no patches.
    """

    def both(batch: LossBatch) -> dict[str, Tensor]:
        rationales = gather_ids(batch.rationales)
        present = distinct_ids(rationales)
        matching = manifold_matching(
            gather_features(batch.image.rationale),
            batch.sentences.rationale_features(present)[positions_in(present, rationales).clamp(min=0)],
            temperature=config.manifold_temperature,
            known=rationales >= 0,
        )
        return {**terms(batch), "manifold": config.manifold_weight * matching}

    return both
