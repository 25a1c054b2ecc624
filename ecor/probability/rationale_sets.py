"""Rank categories with sets of several rationales: log P(c, {r} | I) for m > 1 (ECOR, arXiv:2404.12839).

ECOR writes P({r} | I) · P(c | {r}, I) and leaves both open. Ours: Plackett–Luce without replacement from P(r | I), and
a mixture of P(c | r, I), or one long sentence. Sets of one are the Joint's pairs.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.checks import require
from ecor.config.scoring import Temperatures
from ecor.probability.factors import group_by_id
from ecor.probability.joint import Joint
from ecor.probability.pair_logits import scaled_similarity

LARGEST_SET = 6
SetConditional = Callable[[Int[Tensor, "B S m"]], Float[Tensor, "B S C"]]
"""Ids of S sets per image to log P(c | {r}, I)."""


class RankedSets(NamedTuple):
    """The best (category, set of m rationales) of each image, best first; a set's members in order of P(r | I)."""

    categories: Int[Tensor, "B k"]
    rationales: Int[Tensor, "B k m"]
    log_prob: Float[Tensor, "B k"]


def ranked_sets(
    joint: Joint, k: int, *, size: int, beam: int = 32, conditional: SetConditional | None = None
) -> RankedSets:
    """Rank the best k pairs of a category and a set of rationales, by log P(c, {r} | I), with beam search.

    P({r} | I) is Plackett–Luce without replacement from P(r | I), and P(c | {r}, I) the mixture of P(c | r, I) with
    weights P(r | I) renormalised over the set (our reading of ECOR, which leaves both open): `size` 1 is `joint`, and
    the sum over all sets and categories is one. Sets grow from their most probable members. The ranking is exact among
    the K kept rationales when `beam` is at least the number of sets.

    Args:
        joint: of B images.
        k: pairs per image.
        size: m, the rationales in a set.
        beam: sets of each size that are kept.
        conditional: replaces the mixture, for instance `sentence_conditional`.

    Raises:
        ValueError: when the size is below 1, above `LARGEST_SET`, or above the rationales kept, or the beam is below 1.
    """
    check_set_size(size, available=joint.rationales.shape[1])
    require(beam >= 1, f"beam must be at least 1, got {beam}")
    hidden = ~joint.evaluated
    log_prob_BK = joint.rationale_log_prob.masked_fill(hidden, -math.inf)
    members, set_log_prob = best_sets(log_prob_BK, joint.rest_log_prob, size=size, beam=beam)
    ids = gather_members(joint.rationales.unsqueeze(-1), members).squeeze(-1)
    given_BSC = mixture(joint, members) if conditional is None else conditional(ids)
    log_prob_BSC = nan_to_neg_inf(given_BSC + set_log_prob.unsqueeze(-1))
    num_categories = log_prob_BSC.shape[-1]
    best = log_prob_BSC.flatten(1).topk(min(k, log_prob_BSC[0].numel()), dim=-1)
    chosen = torch.div(best.indices, num_categories, rounding_mode="floor")
    rationales = ids.gather(1, chosen.unsqueeze(-1).expand(-1, -1, size))
    return RankedSets(best.indices % num_categories, rationales, best.values)


def mixture(joint: Joint, sets: Int[Tensor, "B S m"]) -> Float[Tensor, "B S C"]:
    """log P(c | {r}, I) = log Σ w_r · P(c | r, I), w_r ∝ P(r | I) over the set; `sets` are positions in K."""
    pair_BSmC = gather_members(joint.log_prob, sets)
    weight_BSm = gather_members(joint.rationale_log_prob.unsqueeze(-1), sets).squeeze(-1)
    return pair_BSmC.logsumexp(dim=2) - weight_BSm.logsumexp(dim=-1, keepdim=True)


def sentence_conditional(
    features: ImageFeatures,
    encode: Callable[[tuple[int, ...]], Float[Tensor, "C D"]],
    *,
    logit_scale: float,
    temperatures: Temperatures,
) -> SetConditional:
    """log P(c | {r}, I) from one long sentence per set and category ("because there are {r1}, {r2}, …").

    Args:
        features: of B images.
        encode: gives the features of a set's sentences with every category, for the set's ids in order of P(r | I),
            best first; called once per distinct set.
        logit_scale: s, not its logarithm.
        temperatures: that of the category given a rationale is used.
    """
    scale = logit_scale / temperatures.category_given_rationale

    def conditional(ids: Tensor) -> Tensor:
        sets, group = ids.flatten(0, 1).unique(dim=0, return_inverse=True)
        parts: list[Tensor] = []
        order: list[Tensor] = []
        for index, slots in group_by_id(group):
            images = torch.div(slots, ids.shape[1], rounding_mode="floor")
            text = encode(tuple(sets[index].tolist()))
            parts.append(scaled_similarity(features.category[images], text, scale=scale).log_softmax(dim=-1))
            order.append(slots)
        return torch.cat(parts)[torch.cat(order).argsort()].unflatten(0, tuple(ids.shape[:2]))

    return conditional


