"""Image features, labels and sentences in, named loss terms out: ECOR's two terms, their in-batch forms, DROR's.

Sentences are encoded with gradient, so they are the cost: they pass in chunks whose activations are made again in
the backward pass, and above a budget negatives are sampled with the log-Q correction.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from ecor.config import ObjectiveConfig, require
from ecor.probability import ImageFeatures, scaled_similarity


@runtime_checkable
class Sentences(Protocol):
    """Sentences as L2-normalised features, with gradient to whatever is learned in them.

    The same call must give the same numbers by the same operations: chunks are computed a second time.
    """

    @property
    def num_categories(self) -> int: ...

    @property
    def num_rationales(self) -> int: ...

    def rationale_features(self, ids: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N D"]:
        """Prompt_R of the rationales `ids`, or of all."""

    def category_features(
        self, rationale_ids: Int[Tensor, " G"], category_ids: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "G N D"]:
        """Prompt_{c|R} of each of some rationales with each of some categories, or with all."""


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
    ) -> "tuple[Candidates, Candidates]":
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


def rationale_logits(
    image: Float[Tensor, "B D"],
    sentences: Sentences,
    *,
    ids: Int[Tensor, " N"],
    logit_scale: float,
    sentences_per_chunk: int,
) -> Float[Tensor, "B N"]:
    """s · v · t(Prompt_R(r)) of every image with each of some rationales."""

    def logits(part: Tensor) -> Tensor:
        return scaled_similarity(image, sentences.rationale_features(part), scale=logit_scale)

    return torch.cat(in_chunks(logits, ids.split(sentences_per_chunk)), dim=1)


def category_logits(
    image: Float[Tensor, "B D"],
    sentences: Sentences,
    *,
    rows: Int[Tensor, " B"],
    rationale_ids: Int[Tensor, " G"],
    category_ids: Int[Tensor, " N"],
    logit_scale: float,
    sentences_per_chunk: int,
) -> Float[Tensor, "B N"]:
    """s · v · t(Prompt_{c|R}(c, r)) of each image with its own rationale, `rationale_ids[rows]`, and some categories.

    Every image meets every sentence of a chunk and keeps its own row: the product is small beside the encoding, and
    no sentence's feature outlives its chunk.
    """

    def part(rationales: slice, part_categories: slice) -> Tensor:
        features_GND = sentences.category_features(rationale_ids[rationales], category_ids[part_categories])
        inside = (rows >= rationales.start) & (rows < rationales.stop)
        logits = scaled_similarity(image, features_GND.flatten(0, 1), scale=logit_scale)
        logits_BGN = logits.unflatten(1, tuple(features_GND.shape[:2]))
        own = (rows - rationales.start).clamp(0, features_GND.shape[0] - 1)
        return logits_BGN[torch.arange(len(image), device=rows.device), own].where(inside.unsqueeze(1), 0.0)

    grid = grid_chunks(len(rationale_ids), len(category_ids), size=sentences_per_chunk)
    parts = in_chunks(part, *zip(*grid, strict=True))
    columns: dict[int, Tensor] = {}
    for (_, chosen), logits in zip(grid, parts, strict=True):
        columns[chosen.start] = columns[chosen.start] + logits if chosen.start in columns else logits
    return torch.cat(list(columns.values()), dim=1)


def pair_log_partition(
    image: Float[Tensor, "B D"],
    sentences: Sentences,
    *,
    rationales: "Candidates",
    categories: "Candidates",
    targets: tuple[Int[Tensor, " B"], Int[Tensor, " B"]],
    logit_scale: float,
    sentences_per_chunk: int,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Log-sum-exp over the grid of pairs, corrected for how it was drawn, and the logit of each image's own pair."""

    def part(chosen_r: slice, chosen_c: slice) -> tuple[Tensor, Tensor]:
        features_GND = sentences.category_features(rationales.ids[chosen_r], categories.ids[chosen_c])
        logits = scaled_similarity(image, features_GND.flatten(0, 1), scale=logit_scale)
        log_q = rationales.log_q[chosen_r].unsqueeze(1) + categories.log_q[chosen_c]
        row, column = targets[0] - chosen_r.start, targets[1] - chosen_c.start
        height, width = features_GND.shape[:2]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        own = (row * width + column).where(inside, 0).unsqueeze(1)
        target = logits.gather(1, own).squeeze(1).where(inside, 0.0)
        return (logits - log_q.flatten()).logsumexp(dim=-1), target

    grid = grid_chunks(len(rationales.ids), len(categories.ids), size=sentences_per_chunk)
    partitions, found = zip(*in_chunks(part, *zip(*grid, strict=True)), strict=True)
    return torch.stack(partitions).logsumexp(dim=0), torch.stack(found).sum(dim=0)


