"""Platt scaling: logistic maps from log-odds to probabilities, and what calibrates the best pair and the category.

Factors with fitted temperatures do not make a fitted product, and the best of many pairs is chosen because it is high:
what decoding states of it is too high. Not in the paper: a map of its own states how probable it is that the best pair
is right (Platt 1999, "Probabilistic outputs for support vector machines"),

    P(right | I) = sigmoid(a + b · log-odds P(c, r | I))

where c and r are the most probable pair. P(c | I) as decoding states it has the same fault, most of all with `pooled`,
which counts the category's own evidence beside the joint's: a second map states the probability of the most probable
category, and the others share the rest as before. There are such maps per decoding method. `docs/calibration.md` names
what lost.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from ecor.config.checks import require
from ecor.config.scoring import ConfidenceMap
from ecor.probability.joint import Joint, ranked_pairs

LEAST_IMAGES = 50
"""Fewest images that a map is fitted on (our choice: two or three numbers are fitted)."""
_LOWEST = 2.0**-24
"""Probabilities are stored as 32-bit floats: log-odds are those of one at least this far from 0 and 1."""
_TOLERANCE = 1e-10
"""Largest slope of the loss at the minimum, in nats per unit of a standardised weight."""


def log_odds(log_prob: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log p/(1 − p) in double precision, finite also where p rounds to 0 or 1.

    Args:
        log_prob: log p.
    """
    return log_prob.double().exp().clamp(_LOWEST, 1 - _LOWEST).logit()


def pair_log_odds(joint: Joint) -> Float[Tensor, " B"]:
    """Log-odds of the most probable pair of each image, as decoding states them.

    Args:
        joint: of B images.
    """
    return log_odds(ranked_pairs(joint, 1).log_prob[:, 0])


def pair_probability(evidence: Float[Tensor, " B"], confidence: ConfidenceMap) -> Float[Tensor, " B"]:
    """Probability that the most probable pair is right, between 0 and 1.

    Args:
        evidence: of `pair_log_odds`, for the decoding method that the map was fitted for.
        confidence: the fitted map.
    """
    return (evidence * confidence.pair_log_odds + confidence.intercept).sigmoid()


def with_calibrated_category(joint: Joint, confidence: ConfidenceMap | None) -> Joint:
    """The same joint with P(c | I) as the fitted map states it. Pairs are not changed.

    The most probable category gets the probability of the map, or the least one with which it stays the most probable
    (ours); the others divide the rest as they did.

    Args:
        joint: of B images.
        confidence: fitted for the decoding method, if any.
    """
    if confidence is None or confidence.category_intercept is None or confidence.category_log_odds is None:
        return joint
    log_prob_BC = joint.category_log_prob.double()
    best = log_prob_BC.max(dim=-1, keepdim=True)
    others_BC = log_prob_BC.scatter(1, best.indices, -math.inf).log_softmax(dim=-1)
    stated = (log_odds(best.values) * confidence.category_log_odds + confidence.category_intercept).sigmoid()
    least = others_BC.amax(dim=-1, keepdim=True).sigmoid()
    stated = stated.clamp(max=1 - _LOWEST).maximum(least)
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
    evidence: Float[Tensor, " N"],
    is_right: Bool[Tensor, " N"],
    *,
    category_evidence: Float[Tensor, " M"],
    is_right_category: Bool[Tensor, " M"],
) -> ConfidenceMap:
    """Fit both maps by likelihood (`fit_platt_scaling`).

    Args:
        evidence: `pair_log_odds` of held-out images.
        is_right: whether category and rationale of the most probable pair are the labelled ones.
        category_evidence: `category_log_odds` of held-out images.
        is_right_category: whether the most probable category is the labelled one.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    for values, labels in ((evidence, "category and rationale"), (category_evidence, "a category")):
        require(
            len(values) >= LEAST_IMAGES,
            f"a calibrated confidence needs {LEAST_IMAGES} images with {labels}, got {len(values)}",
        )
    intercept, slopes = fit_platt_scaling(evidence.unsqueeze(1), is_right)
    of_category, category_slopes = fit_platt_scaling(category_evidence.unsqueeze(1), is_right_category)
    return ConfidenceMap(
        intercept=intercept,
        pair_log_odds=slopes[0],
        num_images=len(evidence),
        category_intercept=of_category,
        category_log_odds=category_slopes[0],
    )


def fit_platt_scaling(evidence: Float[Tensor, "N k"], is_so: Bool[Tensor, " N"]) -> tuple[float, list[float]]:
    """Fit intercept and weights of a logistic map by likelihood, in double precision, with Platt's targets.

    The targets are (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2) for n₊ positive and n₋ other images, so that the minimum is finite
    also where evidence separates them.

    Args:
        evidence: k numbers per held-out image.
        is_so: whether what is predicted is so.
    """
    values, num_positive = evidence.double().cpu().numpy(), int(is_so.sum())
    targets = np.where(
        is_so.cpu().numpy(),
        (num_positive + 1) / (num_positive + 2),
        1 / (len(values) - num_positive + 2),
    )
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    intercept, *weights = _fit_logistic((values - mean) / spread, targets)
    slopes = np.array(weights) / spread
    return float(intercept - slopes @ mean), [float(each) for each in slopes]


def _fit_logistic(values: Float[np.ndarray, "N k"], targets: Float[np.ndarray, " N"]) -> Float[np.ndarray, " k+1"]:
    """Intercept and weights of the least cross-entropy with targets between 0 and 1; it is convex in them."""
    design = np.column_stack([np.ones(len(values)), values])

    def loss(weights: np.ndarray) -> float:
        logits = design @ weights
        return float((np.logaddexp(0.0, logits) - targets * logits).mean())

    def slope(weights: np.ndarray) -> np.ndarray:
        return np.asarray(design.T @ (expit(design @ weights) - targets) / len(targets))

    def curvature(weights: np.ndarray) -> np.ndarray:
        prob = expit(design @ weights)
        return np.asarray(design.T @ (design * (prob * (1 - prob))[:, None]) / len(targets))

    prior = float(targets.mean())
    start = np.array([math.log(prior / (1 - prior)), *np.zeros(values.shape[1])])
    found = minimize(loss, start, jac=slope, hess=curvature, method="trust-exact", options={"gtol": _TOLERANCE})
    return np.asarray(found.x)