def set_log_prob(
    log_prob: Float[Tensor, "B K"], rest: Float[Tensor, " B"], *, sets: Int[Tensor, "B S m"]
) -> Float[Tensor, "B S"]:
    """log P({r} | I) of sets of distinct rationales: Plackett–Luce without replacement (our choice).

    The sum over all orders of drawing, taken subset by subset: f(S) = Σ_{i in S} f(S∖i) · p_i / (1 − p(S∖i)).
    The remainder 1 − p(S∖i) is summed from the others, not subtracted from one: a p near 1 loses no digits.

    Args:
        log_prob: log P(r | I) of K rationales.
        rest: log of the probability of all others together.
        sets: positions in K.

    Raises:
        ValueError: when the sets are larger than `LARGEST_SET` or K.
    """
    size = sets.shape[-1]
    check_set_size(size, available=log_prob.shape[1])
    member_BSm = gather_members(log_prob.unsqueeze(-1), sets).squeeze(-1)
    others = log_prob.unsqueeze(1).expand(-1, sets.shape[1], -1).scatter(2, sets, -math.inf)
    outside_BS = torch.logaddexp(others.logsumexp(dim=-1), rest.unsqueeze(-1))
    drawn = {0: torch.zeros_like(outside_BS)}
    for subset in range(1, 2**size):
        terms = []
        for member in (i for i in range(size) if subset >> i & 1):
            before = subset & ~(1 << member)
            left = [member_BSm[..., i] for i in range(size) if not before >> i & 1]
            remaining = torch.stack([*left, outside_BS], dim=-1).logsumexp(dim=-1)
            terms.append(drawn[before] + member_BSm[..., member] - remaining)
        drawn[subset] = torch.stack(terms, dim=-1).logsumexp(dim=-1)
    return drawn[2**size - 1]


def best_sets(
    log_prob: Float[Tensor, "B K"], rest: Float[Tensor, " B"], *, size: int, beam: int
) -> tuple[Int[Tensor, "B S m"], Float[Tensor, "B S"]]:
    """Positions of the most probable sets, and their log P({r} | I); members in order of probability."""
    order = log_prob.argsort(dim=-1, descending=True, stable=True)
    sorted_log_prob = log_prob.gather(1, order)
    num_images, num_kept = log_prob.shape
    ranks = torch.arange(num_kept, device=log_prob.device)
    members = torch.zeros((num_images, 1, 0), dtype=torch.long, device=log_prob.device)
    scores = log_prob.new_zeros((num_images, 1))
    for length in range(1, size + 1):
        # Each set is built once, from its most probable members first; positions are reserved for later members.
        last = members[..., -1:] if length > 1 else members.new_full((num_images, 1, 1), -1)
        allowed = (ranks > last) & (ranks < num_kept - (size - length)) & (scores.unsqueeze(-1) > -math.inf)
        grown = torch.cat(
            [members.unsqueeze(2).expand(-1, -1, num_kept, -1), ranks.expand(allowed.shape).unsqueeze(-1)], dim=-1
        )
        longer = grown.where(allowed.unsqueeze(-1), ranks[:length]).flatten(1, 2)
        scores = nan_to_neg_inf(set_log_prob(sorted_log_prob, rest, sets=longer))
        best = scores.masked_fill(~allowed.flatten(1), -math.inf).topk(min(beam, longer.shape[1]), dim=-1)
        members = longer.gather(1, best.indices.unsqueeze(-1).expand(-1, -1, length))
        scores = best.values
    return order.gather(1, members.flatten(1)).unflatten(1, tuple(members.shape[1:])), scores


def nan_to_neg_inf(log_prob: Tensor) -> Tensor:
    """Replace NaN, from 0/0 of a set with a rationale that was not evaluated, by −inf."""
    return log_prob.masked_fill(log_prob.isnan(), -math.inf)


def check_set_size(size: int, *, available: int) -> None:
    """Check that sets of a size can be drawn and summed.

    Args:
        size: rationales in a set.
        available: rationales that were kept.

    Raises:
        ValueError: when the size is below 1, above `LARGEST_SET`, or above `available`.
    """
    require(1 <= size <= LARGEST_SET, f"a set holds 1 to {LARGEST_SET} rationales, got {size}")
    require(size <= available, f"a set of {size} needs as many kept rationales, got {available}: keep more")


def gather_members(values: Shaped[Tensor, "B K N"], sets: Int[Tensor, "B S m"]) -> Shaped[Tensor, "B S m N"]:
    """The values of each set's members."""
    index = sets.flatten(1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index).unflatten(1, tuple(sets.shape[1:]))
