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
from ecor.probability.platt_scaling import LEAST_IMAGES, category_log_odds, fit_confidence_map, pair_log_odds
from ecor.probability.rationale_visibility import fit_visibility_map, visibility_evidence

_IMAGES_PER_PASS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityMaps:
    """Maps of a model by decoding method; none where too few images have a known truth."""

    visibility: Mapping[MethodName, VisibilityMap]
    confidence: Mapping[MethodName, ConfidenceMap]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BestPairs:
    """Most probable pairs of N images, and what decoding states of them."""

    categories: Int[Tensor, " N"]
    rationales: Int[Tensor, " N"]
    pair_log_odds: Float[Tensor, " N"]
    marginal_categories: Int[Tensor, " N"]
    """Most probable categories, whatever the rationale."""
    category_log_odds: Float[Tensor, " N"]
    visibility_evidence: Float[Tensor, "N 2"]


def fit_probability_maps(
    recognizer: Recognizer,
    features: ImageFeatures,
    *,
    categories: Int[Tensor, " N"],
    rationales: Int[Tensor, " N"],
    visible: Sequence[frozenset[int] | None],
    methods: Collection[MethodName],
) -> ProbabilityMaps:
    """Fit two maps per decoding method, each on the images with a truth for it; none on fewer than `LEAST_IMAGES`.

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
    for method in dict.fromkeys(methods):
        best = _decode(recognizer, features, method=method)
        if has_pair.sum() >= LEAST_IMAGES:
            is_right = (best.categories == categories) & (best.rationales == rationales)
            confidence[method] = fit_confidence_map(
                best.pair_log_odds[has_pair],
                is_right[has_pair],
                category_evidence=best.category_log_odds[has_category],
                is_right_category=(best.marginal_categories == categories)[has_category],
            )
        if has_visible.sum() >= LEAST_IMAGES:
            is_visible = _is_member(best.rationales, visible)
            visibility[method] = fit_visibility_map(best.visibility_evidence[has_visible], is_visible[has_visible])
    return ProbabilityMaps(visibility=visibility, confidence=confidence)


def _decode(recognizer: Recognizer, features: ImageFeatures, *, method: MethodName) -> _BestPairs:
    """Decode some images at a time."""
    found = []
    for ids in torch.arange(len(features), device=features.category.device).split(_IMAGES_PER_PASS):
        joint = recognizer.joint(features.select(ids), scoring=ScoringConfig(method=method))
        best = ranked_pairs(joint, 1)
        of_pair = (best.categories[:, 0], best.rationales[:, 0], pair_log_odds(joint))
        of_category = (joint.category_log_prob.argmax(dim=-1), category_log_odds(joint))
        found.append((*of_pair, *of_category, visibility_evidence(joint)))
    categories, rationales, pair, marginal, alone, evidence = (
        torch.cat(parts).cpu() for parts in zip(*found, strict=True)
    )
    return _BestPairs(
        categories=categories,
        rationales=rationales,
        pair_log_odds=pair,
        marginal_categories=marginal,
        category_log_odds=alone,
        visibility_evidence=evidence,
    )


def _is_member(rationales: Int[Tensor, " N"], visible: Sequence[frozenset[int] | None]) -> Bool[Tensor, " N"]:
    return torch.tensor([named in (shown or ()) for named, shown in zip(rationales.tolist(), visible, strict=True)])
