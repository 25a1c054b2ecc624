"""Trace a text tower for explanations: tokens and attention of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import unit_features
from ecor.clip.towers.image_tower import full_precision
from ecor.clip.towers.text_forward import is_open_clip_tower, run_text_tower
from ecor.clip.towers.transformer_block import Block
from ecor.config.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTrace:
    """Intermediate tensors of one forward pass of a text tower."""

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
    """Recompute the text tower's forward pass and keep intermediate tensors.

    Args:
        backbone: whose text tower is traced.
        texts: N sentences.
        context: learned embeddings, as `Backbone.encode_text` takes them.
        gradients: keep the graph; it begins after the embedding.

    Raises:
        ValueError: when the text tower is of another library, or reads its feature at no token.
    """
    text = backbone.text
    require(
        is_open_clip_tower(text),
        f"the text tower of {backbone.config.name!r} ({type(text).__name__}) is not open_clip's own: no trace of it",
    )
    num_learned = 0 if context is None else len(context)
    ids = backbone.text_tokenizer.padded_ids(texts, num_learned=num_learned).to(backbone.device)
    start = backbone.text_tokenizer.num_start_tokens
    with full_precision(backbone), torch.set_grad_enabled(gradients):
        passed = run_text_tower(text, ids, context=None if context is None else context.detach(), start=start)
        return TextTrace(
            feature=unit_features(passed.feature),
            blocks=passed.blocks,
            ids=ids,
            read_at=passed.read_at,
            words=slice(start + num_learned, ids.shape[1]),
        )
