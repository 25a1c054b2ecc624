"""Logits of images against many sentences, computed in checkpointed chunks to bound memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ecor.clip.feature_types import ImageFeatures
from ecor.probability.pair_logits import scaled_similarity
from ecor.training.negative_sampling import Candidates


@runtime_checkable
class Sentences(Protocol):
    """Encodes sentences to L2-normalised features, with gradient to the learned tokens.

    The same call must give the same numbers by the same operations: chunks are computed a second time.
    """

    @property
    def num_categories(self) -> int: ...

    @property
    def num_rationales(self) -> int: ...

    def rationale_features(self, ids: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N D"]:
        """Prompt_R of the rationales `ids`, or of all."""

    def categories(self, ids: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N D"]:
        """The categories `ids` alone, without a rationale, or all."""

    def category_features(
        self, rationale_ids: Int[Tensor, " G"], category_ids: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "G N D"]:
        """Prompt_{c|R} of each of some rationales with each of some categories, or with all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossBatch:
    """Images with labels, the encoder of sentences, and the limits of memory and sampling."""

    image: ImageFeatures
    categories: Int[Tensor, " B"]
    """Ids, −1 where unknown."""
    rationales: Int[Tensor, " B"]
    """Ids, −1 where unknown."""
    sentences: Sentences
    logit_scale: float
    """The multiplier s, not its logarithm."""
    max_sentences: int
    """Encoded in all; above it negatives are sampled."""
    sentences_per_chunk: int
    """Sentences whose activations are in memory at once."""
    generator: torch.Generator | None = None
    """Draws sampled negatives."""

    @property
    def known(self) -> Bool[Tensor, " B"]:
        """Images with both labels."""
        return (self.categories >= 0) & (self.rationales >= 0)


def rationale_logits(image: Float[Tensor, "B D"], batch: LossBatch, *, ids: Int[Tensor, " N"]) -> Float[Tensor, "B N"]:
    """s · v · t(Prompt_R(r)) of every image with each of some rationales."""
    return single_name_logits(image, batch, encode=batch.sentences.rationale_features, ids=ids)


def category_logits(image: Float[Tensor, "B D"], batch: LossBatch, *, ids: Int[Tensor, " N"]) -> Float[Tensor, "B N"]:
    """s · v · t(c) of every image with each of some categories alone."""
    return single_name_logits(image, batch, encode=batch.sentences.categories, ids=ids)


def single_name_logits(
    image: Float[Tensor, "B D"], batch: LossBatch, *, encode: Callable[[Tensor], Tensor], ids: Int[Tensor, " N"]
) -> Float[Tensor, "B N"]:
    """Logits of every image with each of some sentences that hold one name."""

    def logits(part: Tensor) -> Tensor:
        return scaled_similarity(image, encode(part), scale=batch.logit_scale)

    return torch.cat(map_chunks(logits, ids.split(batch.sentences_per_chunk)), dim=1)


def category_given_rationale_logits(
    image: Float[Tensor, "B D"],
    batch: LossBatch,
    *,
    rows: Int[Tensor, " B"],
    held: Int[Tensor, " G"],
    ids: Int[Tensor, " N"],
) -> Float[Tensor, "B N"]:
    """s · v · t(Prompt_{c|R}(c, r)) of each image with its own rationale, `held[rows]`, and some categories."""

    def features(rationales: slice, categories: slice) -> Tensor:
        return batch.sentences.category_features(held[rationales], ids[categories])

    grid = grid_chunks(len(held), len(ids), size=batch.sentences_per_chunk)
    return own_row_logits(image, features, rows=rows, grid=grid, logit_scale=batch.logit_scale)


def rationale_given_category_logits(
    image: Float[Tensor, "B D"],
    batch: LossBatch,
    *,
    rows: Int[Tensor, " B"],
    held: Int[Tensor, " G"],
    ids: Int[Tensor, " N"],
) -> Float[Tensor, "B N"]:
    """The same logits of each image with its own category, `held[rows]`, and some rationales."""

    def features(categories: slice, rationales: slice) -> Tensor:
        return batch.sentences.category_features(ids[rationales], held[categories]).transpose(0, 1)

    grid = [(c, r) for r, c in grid_chunks(len(ids), len(held), size=batch.sentences_per_chunk)]
    return own_row_logits(image, features, rows=rows, grid=grid, logit_scale=batch.logit_scale)


def own_row_logits(
    image: Float[Tensor, "B D"],
    features: Callable[[slice, slice], Tensor],
    *,
    rows: Int[Tensor, " B"],
    grid: list[tuple[slice, slice]],
    logit_scale: float,
) -> Float[Tensor, "B N"]:
    """Logits of each image with its own of the rows [N D] that `features` gives part by part, as [g n D].

    Every image meets every sentence of a chunk and keeps its own row: the product is small beside the encoding, and
    no sentence's feature outlives its chunk.
    """

    def part(held: slice, columns: slice) -> Tensor:
        features_GND = features(held, columns)
        inside = (rows >= held.start) & (rows < held.stop)
        logits = scaled_similarity(image, features_GND.flatten(0, 1), scale=logit_scale)
        logits_BGN = logits.unflatten(1, tuple(features_GND.shape[:2]))
        own = (rows - held.start).clamp(0, features_GND.shape[0] - 1)
        return logits_BGN[torch.arange(len(image), device=rows.device), own].where(inside.unsqueeze(1), 0.0)

    parts = map_chunks(part, *zip(*grid, strict=True))
    columns: dict[int, Tensor] = {}
    for (_, chosen), logits in zip(grid, parts, strict=True):
        columns[chosen.start] = columns[chosen.start] + logits if chosen.start in columns else logits
    return torch.cat(list(columns.values()), dim=1)


def pair_log_partition(
    image: Float[Tensor, "B D"],
    batch: LossBatch,
    *,
    rationales: Candidates,
    categories: Candidates,
    targets: tuple[Int[Tensor, " B"], Int[Tensor, " B"]],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Log-sum-exp over the grid of pairs, corrected for how it was drawn, and the logit of each image's own pair."""

    def part(chosen_r: slice, chosen_c: slice) -> tuple[Tensor, Tensor]:
        features_GND = batch.sentences.category_features(rationales.ids[chosen_r], categories.ids[chosen_c])
        logits = scaled_similarity(image, features_GND.flatten(0, 1), scale=batch.logit_scale)
        log_q = rationales.log_q[chosen_r].unsqueeze(1) + categories.log_q[chosen_c]
        row, column = targets[0] - chosen_r.start, targets[1] - chosen_c.start
        height, width = features_GND.shape[:2]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        own = (row * width + column).where(inside, 0).unsqueeze(1)
        target = logits.gather(1, own).squeeze(1).where(inside, 0.0)
        return (logits - log_q.flatten()).logsumexp(dim=-1), target

    grid = grid_chunks(len(rationales.ids), len(categories.ids), size=batch.sentences_per_chunk)
    partitions, found = zip(*map_chunks(part, *zip(*grid, strict=True)), strict=True)
    return torch.stack(partitions).logsumexp(dim=0), torch.stack(found).sum(dim=0)


def encode_pairs(sentences: Sentences, *, codes: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
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


def map_chunks(function: Callable[..., Any], *arguments: "Any") -> list[Any]:
    """The function over chunks; with more than one, each chunk's activations are made again in the backward pass."""
    calls: Iterator[tuple[Any, ...]] = zip(*arguments, strict=True)
    if len(arguments[0]) == 1:
        return [function(*call) for call in calls]
    return [checkpoint(function, *call, use_reentrant=False, preserve_rng_state=False) for call in calls]
