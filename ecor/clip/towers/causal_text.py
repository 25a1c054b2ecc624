"""Run a causal text tower with a KV cache, so that a shared prefix is encoded once.

No token sees what follows it, so the keys and values of a beginning serve every sentence that begins with it. Exact:
the same sums as in open_clip's forward, up to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from ecor.clip.feature_types import unit_features
from ecor.clip.open_clip_api import ResidualAttentionBlock, SimpleTokenizer, TextTransformer, open_clip
from ecor.clip.towers.text_forward import text_pool, text_projection_of

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalText:
    """The parts of a plain causal text tower."""

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    """[context_length W]"""
    blocks: tuple[nn.Module, ...]
    """open_clip ResidualAttentionBlocks."""
    ln_final: nn.Module
    project: Callable[[Tensor], Tensor]
    """[N W] -> [N D]"""
    start_token: int
    end_token: int
    """The feature is read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCache:
    """Attention keys and values of tokens that were encoded, block by block."""

    keys: tuple[Tensor, ...]
    """One [N A L E] per block: sentences, heads, tokens, width of a head."""
    values: tuple[Tensor, ...]

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2]

    def select(self, rows: slice | Tensor) -> "KVCache":
        return KVCache(keys=tuple(each[rows] for each in self.keys), values=tuple(each[rows] for each in self.values))


def causal_text_of(text: Any, tokenizer: Any) -> CausalText | None:
    """Return the parts of a plain text tower; None for other towers.

    A plain tower is causal, is read at the end token, and has CLIP's own tokenizer.

    Args:
        text: the tower, or an open_clip CLIP that holds it.
        tokenizer: its tokenizer.
    """
    plain_tokens = isinstance(tokenizer, SimpleTokenizer) and tokenizer.reduction_fn is None
    plain_tower = isinstance(text, open_clip.CLIP) or (isinstance(text, TextTransformer) and text.cls_emb is None)
    if not (plain_tokens and plain_tower and _reads_end_token(text, end_token=tokenizer.eot_token_id)):
        return None
    blocks = tuple(text.transformer.resblocks)
    if text.attn_mask is None or not all(type(block) is ResidualAttentionBlock for block in blocks):
        return None
    return CausalText(
        token_embedding=text.token_embedding,
        positional_embedding=text.positional_embedding,
        blocks=blocks,
        ln_final=text.ln_final,
        project=text_projection_of(text),
        start_token=tokenizer.sot_token_id,
        end_token=tokenizer.eot_token_id,
    )


def _reads_end_token(text: Any, *, end_token: int) -> bool:
    pool = text_pool(text)
    return pool.kind == "argmax" or (pool.kind == "eos" and pool.end_token == end_token)


def cache_prefix(tower: CausalText, tokens: Tokens, *, context: Float[Tensor, "M W"] | None) -> KVCache:
    """Cache the prefix that all sentences share.

    Args:
        tower: a plain causal tower.
        tokens: ids of the prefix; the start token is the first.
        context: learned embeddings, which follow the start token.
    """
    x_1LW = tower.token_embedding(torch.tensor([tokens], device=tower.positional_embedding.device))
    if context is not None:
        x_1LW = torch.cat([x_1LW[:, :1], context.to(x_1LW.dtype)[None], x_1LW[:, 1:]], dim=1)
    return _run_blocks(tower, x_1LW + tower.positional_embedding[: x_1LW.shape[1]], before=())[1]


def cache_continuations(tower: CausalText, tokens: Sequence[Tokens], *, before: tuple[KVCache, ...]) -> KVCache:
    """Cache H continuations of the prefixes in `before`.

    Args:
        tower: a plain causal tower.
        tokens: H continuations of one length.
        before: caches in the order of the sentence, each with one row or H rows.
    """
    return _run_blocks(tower, _embed(tower, tokens, before=before), before=before)[1]


