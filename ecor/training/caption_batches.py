"""Batches of captioned images for contrastive pretraining, and their tokens over a small table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ecor.config.checks import require

Clip = Any
"""An open_clip CLIP, which has no types: `visual`, and the parts of the text tower as attributes."""
Tokenizer = Callable[[list[str]], Tensor]
"""Texts to rows of token ids, padded with 0; the end token has the greatest id. CLIP's own tokenizer."""
_TEXTS_PER_PASS = 4096
_MAX_CACHED_TEXTS = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPart:
    """The part of every batch, of `num` equal parts, that a rank processes."""

    index: int = 0
    num: int = 1

    def of(self, count: int) -> slice:
        """This rank's places among `count`, of which the last part may lack some."""
        size = -(-count // self.num)
        return slice(self.index * size, (self.index + 1) * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedImages:
    """A batch from its source: this rank's images, and all T distinct captions, any number per image."""

    # normalised pixels of the rank's part
    images: Float[Tensor, "b 3 H W"]
    # those that could be read; the others teach nothing
    readable: Bool[Tensor, " b"]
    captions: tuple[str, ...]
    # caption t was written for image b
    own: Bool[Tensor, "B T"]
    # caption t is true of image b, also where it was written for another; one that is true of none is a contradiction
    true: Bool[Tensor, "B T"]
    # attribute a can be seen in image b; no columns when there is no auxiliary loss
    attributes: Bool[Tensor, "B A"]


class CaptionSource(Protocol):
    """Source of captioned images; a batch depends on the source and the step only, so all ranks get the same."""

    num_attributes: int

    def texts(self) -> Sequence[str]:
        """Texts that together contain every token of the captions."""
        ...

    def batch(self, step: int, *, part: BatchPart) -> CaptionedImages:
        """The batch of a step, with the images of a part of it."""
        ...

    def unreadable(self) -> Mapping[str, str]:
        """Reasons for the first few unreadable images so far, by source."""
        ...

    def uses(self) -> UInt8[Tensor, " N"]:
        """For each image of the source: 0 until it is read, then 1, or 2 if this rank could not read it."""
        ...

    def evaluate(self, clip: Clip) -> dict[str, float]:
        """Evaluate a model with the full token table on held-out images; empty if the source has none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingBatch:
    """One rank's part of a step's images and captions, and the truth about the whole batch."""

    images: Float[Tensor, "b 3 H W"]
    readable: Bool[Tensor, " b"]
    # token ids, 0 after a caption's end; the last caption is repeated where it takes one to make parts equal
    tokens: Int[Tensor, "t L"]
    # position of each caption's end token
    ends: Int[Tensor, " t"]
    own: Bool[Tensor, "B T"]
    true: Bool[Tensor, "B T"]
    attributes: Bool[Tensor, "B A"]

    def to(self, device: torch.device | str) -> "PretrainingBatch":
        return PretrainingBatch(
            images=self.images.to(device),
            readable=self.readable.to(device),
            tokens=self.tokens.to(device),
            ends=self.ends.to(device),
            own=self.own.to(device),
            true=self.true.to(device),
            attributes=self.attributes.to(device),
        )


class TokenTable:
    """Tokenizes captions over a small table of the tokens that occur, so that few embeddings are trained."""

    def __init__(self, tokenizer: Tokenizer, *, texts: Sequence[str]) -> None:
        """Find the tokens that occur.

        Args:
            tokenizer: CLIP's own.
            texts: hold, together, every token of the captions that will come.
        """
        self._tokenizer = tokenizer
        distinct = list(dict.fromkeys(texts))
        passes = [distinct[k : k + _TEXTS_PER_PASS] for k in range(0, len(distinct), _TEXTS_PER_PASS)]
        found = [torch.unique(tokenizer(part)) for part in passes]
        # the tokenizer's id of each row; 0 is padding, and must be row 0
        self.rows: Int[Tensor, " U"] = torch.unique(torch.cat([torch.zeros(1, dtype=torch.long), *found]))
        self._known: dict[str, list[int]] = {}

    def __call__(self, captions: Sequence[str]) -> tuple[Int[Tensor, "t L"], Int[Tensor, " t"]]:
        """Tokenize captions: rows of the table, cut after the longest caption, and the position of each caption's end
        token.

        Raises:
            ValueError: when a caption has a token that is not in the table.
        """
        if len(self._known) > _MAX_CACHED_TEXTS:
            self._known.clear()
        if new := [caption for caption in dict.fromkeys(captions) if caption not in self._known]:
            self._known |= dict(zip(new, self._read(new), strict=True))
        rows_t = [self._known[caption] for caption in captions]
        longest = max(map(len, rows_t))
        tokens_tL = torch.tensor([row + [0] * (longest - len(row)) for row in rows_t])
        return tokens_tL, torch.tensor([len(row) - 1 for row in rows_t])

    def _read(self, captions: list[str]) -> list[list[int]]:
        tokens = self._tokenizer(captions)
        rows = torch.searchsorted(self.rows, tokens.contiguous()).clamp(max=len(self.rows) - 1)
        strange = (self.rows[rows] != tokens).any(dim=1).nonzero()
        require(not len(strange), f"{captions[int(strange[0])] if len(strange) else ''!r} holds an unlisted token")
        ends = tokens.argmax(dim=-1).tolist()
        return [row[: end + 1] for row, end in zip(rows.tolist(), ends, strict=True)]


def tokenize_batch(images: CaptionedImages, *, table: TokenTable, part: BatchPart) -> PretrainingBatch:
    """Tokenize the rank's part of a batch's captions, as rows of the table.

    Args:
        images: a batch from its source.
        table: of the source's tokens.
        part: of the rank.

    Raises:
        ValueError: when a caption has a token that is not in the table.
    """
    size = -(-len(images.captions) // part.num)
    mine = images.captions[part.of(len(images.captions))]
    tokens, ends = table((*mine, *images.captions[-1:] * (size - len(mine))))
    return PretrainingBatch(
        images=images.images,
        readable=images.readable,
        tokens=tokens,
        ends=ends,
        own=images.own,
        true=images.true,
        attributes=images.attributes,
    )


def match_captions(captions: Sequence[str]) -> tuple[list[str], Bool[Tensor, "B T"]]:
    """Distinct captions, and the matrix [B T] of which image has which caption."""
    distinct = list(dict.fromkeys(captions))
    index = {caption: t for t, caption in enumerate(distinct)}
    own = torch.zeros(len(captions), len(distinct), dtype=torch.bool)
    own[torch.arange(len(captions)), torch.tensor([index[caption] for caption in captions])] = True
    return distinct, own
