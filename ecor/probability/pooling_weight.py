"""Fit the weight λ of pooled decoding by negative log-likelihood on validation images. Not in the paper."""

import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TableInMemory, TextFeatureTable
from ecor.config.checks import require
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.decoders import decode_joint
from ecor.probability.factors import category_log_prob, rationale_log_prob
from ecor.probability.pair_logits import stream_pair_logits

LARGEST_WEIGHT = 10.0
"""Bound of fitted weights (our choice): a category that is always right would give infinity."""
_TOLERANCE = 1e-7
"""Of λ; the loss, in double precision, is flat to its last digit within about 1e-8."""


@torch.no_grad()
def fit_pooling_weight(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    categories: Int[Tensor, " B"],
    logit_scale: float,
    temperatures: Temperatures,
) -> float:
    """The λ from 0 to `LARGEST_WEIGHT` with the least negative log-likelihood of pooled decoding. Not in the paper.

    The factors keep their own temperatures. Then only the category's label matters: the pool is the joint times
    P(c | I)^λ, and its partition function is Σ_c P_joint(c | I) · P(c | I)^λ. P_joint is summed over all rationales if
    all sentences are in memory; else over those that decoding evaluates, so that no others are encoded for the fit.
    Images are to be held-out ones; ids are −1 where unknown.

    Raises ValueError when no image has a known category.
    """
    images = (categories >= 0).nonzero().squeeze(1)
    require(bool(len(images)), "no pooling weight can be fitted: none of the validation images has a known category")
    chosen, targets = features.select(images), categories[images].unsqueeze(1)
    alone = category_log_prob(chosen, text, logit_scale=logit_scale, temperatures=temperatures).double()
    has_table = isinstance(text, TableInMemory) and text.table is not None
    marginal = marginal_category_log_prob if has_table else _evaluated_category_log_prob
    joint = marginal(chosen, text, logit_scale=logit_scale, temperatures=temperatures).double()
    own = alone.gather(1, targets).squeeze(1)

    def mean_nll(weight: float) -> float:
        return float(((joint + weight * alone).logsumexp(dim=-1) - weight * own).mean())

    bounds = (0.0, LARGEST_WEIGHT)
    found = float(minimize_scalar(mean_nll, bounds=bounds, method="bounded", options={"xatol": _TOLERANCE}).x)
    return found if mean_nll(found) < mean_nll(0.0) else 0.0


def _evaluated_category_log_prob(
    features: ImageFeatures, text: TextFeatureTable, *, logit_scale: float, temperatures: Temperatures
) -> Float[Tensor, "B C"]:
    """The same over the rationales that decoding evaluates, as if the others agreed with them on average."""
    scoring = ScoringConfig(method="joint", top_k=1)
    joint = decode_joint(features, text, scoring=scoring, logit_scale=logit_scale, temperatures=temperatures)
    return joint.category_log_prob


def marginal_category_log_prob(
    features: ImageFeatures, text: TextFeatureTable, *, logit_scale: float, temperatures: Temperatures
) -> Float[Tensor, "B C"]:
    """log Σ_r P(r | I) · P(c | r, I) over all rationales: what ECOR's joint says about the category alone."""
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    scale = logit_scale / temperatures.category_given_rationale
    total: Tensor | None = None
    first = 0
    for logits_BGC in stream_pair_logits(features.category, text, scale=scale):
        weights_BG = log_prob_BR[:, first : first + logits_BGC.shape[1]]
        part = (logits_BGC.log_softmax(dim=-1) + weights_BG.unsqueeze(-1)).logsumexp(dim=1)
        total = part if total is None else torch.logaddexp(total, part)
        first += logits_BGC.shape[1]
    assert total is not None, "a vocabulary has a rationale"
    return total
