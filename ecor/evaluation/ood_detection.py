"""Out-of-distribution scores, and how well a score separates known images from unknown ones.

A score is high for what is known ("in distribution"). Scores by concepts are those of ConVis (arXiv:2405.14563).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ecor.config.checks import require
from ecor.evaluation.confidence_intervals import Estimate, Resampling, estimates
from ecor.evaluation.linear_probe import LinearProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How well a score separates known from unknown images."""

    auroc: Estimate
    """The probability that a known picture scores higher than an unknown one, ties counted half."""
    fpr95_unknown: Estimate
    """The unknown are positive, as in ConVis: the share of known pictures rejected where 95 % of unknown ones are."""
    fpr95_known: Estimate
    """The known are positive, as elsewhere: the share of unknown pictures accepted where 95 % of known ones are."""


def max_logit(features: Float[Tensor, "N D"], probe: LinearProbe) -> Float[Tensor, " N"]:
    """The largest logit of a classifier of the known categories (arXiv:1911.11132).

    Args:
        features: of images.
        probe: fitted on features of the same tower.
    """
    return probe.logits(features).amax(dim=-1)


def auroc(positive: Float[np.ndarray, " P"], negative: Float[np.ndarray, " Q"]) -> float:
    """The probability that a positive scores higher than a negative, ties counted half.

    Raises:
        ValueError: when there are no positives or no negatives, or a score is not finite.
    """
    _check(positive, negative)
    return float(_win_matrix(positive, negative).mean())


def fpr_at_tpr(positive: Float[np.ndarray, " P"], negative: Float[np.ndarray, " Q"], *, tpr: float = 0.95) -> float:
    """The share of negatives at or above the highest threshold that at least a share `tpr` of positives reaches.

    The number depends on which class is positive: say so with it.

    Args:
        positive: scores.
        negative: scores.
        tpr: a share.

    Raises:
        ValueError: when there are no positives or no negatives, or a score is not finite.
    """
    _check(positive, negative)
    num_kept = np.ceil(tpr * len(positive) - 1e-9).astype(int)
    return float((negative >= np.sort(positive)[::-1][max(0, num_kept - 1)]).mean())


def detection_measures(
    known: Float[np.ndarray, " P"], unknown: Float[np.ndarray, " Q"], *, resampling: Resampling | None = None
) -> Detection:
    """All measures of one score, with intervals over images drawn with replacement.

    Args:
        known: scores of images of known categories.
        unknown: scores of other images.
        resampling: level, number and seed; None: the default.

    Raises:
        ValueError: when there are no known or no unknown images, or a score is not finite.
    """
    _check(known, unknown)
    wins = _win_matrix(known, unknown)
    orders = [_ThresholdTable(known, unknown), _ThresholdTable(-unknown, -known)]
    num_known = len(known)

    def statistic(counts: Float[np.ndarray, "S N"]) -> Float[np.ndarray, "S 3"]:
        of_known, of_unknown = counts[:, :num_known], counts[:, num_known:]
        with np.errstate(invalid="ignore"):
            won = ((of_known @ wins) * of_unknown).sum(axis=1) / (of_known.sum(axis=1) * of_unknown.sum(axis=1))
        rates = orders[1].false_rate(of_unknown, of_known), orders[0].false_rate(of_known, of_unknown)
        return np.stack([won, *rates], axis=1)

    num = num_known + len(unknown)
    found = estimates(statistic, num_images=num, sizes=[num] * 3, resampling=resampling or Resampling())
    return Detection(auroc=found[0], fpr95_unknown=found[1], fpr95_known=found[2])


class _ThresholdTable:
    """Indicators of both classes at each threshold, to compute rates of many resamples at once."""

    def __init__(self, positive: np.ndarray, negative: np.ndarray) -> None:
        thresholds = np.unique(positive)[::-1]
        self.positive = (positive[:, None] >= thresholds).astype(np.float64)
        self.negative = (negative[:, None] >= thresholds).astype(np.float64)

    def false_rate(self, of_positive: np.ndarray, of_negative: np.ndarray, *, tpr: float = 0.95) -> np.ndarray:
        """`fpr_at_tpr` of each resample."""
        with np.errstate(invalid="ignore"):
            true = of_positive @ self.positive / of_positive.sum(axis=1, keepdims=True)
            false = of_negative @ self.negative / of_negative.sum(axis=1, keepdims=True)
        first = (true >= tpr - 1e-9).argmax(axis=1)
        return np.where(np.isnan(true).any(axis=1), np.nan, false[np.arange(len(first)), first])


def _win_matrix(positive: np.ndarray, negative: np.ndarray) -> Float[np.ndarray, "P Q"]:
    return (positive[:, None] > negative).astype(np.float64) + 0.5 * (positive[:, None] == negative)


def _check(positive: np.ndarray, negative: np.ndarray) -> None:
    require(
        len(positive) > 0 and len(negative) > 0, f"{len(positive)} and {len(negative)} scores: both classes need some"
    )
    require(bool(np.isfinite(positive).all() and np.isfinite(negative).all()), "a score is no finite number")
