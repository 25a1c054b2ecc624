"""Forward passes of open_clip's text towers: with learned embeddings, block by block, without padding.

`text` is an open_clip CLIP or TextTransformer. Every pass gives what open_clip's own forward gives.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecor.clip.towers.image_forward import start_graph
from ecor.clip.towers.transformer_block import Block, run_block
from ecor.config.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPass:
    """Result of one forward pass of a text tower. With gradients on, the graph starts after the embedding."""

    feature: Float[Tensor, "N D"]
    """Not normalised."""
    blocks: tuple[Block, ...]
    read_at: Int[Tensor, " N"]
    """The token that the feature is read at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPool:
    """Where a text tower reads its feature."""

    kind: str
    """`first`, `last`, `argmax` (the highest id), `eos` (the first `end_token`), or another that reads no token."""
    end_token: int


def is_open_clip_tower(text: Any) -> bool:
    """Whether the tower consists of open_clip's own blocks."""
    return hasattr(text, "transformer") and hasattr(text.transformer, "resblocks")


def run_text_tower(text: Any, ids: Int[Tensor, "N L"], *, context: Tensor | None = None, start: int = 1) -> TextPass:
    """Run a text tower block by block.

    Args:
        text: an open_clip CLIP or TextTransformer.
        ids: token ids; where `context` goes, any ids.
        context: learned embeddings [M W].
        start: position of the first of them.

    Raises:
        ValueError: when the tower reads its feature at no token.
    """
    embedded = text.token_embedding(ids)
    if context is not None:
        embedded = insert_embeddings(embedded, context, start=start)
    x_NLW, mask = _add_positions(text, embedded, ids=ids)
    x_NLW, blocks = start_graph(x_NLW), []
    for resblock in text.transformer.resblocks:
        blocks.append(run_block(resblock, x_NLW, mask=mask))
        x_NLW = blocks[-1].left
    read_at = feature_positions(text, ids=ids)
    pooled = text.ln_final(x_NLW)[torch.arange(len(ids), device=ids.device), read_at]
    return TextPass(feature=text_projection_of(text)(pooled), blocks=tuple(blocks), read_at=read_at)


def encode_captions(model: Any, tokens: Int[Tensor, "t L"], *, ends: Int[Tensor, " t"]) -> Float[Tensor, "t D"]:
    """Text features of an open_clip CLIP, not normalised, without encoding padding.

    open_clip's own `encode_text` needs sequences of the full context. The tower is causal, so tokens after the end
    token change nothing, and the positional embedding and the mask may be cut to L.

    Args:
        model: an open_clip CLIP with a causal text tower.
        tokens: token ids of t texts, at most as long as the context.
        ends: position of each end token.
    """
    num_tokens = tokens.shape[1]
    x_tLD = model.token_embedding(tokens) + model.positional_embedding[:num_tokens]
    x_tLD = model.transformer(x_tLD, attn_mask=model.attn_mask[:num_tokens, :num_tokens])
    last_tD = model.ln_final(x_tLD[torch.arange(len(ends), device=ends.device), ends])
    return text_projection_of(model)(last_tD)


def insert_embeddings(embedded: Tensor, context: Tensor, *, start: int) -> Tensor:
    """Put `context` [M W] in the places of token embeddings [N L W] from `start` on."""
    learned = context.to(embedded).expand(len(embedded), -1, -1)
    return torch.cat([embedded[:, :start], learned, embedded[:, start + len(context) :]], dim=1)


@contextmanager
def replace_embeddings(embedding: nn.Module, context: Tensor, *, start: int) -> Iterator[None]:
    """Replace a part of the output of an embedding layer, inside the block only.

    Args:
        embedding: the token embedding of a text tower.
        context: [M W], put in the place of M tokens of every text.
        start: position of the first of them.
    """

    def insert(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return insert_embeddings(output, context, start=start)

    hook = embedding.register_forward_hook(insert)
    try:
        yield
    finally:
        hook.remove()


def text_pool(text: Any) -> TextPool:
    """Where the tower reads its feature; CLIP and TextTransformer name these settings differently."""
    if hasattr(text, "text_pool_type"):
        return TextPool(kind=text.text_pool_type, end_token=int(text.text_eos_id))
    return TextPool(kind=text.pool_type, end_token=int(text.eos_id))


def feature_positions(text: Any, *, ids: Int[Tensor, "N L"]) -> Int[Tensor, " N"]:
    """Positions of the tokens that the features are read at.

    Args:
        text: an open_clip CLIP or TextTransformer.
        ids: token ids.

    Raises:
        ValueError: when the tower reads its feature at no token.
    """
    if getattr(text, "cls_emb", None) is not None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    pool = text_pool(text)
    places = {
        "first": lambda: torch.zeros(len(ids), dtype=torch.long, device=ids.device),
        "last": lambda: torch.full((len(ids),), ids.shape[1] - 1, device=ids.device),
        "argmax": lambda: ids.argmax(dim=-1),
        "eos": lambda: torch.eq(ids, pool.end_token).int().argmax(dim=-1),
    }
    require(
        pool.kind in places, f"a text tower that pools by {pool.kind!r} reads its feature at no token: no trace of it"
    )
    return places[pool.kind]()


def text_projection_of(text: Any) -> Callable[[Tensor], Tensor]:
    """The last step of the tower, [N W] -> [N D]."""
    projection = text.text_projection
    if projection is None:
        return lambda x_NW: x_NW
    if isinstance(projection, nn.Linear):
        return projection
    return lambda x_NW: x_NW @ projection


def _add_positions(text: Any, embedded: Tensor, *, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Embeddings with positions (and CoCa's class token at the end), and the mask of attention."""
    mask = text.attn_mask
    class_token = getattr(text, "cls_emb", None)
    if class_token is not None:
        embedded = torch.cat([embedded, class_token.expand(len(embedded), 1, -1)], dim=1)
    length = embedded.shape[1]
    if class_token is not None or getattr(text, "use_pad_mask", False):
        padding = text._build_additive_mask(ids, length, embedded.dtype)
        mask = padding if mask is None else mask[:length, :length] + padding
    return embedded + text.positional_embedding[:length], mask
