"""Platt scaling: logistic maps from log-odds to probabilities, and what calibrates the best pair and the category.

Factors with fitted temperatures do not make a fitted product, and the best of many pairs is chosen because it is high:
what decoding states of it is too high. Not in the paper: a map of its own states how probable it is that the best pair
is right (Platt 1999, "Probabilistic outputs for support vector machines"),

    P(right | I) = sigmoid(a + b · log-odds P(c, r | I))

where c and r are the most probable pair. P(c | I) as decoding states it has the same fault, most of all with `pooled`,
which counts the category's own evidence beside the joint's, and is never so sure of nothing as it should be. So

    (1 − u) · softmax(log P(c | I) / T) + u / C

is stated of C categories: ensemble temperature scaling (arXiv:2003.07329) without its middle term. There is a map and a
pair T, u per decoding method. `docs/calibration.md` names what lost.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from torch import Tensor

from ecor.config.checks import require
from ecor.config.scoring import ConfidenceMap
from ecor.probability.joint import Joint, ranked_pairs
from ecor.probability.temperature_scaling import COLDEST, HOTTEST

LEAST_IMAGES = 50
"""Fewest images that a map is fitted on (our choice: two or three numbers are fitted)."""
_LOWEST = 2.0**-24
"""Probabilities are stored as 32-bit floats: log-odds are those of one at least this far from 0 and 1."""
_SMALLEST = float(np.finfo(np.float64).tiny)
"""Added to probabilities before their logarithm."""
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
    """The same joint with P(c | I) as the fitted numbers state it; its order stays. Pairs are not changed.

    Args:
        joint: of B images.
        confidence: fitted for the decoding method, if any.
    """
    if confidence is None or confidence.category_temperature is None:
        return joint
    scaled_BC = (joint.category_log_prob / confidence.category_temperature).log_softmax(dim=-1)
    if confidence.uniform_share:
        floor = scaled_BC.new_tensor(math.log(confidence.uniform_share / scaled_BC.shape[1]))
        scaled_BC = torch.logaddexp(scaled_BC + math.log1p(-confidence.uniform_share), floor)
    return replace(joint, category_log_prob=scaled_BC)


def fit_category_map(log_prob: Float[Tensor, "N C"], targets: Int[Tensor, " N"]) -> tuple[float, float]:
    """Fit T and u of (1 − u) · softmax(log P(c | I) / T) + u / C by likelihood, in double precision.

    Args:
        log_prob: log P(c | I) of held-out images, as decoding states it.
        targets: ids of their categories; rows with a negative one are left out.

    Raises:
        ValueError: when no row has a target.
    """
    known = targets >= 0
    require(bool(known.any()), "no temperature can be fitted: none of the validation images has a known category")
    chosen, num_categories = log_prob[known].double(), log_prob.shape[1]
    own = chosen.gather(1, targets[known].unsqueeze(1)).squeeze(1)

    def at(temperature: float) -> tuple[float, float]:
        """The least loss at a temperature, and its u: it is convex in u."""
        prob = (own / temperature - (chosen / temperature).logsumexp(dim=-1)).exp().numpy()

        def mean_nll(share: float) -> float:
            return -float(np.log((1 - share) * prob + share / num_categories + _SMALLEST).mean())

        found = minimize_scalar(mean_nll, bounds=(0.0, 0.5), method="bounded", options={"xatol": _TOLERANCE})
        return min((mean_nll(0.0), 0.0), (float(found.fun), float(found.x)))

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    search = minimize_scalar(lambda x: at(math.exp(x))[0], bounds=bounds, method="bounded", options={"xatol": 1e-7})
    temperature = math.exp(float(search.x))
    return temperature, at(temperature)[1]


def fit_confidence_map(evidence: Float[Tensor, " N"], is_right: Bool[Tensor, " N"]) -> ConfidenceMap:
    """Fit the map by likelihood (`fit_platt_scaling`).

    Args:
        evidence: of held-out images.
        is_right: whether category and rationale of the most probable pair are the labelled ones.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    require(
        len(evidence) >= LEAST_IMAGES,
        f"a calibrated confidence needs {LEAST_IMAGES} images with category and rationale, got {len(evidence)}",
    )
    intercept, slopes = fit_platt_scaling(evidence.unsqueeze(1), is_right)
    return ConfidenceMap(intercept=intercept, pair_log_odds=slopes[0], num_images=len(evidence))


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
