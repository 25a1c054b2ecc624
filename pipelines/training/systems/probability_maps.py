"""Fit the maps of a tuned model on validation images: confidence of pair and category, visibility of the rationale."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import ConfidenceMap, MethodName, ScoringConfig, VisibilityMap
from ecor.model import Recognizer
from ecor.probability.joint import ranked_pairs
from ecor.probability.maps.confidence import (
    category_log_odds,
    fit_confidence_map,
    fit_others_temperature,
    pair_log_odds,
)
from ecor.probability.maps.platt_scaling import LEAST_IMAGES, Outcomes
from ecor.probability.maps.visibility import fit_visibility_map, visibility_evidence

_IMAGES_PER_PASS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityMaps:
    """Maps of a model by decoding method; none where too few images have a known truth."""

    visibility: Mapping[MethodName, VisibilityMap]
    confidence: Mapping[MethodName, ConfidenceMap]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    """What decoding states of N images, as evidence of the maps."""

    pair: Outcomes
    """So: category and rationale of the most probable pair are the labelled ones."""
    category: Outcomes
    """So: the most probable category is the labelled one, whatever the rationale."""
    visible: Outcomes
    """So: the image shows the rationale of the most probable pair."""
    wrong_category_log_prob: Float[Tensor, "W C"]
    """log P(c | I) of the images whose most probable category is known to be wrong."""
    wrong_categories: Int[Tensor, " W"]
    """Their true categories."""


def fit_probability_maps(
    recognizer: Recognizer,
    features: ImageFeatures,
    *,
    categories: Int[Tensor, " N"],
    rationales: Int[Tensor, " N"],
    visible: Sequence[frozenset[int] | None],
    methods: Collection[MethodName],
) -> ProbabilityMaps:
    """Fit the maps of each decoding method, each on the images with a truth for it; none on fewer than `LEAST_IMAGES`.

    Args:
        recognizer: the model, with its temperatures.
        features: of N held-out images.
        categories: ids of the same images, −1 where unknown.
        rationales: ids of the labelled rationales, −1 where unknown.
        visible: ids of all visible rationales, None where they are unknown.
        methods: the decoding methods.
    """
    categories, rationales = categories.cpu(), rationales.cpu()
    has_category = categories >= 0
    has_pair = has_category & (rationales >= 0)
    has_visible = torch.tensor([each is not None for each in visible], dtype=torch.bool)
    visibility: dict[MethodName, VisibilityMap] = {}
    confidence: dict[MethodName, ConfidenceMap] = {}
    if max(int(has_pair.sum()), int(has_visible.sum())) < LEAST_IMAGES:
        return ProbabilityMaps(visibility=visibility, confidence=confidence)
    num_categories = len(recognizer.vocabulary.categories)
    for method in dict.fromkeys(methods):
        decoded = _decode(
            recognizer, features, categories=categories, rationales=rationales, visible=visible, method=method
        )
        if has_pair.sum() >= LEAST_IMAGES:
            confidence[method] = fit_confidence_map(
                decoded.pair.select(has_pair),
                category=decoded.category.select(has_category),
                others_temperature=fit_others_temperature(decoded.wrong_category_log_prob, decoded.wrong_categories),
                num_categories=num_categories,
            )
        if has_visible.sum() >= LEAST_IMAGES:
            visibility[method] = fit_visibility_map(decoded.visible.select(has_visible), num_categories=num_categories)
    return ProbabilityMaps(visibility=visibility, confidence=confidence)


def _decode(
    recognizer: Recognizer,
    features: ImageFeatures,
    *,
    categories: Int[Tensor, " N"],
    rationales: Int[Tensor, " N"],
    visible: Sequence[frozenset[int] | None],
    method: MethodName,
) -> _Decoded:
    """Decode some images at a time, and compare with the truth where it is known."""
    named, evidence, wrong = [], [], []
    for ids in torch.arange(len(features)).split(_IMAGES_PER_PASS):
        joint = recognizer.joint(
            features.select(ids.to(features.category.device)), scoring=ScoringConfig(method=method)
        )
        best, alone = ranked_pairs(joint, 1), joint.category_log_prob.argmax(dim=-1)
        named.append(torch.stack([best.categories[:, 0], best.rationales[:, 0], alone], dim=1).cpu())
        parts = (pair_log_odds(joint)[:, None], category_log_odds(joint)[:, None], visibility_evidence(joint))
        evidence.append(torch.cat(parts, dim=1).cpu())
        is_wrong = (categories[ids] >= 0) & (alone.cpu() != categories[ids])
        wrong.append((joint.category_log_prob.cpu()[is_wrong], categories[ids][is_wrong]))
    of_category, of_rationale, marginal = torch.cat(named).unbind(dim=1)
    of_pair, alone, of_visible = torch.cat(evidence).split([1, 1, 2], dim=1)
    is_right = (of_category == categories) & (of_rationale == rationales)
    shown = _is_member(of_rationale, visible)
    return _Decoded(
        pair=Outcomes(evidence=of_pair, categories=of_category, is_so=is_right),
        category=Outcomes(evidence=alone, categories=marginal, is_so=marginal == categories),
        visible=Outcomes(evidence=of_visible, categories=of_category, is_so=shown),
        wrong_category_log_prob=torch.cat([each for each, _ in wrong]),
        wrong_categories=torch.cat([each for _, each in wrong]),
    )


def _is_member(rationales: Int[Tensor, " N"], visible: Sequence[frozenset[int] | None]) -> Bool[Tensor, " N"]:
    return torch.tensor([named in (shown or ()) for named, shown in zip(rationales.tolist(), visible, strict=True)])