def pair_features(sentences: Sentences, *, codes: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """Features of single pairs (code = rationale · C + category), in as few calls as the pairs share a side."""
    rationales = torch.div(codes, sentences.num_categories, rounding_mode="floor")
    categories = codes % sentences.num_categories
    parts, slots = [], []
    if len(rationales.unique()) <= len(categories.unique()):
        for rationale in rationales.unique():
            where = (rationales == rationale).nonzero().squeeze(1)
            parts.append(sentences.category_features(rationale.unsqueeze(0), categories[where])[0])
            slots.append(where)
    else:
        for category in categories.unique():
            where = (categories == category).nonzero().squeeze(1)
            parts.append(sentences.category_features(rationales[where], category.unsqueeze(0))[:, 0])
            slots.append(where)
    return torch.cat(parts)[torch.cat(slots).argsort()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Ids that a softmax runs over, and how likely each was to be among them."""

    ids: Int[Tensor, " N"]
    """Distinct, ascending."""
    log_q: Float[Tensor, " N"]
    """Log of the inclusion probability; exp(logit − log q) summed over the ids estimates the full sum unbiased."""

    def positions(self, ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Where the ids are; −1 for an id that is negative or not among them."""
        return positions(self.ids, ids)


def draw_candidates(always: Int[Tensor, " A"], *, num: int, size: int, generator: torch.Generator | None) -> Candidates:
    """About `size` of `num` ids: those in `always`, and others drawn uniformly without replacement, at least one."""
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


def distinct(ids: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """The distinct ids in ascending order without −1; [0] if none is left, so that every batch has a graph for DDP."""
    found = ids[ids >= 0].unique()
    return found if len(found) else torch.zeros_like(ids[:1])


def positions(ascending: Int[Tensor, " N"], ids: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Where each id is in `ascending`; −1 for an id that is negative or not in it."""
    found = torch.searchsorted(ascending, ids).clamp(max=len(ascending) - 1)
    return found.where(ascending[found] == ids, -1)


def known(categories: Int[Tensor, " B"], rationales: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Images with both labels."""
    return (categories >= 0) & (rationales >= 0)


def negative_log_likelihood(logits: Float[Tensor, "B N"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """−log softmax at each target, zero (with a graph) where it is −1."""
    log_prob = logits.log_softmax(dim=-1).gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -log_prob.masked_fill(targets < 0, 0.0)


def grid_chunks(num_rationales: int, num_categories: int, *, size: int) -> list[tuple[slice, slice]]:
    """A grid of sentences cut into parts of at most `size`: all rationales if they fit, by some categories.

    In that order an encoder that encodes "This is a photo of a {category} because there is" once per category and
    call does so once in all.
    """
    height = min(num_rationales, size)
    width = max(1, size // height)
    return [
        (slice(top, min(top + height, num_rationales)), slice(left, min(left + width, num_categories)))
        for left in range(0, num_categories, width)
        for top in range(0, num_rationales, height)
    ]


def in_chunks(function: Callable[..., Any], *arguments: "Any") -> list[Any]:
    """The function over chunks; with more than one, each chunk's activations are made again in the backward pass."""
    calls: Iterator[tuple[Any, ...]] = zip(*arguments, strict=True)
    if len(arguments[0]) == 1:
        return [function(*call) for call in calls]
    return [checkpoint(function, *call, use_reentrant=False, preserve_rng_state=False) for call in calls]


def mean_over_ranks(values: Float[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """The sum over this rank's images over the mean number of valid images per rank.

    Its mean over ranks is the mean over all valid images, also where ranks hold unequal numbers of them.
    """
    count = valid.sum()
    if is_distributed():
        dist.all_reduce(count)
        return values.sum() * dist.get_world_size() / count.clamp(min=1)
    return values.sum() / count.clamp(min=1)


def gather_ids(ids: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """The ids of all ranks, in rank order."""
    if not is_distributed():
        return ids
    parts = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, ids.contiguous())
    return torch.cat(parts)


def gather_features(features: Float[Tensor, "B D"]) -> Float[Tensor, "N D"]:
    """The features of all ranks, in rank order, with gradient to each rank's own."""
    return GatherFeatures.apply(features) if is_distributed() else features


class GatherFeatures(Function):
    """all_gather whose backward sums the gradients that all ranks have for this rank's part.

    Every rank computes the same loss of the gathered batch, so the sum is the world size times the gradient, and
    DDP's mean over ranks, to which the other ranks' parts add theirs, makes it whole.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def is_distributed() -> bool:
    """Other ranks take part: a process group of several, and gradients are recorded."""
    return torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
