"""Attention-based attribution: attention rollout, and Chefer et al.'s relevance for both modalities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize, one_hot

from ecor.clip.backbone import Backbone
from ecor.clip.towers.enlarged_grid import with_enlarged_grid
from ecor.clip.towers.image_tower import Capability, ImageTower, ImageTrace, full_precision, score_gradients
from ecor.clip.towers.text_tower import trace_text
from ecor.config.checks import require_at_least
from ecor.config.choices import Compat
from ecor.data.heatmap import minmax, resize_maps
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
        map_BP = _flow_to_patches(tower, trace, steps[first:], residual=False)
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
                maps.append(_flow_to_patches(tower, trace, steps, residual=True))
        return trace.as_maps(torch.stack(maps, dim=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveAttribution:
    """Transformer attribution on a finer grid, of what sets a text apart from the other texts. Ours, not of a paper.

    Where the tower's grid is coarse, the picture is enlarged and the position embeddings are interpolated. The text is
    replaced by t - Σ softmax(scale · f·o) o over the other texts o, with f the image's feature: the direction in which
    the log odds of the text against the others grow fastest. `docs/explanations.md` says what each of the two brings.
    """

    largest_grid: int = 16
    """Patches per side up to which the picture is enlarged, by a whole factor: 7 and 8 become 14 and 16, 14 stays."""
    all_grids: bool = False
    """Take the mean of the maps, each from 0 to 1, of all factors from 1 on: better with 24, and ten times as slow."""
    distractors: Float[Tensor, "N D"] | Float[Tensor, "B N D"] | None = None
    """Features of the other texts, the same for all images or each image's own."""
    redundant: Float[Tensor, " D"] | None = None
    """Feature of the empty sentence, subtracted where there is no other text."""
    requires: ClassVar[Capability | None] = "attention"
    needs: ClassVar[frozenset[str]] = frozenset({"gradients", "distractors"})

    def __post_init__(self) -> None:
        require_at_least("largest_grid", self.largest_grid, 1)

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        directions = self._directions(tower, pixels, texts)
        vit = tower.backbone.vit
        factor = 1 if vit is None else max(1, self.largest_grid // max(vit.grid_size))
        if not self.all_grids:
            return _enlarged_maps(tower, pixels, directions, factor=factor)
        maps = [minmax(_enlarged_maps(tower, pixels, directions, factor=each)) for each in range(1, factor + 1)]
        size = (maps[-1].shape[-2], maps[-1].shape[-1])
        return torch.stack([resize_maps(each, size) for each in maps]).mean(dim=0)

    @torch.no_grad()
    def _directions(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        if self.distractors is not None:
            others = self.distractors.to(texts).expand(len(texts), -1, -1)
            scores = tower.backbone.logit_scale * cosines(tower.features(pixels), others)
            common = (scores.softmax(dim=-1)[:, None] @ others).expand_as(texts)
        elif self.redundant is not None:
            common = self.redundant.to(texts).expand_as(texts)
        else:
            return texts
        return normalize(texts - common, dim=-1)


def _enlarged_maps(
    tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"], *, factor: int
) -> Float[Tensor, "B T h w"]:
    """Transformer attribution of a picture of `factor` times the size."""
    if factor > 1:
        pixels = interpolate(pixels, scale_factor=factor, mode="bicubic", align_corners=False)
    return TransformerAttribution()(with_enlarged_grid(tower, factor=factor), pixels, texts)


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
        steps = [_relevance(each) for each in zip(attentions, gradients, strict=True)]
        flow = one_hot(trace.read_at, steps[0].shape[-1]).to(steps[0])
        for step in reversed(steps):
            flow = flow + _carried(flow, step)
    return [flow[n, trace.words.start : at] for n, at in enumerate(trace.read_at.tolist())]


def _relevance(pair: tuple[Tensor, Tensor]) -> Float[Tensor, "B L L"]:
    attention, gradient = pair
    return (attention.detach() * gradient.detach()).relu_().mean(dim=1)


def _flow_to_patches(
    tower: ImageTower, trace: ImageTrace, steps: Sequence[Float[Tensor, "B L L"]], *, residual: bool
) -> Float[Tensor, "B P"]:
    """R of the token where the feature is read, over the patches that enter the first of the given last blocks.

    R is a product of matrices of which one row is asked for: so that row is carried from the last block to the first.
    It is the class token's, or the mean of the patches' where they are pooled. Deep visual prompt tokens are replaced
    as they enter a block: what they had gathered before is lost (ours).
    """
    num_tokens = steps[0].shape[-1]
    identity = torch.eye(num_tokens, device=steps[0].device)
    read = identity[0] if "class_token" in tower.capabilities else trace.patches(identity[None]).mean(dim=1)[0]
    flow = read.expand(len(steps[0]), -1)
    first = len(trace.blocks) - len(steps)
    for index in range(len(trace.blocks) - 1, first - 1, -1):
        carried = _carried(flow, steps[index - first])
        flow = flow + carried if residual else carried
        if 0 < index < trace.prompt_depth:
            flow[:, 1 : 1 + trace.num_prompts] = 0
    return trace.patches(flow[..., None])[..., 0]


def _carried(flow: Float[Tensor, "B L"], step: Float[Tensor, "B L L"]) -> Float[Tensor, "B L"]:
    return (flow[:, None] @ step)[:, 0]
