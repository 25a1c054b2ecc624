"""What calibrates the best pair and the category: maps from log-odds as decoded to probabilities. Not in the paper.

Factors with fitted temperatures do not make a fitted product, and the best of many pairs is chosen because it is high:
what decoding states of it is too high. A map of its own (`platt_scaling`) states how probable it is that the best pair
is right,

    P(right | I) = sigmoid(a + b · log-odds P(c, r | I) + u_c)

where c and r are the most probable pair. P(c | I) as decoding states it has the same fault, most of all with `pooled`,
which counts the category's own evidence beside the joint's: a second map of the same form states the probability of the
most probable category. The others share the rest by softmax(log P(c | I) / T), with a temperature T of their own,
fitted on the images whose most probable category is wrong. There are such maps per decoding method.
`docs/calibration.md` names what lost.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.config.checks import require
from ecor.config.scoring import ConfidenceMap
from ecor.probability.joint import Joint, ranked_pairs
from ecor.probability.maps.platt_scaling import (
    LEAST_IMAGES,
    LOWEST,
    Outcomes,
    PlattScaling,
    fit_platt_scaling,
    log_odds,
    platt_probability,
)
from ecor.probability.temperature_scaling import minimize_nll

LEAST_WRONG = 10
"""Fewest images with a wrong category that the temperature of the others is fitted on (our choice)."""


def pair_log_odds(joint: Joint) -> Float[Tensor, " B"]:
    """Log-odds of the most probable pair of each image, as decoding states them.

    Args:
        joint: of B images.
    """
    return log_odds(ranked_pairs(joint, 1).log_prob[:, 0])


def pair_probability(joint: Joint, confidence: ConfidenceMap) -> Float[Tensor, " B"]:
    """Probability that the most probable pair is right, between 0 and 1.

    Args:
        joint: of B images, by the decoding method that the map was fitted for.
        confidence: the fitted map.
    """
    scaling = PlattScaling(
        intercept=confidence.intercept, slopes=(confidence.pair_log_odds,), offsets=confidence.pair_offsets
    )
    best = ranked_pairs(joint, 1)
    return platt_probability(log_odds(best.log_prob), scaling, categories=best.categories[:, 0])


def with_calibrated_category(joint: Joint, confidence: ConfidenceMap | None) -> Joint:
    """The same joint with P(c | I) as the fitted map states it. Pairs are not changed.

    The most probable category gets the probability of the map, or the least one with which it stays the most probable
    (ours); the others divide the rest by their order, and by the temperature that was fitted for them.

    Args:
        joint: of B images.
        confidence: fitted for the decoding method, if any.
    """
    if confidence is None or confidence.category_intercept is None or confidence.category_log_odds is None:
        return joint
    scaling = PlattScaling(
        intercept=confidence.category_intercept,
        slopes=(confidence.category_log_odds,),
        offsets=confidence.category_offsets,
    )
    log_prob_BC = joint.category_log_prob.double()
    best = log_prob_BC.max(dim=-1, keepdim=True)
    others_BC = (log_prob_BC / (confidence.others_temperature or 1.0)).scatter(1, best.indices, -math.inf)
    others_BC = others_BC.log_softmax(dim=-1)
    stated = platt_probability(log_odds(best.values), scaling, categories=best.indices[:, 0]).unsqueeze(1)
    least = others_BC.amax(dim=-1, keepdim=True).sigmoid()
    stated = stated.clamp(max=1 - LOWEST).maximum(least)
    calibrated_BC = (others_BC + torch.log1p(-stated)).scatter(1, best.indices, stated.log())
    has_others = (log_prob_BC > -math.inf).sum(dim=-1, keepdim=True) > 1
    calibrated_BC = torch.where(has_others, calibrated_BC, log_prob_BC)
    return replace(joint, category_log_prob=calibrated_BC.to(joint.category_log_prob.dtype))


def category_log_odds(joint: Joint) -> Float[Tensor, " B"]:
    """Log-odds of the most probable category of each image, as decoding states them.

    Args:
        joint: of B images.
    """
    return log_odds(joint.category_log_prob.amax(dim=-1))


def fit_confidence_map(
    pair: Outcomes, *, category: Outcomes, others_temperature: float | None, num_categories: int
) -> ConfidenceMap:
    """Fit both maps by likelihood (`fit_platt_scaling`).

    Args:
        pair: `pair_log_odds` of held-out images, the categories of the pairs, and whether category and rationale of the
            pair are the labelled ones.
        category: `category_log_odds` of held-out images, their most probable categories, and whether these are right.
        others_temperature: of `fit_others_temperature`.
        num_categories: of the vocabulary.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    for outcomes, labels in ((pair, "category and rationale"), (category, "a category")):
        require(
            len(outcomes) >= LEAST_IMAGES,
            f"a calibrated confidence needs {LEAST_IMAGES} images with {labels}, got {len(outcomes)}",
        )
    of_pair, of_category = (fit_platt_scaling(each, num_categories=num_categories) for each in (pair, category))
    return ConfidenceMap(
        intercept=of_pair.intercept,
        pair_log_odds=of_pair.slopes[0],
        num_images=len(pair),
        category_intercept=of_category.intercept,
        category_log_odds=of_category.slopes[0],
        pair_offsets=of_pair.offsets,
        category_offsets=of_category.offsets,
        others_temperature=others_temperature,
    )


def fit_others_temperature(category_log_prob: Float[Tensor, "N C"], categories: Int[Tensor, " N"]) -> float | None:
    """The temperature T by which categories share what the most probable one leaves, or None for too few images.

    It has the largest product of the likelihood of the true categories and a log-normal distribution around 1 with a
    spread of 1 (ours): of few images, all of which have the truth in second place, a likelihood alone would make T 0.

    Args:
        category_log_prob: log P(c | I) of held-out images whose most probable category is wrong.
        categories: their true categories; images of which decoding rules the true one out are left out.
    """
    best = category_log_prob.argmax(dim=-1, keepdim=True)
    others = category_log_prob.double().scatter(1, best, -math.inf)
    true = categories.unsqueeze(1)
    is_possible = others.gather(1, true)[:, 0] > -math.inf
    others, true = others[is_possible], true[is_possible]
    if len(true) < LEAST_WRONG:
        return None

    def mean_loss(temperature: float) -> float:
        likelihood = (others / temperature).log_softmax(dim=-1).gather(1, true).mean()
        return math.log(temperature) ** 2 / (2 * len(true)) - float(likelihood)

    return minimize_nll(mean_loss)
