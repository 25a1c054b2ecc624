"""Negative log-likelihoods over a softmax, with sampled negatives where its sentences exceed the budget."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.training.chunked_logits import LossBatch, negative_log_likelihood
from ecor.training.negative_sampling import Candidates, distinct_ids, draw_candidates


def single_name_nll(
    image: Float[Tensor, "B D"],
    batch: LossBatch,
    *,
    logits_of: Callable[..., Tensor],
    targets: Int[Tensor, " B"],
    num: int,
    needed_by_others: int,
) -> tuple[Float[Tensor, " B"], int]:
    """−log softmax over `num` sentences of one name, zero where the target is −1; and how many were encoded.

    Half of the budget, or more where the other term leaves it.
    """
    size = max(batch.max_sentences // 2, batch.max_sentences - needed_by_others)
    drawn = draw_candidates(distinct_ids(targets), num=num, size=size, generator=batch.generator)
    logits_BN = logits_of(image, batch, ids=drawn.ids)
    return negative_log_likelihood(logits_BN - drawn.log_q, drawn.positions(targets)), len(drawn.ids)


def conditional_nll(
    batch: LossBatch,
    *,
    logits_of: Callable[..., Tensor],
    held: Int[Tensor, " B"],
    targets: Int[Tensor, " B"],
    num: int,
    budget: int,
) -> Float[Tensor, " B"]:
    """−log softmax over `num` pair sentences with an image's `held` name fixed; zero where that is −1."""
    image, names = batch.image.category, distinct_ids(held)
    per_name = max(2, budget // len(names))
    # Names share one draw of candidates, in groups small enough that their true ones fill at most half of it.
    nll = image.new_zeros(len(image))
    for group in names.split(min(max(1, per_name // 2), batch.sentences_per_chunk)):
        members = torch.isin(held, group).nonzero().squeeze(1)
        members = members if len(members) else torch.zeros_like(held[:1])
        drawn = draw_candidates(distinct_ids(targets[members]), num=num, size=per_name, generator=batch.generator)
        rows = torch.searchsorted(group, held[members].clamp(min=0)).clamp(max=len(group) - 1)
        logits = logits_of(image[members], batch, rows=rows, held=group, ids=drawn.ids)
        found = negative_log_likelihood(
            logits - drawn.log_q, drawn.positions(targets[members].where(held[members] >= 0, -1))
        )
        nll = nll.index_add(0, members, found.to(nll.dtype))
    return nll


def num_pair_groups(batch: LossBatch) -> int:
    """Groups of images with draws of their own, so that a group's own pairs fill at most half of its grid."""
    num_images = len(batch.image)
    if batch.sentences.num_rationales * batch.sentences.num_categories <= batch.max_sentences:
        return 1
    return min(num_images, math.ceil(2 * num_images**2 / batch.max_sentences))


def draw_grid(
    batch: LossBatch, rationales: Int[Tensor, " U"], categories: Int[Tensor, " V"], *, budget: int
) -> tuple[Candidates, Candidates]:
    """A grid within the budget with the vocabulary's proportions, holding the given ids on its sides."""
    num_r, num_c = batch.sentences.num_rationales, batch.sentences.num_categories
    size_c = min(num_c, max(len(categories) + 1, math.isqrt(budget * num_c // num_r)))
    size_r = min(num_r, max(len(rationales) + 1, budget // size_c))
    size_c = min(num_c, max(size_c, budget // size_r))
    return (
        draw_candidates(rationales, num=num_r, size=size_r, generator=batch.generator),
        draw_candidates(categories, num=num_c, size=size_c, generator=batch.generator),
    )
