"""Exact top-k pairs: K candidates of the first factor, doubled until the best pairs are proven exact (ours)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.config import ScoringConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TopCandidates:
    """Evaluated candidates of the first factor, with the pairs of each."""

    ids: Int[Tensor, "B K"]
    """Best first."""
    log_prob: Float[Tensor, "B K N"]
    """−inf where it was not evaluated, because the image did not need it."""
    evaluated: Bool[Tensor, "B K"]
    exact: Bool[Tensor, " B"]


def expand_until_exact(
    first_log_prob: Float[Tensor, "B F"],
    score: Callable[[Tensor, Tensor], Tensor],
    *,
    scoring: ScoringConfig,
    width: int,
) -> TopCandidates:
    """Evaluate the best K of the first factor; double K for images whose best `top_k` pairs are not yet exact.

    `score(images [b], ids [b k])` gives [b k N] log-probabilities of pairs, each at most the first factor's.
    """
    num_images, num_first = first_log_prob.shape
    enough = math.ceil(scoring.top_k / width)
    limit = min(num_first, max(scoring.max_keep_rationales, enough))
    num_kept = min(limit, max(scoring.keep_rationales, enough))
    ordered = first_log_prob.topk(min(num_first, limit + 1), dim=-1)
    exact = first_log_prob.new_zeros(num_images, dtype=torch.bool)
    best = first_log_prob.new_full((num_images, min(scoring.top_k, width * limit)), -math.inf)
    blocks, masks, seen = [], [], 0
    while num_kept > seen and not bool(exact.all()):
        images = (~exact).nonzero().squeeze(1)
        block = score(images, ordered.indices[images, seen:num_kept])
        blocks.append(block.new_full((num_images, num_kept - seen, width), -math.inf).index_copy(0, images, block))
        masks.append((~exact).unsqueeze(1).expand(-1, num_kept - seen))
        with torch.no_grad():
            candidates = torch.cat([best[images], block.flatten(1)], dim=1)
            best[images] = candidates.topk(best.shape[1], dim=-1).values
            if num_kept == num_first:
                exact = torch.ones_like(exact)
            else:
                exact = exact | (best[:, -1] > ordered.values[:, num_kept])
        seen, num_kept = num_kept, min(limit, 2 * num_kept)
    return TopCandidates(
        ids=ordered.indices[:, :seen],
        log_prob=torch.cat(blocks, dim=1),
        evaluated=torch.cat(masks, dim=1),
        exact=exact,
    )


def rest_log_prob(
    log_prob: Float[Tensor, "B R"], *, ids: Int[Tensor, "B K"], evaluated: Bool[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Log of the total probability of the ids that were not evaluated; a sum keeps more digits than 1 − p."""
    seen = torch.zeros_like(log_prob, dtype=torch.bool).scatter(1, ids, evaluated)
    return log_prob.masked_fill(seen, -math.inf).logsumexp(dim=-1)


def log_complement(log_prob: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log(1 − p), −inf where p rounds to one."""
    return torch.log1p(-log_prob.exp().clamp(max=1.0))


def margin(prob: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Difference between the largest and the second largest value; infinite where there is only one."""
    best = prob.topk(min(2, prob.shape[-1]), dim=-1).values
    return best[:, 0] - best[:, 1] if best.shape[1] == 2 else torch.full_like(best[:, 0], math.inf)
