"""Attention-based attribution: attention rollout, and Chefer et al.'s relevance for both modalities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.towers.image_tower import Capability, ImageTower, ImageTrace, full_precision, score_gradients
from ecor.clip.towers.text_tower import trace_text
from ecor.config.choices import Compat
from ecor.explain.methods.gradients import cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRollout:
    """Attention rollout (arXiv:2005.00928): the product of rownorm(mean attention + I); the same for every text."""

    first_block: int = 0
    """Blocks before it are left out."""
    compat: Compat | None = None
    """Leave the first block out, as Chefer et al. evaluate it."""
    requires: ClassVar[Capability | None] = "attention"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels)
        first = 1 if self.compat else self.first_block
        steps = []
        for block in trace.blocks:
            mixed = block.attention.mean(dim=1) + torch.eye(block.attention.shape[-1], device=pixels.device)
            steps.append(mixed / mixed.sum(dim=-1, keepdim=True))
        flow = _flow(trace, steps, first=first, residual=False)
        map_BP = _read_out(tower, trace, flow)
        return trace.as_maps(map_BP[:, None].expand(-1, texts.shape[1], -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerAttribution:
    """Chefer et al.'s rule for two modalities (arXiv:2103.15679): R grows by mean(ReLU(gradient * attention)) R."""

    num_blocks: int | None = None
    """Last blocks; None: all."""
    compat: Compat | None = None
    """The last block alone, the reference demo's default for CLIP."""
    requires: ClassVar[Capability | None] = "attention"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients"})

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels, gradients=True)
        num_blocks = 1 if self.compat else self.num_blocks or len(trace.blocks)
        first = max(0, len(trace.blocks) - num_blocks)
        attentions = tuple(block.attention for block in trace.blocks)
        maps = []
        with full_precision(tower.backbone), torch.enable_grad():
            scores = cosines(trace.feature, texts)
            for gradients in score_gradients(scores, attentions[first:]):
                steps = [_relevance(each) for each in zip(attentions[first:], gradients, strict=True)]
                flow = _flow(trace, [torch.zeros_like(steps[0])] * first + steps, first=first, residual=True)
                maps.append(_read_out(tower, trace, flow))
        return trace.as_maps(torch.stack(maps, dim=1))


def word_relevance(
    backbone: Backbone,
    texts: Sequence[str],
    images: Float[Tensor, "N D"],
    *,
    context: Float[Tensor, "M W"] | None = None,
    num_blocks: int | None = None,
) -> list[Float[Tensor, " words"]]:
    """Chefer et al.'s rule for the text: how much each token between start and end speaks for the image.

    Args:
        backbone: whose text tower is read.
        texts: N sentences.
        images: the normalised feature that each is compared with.
        context: learned embeddings, as `Backbone.encode_text` takes them; they are no words.
        num_blocks: last blocks; None: all.
    """
    trace = trace_text(backbone, texts, context=context, gradients=True)
    attentions = tuple(block.attention for block in trace.blocks[-(num_blocks or len(trace.blocks)) :])
    with full_precision(backbone), torch.enable_grad():
        scores = (trace.feature * images.to(trace.feature)).sum(dim=-1, keepdim=True)
        (gradients,) = score_gradients(scores, attentions)
        flow = torch.eye(attentions[0].shape[-1], device=images.device).expand(len(texts), -1, -1)
        for step in (_relevance(each) for each in zip(attentions, gradients, strict=True)):
            flow = flow + step @ flow
    return [flow[n, at, trace.words.start : at] for n, at in enumerate(trace.read_at.tolist())]


def _relevance(pair: tuple[Tensor, Tensor]) -> Float[Tensor, "B L L"]:
    attention, gradient = pair
    return (attention.detach() * gradient.detach()).relu().mean(dim=1)


def _flow(
    trace: ImageTrace, steps: Sequence[Float[Tensor, "B L L"]], *, first: int, residual: bool
) -> Float[Tensor, "B L L"]:
    """R of the last block over the tokens that enter the first one, block by block.

    Deep visual prompt tokens are replaced as they enter a block: what they had gathered before is lost (ours).
    """
    identity = torch.eye(steps[0].shape[-1], device=steps[0].device)
    flow = identity.expand(len(steps[0]), -1, -1).clone()
    for index, step in enumerate(steps):
        if 0 < index < trace.prompt_depth:
            flow[:, 1 : 1 + trace.num_prompts] = identity[1 : 1 + trace.num_prompts]
        if index >= first:
            flow = flow + step @ flow if residual else step @ flow
    return flow


def _read_out(tower: ImageTower, trace: ImageTrace, flow: Float[Tensor, "B L L"]) -> Float[Tensor, "B P"]:
    """The row where the feature is read: the class token's, or the mean of the patches' where they are pooled."""
    rows = flow[:, 0] if "class_token" in tower.capabilities else trace.patches(flow).mean(dim=1)
    return trace.patches(rows[..., None])[..., 0]
