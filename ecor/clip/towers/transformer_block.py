"""Recompute a transformer block step by step, and keep attention and all other intermediate tensors.

open_clip's own forward keeps no attention, and a hook on its output projection never fires: so each step is recomputed
from the weights, for both of its block types.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from ecor.config.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Intermediate tensors of one block for L tokens. With gradients on, each is part of the autograd graph."""

    entered: Float[Tensor, "B L W"]
    """The tokens that enter."""
    normed: Float[Tensor, "B L W"]
    """The same tokens after the first layer norm, the input of query, key and value."""
    query: Float[Tensor, "B A L E"]
    key: Float[Tensor, "B A L E"]
    value: Float[Tensor, "B A L E"]
    attention: Float[Tensor, "B A L L"]
    """Rows are queries and sum to one."""
    attended: Float[Tensor, "B L W"]
    """Attention times value, heads side by side, before the output projection."""
    left: Float[Tensor, "B L V"]
    """The tokens that leave."""
    out_proj: nn.Module
    """The output projection, W to V."""


def run_block(
    block: Any, entered: Float[Tensor, "B L W"], *, mask: Tensor | None = None, single_head: bool = False
) -> Block:
    """Run an open_clip ResidualAttentionBlock or CustomResidualAttentionBlock step by step.

    Args:
        block: of either type.
        entered: the tokens that enter.
        mask: added to the attention logits, [L L] or [B*A L L].
        single_head: attend as if there were one head, as the reference implementation of Grad-ECLIP does.

    Raises:
        ValueError: when attention is a scaled cosine; with `single_head`, when the block normalises or scales each
            head.
    """
    module = block.attn
    per_head = any(isinstance(getattr(module, name, None), nn.LayerNorm) for name in ("ln_q", "ln_k"))
    per_head |= getattr(module, "head_scale", None) is not None
    require(not (single_head and per_head), "this tower normalises or scales each head: single_head cannot be had")
    require(getattr(module, "logit_scale", None) is None, "a tower with scaled cosine attention cannot be traced")
    normed = block.ln_1(entered)
    num_heads = 1 if single_head else module.num_heads
    parts = linear(normed, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (each.unflatten(-1, (num_heads, -1)).transpose(1, 2) for each in parts)
    if hasattr(module, "ln_q"):
        query, key = module.ln_q(query), module.ln_k(key)
    attention = attention_weights(query, key, mask=mask)
    heads = attention @ value
    if getattr(module, "head_scale", None) is not None:
        heads = heads * module.head_scale
    attended = heads.transpose(1, 2).flatten(2)
    middle = entered + attention_branch(block, attended)
    left = middle + block.ls_2(block.mlp(block.ln_2(middle)))
    return Block(
        entered=entered,
        normed=normed,
        query=query,
        key=key,
        value=value,
        attention=attention,
        attended=attended,
        left=left,
        out_proj=module.out_proj,
    )


def attention_weights(
    query: Float[Tensor, "B A Q E"], key: Float[Tensor, "B A K E"], *, mask: Tensor | None = None
) -> Float[Tensor, "B A Q K"]:
    """Attention of queries to keys: softmax(q kᵀ / √E), head by head.

    Args:
        query: Q tokens.
        key: K tokens.
        mask: added to the logits, [Q K] or [B*A Q K].
    """
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + (mask if mask.ndim == 2 else mask.view(logits.shape))
    return logits.softmax(dim=-1)


def attention_branch(block: Any, attended: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
    """Output of a block's attention branch, before the residual sum.

    Args:
        block: an open_clip block of either type.
        attended: attention times value, heads side by side.
    """
    inner = getattr(block.attn, "ln_inner", nn.Identity())
    return block.ls_1(getattr(block, "ln_attn", nn.Identity())(block.attn.out_proj(inner(attended))))


def run_attention_pool(pool: Any, patches: Float[Tensor, "B P W"]) -> Block:
    """open_clip's AttentionPool2d with every token as a query: the mean token first, then the patches.

    Its forward keeps only the first row of `left`, the image's feature.
    """
    tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
    entered = tokens + pool.positional_embedding
    parts = (pool.q_proj(entered), pool.k_proj(entered), pool.v_proj(entered))
    query, key, value = (each.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for each in parts)
    attention = attention_weights(query, key)
    attended = (attention @ value).transpose(1, 2).flatten(2)
    return Block(
        entered=entered,
        normed=entered,
        query=query,
        key=key,
        value=value,
        attention=attention,
        attended=attended,
        left=pool.c_proj(attended),
        out_proj=pool.c_proj,
    )
