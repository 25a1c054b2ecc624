"""Gradient-based attribution: Grad-ECLIP, LeGrad and Grad-CAM of the image-text cosine."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from ecor.clip.towers.image_tower import Capability, ImageTower, ImageTrace, full_precision, score_gradients
from ecor.clip.towers.transformer_block import Block
from ecor.config.checks import require_at_least
from ecor.config.choices import Compat
from ecor.data.heatmap import minmax


@dataclass(frozen=True, slots=True, kw_only=True)
class GradEclip:
    """Grad-ECLIP (arXiv:2502.18816): channels of the values weighted by their gradient at the class token.

    H_i = ReLU(sum over c of w_c v_ic w_i), w_c the gradient of the cosine by the class token's attended values, w_i the
    cosine of its query with the patch's key, both behind the output projection, from 0 to 1 within the map.
    """

    num_blocks: int = 1
    """Last blocks whose maps are summed, before the ReLU."""
    loosened: bool = True
    """Weigh patches by their key's cosine; False: w_i = 1."""
    signed: bool = False
    """Leave the ReLU out."""
    compat: Compat | None = None
    """Attend with one head in those blocks, as the reference's code does: it explains another model than the lent."""
    requires: ClassVar[Capability | None] = "class_token"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def __post_init__(self) -> None:
        require_at_least("num_blocks", self.num_blocks, 1)

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels, gradients=True, single_head_blocks=self.num_blocks if self.compat else 0)
        blocks = trace.blocks[-self.num_blocks :]
        with full_precision(tower.backbone), torch.enable_grad():
            scores = cosines(trace.feature, texts)
            weights = [self._patch_weights(trace, block) for block in blocks]
            maps = []
            for gradients in score_gradients(scores, tuple(block.attended for block in blocks)):
                parts = zip(blocks, weights, gradients, strict=True)
                maps.append(sum(_weighted_values(trace, block, gradient) * weight for block, weight, gradient in parts))
        maps_BTP = torch.stack([each for each in maps if isinstance(each, Tensor)], dim=1).detach()
        return trace.as_maps(maps_BTP if self.signed else maps_BTP.relu())

    def _patch_weights(self, trace: ImageTrace, block: Block) -> Float[Tensor, "B P"]:
        query, key = (each.transpose(1, 2).flatten(2) for each in (block.query, block.key))
        if not self.loosened:
            return torch.ones_like(trace.patches(key)[..., 0])
        cosine = cosine_similarity(block.out_proj(query[:, :1]), block.out_proj(trace.patches(key)), dim=-1)
        return minmax(cosine.unflatten(-1, trace.grid)).flatten(1)


def _weighted_values(trace: ImageTrace, block: Block, gradient: Float[Tensor, "B L W"]) -> Float[Tensor, "B P"]:
    values = trace.patches(block.value.transpose(1, 2).flatten(2))
    return (values @ gradient[:, 0, :, None])[..., 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeGrad:
    """LeGrad (arXiv:2404.03214): per block, the positive gradient by its attention of the cosine its tokens would give.

    A block's score is that of the mean of its tokens, projected; its map is the mean over heads and queries of the
    positive gradient by its own attention. Maps are summed over blocks. Visual prompt tokens count neither in the mean
    nor as queries (ours).
    """

    num_blocks: int | None = None
    """Last blocks; None: all, as the paper averages over all."""
    compat: Compat | None = None
    """The last two blocks, the reference code's default."""
    requires: ClassVar[Capability | None] = "patch_tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels, gradients=True)
        num_blocks = 2 if self.compat else self.num_blocks or len(trace.blocks)
        with full_precision(tower.backbone), torch.enable_grad():
            maps = sum(self._block_map(tower, trace, block, texts) for block in trace.blocks[-num_blocks:])
        assert isinstance(maps, Tensor)
        return trace.as_maps(maps.detach())

    def _block_map(self, tower: ImageTower, trace: ImageTrace, block: Block, texts: Tensor) -> Float[Tensor, "B T P"]:
        pooled = drop_prompts(trace, block.left, dim=1).mean(dim=1)
        scores = cosines(normalize(tower.project(pooled[:, None])[:, 0], dim=-1), texts)
        rows = [
            drop_prompts(trace, gradient.relu(), dim=2).mean(dim=(1, 2))
            for (gradient,) in score_gradients(scores, (block.attention,))
        ]
        return torch.stack([trace.patches(row[..., None])[..., 0] for row in rows], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradCam:
    """Grad-CAM (arXiv:1610.02391) of the cosine: activations weighted by their gradient's mean over patches.

    A ViT's activations are what enters its last attention (after the layer norm): behind it, the patches of a model
    that reads a class token have no gradient. A ResNet's are its last maps.
    """

    signed: bool = False
    """Leave the ReLU out."""
    compat: Compat | None = None
    """As Grad-ECLIP's repository does it: of the last block's input before the layer norm, the gradient's mean over
    class token and patches."""
    requires: ClassVar[Capability | None] = "activations"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels, gradients=True)
        activations = trace.blocks[-1].entered if self.compat else trace.activations
        with full_precision(tower.backbone), torch.enable_grad():
            scores = cosines(trace.feature, texts)
            maps = []
            for (gradient,) in score_gradients(scores, (activations,)):
                counted = drop_prompts(trace, gradient, dim=1) if self.compat else trace.patches(gradient)
                maps.append((trace.patches(activations) @ counted.mean(dim=1)[..., None])[..., 0])
        maps_BTP = torch.stack(maps, dim=1).detach()
        return trace.as_maps(maps_BTP if self.signed else maps_BTP.relu())


def cosines(features: Float[Tensor, "B D"], texts: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """Cosines of normalised features with each image's normalised texts."""
    return (texts @ features[..., None])[..., 0]


def drop_prompts(trace: ImageTrace, x: Tensor, *, dim: int) -> Tensor:
    """The class token and the patches of a dimension that runs over tokens."""
    if not trace.num_prompts:
        return x
    length = x.shape[dim]
    kept = [0, *range(1 + trace.num_prompts, length)]
    return x.index_select(dim, torch.tensor(kept, device=x.device))
