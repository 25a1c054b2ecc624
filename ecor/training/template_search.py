"""Choose the hand-written templates with which zero-shot CLIP labels validation images best."""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.config.model import TemplateConfig
from ecor.config.scoring import ScoringConfig
from ecor.config.training import ObjectiveConfig
from ecor.model import Names, Recognizer
from ecor.training.evaluation_step import evaluation_step
from ecor.training.losses.objective import objective_of

HAND_TEMPLATES = (
    TemplateConfig(),
    TemplateConfig(
        rationale="A photo with {rationale}.",
        category_given_rationale="A photo of a {category} with {rationale}.",
        category="A photo of a {category}.",
    ),
    TemplateConfig(
        rationale="{rationale}", category_given_rationale="a {category} with {rationale}", category="a {category}"
    ),
    TemplateConfig(
        rationale="There is {rationale}.",
        category_given_rationale="Because there is {rationale}, this is a photo of a {category}.",
        category="This is a photo of a {category}.",
    ),
)
"""Wordings to choose from (ours; the first is DROR's)."""


def best_templates(
    features: ImageFeatures,
    *,
    backbone: Backbone,
    vocabulary: Names,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, "B L"],
    candidates: Sequence[TemplateConfig] = HAND_TEMPLATES,
    scoring: ScoringConfig | None = None,
) -> tuple[TemplateConfig, dict[TemplateConfig, float]]:
    """The candidate with the highest strict RR of zero-shot CLIP on labelled images, and the RR of each.

    Choose on validation images, never on those that are reported as test. Ties go to the first.

    Args:
        features: of B images, without learned tokens.
        backbone: that made them.
        vocabulary: that gave the ids.
        categories: true ids.
        rationales: labelled ids, −1 where an image has fewer than L.
        candidates: wordings to choose from.
        scoring: how pairs are decoded.
    """
    right = {}
    for templates in candidates:
        sums = evaluation_step(
            Recognizer.zero_shot(vocabulary, backbone=backbone, templates=templates),
            features,
            categories=categories,
            rationales=rationales,
            objective=objective_of(ObjectiveConfig()),
            scoring=scoring or ScoringConfig(top_k=1),
        )
        right[templates] = sums.num_right / sums.num_images
    return max(right, key=lambda templates: right[templates]), right
