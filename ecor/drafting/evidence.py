"""What a model says of drafted rationales on images: similarities, categories of unlabelled images, the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from ecor.clip.feature_types import ImageFeatures
from ecor.config.drafting import PruningConfig
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from ecor.drafting.candidates import Candidate
from ecor.drafting.measurement import Measurement, measure_pairs
from ecor.drafting.phrases import with_article
from ecor.drafting.selection import Evidence, repeated_candidates
from ecor.model import Recognizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEvidence:
    """Similarities of N images with the rationales of a draft, and what they say of its P candidates."""

    evidence: Evidence
    similarity: Float[np.ndarray, "N R"]
    """Cosine of each image with Prompt_R of each rationale."""
    rationale_ids: Int[np.ndarray, " P"]
    """Column of each candidate; -1 for one that its text has dropped."""


def draft_vocabulary(categories: Sequence[str], candidates: Sequence[Candidate], *, keep: Sequence[bool]) -> Vocabulary:
    """The vocabulary of all categories and those candidates that are kept, in their order.

    Args:
        categories: normalised; one without a candidate has no rationale.
        candidates: P of them.
        keep: of each candidate.
    """
    names: dict[str, list[str]] = {category: [] for category in categories}
    for each, is_kept in zip(candidates, keep, strict=True):
        if is_kept:
            names[each.category].append(each.rationale)
    return vocabulary_from_mapping(names, source="the draft")


@torch.no_grad()
def most_probable_categories(model: Recognizer, images: ImageFeatures) -> Int[np.ndarray, " N"]:
    """Id of each image's most probable category by the model's sentences of categories alone (zero-shot CLIP)."""
    text_CD = model.encoder.categories().float().cpu()
    return (images.category.float().cpu() @ text_CD.T).argmax(dim=1).numpy()


@torch.no_grad()
def gather_evidence(
    model: Recognizer,
    images: ImageFeatures,
    *,
    image_categories: Int[np.ndarray, " N"],
    candidates: Sequence[Candidate],
    verdicts: Sequence[str],
    pruning: PruningConfig,
) -> ImageEvidence:
    """Measure the candidates that their texts have not dropped.

    Args:
        model: with the vocabulary of these candidates (`draft_vocabulary`).
        images: features of N images by that model.
        image_categories: id of each image's category in the model's vocabulary; -1 for one of no category of it.
        candidates: P of them.
        verdicts: of their texts (`ecor.drafting.text_rules.text_verdicts`).
        pruning: the limits.
    """
    names = model.vocabulary
    places = np.array([index for index, verdict in enumerate(verdicts) if not verdict], dtype=np.int64)
    categories = np.array([names.category_id(candidates[index].category) for index in places], dtype=np.int64)
    rationales = np.array([names.rationale_id(candidates[index].rationale) for index in places], dtype=np.int64)
    text_RD = model.encoder.rationale_features().float().cpu().numpy()
    similarity = images.rationale.float().cpu().numpy() @ text_RD.T
    found = measure_pairs(
        similarity,
        image_categories=image_categories,
        categories=categories,
        rationales=rationales,
        top_k=pruning.top_k,
        min_images=pruning.min_images,
    )
    features_PD = text_RD[rationales]
    repeats = repeated_candidates(features_PD, categories=categories, measurement=found, pruning=pruning)
    name_similarity = (features_PD * _name_features(model)[categories]).sum(axis=1)
    number = len(candidates)
    evidence = Evidence(
        measurement=_spread_measurement(found, places, number=number),
        name_similarity=_spread(name_similarity, places, number=number),
        repeats=_spread(np.where(repeats >= 0, places[repeats], -1), places, number=number, fill=-1),
    )
    rationale_ids = _spread(rationales, places, number=number, fill=-1)
    return ImageEvidence(evidence=evidence, similarity=similarity, rationale_ids=rationale_ids)


def _name_features(model: Recognizer) -> Float[np.ndarray, "C D"]:
    """Each category's name in the sentence of a rationale: `There is a hat.`"""
    as_rationales = {category: [with_article(category)] for category in model.vocabulary.categories}
    return model.with_vocabulary(as_rationales).encoder.rationale_features().float().cpu().numpy()


def _spread(
    values: np.ndarray, places: Int[np.ndarray, " p"], *, number: int, fill: float | int = np.nan
) -> np.ndarray:
    """Values of some candidates among those of all."""
    spread = np.full(number, fill, dtype=values.dtype)
    spread[places] = values
    return spread


def _spread_measurement(found: Measurement, places: Int[np.ndarray, " p"], *, number: int) -> Measurement:
    return Measurement(
        num_images=_spread(found.num_images, places, number=number, fill=0),
        speaks=_spread(found.speaks, places, number=number),
        chance=found.chance,
        auc=_spread(found.auc, places, number=number),
        q_value=_spread(found.q_value, places, number=number),
    )
