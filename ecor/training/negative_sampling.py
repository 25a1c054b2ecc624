"""Sample softmax negatives, with log inclusion probabilities (log-Q correction)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Ids of a sampled softmax, with their inclusion probabilities."""

    ids: Int[Tensor, " N"]
    """Distinct, ascending."""
    log_q: Float[Tensor, " N"]
    """Log of the inclusion probability; exp(logit − log q) summed over the ids estimates the full sum unbiased."""

    def positions(self, ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Positions of ids; −1 for an id that is negative or not a candidate."""
        return positions_in(self.ids, ids)


def draw_candidates(always: Int[Tensor, " A"], *, num: int, size: int, generator: torch.Generator | None) -> Candidates:
    """Draw about `size` of `num` ids: those in `always`, and others uniformly without replacement, at least one.

    Args:
        always: distinct ids.
        num: ids to draw from, 0 to num - 1.
        size: with those in `always`; all ids where there are not more.
        generator: of the draw; None: torch's global one.
    """
    if size >= num:
        return Candidates(ids=torch.arange(num, device=always.device), log_q=torch.zeros(num, device=always.device))
    is_other = torch.ones(num, dtype=torch.bool, device=always.device).index_fill(0, always, value=False)
    others = is_other.nonzero().squeeze(1)
    num_drawn = min(len(others), max(1, size - len(always)))
    device = generator.device if generator is not None else "cpu"
    shuffled = torch.randperm(len(others), generator=generator, device=device)[:num_drawn].to(always.device)
    log_q = math.log(num_drawn / len(others)) if num_drawn else 0.0
    ids, order = torch.cat([always, others[shuffled]]).sort()
    return Candidates(ids=ids, log_q=torch.where(order < len(always), 0.0, log_q))


def distinct_ids(ids: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """The distinct ids in ascending order without −1; [0] if none is left, so that every batch has a graph for DDP."""
    found = ids[ids >= 0].unique()
    return found if len(found) else torch.zeros_like(ids[:1])


def positions_in(ascending: Int[Tensor, " N"], ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Find the position of each id in `ascending`; −1 for an id that is negative or not in it.

    Args:
        ascending: distinct ids, at least one.
        ids: to find.
    """
    found = torch.searchsorted(ascending, ids).clamp(max=len(ascending) - 1)
    return found.where(ascending[found] == ids, -1)
