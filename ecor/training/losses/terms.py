"""Loss terms: ECOR's two, these with a third, and the terms of the methods that ECOR is compared with.

Sentences are encoded with gradient, so they are the cost: they pass in chunks whose activations are made again in
the backward pass, and above a budget negatives are sampled with the log-Q correction.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.training.chunked_logits import (
    LossBatch,
    category_given_rationale_logits,
    category_logits,
    pair_log_partition,
    rationale_given_category_logits,
    rationale_logits,
)
from ecor.training.distributed import mean_over_ranks
from ecor.training.losses.sampled_nll import conditional_nll, draw_grid, num_pair_groups, single_name_nll
from ecor.training.negative_sampling import distinct_ids


def two_term_loss(batch: LossBatch) -> dict[str, Tensor]:
    """ECOR: −log P(r* | I) − log P(c* | r*, I), both softmaxes over the full vocabulary.

    Above `max_sentences` (all rationales, and all categories for each distinct r* of the batch) negatives are
    sampled: half of the budget for rationales where they need it, the rest for categories. The true ones are always
    held, even where they alone exceed it. Images whose rationale is unknown have no category term.
    """
    held, num_categories = batch.rationales.where(batch.known, -1), batch.sentences.num_categories
    rationale_nll, num_encoded = _rationale_nll(batch, needed_by_others=len(distinct_ids(held)) * num_categories)
    category_nll = conditional_nll(
        batch,
        logits_of=category_given_rationale_logits,
        held=held,
        targets=batch.categories,
        num=num_categories,
        budget=batch.max_sentences - num_encoded,
    )
    return {
        "rationale": mean_over_ranks(rationale_nll, batch.rationales >= 0),
        "category_given_rationale": mean_over_ranks(category_nll, batch.known),
    }


def three_term_loss(batch: LossBatch, *, category_weight: float) -> dict[str, Tensor]:
    """Not in the paper: the two terms of `two_term`, and −log P(c* | I) times a weight, for pooled decoding.

    P(c | I) is a softmax over categories alone. Their sentences, at most half of `max_sentences`, are taken from the
    budget first; the two other terms share the rest as `two_term` does.
    """
    category_nll, num_encoded = _category_nll(batch, needed_by_others=batch.max_sentences)
    rest = replace(batch, max_sentences=batch.max_sentences - num_encoded)
    category = category_weight * mean_over_ranks(category_nll, batch.categories >= 0)
    return {**two_term_loss(rest), "category": category}


def inverted_loss(batch: LossBatch) -> dict[str, Tensor]:
    """The rival's order: −log P(c* | I) − log P(r* | c*, I), as `ecor.probability.decoders.decode_inverted` decodes.

    P(c | I) is a softmax over categories alone, P(r | c*, I) one over rationales of Prompt_{c|R} with c* held fixed.
    Sampled as ECOR's two terms are, with categories and rationales changing places.
    """
    held, num_rationales = batch.categories.where(batch.known, -1), batch.sentences.num_rationales
    category_nll, num_encoded = _category_nll(batch, needed_by_others=len(distinct_ids(held)) * num_rationales)
    rationale_nll = conditional_nll(
        batch,
        logits_of=rationale_given_category_logits,
        held=held,
        targets=batch.rationales,
        num=num_rationales,
        budget=batch.max_sentences - num_encoded,
    )
    return {
        "category": mean_over_ranks(category_nll, batch.categories >= 0),
        "rationale_given_category": mean_over_ranks(rationale_nll, batch.known) + zero_prompt_r_term(batch),
    }


def independent_loss(batch: LossBatch) -> dict[str, Tensor]:
    """The rival without a condition: −log P(r* | I) − log P(c* | I), the second over categories alone.

    Above `max_sentences` (all rationales and all categories) half of the budget is for rationales where they need it,
    the rest for categories.
    """
    rationale_nll, num_encoded = _rationale_nll(batch, needed_by_others=batch.sentences.num_categories)
    category_nll, _ = _category_nll(batch, needed_by_others=num_encoded)
    return {
        "rationale": mean_over_ranks(rationale_nll, batch.rationales >= 0),
        "category": mean_over_ranks(category_nll, batch.categories >= 0),
    }


def pairs_loss(batch: LossBatch) -> dict[str, Tensor]:
    """DROR's "why prompt" (arXiv:2212.06202): −log of one softmax over all pairs, at the true pair.

    The log-sum-exp is taken chunk by chunk. Above `max_sentences` it runs over a drawn grid of rationales and
    categories that holds the batch's own; a pair's inclusion probability is the product of the two (our choice).
    """
    num_groups = num_pair_groups(batch)
    nll = []
    for members in torch.arange(len(batch.image), device=batch.known.device).tensor_split(num_groups):
        valid = batch.known[members]
        wanted_r, wanted_c = (ids[members].where(valid, -1) for ids in (batch.rationales, batch.categories))
        drawn_r, drawn_c = draw_grid(
            batch, distinct_ids(wanted_r), distinct_ids(wanted_c), budget=batch.max_sentences // num_groups
        )
        log_partition, target = pair_log_partition(
            batch.image.category[members],
            batch,
            rationales=drawn_r,
            categories=drawn_c,
            targets=(drawn_r.positions(wanted_r), drawn_c.positions(wanted_c)),
        )
        nll.append((log_partition - target).masked_fill(~valid, 0.0))
    return {"pair": mean_over_ranks(torch.cat(nll), batch.known) + zero_prompt_r_term(batch)}


def zero_prompt_r_term(batch: LossBatch) -> Float[Tensor, ""]:
    """Zero, with a graph through one sentence of Prompt_R: for losses that it has no part in.

    DDP expects a gradient of all parameters at every step.
    """
    return batch.sentences.rationale_features(distinct_ids(batch.rationales)[:1]).sum() * 0.0


def _rationale_nll(batch: LossBatch, *, needed_by_others: int) -> tuple[Float[Tensor, " B"], int]:
    """−log P(r* | I), and the number of sentences that it encodes."""
    return single_name_nll(
        batch.image.rationale,
        batch,
        logits_of=rationale_logits,
        targets=batch.rationales,
        num=batch.sentences.num_rationales,
        needed_by_others=needed_by_others,
    )


def _category_nll(batch: LossBatch, *, needed_by_others: int) -> tuple[Float[Tensor, " B"], int]:
    """−log P(c* | I) over categories alone, and the number of sentences that it encodes."""
    return single_name_nll(
        batch.image.category,
        batch,
        logits_of=category_logits,
        targets=batch.categories,
        num=batch.sentences.num_categories,
        needed_by_others=needed_by_others,
    )
