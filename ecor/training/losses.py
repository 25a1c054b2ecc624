"""Training objectives: ECOR's two-term loss, one with a third term, and the losses of the methods it is compared with.

Sentences are encoded with gradient, so they are the cost: they pass in chunks whose activations are made again in
the backward pass, and above a budget negatives are sampled with the log-Q correction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.checks import require
from ecor.config.training import ObjectiveConfig
from ecor.training.chunked_logits import (
    LossBatch,
    Sentences,
    category_given_rationale_logits,
    category_logits,
    negative_log_likelihood,
    pair_log_partition,
    rationale_given_category_logits,
    rationale_logits,
)
from ecor.training.distributed import gather_features, gather_ids, mean_over_ranks
from ecor.training.in_batch_losses import in_batch_categories_loss, in_batch_pairs_loss
from ecor.training.manifold_matching import manifold_matching
from ecor.training.negative_sampling import Candidates, distinct_ids, draw_candidates, positions_in

__all__ = ["Objective", "Sentences", "objective_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A training objective: the sum of named loss terms, each a mean over images.

    Labels are ids, −1 where unknown: such an image counts in the terms for which its labels are known. Between ranks of
    a process group (while gradients are recorded) the mean of a term over ranks is its mean over all images, so that
    averaging gradients as DDP does equals one process with the whole batch; every rank must bring as many images. Under
    `no_grad` nothing is exchanged: a rank may evaluate alone.
    """

    terms: Callable[[LossBatch], dict[str, Tensor]]
    max_sentences: int
    """Encoded per call; above it negatives are sampled."""
    sentences_per_chunk: int

    def __call__(
        self,
        image: ImageFeatures,
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        sentences: Sentences,
        logit_scale: float,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named loss terms.

        Args:
            image: features of B images.
            categories: ids, −1 where unknown.
            rationales: ids, −1 where unknown.
            sentences: encode the vocabulary's sentences, with gradient where text tokens are learned.
            logit_scale: s, not its logarithm.
            generator: draws sampled negatives.
        """
        return self.terms(
            LossBatch(
                image=image,
                categories=categories,
                rationales=rationales,
                sentences=sentences,
                logit_scale=logit_scale,
                max_sentences=self.max_sentences,
                sentences_per_chunk=self.sentences_per_chunk,
                generator=generator,
            )
        )


def objective_of(config: ObjectiveConfig) -> Objective:
    """Return the objective that `config` names.

    Raises:
        ValueError: when the name is unknown; the message lists the known ones.
    """
    objectives: dict[str, Callable[[LossBatch], dict[str, Tensor]]] = {
        "two_term": two_term_loss,
        "in_batch_pairs": in_batch_pairs_loss,
        "in_batch_categories": in_batch_categories_loss,
        "inverted": inverted_loss,
        "independent": independent_loss,
        "pairs": pairs_loss,
        "three_term": partial(three_term_loss, category_weight=config.category_weight),
    }
    require(config.name in objectives, f"unknown objective {config.name!r}: choose from {', '.join(objectives)}")
    terms = objectives[config.name]
    return Objective(
        terms=add_manifold_matching(terms, config) if config.manifold_weight else terms,
        max_sentences=config.max_sentences_per_step,
        sentences_per_chunk=config.sentences_per_chunk,
    )


def add_manifold_matching(
    terms: Callable[[LossBatch], dict[str, Tensor]], config: ObjectiveConfig
) -> Callable[[LossBatch], dict[str, Tensor]]:
    """An objective's terms, and LICO's manifold matching (arXiv:2310.09821) of images and their Prompt_R.

    Ours: features of whole images and sentences, over the images of all ranks. Optimal transport has no place here, for
    where text tokens alone are learned there are no patches.
    """

    def both(batch: LossBatch) -> dict[str, Tensor]:
        rationales = gather_ids(batch.rationales)
        present = distinct_ids(rationales)
        matching = manifold_matching(
            gather_features(batch.image.rationale),
            batch.sentences.rationale_features(present)[positions_in(present, rationales).clamp(min=0)],
            temperature=config.manifold_temperature,
            known=rationales >= 0,
        )
        return {**terms(batch), "manifold": config.manifold_weight * matching}

    return both


def two_term_loss(batch: LossBatch) -> dict[str, Tensor]:
    """ECOR: −log P(r* | I) − log P(c* | r*, I), both softmaxes over the full vocabulary.

    Above `max_sentences` (all rationales, and all categories for each distinct r* of the batch) negatives are
    sampled: half of the budget for rationales where they need it, the rest for categories. The true ones are always
    held, even where they alone exceed it. Images whose rationale is unknown have no category term.
    """
    held, num_categories = batch.rationales.where(batch.known, -1), batch.sentences.num_categories
    rationale_nll, num_encoded = single_name_nll(
        batch.image.rationale,
        batch,
        logits_of=rationale_logits,
        targets=batch.rationales,
        num=batch.sentences.num_rationales,
        needed_by_others=len(distinct_ids(held)) * num_categories,
    )
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
    category_nll, num_encoded = single_name_nll(
        batch.image.category,
        batch,
        logits_of=category_logits,
        targets=batch.categories,
        num=batch.sentences.num_categories,
        needed_by_others=batch.max_sentences,
    )
    rest = replace(batch, max_sentences=batch.max_sentences - num_encoded)
    category = category_weight * mean_over_ranks(category_nll, batch.categories >= 0)
    return {**two_term_loss(rest), "category": category}


def inverted_loss(batch: LossBatch) -> dict[str, Tensor]:
    """The rival's order: −log P(c* | I) − log P(r* | c*, I), as `ecor.probability.decoders.decode_inverted` decodes.

    P(c | I) is a softmax over categories alone, P(r | c*, I) one over rationales of Prompt_{c|R} with c* held fixed.
    Sampled as ECOR's two terms are, with categories and rationales changing places.
    """
    held, num_rationales = batch.categories.where(batch.known, -1), batch.sentences.num_rationales
    category_nll, num_encoded = single_name_nll(
        batch.image.category,
        batch,
        logits_of=category_logits,
        targets=batch.categories,
        num=batch.sentences.num_categories,
        needed_by_others=len(distinct_ids(held)) * num_rationales,
    )
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
    rationale_nll, num_encoded = single_name_nll(
        batch.image.rationale,
        batch,
        logits_of=rationale_logits,
        targets=batch.rationales,
        num=batch.sentences.num_rationales,
        needed_by_others=batch.sentences.num_categories,
    )
    category_nll, _ = single_name_nll(
        batch.image.category,
        batch,
        logits_of=category_logits,
        targets=batch.categories,
        num=batch.sentences.num_categories,
        needed_by_others=num_encoded,
    )
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


def zero_prompt_r_term(batch: LossBatch) -> Float[Tensor, ""]:
    """Zero, with a graph through one sentence of Prompt_R: for losses that it has no part in.

    DDP expects a gradient of all parameters at every step.
    """
    return batch.sentences.rationale_features(distinct_ids(batch.rationales)[:1]).sum() * 0.0
