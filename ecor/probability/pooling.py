"""Pooled decoding: the joint probability, weighed with the category's own evidence. Not in the paper.

    P(c, r | I) ∝ P(r | I) · P(c | r, I) · P(c | I)^λ

λ = 0 is ECOR's joint (`ecor.probability.decoders`). Before it is normalised, a pair of r is at most
P(r | I) · max_c P(c | I)^λ, and all pairs of r together are at least P(r | I) · min_c P(c | I)^λ: that bounds what was
not evaluated.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures, TextFeatureTable
from ecor.config.scoring import ScoringConfig, Temperatures
from ecor.probability.exact_top_k import TopCandidates, expand_until_exact, rest_log_prob
from ecor.probability.factors import category_log_prob, rationale_log_prob
from ecor.probability.joint import Joint
from ecor.probability.pair_logits import fits_at_once, logits_given_rationale


def pool_with_category(
    features: ImageFeatures,
    text: TextFeatureTable,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures,
    weight: float,
) -> Joint:
    """log P(r | I) + λ · log P(c | I) + log P(c | r, I) − log Z for the K rationales of the largest bounds.

    Not in the paper: a log-linear pool of ECOR's joint and the category alone. K doubles until the best n pairs are
    exact, by the bound of the module. Z sums the evaluated pairs; of the others it takes, for each rationale, what the
    evaluated ones have on average, so that the probability kept is the P(r | I) of the evaluated rationales. Where not
    all are evaluated, `Joint.partition_bounds` says how far log Z may be from that.
    """
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    evidence_BC = weight * category_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    scale = logit_scale / temperatures.category_given_rationale

    def score(images: Tensor | None, ids: Tensor) -> Tensor:
        chosen, first, evidence = features, log_prob_BR, evidence_BC
        if images is not None:
            chosen, first, evidence = features.select(images), log_prob_BR[images], evidence_BC[images]
        logits = logits_given_rationale(chosen.category, text, rationales=ids, scale=scale)
        return first.gather(1, ids).unsqueeze(-1) + logits.log_softmax(dim=-1) + evidence.unsqueeze(1)

    kept = expand_until_exact(
        log_prob_BR + evidence_BC.amax(dim=-1, keepdim=True),
        score,
        scoring=scoring,
        width=evidence_BC.shape[1],
        at_once=fits_at_once(features, text),
    )
    return normalize_pool(kept, rationale_log_prob=log_prob_BR, evidence=evidence_BC)


def normalize_pool(
    kept: TopCandidates, *, rationale_log_prob: Float[Tensor, "B R"], evidence: Float[Tensor, "B C"]
) -> Joint:
    """The Joint of evaluated pairs, with the partition function as `pool_with_category` describes it.

    Args:
        kept: log P(r | I) + log P(c | r, I) + λ · log P(c | I) of the evaluated pairs.
        rationale_log_prob: log P(r | I) of every rationale.
        evidence: λ · log P(c | I).
    """
    unseen_B = rest_log_prob(rationale_log_prob, ids=kept.ids, evaluated=kept.evaluated)
    seen_BK = torch.where(kept.evaluated, rationale_log_prob.gather(1, kept.ids), -math.inf)
    mass_BC = kept.log_prob.logsumexp(dim=1)
    total_B1 = mass_BC.logsumexp(dim=-1, keepdim=True)
    partition_B1 = total_B1 - seen_BK.logsumexp(dim=-1, keepdim=True)
    log_prob_BKC = kept.log_prob - partition_B1.unsqueeze(-1)
    unseen_B1 = unseen_B.unsqueeze(1)
    extremes_B2 = torch.stack(evidence.aminmax(dim=-1), dim=1)
    # The rest may all belong to one category other than the best: at most P(unseen | I) · P(c | I)^λ.
    best_B1 = mass_BC.max(dim=-1, keepdim=True)
    highest_BC = torch.logaddexp(mass_BC, unseen_B1 + evidence).scatter(1, best_B1.indices, -math.inf)
    return Joint(
        method="pooled",
        rationales=kept.ids,
        rationale_log_prob=kept.log_prob.logsumexp(dim=-1) - partition_B1,
        log_prob=log_prob_BKC,
        category_log_prob=mass_BC - total_B1,
        rest_log_prob=unseen_B,
        pairs_exact=kept.exact,
        category_certain=(best_B1.values > highest_BC).all(dim=-1),
        partition_bounds=torch.logaddexp(total_B1, unseen_B1 + extremes_B2) - partition_B1,
    )
