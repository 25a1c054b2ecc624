"""Sentences in, what a text tower computes on the way to their features out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from ecor.clip.backbone import Backbone
from ecor.clip.image_tower import full_precision
from ecor.clip.transformer_block import Block, run_block
from ecor.config import require


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTrace:
    """One forward pass of a text tower, opened."""

    feature: Float[Tensor, "N D"]
    """Normalised, as `Backbone.encode_text` gives it."""
    blocks: tuple[Block, ...]
    ids: Int[Tensor, "N L"]
    """Token ids; the start token's id holds the places of learned embeddings."""
    read_at: Int[Tensor, " N"]
    """The token that the feature is read at."""
    words: slice
    """Where words can stand: after the start token and the learned embeddings. Padding may follow."""


def trace_text(
    backbone: Backbone,
    texts: Sequence[str],
    *,
    context: Float[Tensor, "M W"] | None = None,
    gradients: bool = False,
) -> TextTrace:
    """Recompute the text tower's forward pass, keeping what it computes.

    Args:
        backbone: whose text tower is lent.
        texts: N sentences.
        context: learned embeddings, as `Backbone.encode_text` takes them.
        gradients: keep the graph; it begins after the embedding.

    Raises:
        ValueError: for text towers of other libraries, or that read their feature at no token.
    """
    text = backbone.text
    require(
        hasattr(text, "transformer") and hasattr(text.transformer, "resblocks"),
        f"the text tower of {backbone.config.name!r} ({type(text).__name__}) is not open_clip's own: no trace of it",
    )
    num_learned = 0 if context is None else len(context)
    ids = backbone.padded_ids(texts, num_learned=num_learned)
    start = backbone.num_start_tokens
    with full_precision(backbone), torch.set_grad_enabled(gradients):
        embedded = text.token_embedding(ids)
        if context is not None:
            learned = context.detach().to(embedded).expand(len(ids), -1, -1)
            embedded = torch.cat([embedded[:, :start], learned, embedded[:, start + num_learned :]], dim=1)
        x_NLW, mask = _positioned(text, embedded, ids=ids)
        x_NLW = x_NLW.requires_grad_() if gradients and not x_NLW.requires_grad else x_NLW
        blocks = []
        for resblock in text.transformer.resblocks:
            blocks.append(run_block(resblock, x_NLW, mask=mask))
            x_NLW = blocks[-1].left
        read_at = _read_at(text, ids=ids)
        pooled = text.ln_final(x_NLW)[torch.arange(len(ids), device=ids.device), read_at]
        return TextTrace(
            feature=normalize(_projected(text.text_projection, pooled), dim=-1),
            blocks=tuple(blocks),
            ids=ids,
            read_at=read_at,
            words=slice(start + num_learned, ids.shape[1]),
        )


def _positioned(text: Any, embedded: Tensor, *, ids: Tensor) -> tuple[Tensor, Tensor | None]:
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


def _read_at(text: Any, *, ids: Tensor) -> Tensor:
    if getattr(text, "cls_emb", None) is not None:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    pool = text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type
    end_token = getattr(text, "text_eos_id", getattr(text, "eos_id", -1))
    places = {
        "first": lambda: torch.zeros(len(ids), dtype=torch.long, device=ids.device),
        "last": lambda: torch.full((len(ids),), ids.shape[1] - 1, device=ids.device),
        "argmax": lambda: ids.argmax(dim=-1),
        "eos": lambda: torch.eq(ids, int(end_token)).int().argmax(dim=-1),
    }
    require(pool in places, f"a text tower that pools by {pool!r} reads its feature at no token: no trace of it")
    return places[pool]()


def _projected(projection: Any, pooled: Tensor) -> Tensor:
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
