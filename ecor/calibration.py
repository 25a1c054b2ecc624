"""Validation logits or confidences with the truth in, temperatures and reliability out."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from ecor.config import Temperatures, require
from ecor.probability import ImageFeatures, Rows, category_given_rationale_log_prob, rationale_log_prob

COLDEST, HOTTEST = 0.01, 100.0
"""Where fitted temperatures end: data that is always right would want 0, data that is noise infinity (our choice)."""


def fit_temperature(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> float:
    """The temperature T with the least negative log-likelihood of softmax(logits / T) (arXiv:1706.04599).

    Log-probabilities serve as well as logits: they differ by a constant per row. Rows whose target is negative are
    left out. The objective is convex in 1/T, so a search over log T in one dimension finds the minimum.

    Raises ValueError when no row has a target.
    """
    known = targets >= 0
    require(bool(known.any()), "no temperature can be fitted: none of the validation rows has a known target")
    chosen = logits[known].detach()
    own = chosen.gather(1, targets[known].unsqueeze(1)).squeeze(1).double()

    def mean_nll(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        return float(((chosen * inverse).logsumexp(dim=-1).double() - own * inverse).mean())

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(mean_nll, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


@torch.no_grad()
def fit_temperatures(
    features: ImageFeatures,
    text: Rows,
    *,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, " B"],
    logit_scale: float,
) -> Temperatures:
    """One temperature per factor, the category's with the labelled rationale given.

    Images are to be held-out ones. Labels are ids, −1 where unknown: such an image counts for the factors it can.

    Raises ValueError when a factor has no labelled image.
    """
    plain = Temperatures()
    labelled = (rationales >= 0).nonzero().squeeze(1)
    require(bool(len(labelled)), "no temperature can be fitted: none of the validation images has a known rationale")
    given = category_given_rationale_log_prob(
        features.select(labelled),
        text,
        rationales=rationales[labelled].unsqueeze(1),
        logit_scale=logit_scale,
        temperatures=plain,
    )
    alone = rationale_log_prob(features.select(labelled), text, logit_scale=logit_scale, temperatures=plain)
    return Temperatures(
        rationale=fit_temperature(alone, rationales[labelled]),
        category_given_rationale=fit_temperature(given.squeeze(1), categories[labelled]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width over [0, 1]."""

    edges: Float[np.ndarray, " E"]
    """Borders of the bins, ascending from 0 to 1; a bin holds its upper border."""
    num_images: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]
    """Mean confidence of each bin; NaN where it is empty."""
    accuracy: Float[np.ndarray, " N"]
    """Share of right ones in each bin; NaN where it is empty."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean |accuracy − confidence| over images, taken bin by bin."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gap * self.num_images) / max(1, self.num_images.sum()))


def bin_of(confidence: Float[np.ndarray, " N"], *, num_bins: int) -> Int[np.ndarray, " N"]:
    """Bins of equal width, each with its upper border: 0 is in the first, 1 in the last."""
    return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def reliability(
    confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], *, num_bins: int = 15
) -> Reliability:
    """How often images of each confidence are right (expected calibration error: arXiv:1706.04599)."""
    bins = bin_of(confidence, num_bins=num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=np.linspace(0, 1, num_bins + 1),
            num_images=counts,
            confidence=np.bincount(bins, weights=confidence, minlength=num_bins) / counts,
            accuracy=np.bincount(bins, weights=right, minlength=num_bins) / counts,
        )
