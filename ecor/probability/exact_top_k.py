"""Exact top-k pairs: K candidates of the first factor, doubled until the best pairs are proven exact (ours)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ecor.config.scoring import ScoringConfig

_Score = Callable[[Tensor | None, Tensor], Tensor]
"""Images [b] (None: all) and ids of the first factor [b k] to log-probabilities of pairs [b k N]."""


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
    score: _Score,
    *,
    scoring: ScoringConfig,
    width: int,
    at_once: bool,
) -> TopCandidates:
    """Evaluate the best K of the first factor; double K for images whose best `top_k` pairs are not yet exact.

    `score` gives log-probabilities of pairs, each at most the first factor's.
    `at_once` scores the largest K that is allowed in one call and derives from it what doubling would have found:
    the same result, without a loop that waits for the device.
    """
    stages = candidate_stages(first_log_prob.shape[1], scoring=scoring, width=width)
    expand = _expand_at_once if at_once else _expand_step_by_step
    return expand(first_log_prob, score, stages=stages, num_pairs=min(scoring.top_k, width * stages[-1]))


def candidate_stages(num_first: int, *, scoring: ScoringConfig, width: int) -> list[int]:
    """The values of K, ascending: doubled from the first that can hold `top_k` pairs up to the limit."""
    enough = math.ceil(scoring.top_k / width)
    limit = min(num_first, max(scoring.max_keep_rationales, enough))
    stages = [min(limit, max(scoring.keep_rationales, enough))]
    while stages[-1] < limit:
        stages.append(min(limit, 2 * stages[-1]))
    return stages


def _expand_at_once(first_log_prob: Tensor, score: _Score, *, stages: list[int], num_pairs: int) -> TopCandidates:
    num_first, limit = first_log_prob.shape[1], stages[-1]
    ordered = first_log_prob.topk(min(num_first, limit + 1), dim=-1)
    ids = ordered.indices if limit == num_first else ordered.indices[:, :limit]
    log_prob = score(None, ids)
    # A pair beyond K is at most the first factor's value there. So the best pairs among the best K are the best of all
    # exactly if the last of the best is above that value.
    last_B1 = log_prob.flatten(1).topk(num_pairs, dim=-1).values[:, -1:]
    beyond = pad(ordered.values, (0, 1), value=-math.inf)
    exact_BS = last_B1 > torch.stack([beyond[:, num_kept] for num_kept in stages], dim=1)
    num_doubled_B1 = (~exact_BS).sum(dim=1, keepdim=True).clamp(max=len(stages) - 1)
    num_kept_B1 = (stages[0] * 2**num_doubled_B1).clamp(max=limit)
    largest = int(num_kept_B1.max())  # the only wait for the device
    evaluated = torch.arange(largest, device=ids.device) < num_kept_B1
    return TopCandidates(
        ids=ids[:, :largest],
        log_prob=log_prob[:, :largest].masked_fill(~evaluated.unsqueeze(-1), -math.inf),
        evaluated=evaluated,
        exact=exact_BS[:, -1],
    )


def _expand_step_by_step(first_log_prob: Tensor, score: _Score, *, stages: list[int], num_pairs: int) -> TopCandidates:
    num_images, num_first = first_log_prob.shape
    ordered = first_log_prob.topk(min(num_first, stages[-1] + 1), dim=-1)
    exact = first_log_prob.new_zeros(num_images, dtype=torch.bool)
    best = first_log_prob.new_full((num_images, num_pairs), -math.inf)
    blocks, masks, seen = [], [], 0
    for num_kept in stages:
        images = (~exact).nonzero().squeeze(1)
        if not len(images):
            break
        block = score(images, ordered.indices[images, seen:num_kept])
        unseen = block.new_full((num_images, num_kept - seen, block.shape[-1]), -math.inf)
        blocks.append(unseen.index_copy(0, images, block))
        masks.append((~exact).unsqueeze(1).expand(-1, num_kept - seen))
        with torch.no_grad():
            candidates = torch.cat([best[images], block.flatten(1)], dim=1)
            best[images] = candidates.topk(best.shape[1], dim=-1).values
            if num_kept == num_first:
                exact = torch.ones_like(exact)
            else:
                exact = exact | (best[:, -1] > ordered.values[:, num_kept])
        seen = num_kept
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