def last_features(
    tower: CausalText, tokens: Sequence[Tokens], *, before: tuple[KVCache, ...], num_heads: int
) -> Float[Tensor, "H T D"]:
    """Compute normalised fp32 features of every ending after every beginning.

    Args:
        tower: a plain causal tower.
        tokens: T endings of one length.
        before: caches in the order of the sentence, each with one row or H rows.
        num_heads: H, the number of beginnings.
    """
    x_NLW = _embed(tower, tokens, before=before).repeat(num_heads, 1, 1)
    last_NW = _run_blocks(tower, x_NLW, before=before, last_only=True)[0][:, -1]
    features_ND = tower.project(tower.ln_final(last_NW))
    return unit_features(features_ND).unflatten(0, (num_heads, len(tokens)))


def _embed(tower: CausalText, tokens: Sequence[Tokens], *, before: tuple[KVCache, ...]) -> Tensor:
    """Embeddings [N L W] of tokens of one length, at the positions after the prefixes in `before`."""
    start = sum(each.num_tokens for each in before)
    ids = torch.tensor(tokens, device=tower.positional_embedding.device)
    return tower.token_embedding(ids) + tower.positional_embedding[start : start + ids.shape[1]]


def _run_blocks(
    tower: CausalText, x_NLW: Tensor, *, before: tuple[KVCache, ...], last_only: bool = False
) -> tuple[Tensor, KVCache]:
    """Run all blocks on tokens that follow `before`; with `last_only`, the last block computes only the last query."""
    keys, values = [], []
    for index, block in enumerate(tower.blocks):
        earlier = [
            (_repeat_for_sentences(each.keys[index], len(x_NLW)), _repeat_for_sentences(each.values[index], len(x_NLW)))
            for each in before
        ]
        ends = last_only and index == len(tower.blocks) - 1
        x_NLW, key, value = _run_block(block, x_NLW, earlier=earlier, num_queries=1 if ends else x_NLW.shape[1])
        keys.append(key)
        values.append(value)
    return x_NLW, KVCache(keys=tuple(keys), values=tuple(values))


def _repeat_for_sentences(kept: Tensor, num: int) -> Tensor:
    """Keys or values of H beginnings for H x T sentences (beginning by beginning)."""
    if len(kept) == 1:
        return kept.expand(num, -1, -1, -1)
    return kept if len(kept) == num else kept.repeat_interleave(num // len(kept), dim=0)


def _run_block(
    block: Any, x_NLW: Tensor, *, earlier: list[tuple[Tensor, Tensor]], num_queries: int
) -> tuple[Tensor, Tensor, Tensor]:
    """open_clip's ResidualAttentionBlock for the last `num_queries` tokens; also its keys and values of all tokens."""
    attention, width = block.attn, x_NLW.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(x_NLW)
    query = linear(normed[:, -num_queries:], weight[:width], bias[:width])
    key, value = linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    query, key, value = (each.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for each in (query, key, value))
    all_keys = torch.cat([*(keys for keys, _ in earlier), key], dim=2)
    all_values = torch.cat([*(values for _, values in earlier), value], dim=2)
    attended = scaled_dot_product_attention(query, all_keys, all_values, attn_mask=_causal_mask(num_queries, all_keys))
    x_NQW = x_NLW[:, -num_queries:] + block.ls_1(attention.out_proj(attended.transpose(1, 2).flatten(2)))
    return x_NQW + block.ls_2(block.mlp(block.ln_2(x_NQW))), key, value


def _causal_mask(num_queries: int, keys: Tensor) -> Tensor | None:
    if num_queries == 1:
        return None
    num_keys = keys.shape[2]
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=keys.device).tril(num_keys - num_queries)


def token_features(tower: CausalText, embedded: Float[Tensor, "N L W"]) -> Float[Tensor, "N L D"]:
    """Compute the projected feature at each token, not normalised, with gradient to `embedded`.

    Later tokens do not change a feature, so sentences may be padded with any token.

    Args:
        tower: a plain causal tower.
        embedded: token embeddings, without positions.
    """
    x_NLW = _run_blocks(tower, embedded + tower.positional_embedding[: embedded.shape[1]], before=())[0]
    return tower.project(tower.ln_final(x_NLW))
