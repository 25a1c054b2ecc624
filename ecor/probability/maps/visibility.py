"""Probability that an image shows the rationale of its label, by logistic calibration. Not in the paper.

P(r | I) sums to 1 over rationales. Where an image shows several parts it is too low for each of them, however well its
temperature fits. So a map of its own gives the probability that the named rationale is visible: `platt_scaling` with
two pieces of evidence,

    P(visible | I) = sigmoid(a + b · log-odds P(r | I) + d · log-odds P(c | I) + u_c)

where c and r are those of the most probable pair, and P(r | I) and P(c | I) what the decoding method states of them.
There is a map per method, because each chooses other pairs. `docs/calibration.md` names the evidence that lost.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.config.checks import require
from ecor.config.scoring import VisibilityMap
from ecor.probability.joint import Joint, RankedPairs, ranked_pairs
from ecor.probability.maps.platt_scaling import (
    LEAST_IMAGES,
    Outcomes,
    PlattScaling,
    fit_platt_scaling,
    log_odds,
    platt_probability,
)


def visibility_evidence(joint: Joint) -> Float[Tensor, "B 2"]:
    """Evidence that the rationale of the most probable pair is visible: log-odds of the rationale, and of the category.

    Args:
        joint: of B images.
    """
    return _evidence(joint, ranked_pairs(joint, 1))


def _evidence(joint: Joint, best: RankedPairs) -> Float[Tensor, "B 2"]:
    rationale_B = joint.rationale_log_prob.masked_fill(joint.rationales != best.rationales, -math.inf).amax(dim=-1)
    category_B = joint.category_log_prob.gather(1, best.categories)[:, 0]
    return log_odds(torch.stack([rationale_B, category_B], dim=1))


def visible_probability(joint: Joint, visibility: VisibilityMap) -> Float[Tensor, " B"]:
    """Probability that each image shows the rationale of its label, between 0 and 1.

    Args:
        joint: of B images, by the decoding method that the map was fitted for.
        visibility: the fitted map.
    """
    scaling = PlattScaling(
        intercept=visibility.intercept,
        slopes=(visibility.rationale_log_odds, visibility.category_log_odds),
        offsets=visibility.category_offsets,
    )
    best = ranked_pairs(joint, 1)
    return platt_probability(_evidence(joint, best), scaling, categories=best.categories[:, 0])


def fit_visibility_map(outcomes: Outcomes, *, num_categories: int) -> VisibilityMap:
    """Fit the map by likelihood (`fit_platt_scaling`).

    Args:
        outcomes: `visibility_evidence` of held-out images, the categories of their most probable pairs, and whether the
            image shows the rationale of the pair.
        num_categories: of the vocabulary.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    require(
        len(outcomes) >= LEAST_IMAGES,
        f"a probability that rationales are visible needs {LEAST_IMAGES} images with visible_rationales, "
        f"got {len(outcomes)}",
    )
    fitted = fit_platt_scaling(outcomes, num_categories=num_categories)
    return VisibilityMap(
        intercept=fitted.intercept,
        rationale_log_odds=fitted.slopes[0],
        category_log_odds=fitted.slopes[1],
        num_images=len(outcomes),
        category_offsets=fitted.offsets,
    )
