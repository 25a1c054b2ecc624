"""Calibration of stated probabilities: expected error, its bias-corrected form, Brier score, negative log-likelihood.

The expected calibration error (arXiv:1706.04599) is above zero for calibrated probabilities too, because the share of
right answers in a bin is known up to noise only: 5 to 7 % for 400 images in 15 bins. The bias-corrected error subtracts
the variance of that share, and its expectation is zero where the probabilities are right.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from ecor.evaluation.confidence_intervals import Estimate, Resampling, Statistic, bootstrap, estimates, mean_estimates
from ecor.evaluation.correctness import RULES, RankedAnswers, Truth, is_member
from ecor.probability.temperature_scaling import bin_of, reliability

_SMALLEST = float(np.finfo(np.float32).eps) / 2
"""Probabilities are stored as 32-bit floats: one that rounds to 0 or 1 counts as this far from it (ours)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """Probabilities that a model stated of N images, and whether what they are of is so."""

    probability: Float[np.ndarray, " N"]
    is_so: Bool[np.ndarray, " N"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Images in one bin of a stated probability."""

    low: float
    high: float
    num_images: int
    confidence: float | None
    """Mean stated probability, for instance of the best pair; None where the bin is empty."""
    accuracy: float | None
    """Share of which it is so, for instance whose best pair is right (strict RR)."""


def stated_probabilities(answers: RankedAnswers, truth: Truth) -> dict[str, Stated]:
    """What the labels state, by name; without those that no image has a truth for.

    pair       the best pair: right by the strict rule
    category   the most probable category, whatever the rationale: right
    visible    the most probable rationale: one that the image shows. P(r | I) sums to 1 over rationales, so where
               several are visible it is too low by its definition
    rationale_visible    the rationale of the best pair: one that the image shows, by `rationale_visible_probability`,
               which is made for that
    """
    strict = RULES["strict"](answers, truth).shares()["rr"]
    found = {
        "pair": (truth.explained, answers.confidence, strict),
        "category": (
            (truth.categories >= 0) & ~np.isnan(answers.category_confidence),
            answers.category_confidence,
            answers.marginal_categories == truth.categories,
        ),
        "visible": (
            truth.visible_known & ~np.isnan(answers.rationale_confidence),
            answers.rationale_confidence,
            is_member(answers.rationales[:, 0], truth.visible),
        ),
        "rationale_visible": (
            truth.visible_known & ~np.isnan(answers.visible_confidence),
            answers.visible_confidence,
            is_member(answers.pair_rationales[:, 0], truth.visible),
        ),
    }
    return {
        name: Stated(probability=probability[known], is_so=is_so[known])
        for name, (known, probability, is_so) in found.items()
        if known.any()
    }


def calibration_estimates(
    answers: RankedAnswers, truth: Truth, *, num_bins: int, resampling: Resampling
) -> dict[str, Estimate]:
    """Calibration metrics of all that is stated: those of the pair as `calibration/…`, of others with their name.

    Args:
        answers: ranked predictions of N images.
        truth: of the same images.
        num_bins: of the errors.
        resampling: level, number and seed of the bootstrap over images.
    """
    found: dict[str, Estimate] = {}
    for name, stated in stated_probabilities(answers, truth).items():
        prefix = "calibration" if name == "pair" else f"calibration/{name}"
        metrics = calibration_of(stated, num_bins=num_bins, resampling=resampling)
        found |= {f"{prefix}/{metric}": estimate for metric, estimate in metrics.items()}
    return found


def calibration_of(stated: Stated, *, num_bins: int, resampling: Resampling) -> Mapping[str, Estimate]:
    """Calibration metrics of N > 0 stated probabilities.

    ece             expected calibration error, mean |share right − probability| over bins of equal width
    error           root of the bias-corrected mean square of that gap, over bins of equally many images
    brier           Brier score: mean squared distance of the probability from 0 or 1
    nll             negative log-likelihood of what is so, in nats

    Args:
        stated: probabilities and outcomes.
        num_bins: of both errors.
        resampling: level, number and seed of the bootstrap over images.
    """
    probability, is_so = stated.probability, stated.is_so.astype(np.float64)
    clipped = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    scores = {
        "brier": (probability - is_so) ** 2,
        "nll": -np.where(stated.is_so, np.log(clipped), np.log1p(-clipped)),
    }
    return {
        "ece": expected_error(stated, num_bins=num_bins, resampling=resampling),
        "error": corrected_error(stated, num_bins=num_bins, resampling=resampling),
        **mean_estimates(scores, resampling=resampling),
    }


def expected_error(stated: Stated, *, num_bins: int, resampling: Resampling) -> Estimate:
    """Expected calibration error (arXiv:1706.04599), over bins of equal width; biased upwards by noise."""
    gap = stated.probability - stated.is_so
    gaps = _by_bin(gap, bin_of(stated.probability, num_bins=num_bins), num_bins=num_bins)

    def error(counts: np.ndarray) -> np.ndarray:
        return np.abs(counts @ gaps).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)

    (found,) = estimates(error, num_images=len(gap), sizes=[len(gap)], resampling=resampling)
    return found


def corrected_error(stated: Stated, *, num_bins: int, resampling: Resampling) -> Estimate:
    """Root mean square calibration error with its bias removed (Kumar, Liang & Ma: arXiv:1909.10155).

    Bins hold equally many images, in order of probability. From each squared mean gap the variance of that mean is
    subtracted, so that the sum is unbiased; where it is negative the root is 0. A resample has the noise of its images
    and that of the draw: the interval is that of the corrected resamples, moved down by the noise of the images once
    more (ours).

    Args:
        stated: probabilities and outcomes of N images.
        num_bins: fewer are used where a bin would have less than two images.
        resampling: level, number and seed of the bootstrap over images.
    """
    gap, num = stated.probability - stated.is_so, len(stated.probability)
    order = np.argsort(stated.probability, kind="stable")
    used = max(1, min(num_bins, num // 2))
    bins = np.empty(num, dtype=np.int64)
    bins[order] = np.arange(num) * used // num
    statistic = _corrected_square(gap, bins, num_bins=used)
    value, low, high = bootstrap(statistic, num_images=num, resampling=resampling)
    square, noise = value
    root = np.sqrt(np.maximum([square, low[0] - noise, high[0] - noise], 0.0)).tolist()
    return Estimate(value=root[0], low=min(root[1], root[0]), high=max(root[2], root[0]), num_images=num)


def _corrected_square(gap: Float[np.ndarray, " N"], bins: Int[np.ndarray, " N"], *, num_bins: int) -> Statistic:
    """Two numbers per sample: the corrected mean square, and what was subtracted."""
    sums, squares = (_by_bin(values, bins, num_bins=num_bins) for values in (gap, gap**2))
    members = _by_bin(np.ones(len(gap)), bins, num_bins=num_bins)

    def statistic(counts: np.ndarray) -> np.ndarray:
        number = counts @ members
        mean = (counts @ sums) / np.maximum(number, 1)
        variance = np.maximum((counts @ squares) / np.maximum(number, 1) - mean**2, 0.0)
        of_mean = variance / np.maximum(number - 1, 1)  # unbiased: s² / n
        total = number.sum(axis=1)
        noise = (number * of_mean).sum(axis=1) / total
        return np.stack([(number * mean**2).sum(axis=1) / total - noise, noise], axis=1)

    return statistic


def _by_bin(values: Float[np.ndarray, " N"], bins: Int[np.ndarray, " N"], *, num_bins: int) -> csr_array:
    return csr_array((values, (np.arange(len(values)), bins)), shape=(len(values), num_bins))


def reliability_bins(
    answers: RankedAnswers, truth: Truth, *, num_bins: int, of: str = "pair"
) -> tuple[ReliabilityBin, ...]:
    """Stated probability against frequency; none without images that have a truth for it.

    Args:
        answers: ranked predictions.
        truth: of the same images.
        num_bins: of equal width.
        of: a name of `stated_probabilities`; `pair` is confidence against strict RR over the explained images.
    """
    stated = stated_probabilities(answers, truth).get(of)
    if stated is None:
        return ()
    found = reliability(stated.probability, stated.is_so, num_bins=num_bins)
    return tuple(
        ReliabilityBin(
            low=float(found.edges[i]),
            high=float(found.edges[i + 1]),
            num_images=int(count),
            confidence=float(found.confidence[i]) if count else None,
            accuracy=float(found.accuracy[i]) if count else None,
        )
        for i, count in enumerate(found.num_images)
    )
