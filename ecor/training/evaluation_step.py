"""Evaluation step of prompt tuning: sums of loss and verdicts of a batch, added over batches and ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import ScoringConfig
from ecor.model import Recognizer
from ecor.probability.joint import ranked_pairs
from ecor.training.losses.objective import Objective
from ecor.training.steps import ConstantSentences


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSums:
    """Sums over images, so that batches and ranks of any size can be added."""

    terms: dict[str, float]
    """Named loss terms in nats."""
    num_right: int
    """The most probable pair has the true category and a true rationale (strict RR)."""
    num_right_category: int
    """The most probable pair has the true category."""
    num_images: int

    def __add__(self, other: "EvaluationSums") -> "EvaluationSums":
        return EvaluationSums(
            terms={name: value + other.terms[name] for name, value in self.terms.items()},
            num_right=self.num_right + other.num_right,
            num_right_category=self.num_right_category + other.num_right_category,
            num_images=self.num_images + other.num_images,
        )

    def means(self) -> dict[str, float]:
        """`loss` (nats per image) and its terms, `rr` and `accuracy` (shares)."""
        terms = {name: value / self.num_images for name, value in self.terms.items()}
        return {
            "loss": sum(terms.values()),
            **{f"loss_{name}": value for name, value in terms.items()},
            "rr": self.num_right / self.num_images,
            "accuracy": self.num_right_category / self.num_images,
        }


@torch.no_grad()
def evaluation_step(
    recognizer: Recognizer,
    features: ImageFeatures,
    *,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, "B L"],
    objective: Objective,
    scoring: ScoringConfig,
) -> EvaluationSums:
    """Compute loss terms and strict verdicts of one validation batch.

    Args:
        recognizer: the model as it stands; its text features are made once and used by all batches.
        features: of B images.
        categories: true ids.
        rationales: all labelled ids, −1 where there are fewer than L; the first is the one of the loss.
        objective: gives the terms; means over images.
        scoring: decoding of the verdicts.
    """
    terms = objective(
        features,
        categories=categories,
        rationales=rationales[:, 0].contiguous(),
        sentences=ConstantSentences(recognizer.text, by_columns=scoring.method == "inverted"),
        logit_scale=recognizer.backbone.logit_scale,
    )
    best = ranked_pairs(recognizer.joint(features, scoring=scoring), 1)
    right_category = best.categories[:, 0] == categories
    right_rationale = (best.rationales == rationales).any(dim=1)
    return EvaluationSums(
        terms={name: float(value) * len(features) for name, value in terms.items()},
        num_right=int((right_category & right_rationale).sum()),
        num_right_category=int(right_category.sum()),
        num_images=len(features),
    )
