"""Probability that an image shows the rationale of its label, by logistic calibration. Not in the paper.

P(r | I) sums to 1 over rationales. Where an image shows several parts it is too low for each of them, however well its
temperature fits. So a map of its own gives the probability that the named rationale is visible: Platt's scaling
(Platt 1999, "Probabilistic outputs for support vector machines") with two pieces of evidence,

    P(visible | I) = sigmoid(a + b · log-odds P(r | I) + d · log-odds P(c | I))

where c and r are those of the most probable pair, and P(r | I) and P(c | I) what the decoding method states of them.
There is a map per method, because each chooses other pairs. `docs/calibration.md` names the evidence that lost.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from ecor.config.checks import require
from ecor.config.scoring import VisibilityMap
from ecor.probability.joint import Joint, ranked_pairs

LEAST_IMAGES = 50
"""Fewest images that a map is fitted on (our choice: three numbers are fitted)."""
_LOWEST = 2.0**-24
"""Probabilities are stored as 32-bit floats: log-odds are those of one at least this far from 0 and 1."""
_TOLERANCE = 1e-10
"""Largest slope of the loss at the minimum, in nats per unit of a standardised weight."""


def visibility_evidence(joint: Joint) -> Float[Tensor, "B 2"]:
    """Evidence that the rationale of the most probable pair is visible: log-odds of the rationale, and of the category.

    Args:
        joint: of B images.
    """
    best = ranked_pairs(joint, 1)
    rationale_B = joint.rationale_log_prob.masked_fill(joint.rationales != best.rationales, -math.inf).amax(dim=-1)
    category_B = joint.category_log_prob.gather(1, best.categories)[:, 0]
    prob_B2 = torch.stack([rationale_B, category_B], dim=1).double().exp()
    return prob_B2.clamp(_LOWEST, 1 - _LOWEST).logit()


def visible_probability(evidence: Float[Tensor, "B 2"], visibility: VisibilityMap) -> Float[Tensor, " B"]:
    """Probability that each image shows the rationale of its label, between 0 and 1.

    Args:
        evidence: of `visibility_evidence`, for the decoding method that the map was fitted for.
        visibility: the fitted map.
    """
    weights = evidence.new_tensor([visibility.rationale_log_odds, visibility.category_log_odds])
    return (evidence @ weights + visibility.intercept).sigmoid()


def fit_visibility_map(evidence: Float[Tensor, "N 2"], is_visible: Bool[Tensor, " N"]) -> VisibilityMap:
    """Fit the map by likelihood, in double precision, with Platt's targets.

    The targets are (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2) for n₊ visible and n₋ other rationales, so that the minimum is
    finite also where evidence separates them.

    Args:
        evidence: of held-out images.
        is_visible: whether the image shows the named rationale.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    require(
        len(evidence) >= LEAST_IMAGES,
        f"a probability that rationales are visible needs {LEAST_IMAGES} images with visible_rationales, "
        f"got {len(evidence)}",
    )
    values, num_visible = evidence.double().cpu().numpy(), int(is_visible.sum())
    targets = np.where(
        is_visible.cpu().numpy(),
        (num_visible + 1) / (num_visible + 2),
        1 / (len(values) - num_visible + 2),
    )
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    intercept, *weights = _fit_logistic((values - mean) / spread, targets)
    slopes = np.array(weights) / spread
    return VisibilityMap(
        intercept=float(intercept - slopes @ mean),
        rationale_log_odds=float(slopes[0]),
        category_log_odds=float(slopes[1]),
        num_images=len(values),
    )


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
