"""Temperature scaling: fit temperatures by negative log-likelihood on validation images (arXiv:1706.04599).

Sums that a minimum hangs on are in double precision: in single precision the fit would depend on the processor.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.config.checks import require
from ecor.config.scoring import FACTORS, MethodName, Temperatures
from ecor.probability.factors import (
    category_given_rationale_log_prob,
    category_log_prob,
    group_by_id,
    rationale_given_category_log_prob,
    rationale_log_prob,
)
from ecor.probability.pair_logits import scaled_similarity
from ecor.probability.pooling_temperature import POOLING_WEIGHT, pooling_nll

_TOLERANCE = 1e-7
"""Of log T; the loss, in double precision, is flat to its last digit within about 1e-8."""
_CHUNK = 2**23
"""Logits that are in double precision at once."""
COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of fitted temperatures (our choice): perfect data would give 0, pure noise infinity."""


def fit_temperature(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> float:
    """Fit the temperature T with the least negative log-likelihood of softmax(logits / T) (arXiv:1706.04599).

    Args:
        logits: or log-probabilities, which differ by a constant per row.
        targets: ids; rows with a negative one are left out.

    Raises:
        ValueError: when no row has a target.
    """
    known = targets >= 0
    require(bool(known.any()), "no temperature can be fitted: none of the validation rows has a known target")
    chosen = logits[known].detach()
    own = chosen.gather(1, targets[known].unsqueeze(1)).squeeze(1).double()
    parts = chosen.split(max(1, _CHUNK // chosen.shape[1]))

    def mean_nll(temperature: float) -> float:
        partition = torch.cat([(part.double() / temperature).logsumexp(dim=-1) for part in parts])
        return float((partition - own / temperature).mean())

    return minimize_nll(mean_nll)


def minimize_nll(mean_nll: Callable[[float], float]) -> float:
    """The temperature with the least loss, which is convex in 1/T: a search over log T finds the minimum."""
    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(
        lambda x: mean_nll(math.exp(x)), bounds=bounds, method="bounded", options={"xatol": _TOLERANCE}
    )
    return math.exp(float(found.x))


@torch.no_grad()
def fit_temperatures(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, " B"],
    logit_scale: float,
    methods: Collection[MethodName] = tuple(FACTORS),
) -> Temperatures:
    """Fit one temperature per factor, with the labelled rationale or category given where the factor is conditional.

    An image with one label counts for the factors that need no other. For `pooled`, the temperature of the whole is
    fitted too, with the weight `POOLING_WEIGHT` (not in the paper). `inverted` needs the sentences of every labelled
    category with all rationales; `pooled` all sentences if they are in memory (`pooling_nll`); `pairs` all
    sentences, read about twenty times.

    Args:
        features: of held-out images.
        text: features of the vocabulary's sentences.
        categories: ids, −1 where unknown.
        rationales: ids, −1 where unknown.
        logit_scale: s, not its logarithm.
        methods: decodings whose factors are fitted; those of `joint` always are.

    Raises:
        ValueError: when a factor has no labelled image.
    """
    require(
        bool((rationales >= 0).any()),
        "no temperature can be fitted: none of the validation images has a known rationale",
    )
    wanted = {factor for method in methods for factor in FACTORS[method]}
    plain = Temperatures()

    def alone(log_prob: Callable[..., Tensor], targets: Tensor) -> float:
        """Of a factor without a condition, from the images whose label is known."""
        images = (targets >= 0).nonzero().squeeze(1)
        found = log_prob(features.select(images), text, logit_scale=logit_scale, temperatures=plain)
        return fit_temperature(found, targets[images])

    def given(log_prob: Callable[..., Tensor], targets: Tensor, **condition: Tensor) -> float:
        """Of a factor with a label given, from the images that have both."""
        images = ((categories >= 0) & (rationales >= 0)).nonzero().squeeze(1)
        held = {name: ids[images].unsqueeze(1) for name, ids in condition.items()}
        found = log_prob(features.select(images), text, **held, logit_scale=logit_scale, temperatures=plain)
        return fit_temperature(found.squeeze(1), targets[images])

    fitted = Temperatures(
        rationale=alone(rationale_log_prob, rationales),
        category_given_rationale=given(category_given_rationale_log_prob, categories, rationales=rationales),
        category=alone(category_log_prob, categories) if "category" in wanted else None,
        rationale_given_category=given(rationale_given_category_log_prob, rationales, categories=categories)
        if "rationale_given_category" in wanted
        else None,
        pair=fit_pair_temperature(features, text, categories=categories, rationales=rationales, logit_scale=logit_scale)
        if "pair" in wanted
        else None,
    )
    if "pooled" not in methods:
        return fitted
    loss = pooling_nll(
        features, text, categories=categories, rationales=rationales, logit_scale=logit_scale, temperatures=fitted
    )
    return replace(fitted, pooling_weight=POOLING_WEIGHT, pooling_temperature=minimize_nll(loss))


@torch.no_grad()
def fit_pair_temperature(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    categories: Int[Tensor, " B"],
    rationales: Int[Tensor, " B"],
    logit_scale: float,
) -> float:
    """Fit the temperature of one softmax over all pairs, whose logits are streamed row by row at each trial.

    Args:
        features: of held-out images.
        text: features of the vocabulary's sentences.
        categories: ids, −1 where unknown.
        rationales: ids, −1 where unknown.
        logit_scale: s, not its logarithm.

    Raises:
        ValueError: when no image has both labels.
    """
    images = ((categories >= 0) & (rationales >= 0)).nonzero().squeeze(1)
    require(bool(len(images)), "no temperature can be fitted: none of the validation images has a known pair")
    chosen = features.category[images]
    own = chosen.new_zeros(len(images), dtype=torch.float64)
    for rationale, slots in group_by_id(rationales[images]):
        logits = scaled_similarity(chosen[slots], text.row(rationale), scale=logit_scale)
        own[slots] = logits.gather(1, categories[images][slots].unsqueeze(1)).squeeze(1).double()

    def mean_nll(temperature: float) -> float:
        partition = torch.full_like(own, -math.inf)
        for rationale in range(text.rationales.shape[0]):
            logits = scaled_similarity(chosen, text.row(rationale), scale=logit_scale).double() / temperature
            partition = torch.logaddexp(partition, logits.logsumexp(dim=-1))
        return float((partition - own / temperature).mean())

    return minimize_nll(mean_nll)


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
    """Find the bin of each confidence, among bins of equal width that hold their upper border; 0 is in the first.

    Args:
        confidence: between 0 and 1.
        num_bins: over [0, 1].
    """
    return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def reliability(
    confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], *, num_bins: int = 15
) -> Reliability:
    """Compare confidence and accuracy bin by bin (expected calibration error: arXiv:1706.04599).

    Args:
        confidence: of N images, between 0 and 1.
        right: whether their answers are.
        num_bins: of equal width.
    """
    bins = bin_of(confidence, num_bins=num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=np.linspace(0, 1, num_bins + 1),
            num_images=counts,
            confidence=np.bincount(bins, weights=confidence, minlength=num_bins) / counts,
            accuracy=np.bincount(bins, weights=right, minlength=num_bins) / counts,
        )
