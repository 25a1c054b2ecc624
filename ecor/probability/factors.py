"""The factors of every decoder: log P(r | I), log P(c | I), log P(c | r, I) and log P(r | c, I)."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.config.scoring import Temperatures
from ecor.probability.pair_logits import logits_given_category, logits_given_rationale, scaled_similarity


def rationale_log_prob(
    features: ImageFeatures, text: TextFeatureTable, *, logit_scale: float, temperatures: Temperatures
) -> Float[Tensor, "B R"]:
    """log P(r | I) of every rationale.

    Args:
        features: of B images.
        text: features of the vocabulary's sentences.
        logit_scale: s, not its logarithm.
        temperatures: that of the rationale is used.
    """
    scale = logit_scale / temperatures.rationale
    return scaled_similarity(features.rationale, text.rationales, scale=scale).log_softmax(dim=-1)


def category_log_prob(
    features: ImageFeatures, text: TextFeatureTable, *, logit_scale: float, temperatures: Temperatures
) -> Float[Tensor, "B C"]:
    """log P(c | I) from the sentence of the category alone, as in plain zero-shot CLIP.

    Args:
        features: of B images.
        text: features of the vocabulary's sentences.
        logit_scale: s, not its logarithm.
        temperatures: that of the category is used.
    """
    scale = logit_scale / temperatures.of("category")
    return scaled_similarity(features.category, text.categories, scale=scale).log_softmax(dim=-1)


def category_given_rationale_log_prob(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    rationales: Int[Tensor, "B K"],
    logit_scale: float,
    temperatures: Temperatures,
) -> Float[Tensor, "B K C"]:
    """log P(c | r, I) of every category, for K rationales of each image.

    With the labelled rationales this is the ablation `oracle`, with `random_rationales` `random`.

    Args:
        features: of B images.
        text: features of the vocabulary's sentences.
        rationales: ids; a negative one gives NaN.
        logit_scale: s, not its logarithm.
        temperatures: that of the category given a rationale is used.
    """
    scale = logit_scale / temperatures.category_given_rationale
    logits = logits_given_rationale(features.category, text, rationales=rationales.clamp(min=0), scale=scale)
    return logits.log_softmax(dim=-1).masked_fill((rationales < 0).unsqueeze(-1), math.nan)


def rationale_given_category_log_prob(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    categories: Int[Tensor, "B K"],
    logit_scale: float,
    temperatures: Temperatures,
) -> Float[Tensor, "B K R"]:
    """log P(r | c, I) of every rationale, for K categories of each image.

    The softmax over r of the conditional sentence with c held fixed: the second factor of `inverted`.

    Args:
        features: of B images.
        text: features of the vocabulary's sentences.
        categories: ids; a negative one gives NaN.
        logit_scale: s, not its logarithm.
        temperatures: that of the rationale given a category is used.
    """
    scale = logit_scale / temperatures.of("rationale_given_category")
    logits = logits_given_category(features.category, text, categories=categories.clamp(min=0), scale=scale)
    return logits.log_softmax(dim=-1).masked_fill((categories < 0).unsqueeze(-1), math.nan)


def random_rationales(num_images: int, *, num_rationales: int, generator: torch.Generator) -> Int[Tensor, "B 1"]:
    """Draw a rationale per image, uniform over the vocabulary: what P(c | r, I) is worth without a reason.

    Args:
        num_images: B.
        num_rationales: of the vocabulary.
        generator: its device is that of the result.
    """
    return torch.randint(num_rationales, (num_images, 1), generator=generator, device=generator.device)


def max_cosine(features: Float[Tensor, "N D"], texts: Float[Tensor, "K D"]) -> Float[Tensor, " N"]:
    """The largest cosine of each feature with any of the texts.

    With the definitions of all leaves under a concept it is ConVis's score (arXiv:2405.14563), with the concept's own
    its naive baseline.

    Args:
        features: normalised.
        texts: normalised.
    """
    return (features @ texts.to(features).T).amax(dim=-1)


def group_by_id(ids: Int[Tensor, " N"]) -> Iterator[tuple[int, Int[Tensor, " n"]]]:
    """The distinct ids in ascending order, each with its positions; negative ids (unknown) are left out."""
    order = ids.argsort(stable=True)
    values, counts = torch.unique_consecutive(ids[order], return_counts=True)
    for value, slots in zip(values.tolist(), order.split(counts.tolist()), strict=True):
        if value >= 0:
            yield value, slots
