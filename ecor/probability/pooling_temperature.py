"""What the temperature of pooled decoding is fitted by: its loss on validation images. Not in the paper."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TableInMemory, TextFeatureTable
from ecor.config.checks import require
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.factors import category_given_rationale_log_prob, category_log_prob, rationale_log_prob
from ecor.probability.pooling import evaluate_pool

POOLING_WEIGHT = 1.0
"""λ of models that are tuned now (our choice): fitted by likelihood it came out at 0.01 to 0.4, and the labels were
worse (`docs/decoding.md`)."""
_LARGEST = 2**25
"""Pairs of images, rationales and categories that are in memory at once; one number needs no more."""


@torch.no_grad()
def pooling_nll(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, " B"],
    logit_scale: float,
    temperatures: Temperatures,
    weight: float = POOLING_WEIGHT,
) -> Callable[[float], float]:
    """The mean negative log-likelihood of pooled decoding with weight λ, as a function of T. Not in the paper.

    The factors keep their own temperatures. The partition function sums over all pairs if all sentences are in memory;
    else over those that decoding evaluates, so that of the others only the labelled ones are encoded. Where that is
    more than `_LARGEST` pairs, every n-th image is used. Images are to be held-out ones; ids are −1 where unknown.

    Raises ValueError when no image has both labels.
    """
    images = ((categories >= 0) & (rationales >= 0)).nonzero().squeeze(1)
    require(bool(len(images)), "no pooling temperature can be fitted: none of the validation images has a known pair")
    scoring = ScoringConfig(method="pooled", top_k=1)
    if isinstance(text, TableInMemory) and text.table is not None:
        every = text.rationales.shape[0]
        scoring = replace(scoring, keep_rationales=every, max_keep_rationales=every)
    num_pairs = len(images) * scoring.max_keep_rationales * text.categories.shape[0]
    images = images[:: math.ceil(num_pairs / _LARGEST)]
    chosen = features.select(images)
    pool = evaluate_pool(
        chosen, text, scoring=scoring, logit_scale=logit_scale, temperatures=temperatures, weight=weight
    )
    own = _labelled_scores(
        chosen,
        text,
        categories=categories[images],
        rationales=rationales[images],
        weight=weight,
        logit_scale=logit_scale,
        temperatures=temperatures,
    )
    pairs_BN, first_BR = pool.kept.log_prob.double().flatten(1), pool.rationale_log_prob.double()
    seen_BK = first_BR.gather(1, pool.kept.ids).masked_fill(~pool.kept.evaluated, -math.inf)

    def mean_nll(temperature: float) -> float:
        b = 1 / temperature
        held = (b * seen_BK).logsumexp(dim=-1) - (b * first_BR).logsumexp(dim=-1)
        return float(((b * pairs_BN).logsumexp(dim=-1) - held - b * own).mean())

    return mean_nll


def _labelled_scores(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, " B"],
    weight: float,
    logit_scale: float,
    temperatures: Temperatures,
) -> Float[Tensor, " B"]:
    """log P(r* | I) + log P(c* | r*, I) + λ · log P(c* | I), in double precision."""
    held, target = rationales.unsqueeze(1), categories.unsqueeze(1)
    first = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures).gather(1, held)
    given = category_given_rationale_log_prob(
        features, text, rationales=held, logit_scale=logit_scale, temperatures=temperatures
    ).squeeze(1)
    alone = category_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures).gather(1, target)
    return (first.double() + given.gather(1, target).double() + weight * alone.double()).squeeze(1)
