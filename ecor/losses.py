"""Image features, labels and sentences in, named loss terms out: ECOR's two terms, their in-batch forms, DROR's.

Sentences are encoded with gradient, so they are the cost: they pass in chunks whose activations are made again in
the backward pass, and above a budget negatives are sampled with the log-Q correction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.candidates import Candidates, distinct, draw_candidates, positions
from ecor.config import ObjectiveConfig, require
from ecor.logits import Sentences, category_logits, in_chunks, pair_features, pair_log_partition, rationale_logits
from ecor.probability import ImageFeatures, scaled_similarity
from ecor.ranks import gather_features, gather_ids, mean_over_ranks

__all__ = ["Objective", "Sentences", "objective_of"]


@runtime_checkable
class Objective(Protocol):
    """What the learned tokens are tuned to minimise: the sum of its named terms, each a mean over images.

    Labels are ids, −1 where unknown: such an image takes part in the terms it can. Between ranks of a process group
    (while gradients are recorded) the mean of a term over ranks is its mean over all images, so that averaging
    gradients as DDP does equals one process with the whole batch; every rank must bring as many images. Under
    `no_grad` nothing is exchanged: a rank may evaluate alone.
    """

    def __call__(
        self,
        image: ImageFeatures,
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        sentences: Sentences,
        logit_scale: float,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]: ...


def objective_of(config: ObjectiveConfig) -> Objective:
    """The objective that `config` names; ValueError listing the known names for any other."""
    objectives: dict[str, Callable[..., Objective]] = {
        "two_term": TwoTerm,
        "in_batch_pairs": InBatchPairs,
        "in_batch_categories": InBatchCategories,
        "pairs": Pairs,
    }
    require(config.name in objectives, f"unknown objective {config.name!r}: choose from {', '.join(objectives)}")
    return objectives[config.name](
        max_sentences=config.max_sentences_per_step, sentences_per_chunk=config.sentences_per_chunk
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTerm:
    """ECOR: −log P(r* | I) − log P(c* | r*, I), both softmaxes over the full vocabulary (method decision 4).

    Above `max_sentences` (all rationales, and all categories for each distinct r* of the batch) negatives are
    sampled: half of the budget for rationales where they need it, the rest for categories. The true ones are always
    held, even where they alone exceed it. Images whose rationale is unknown have no category term.
    """

    max_sentences: int
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
        needed = len(distinct(rationales.where(known(categories, rationales), -1))) * sentences.num_categories
        drawn = draw_candidates(
            distinct(rationales),
            num=sentences.num_rationales,
            size=max(self.max_sentences // 2, self.max_sentences - needed),
            generator=generator,
        )
        logits_BN = rationale_logits(
            image.rationale,
            sentences,
            ids=drawn.ids,
            logit_scale=logit_scale,
            sentences_per_chunk=self.sentences_per_chunk,
        )
        category_nll = self.category_nll(
            image.category,
            categories=categories,
            rationales=rationales,
            sentences=sentences,
            logit_scale=logit_scale,
            generator=generator,
            budget=self.max_sentences - len(drawn.ids),
        )
        return {
            "rationale": mean_over_ranks(
                negative_log_likelihood(logits_BN - drawn.log_q, drawn.positions(rationales)), rationales >= 0
            ),
            "category_given_rationale": mean_over_ranks(category_nll, known(categories, rationales)),
        }

    def category_nll(
        self,
        image: Float[Tensor, "B D"],
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        sentences: Sentences,
        logit_scale: float,
        generator: torch.Generator | None,
        budget: int,
    ) -> Float[Tensor, " B"]:
        """−log P(c* | r*, I), zero where a label is unknown."""
        held = rationales.where(known(categories, rationales), torch.full_like(rationales, -1))
        rows = distinct(held)
        per_row = max(2, budget // len(rows))
        # Rows share one draw of categories, in groups small enough that their true ones fill at most half of it.
        nll = image.new_zeros(len(image))
        for group in rows.split(min(max(1, per_row // 2), self.sentences_per_chunk)):
            members = torch.isin(held, group).nonzero().squeeze(1)
            members = members if len(members) else torch.zeros_like(held[:1])
            drawn = draw_candidates(
                distinct(categories[members]), num=sentences.num_categories, size=per_row, generator=generator
            )
            logits = category_logits(
                image[members],
                sentences,
                rows=torch.searchsorted(group, held[members].clamp(min=0)).clamp(max=len(group) - 1),
                rationale_ids=group,
                category_ids=drawn.ids,
                logit_scale=logit_scale,
                sentences_per_chunk=self.sentences_per_chunk,
            )
            targets = drawn.positions(categories[members].where(held[members] >= 0, -1))
            nll = nll.index_add(0, members, negative_log_likelihood(logits - drawn.log_q, targets).to(nll.dtype))
        return nll


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """DROR's "why prompt" (arXiv:2212.06202): −log of one softmax over all pairs, at the true pair.

    The log-sum-exp is taken chunk by chunk. Above `max_sentences` it runs over a drawn grid of rationales and
    categories that holds the batch's own; a pair's inclusion probability is the product of the two (our choice).
    """

    max_sentences: int
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
        valid = known(categories, rationales)
        num_groups = self.num_groups(len(image), sentences)
        nll = []
        for members in torch.arange(len(image), device=valid.device).tensor_split(num_groups):
            wanted_r = rationales[members].where(valid[members], -1)
            wanted_c = categories[members].where(valid[members], -1)
            drawn_r, drawn_c = self.draw(
                distinct(wanted_r),
                distinct(wanted_c),
                sentences=sentences,
                budget=self.max_sentences // num_groups,
                generator=generator,
            )
            log_partition, target = pair_log_partition(
                image.category[members],
                sentences,
                rationales=drawn_r,
                categories=drawn_c,
                targets=(drawn_r.positions(wanted_r), drawn_c.positions(wanted_c)),
                logit_scale=logit_scale,
                sentences_per_chunk=self.sentences_per_chunk,
            )
            nll.append((log_partition - target).masked_fill(~valid[members], 0.0))
        # Prompt_R has no part in this loss. It keeps a graph, of one sentence and zero gradient, as DDP expects of all
        # parameters at every step.
        unused = sentences.rationale_features(distinct(rationales)[:1]).sum() * 0.0
        return {"pair": mean_over_ranks(torch.cat(nll), valid) + unused}

    def num_groups(self, num_images: int, sentences: Sentences) -> int:
        """Groups of images with draws of their own, so that a group's own pairs fill at most half of its grid."""
        if sentences.num_rationales * sentences.num_categories <= self.max_sentences:
            return 1
        return min(num_images, math.ceil(2 * num_images**2 / self.max_sentences))

    def draw(
        self,
        rationales: Int[Tensor, " U"],
        categories: Int[Tensor, " V"],
        *,
        sentences: Sentences,
        budget: int,
        generator: torch.Generator | None,
    ) -> tuple[Candidates, Candidates]:
        """A grid within the budget with the vocabulary's proportions, holding the given ids on its sides."""
        num_r, num_c = sentences.num_rationales, sentences.num_categories
        size_c = min(num_c, max(len(categories) + 1, math.isqrt(budget * num_c // num_r)))
        size_r = min(num_r, max(len(rationales) + 1, budget // size_c))
        size_c = min(num_c, max(size_c, budget // size_r))
        return (
            draw_candidates(rationales, num=num_r, size=size_r, generator=generator),
            draw_candidates(categories, num=num_c, size=size_c, generator=generator),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InBatchPairs:
    """ECOR's L_CLIP(I, Prompt_R) + L_CLIP(I, Prompt_{c|R}), over the distinct texts of the images of all ranks.

    The second loss compares images with the batch's distinct (category, rationale) pairs. `max_sentences` does not
    bind: there are at most two texts per image.
    """

    max_sentences: int
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
        all_categories, all_rationales = gather_ids(categories), gather_ids(rationales)
        codes = (all_rationales * sentences.num_categories + all_categories).where(
            known(all_categories, all_rationales), -1
        )
        texts = distinct(codes)
        features = gather_features(image.category)

        def logits(part: Tensor) -> Tensor:
            return scaled_similarity(features, pair_features(sentences, codes=part), scale=logit_scale)

        logits_BN = torch.cat(in_chunks(logits, texts.split(self.sentences_per_chunk)), dim=1)
        return {
            "rationale": in_batch_rationales(
                image, all_rationales, sentences=sentences, logit_scale=logit_scale, size=self.sentences_per_chunk
            ),
            "pair": clip_loss(logits_BN, positions(texts, codes)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class InBatchCategories:
    """L_CLIP(I, Prompt_R), and −log P(c* | r*, I) over the batch's distinct categories, each image's r* held fixed.

    The second term has one direction only, image to text: it is a conditional. `max_sentences` does not bind: there
    are at most as many sentences as distinct rationales times distinct categories of the batch.
    """

    max_sentences: int
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
        valid = known(categories, rationales)
        held = rationales.where(valid, -1)
        rows, columns = distinct(held), distinct(gather_ids(categories))
        logits = category_logits(
            image.category,
            sentences,
            rows=positions(rows, held).clamp(min=0),
            rationale_ids=rows,
            category_ids=columns,
            logit_scale=logit_scale,
            sentences_per_chunk=self.sentences_per_chunk,
        )
        nll = negative_log_likelihood(logits, positions(columns, categories.where(valid, -1)))
        return {
            "rationale": in_batch_rationales(
                image,
                gather_ids(rationales),
                sentences=sentences,
                logit_scale=logit_scale,
                size=self.sentences_per_chunk,
            ),
            "category_given_rationale": mean_over_ranks(nll, valid),
        }


def in_batch_rationales(
    image: ImageFeatures, rationales: Int[Tensor, " N"], *, sentences: Sentences, logit_scale: float, size: int
) -> Float[Tensor, ""]:
    """L_CLIP(I, Prompt_R) over the distinct rationales of all ranks' images."""
    texts = distinct(rationales)
    logits = rationale_logits(
        gather_features(image.rationale), sentences, ids=texts, logit_scale=logit_scale, sentences_per_chunk=size
    )
    return clip_loss(logits, positions(texts, rationales))


def clip_loss(logits: Float[Tensor, "B N"], targets: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """CLIP's symmetric loss over distinct texts, where a text may have several images.

    Image to text is a cross-entropy; text to image the mean over a text's images of −log softmax over images, as in
    supervised contrastive learning (arXiv:2004.11362, L_out). Images without a text (−1) are in neither.
    """
    labelled = targets >= 0
    to_text = negative_log_likelihood(logits, targets).sum() / labelled.sum().clamp(min=1)
    by_text = logits.T.masked_fill(~labelled, -math.inf if bool(labelled.any()) else 0.0).log_softmax(dim=-1)
    positive = targets == torch.arange(logits.shape[1], device=targets.device).unsqueeze(1)
    per_text = -by_text.where(positive, 0.0).sum(dim=-1) / positive.sum(dim=-1).clamp(min=1)
    return (to_text + per_text.mean()) / 2


def known(categories: Int[Tensor, " B"], rationales: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Images with both labels."""
    return (categories >= 0) & (rationales >= 0)


def negative_log_likelihood(logits: Float[Tensor, "B N"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """−log softmax at each target, zero (with a graph) where it is −1."""
    log_prob = logits.log_softmax(dim=-1).gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -log_prob.masked_fill(targets < 0, 0.0)
