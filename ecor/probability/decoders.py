"""Joint probability of category and rationale (ECOR, arXiv:2404.12839), and the decoders it is compared with.

    P(r | I)        = softmax over r of  s/T_r · v(I) · t(Prompt_R(r))
    P(c | r, I)     = softmax over c of  s/T_c · v(I) · t(Prompt_{c|R}(c, r))      with r held fixed
    log P(c, r | I) = log P(r | I) + log P(c | r, I)

Only K rationales per image are evaluated. Where the features of all pairs are small, one matrix product with all of
them is faster (`ecor.probability.pair_logits`); otherwise a table over all pairs is never built.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.config.checks import require
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.exact_top_k import expand_until_exact, log_complement, margin, rest_log_prob
from ecor.probability.factors import category_log_prob, rationale_log_prob
from ecor.probability.joint import Joint
from ecor.probability.pair_logits import (
    fits_at_once,
    gather_rows,
    logits_given_category,
    logits_given_rationale,
    stream_pair_logits,
)
from ecor.probability.pooling import pool_with_category


def joint_probability(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures | None = None,
) -> Joint:
    """Compute log P(c, r | I) by the method that `scoring` names.

    The methods are `joint` (ECOR, arXiv:2404.12839), `inverted`, `independent`, `pairs` (DROR, arXiv:2212.06202) and,
    not in the paper, `pooled`. All is computed in fp32, also under autocast, and differentiable with respect to the
    features.

    Args:
        features: of B images.
        text: features of the vocabulary's sentences.
        scoring: method (None: `joint`), and how many pairs to rank exactly.
        logit_scale: the multiplier s, not its logarithm.
        temperatures: divide the logits of each method's own factors (our choice for the rivals); None: all 1.

    Raises:
        ValueError: when the method is unknown.
    """
    methods: dict[str, Callable[..., Joint]] = {
        "joint": decode_joint,
        "inverted": decode_inverted,
        "independent": decode_independent,
        "pairs": decode_pairs,
        "pooled": decode_pooled,
    }
    method = scoring.method or "joint"
    require(method in methods, f"unknown method {method!r}: choose from {', '.join(methods)}")
    return methods[method](
        features, text, scoring=scoring, logit_scale=logit_scale, temperatures=temperatures or Temperatures()
    )


def decode_joint(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
) -> Joint:
    """ECOR: log P(r | I) + log P(c | r, I) for the K most probable rationales.

    P(c, r | I) ≤ P(r | I): once P(r_{K+1} | I) lies below the n-th best pair, the best n pairs are exact. K doubles
    until then, only for images that still need it, up to `max_keep_rationales` (our decoding; the paper gives none).
    """
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    num_categories, scale = text.categories.shape[0], logit_scale / temperatures.category_given_rationale

    def score(images: Tensor | None, ids: Tensor) -> Tensor:
        chosen, first = (features, log_prob_BR) if images is None else (features.select(images), log_prob_BR[images])
        logits = logits_given_rationale(chosen.category, text, rationales=ids, scale=scale)
        return first.gather(1, ids).unsqueeze(-1) + logits.log_softmax(dim=-1)

    at_once = fits_at_once(features, text)
    kept = expand_until_exact(log_prob_BR, score, scoring=scoring, width=num_categories, at_once=at_once)
    mass_BC = kept.log_prob.logsumexp(dim=1)
    rest = rest_log_prob(log_prob_BR, ids=kept.ids, evaluated=kept.evaluated)
    return Joint(
        method="joint",
        rationales=kept.ids,
        rationale_log_prob=log_prob_BR.gather(1, kept.ids),
        log_prob=kept.log_prob,
        category_log_prob=mass_BC.log_softmax(dim=-1),
        rest_log_prob=rest,
        pairs_exact=kept.exact,
        category_certain=margin(mass_BC.exp()) > rest.exp(),
    )


def decode_inverted(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
) -> Joint:
    """The other order: log P(c | I) + log P(r | c, I), the second a softmax over r of the conditional sentence.

    Categories are kept instead of rationales, `keep_rationales` of them to begin with, under the same bound. The
    Joint holds the rationales with the best pairs, at least `top_k` of them, so that it holds the best pairs.
    """
    log_prob_BC = category_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    num_rationales, num_categories = text.rationales.shape[0], log_prob_BC.shape[1]
    scale = logit_scale / temperatures.of("rationale_given_category")

    def score(images: Tensor | None, ids: Tensor) -> Tensor:
        chosen, first = (features, log_prob_BC) if images is None else (features.select(images), log_prob_BC[images])
        logits = logits_given_category(chosen.category, text, categories=ids, scale=scale)
        return first.gather(1, ids).unsqueeze(-1) + logits.log_softmax(dim=-1)

    at_once = fits_at_once(features, text)
    kept = expand_until_exact(log_prob_BC, score, scoring=scoring, width=num_rationales, at_once=at_once)
    num_kept = min(num_rationales, max(scoring.top_k, scoring.keep_rationales))
    rationales = kept.log_prob.amax(dim=1).topk(num_kept, dim=-1).indices
    held_BKk = kept.log_prob.gather(2, rationales.unsqueeze(1).expand(-1, kept.ids.shape[1], -1)).transpose(1, 2)
    log_prob = held_BKk.new_full((len(features), num_kept, num_categories), -math.inf)
    log_prob = log_prob.scatter(2, kept.ids.unsqueeze(1).expand(-1, num_kept, -1), held_BKk)
    return Joint(
        method="inverted",
        rationales=rationales,
        rationale_log_prob=held_BKk.logsumexp(dim=-1),
        log_prob=log_prob,
        category_log_prob=log_prob_BC,
        rest_log_prob=log_complement(log_prob.flatten(1).logsumexp(dim=-1)),
        pairs_exact=kept.exact,
        category_certain=torch.ones_like(kept.exact),
    )


def decode_independent(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
) -> Joint:
    """log P(c | I) + log P(r | I): the best n pairs lie within the n best rationales, so they are always exact."""
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    log_prob_BC = category_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    num_kept = min(log_prob_BR.shape[1], max(scoring.top_k, scoring.keep_rationales))
    kept = log_prob_BR.topk(num_kept, dim=-1)
    certain = log_prob_BR.new_ones(len(features), dtype=torch.bool)
    return Joint(
        method="independent",
        rationales=kept.indices,
        rationale_log_prob=kept.values,
        log_prob=kept.values.unsqueeze(-1) + log_prob_BC.unsqueeze(1),
        category_log_prob=log_prob_BC,
        rest_log_prob=rest_log_prob(log_prob_BR, ids=kept.indices, evaluated=torch.ones_like(kept.indices).bool()),
        pairs_exact=certain,
        category_certain=certain,
    )


def decode_pairs(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
) -> Joint:
    """DROR: one softmax over all pairs of Prompt_{c|R}, streamed in blocks; its sums over c and over r are exact.

    Keeps the rationales with the best pairs, at least `top_k` of them, so that the best pairs are exact too.
    """
    scale = logit_scale / temperatures.of("pair")
    best, totals, category_total = [], [], None
    for logits_BGC in stream_pair_logits(features.category, text, scale=scale):
        best.append(logits_BGC.amax(dim=-1))
        totals.append(logits_BGC.logsumexp(dim=-1))
        block_BC = logits_BGC.logsumexp(dim=1)
        category_total = block_BC if category_total is None else torch.logaddexp(category_total, block_BC)
    assert category_total is not None, "a vocabulary has at least one rationale"
    total_BR = torch.cat(totals, dim=1)
    partition = total_BR.logsumexp(dim=-1, keepdim=True)
    num_kept = min(total_BR.shape[1], max(scoring.top_k, scoring.keep_rationales))
    ids = torch.cat(best, dim=1).topk(num_kept, dim=-1).indices
    log_prob_BR = total_BR - partition
    if logits_BGC.shape[1] == total_BR.shape[1]:  # one block: its product is not repeated
        kept_BKC = gather_rows(logits_BGC, ids)
    else:
        kept_BKC = logits_given_rationale(features.category, text, rationales=ids, scale=scale)
    certain = total_BR.new_ones(len(features), dtype=torch.bool)
    return Joint(
        method="pairs",
        rationales=ids,
        rationale_log_prob=log_prob_BR.gather(1, ids),
        log_prob=kept_BKC - partition.unsqueeze(-1),
        category_log_prob=category_total - partition,
        rest_log_prob=rest_log_prob(log_prob_BR, ids=ids, evaluated=torch.ones_like(ids).bool()),
        pairs_exact=certain,
        category_certain=certain,
    )


def decode_pooled(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
) -> Joint:
    """Not in the paper: P(c, r | I) ∝ (P(r | I) · P(c | r, I) · P(c | I)^λ)^(1/T), the joint and the category alone.

    λ is that of `scoring`, else that of the model, else 1; 0 is exactly `joint`. T is the fitted one where λ is that of
    the model, else 1.
    """
    own = 1.0 if temperatures.pooling_weight is None else temperatures.pooling_weight
    weight = own if scoring.pooling_weight is None else scoring.pooling_weight
    if weight == 0:
        joint = decode_joint(features, text, scoring=scoring, logit_scale=logit_scale, temperatures=temperatures)
        return replace(joint, method="pooled")
    return pool_with_category(
        features,
        text,
        scoring=scoring,
        logit_scale=logit_scale,
        temperatures=temperatures,
        weight=weight,
        pooling_temperature=(temperatures.pooling_temperature or 1.0) if weight == own else 1.0,
    )
