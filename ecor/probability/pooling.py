"""Pooled decoding: the joint probability, weighed with the category's own evidence. Not in the paper.

    P(c, r | I) ∝ (P(r | I) · P(c | r, I) · P(c | I)^λ)^(1/T)

λ = 0 with T = 1 is ECOR's joint (`ecor.probability.decoders`). T changes no order of pairs. Before it is normalised, a
pair of r is at most (P(r | I) · max_c P(c | I)^λ)^(1/T), and all pairs of r together are at least
(P(r | I) · min_c P(c | I)^λ)^(1/T) if T ≥ 1: that, and its like for T < 1, bounds what was not evaluated.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.exact_top_k import TopCandidates, expand_until_exact, rest_log_prob
from ecor.probability.factors import category_log_prob, rationale_log_prob
from ecor.probability.joint import Joint
from ecor.probability.pair_logits import fits_at_once, logits_given_rationale


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pairs before they are normalised."""

    kept: TopCandidates
    """(log P(r | I) + log P(c | r, I) + λ · log P(c | I)) / T of the evaluated pairs, less a number per image."""
    rationale_log_prob: Float[Tensor, "B R"]
    """log P(r | I) / T of every rationale, normalised."""
    evidence: Float[Tensor, "B C"]
    """λ · log P(c | I) / T, less a number per image."""
    temperature: float
    """T."""


def pool_with_category(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
    weight: float,
    pooling_temperature: float = 1.0,
) -> Joint:
    """(log P(r | I) + λ · log P(c | I) + log P(c | r, I)) / T − log Z for the K rationales of the largest bounds.

    Not in the paper: a log-linear pool of ECOR's joint and the category alone. K doubles until the best n pairs are
    exact, by the bound of the module. Z sums the evaluated pairs; of the others it takes, for each rationale, what the
    evaluated ones have on average, so that the probability kept is the share of the evaluated rationales in
    Σ_r P(r | I)^(1/T). Where not all are evaluated, `Joint.partition_bounds` says how far log Z may be from that.
    """
    return normalize_pool(
        evaluate_pool(
            features,
            text,
            scoring=scoring,
            logit_scale=logit_scale,
            temperatures=temperatures,
            weight=weight,
            pooling_temperature=pooling_temperature,
        )
    )


def evaluate_pool(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
    weight: float,
    pooling_temperature: float = 1.0,
) -> Pool:
    """Evaluate the pairs of the K rationales that decoding needs.

    The T-th root of a softmax is, but for a factor, a softmax of T times the temperature. That of P(c | r, I) is taken
    after its softmax, since its factor depends on r.
    """
    hot = replace(
        temperatures,
        rationale=temperatures.rationale * pooling_temperature,
        category=temperatures.of("category") * pooling_temperature,
    )
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=hot)
    evidence_BC = weight * category_log_prob(features, text, logit_scale=logit_scale, temperatures=hot)
    scale = logit_scale / temperatures.category_given_rationale

    def score(images: Tensor | None, ids: Tensor) -> Tensor:
        chosen, first, evidence = features, log_prob_BR, evidence_BC
        if images is not None:
            chosen, first, evidence = features.select(images), log_prob_BR[images], evidence_BC[images]
        logits = logits_given_rationale(chosen.category, text, rationales=ids, scale=scale)
        given, first = logits.log_softmax(dim=-1), first.gather(1, ids).unsqueeze(-1)
        return torch.add(first, given, alpha=1 / pooling_temperature) + evidence.unsqueeze(1)

    kept = expand_until_exact(
        log_prob_BR + evidence_BC.amax(dim=-1, keepdim=True),
        score,
        scoring=scoring,
        width=evidence_BC.shape[1],
        at_once=fits_at_once(features, text),
    )
    return Pool(kept=kept, rationale_log_prob=log_prob_BR, evidence=evidence_BC, temperature=pooling_temperature)


def normalize_pool(pool: Pool) -> Joint:
    """The Joint of evaluated pairs, with the partition function as `pool_with_category` describes it."""
    kept = pool.kept
    unseen_B = rest_log_prob(pool.rationale_log_prob, ids=kept.ids, evaluated=kept.evaluated)
    seen_BK = torch.where(kept.evaluated, pool.rationale_log_prob.gather(1, kept.ids), -math.inf)
    mass_BC = kept.log_prob.logsumexp(dim=1)
    total_B1 = mass_BC.logsumexp(dim=-1, keepdim=True)
    partition_B1 = total_B1 - seen_BK.logsumexp(dim=-1, keepdim=True)
    # The rest may all belong to one category other than the best: at most its share of Σ_r P(r | I)^(1/T), times
    # P(c | I)^(λ/T).
    unseen_BC = unseen_B.unsqueeze(1) + pool.evidence
    best_B1 = mass_BC.max(dim=-1, keepdim=True)
    highest_BC = torch.logaddexp(mass_BC, unseen_BC).scatter(1, best_B1.indices, -math.inf)
    return Joint(
        method="pooled",
        rationales=kept.ids,
        rationale_log_prob=kept.log_prob.logsumexp(dim=-1) - partition_B1,
        log_prob=kept.log_prob - partition_B1.unsqueeze(-1),
        category_log_prob=mass_BC - total_B1,
        rest_log_prob=unseen_B,
        pairs_exact=kept.exact,
        category_certain=(best_B1.values > highest_BC).all(dim=-1),
        partition_bounds=torch.logaddexp(total_B1, _extremes(unseen_BC, pool.temperature)) - partition_B1,
    )


def _extremes(unseen: Float[Tensor, "B C"], temperature: float) -> Float[Tensor, "B 2"]:
    """The least and the most that the rest may add to log Z, from what it adds if it is all of one category.

    Σ_c P(c | r, I)^(1/T) is 1 where one category is certain, and C^(1 − 1/T) where all are equal.
    """
    lowest, highest = unseen.aminmax(dim=-1)
    equal = (1 - 1 / temperature) * math.log(unseen.shape[1])
    if equal > 0:
        highest = highest + equal
    elif equal < 0:
        lowest = lowest + equal
    return torch.stack([lowest, highest], dim=1)
