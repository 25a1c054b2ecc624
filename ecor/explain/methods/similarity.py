"""Attribution by similarity of patch tokens and texts: ITSM, ECLIP and CLIP Surgery. No gradients, one forward pass."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ecor.clip.towers.image_tower import Capability, ImageTower, ImageTrace, full_precision
from ecor.clip.towers.transformer_block import attention_branch, attention_weights
from ecor.config.checks import require, require_at_least
from ecor.config.choices import Compat
from ecor.data.heatmap import minmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Itsm:
    """Image-Text Similarity Map (ECLIP, arXiv:2209.07046): cosine of each projected patch token with the text."""

    requires: ClassVar[Capability | None] = "patch_tokens"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels)
        return trace.as_maps(similarity_to_texts(project_patches(tower, trace), texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReversedItsm:
    """1 - minmax(ITSM): right wherever raw CLIP prefers the background (ECLIP's observation)."""

    requires: ClassVar[Capability | None] = "patch_tokens"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        return 1 - minmax(Itsm()(tower, pixels, texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Eclip:
    """ITSM of patch tokens behind ECLIP's trained projection (arXiv:2209.07046): pooling is dropped at inference."""

    projection: Float[Tensor, "D F"] | None = None
    """Trained, for patch tokens in the space of the texts."""
    text_projection: Float[Tensor, "D F"] | None = None
    """Trained, for texts; None: texts stay as they are."""
    requires: ClassVar[Capability | None] = "patch_tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"training"})

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        if self.projection is None:
            raise ValueError("eclip needs a trained projection: train one, or take itsm for the plain model")
        trace = tower.trace(pixels)
        patches = project_patches(tower, trace) @ self.projection.to(pixels.device)
        if self.text_projection is not None:
            texts = texts @ self.text_projection.to(pixels.device)
        return trace.as_maps(similarity_to_texts(patches, texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSurgery:
    """CLIP Surgery (arXiv:2304.05653): value-value attention without MLPs, minus what all texts have in common.

    A ResNet's attention pool attends by values too; by how much the reference's code and its comment differ, so that
    both are settings (ours: plain).
    """

    num_blocks: int = 6
    """Last blocks with a second path (all, where the tower has fewer)."""
    sharpness: float = 2.0
    """τ of the texts' weights, softmax(τ · cosine)."""
    distractors: Float[Tensor, "N D"] | Float[Tensor, "B N D"] | None = None
    """Features of other texts, the same for all images or each image's own, which decide what is common to all. The
    result depends on them."""
    redundant: Float[Tensor, " D"] | None = None
    """Feature of the empty sentence, subtracted instead where there is one text and no distractor."""
    scale: float = 1.0
    """ResNet: factor on the logits of value-value attention (8 in the reference's unused branch)."""
    normalize_qk: bool = False
    """ResNet: values of length one when they are compared (as in that branch)."""
    compat: Compat | None = None
    """As the reference's code: tokens normalised over tokens, not over features; a ResNet's image feature from
    value-value attention too."""
    requires: ClassVar[Capability | None] = "patch_tokens"
    needs: ClassVar[frozenset[str]] = frozenset({"distractors"})

    def __post_init__(self) -> None:
        require_at_least("num_blocks", self.num_blocks, 1)

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T h w"]:
        trace = tower.trace(pixels)
        with full_precision(tower.backbone), torch.no_grad():
            image, patches = self._resnet_tokens(trace) if tower.backbone.resnet else self._vit_tokens(tower, trace)
            tokens = torch.cat([image[:, None], patches], dim=1)
            tokens = tokens / tokens.norm(dim=1 if self.compat else -1, keepdim=True)
            num_texts = texts.shape[1]
            if num_texts == 1 and self.distractors is None:
                require(
                    self.redundant is not None,
                    "one text has nothing to be compared with, its map would be all zero: give clip_surgery "
                    "distractors, or the feature of the empty sentence as redundant",
                )
                assert self.redundant is not None
                scores = similarity(tokens[:, 1:], texts - self.redundant.to(texts))
            else:
                if self.distractors is not None:
                    others = self.distractors.to(texts).expand(len(texts), -1, -1)
                    texts = torch.cat([texts, others], dim=1)
                scores = feature_surgery(tokens[:, 0], tokens[:, 1:], texts, sharpness=self.sharpness)[:, :num_texts]
        return trace.as_maps(scores)

    def _vit_tokens(self, tower: ImageTower, trace: ImageTrace) -> tuple[Tensor, Tensor]:
        """The image token of the original path, the patch tokens of the new one."""
        start = max(0, len(trace.blocks) - self.num_blocks)
        new_BLW = trace.blocks[start].entered
        for resblock, block in list(zip(tower.backbone.visual_blocks, trace.blocks, strict=True))[start:]:
            by_value = attention_weights(block.value, block.value) @ block.value
            new_BLW = new_BLW + attention_branch(resblock, by_value.transpose(1, 2).flatten(2))
        return trace.feature, trace.patches(tower.project(new_BLW))

    def _resnet_tokens(self, trace: ImageTrace) -> tuple[Tensor, Tensor]:
        pool = trace.blocks[0]
        like = normalize(pool.value, dim=-1) if self.normalize_qk else pool.value
        by_value = attention_weights(like * self.scale, like) @ pool.value
        tokens = pool.out_proj(by_value.transpose(1, 2).flatten(2))
        return tokens[:, 0] if self.compat else trace.feature, trace.patches(tokens)


def feature_surgery(
    image: Float[Tensor, "B D"], patches: Float[Tensor, "B P D"], texts: Float[Tensor, "B T D"], *, sharpness: float
) -> Float[Tensor, "B T P"]:
    """Cosines weighted by how well each text fits the image, minus their mean over texts (closed form).

    Args:
        image: normalised feature.
        patches: normalised, in the space of the texts.
        texts: normalised; all of them share what is subtracted.
        sharpness: τ of the weights.
    """
    prob = (sharpness * similarity(image[:, None], texts)).softmax(dim=1)
    weighted = similarity(patches, texts) * (prob / prob.mean(dim=1, keepdim=True))
    return weighted - weighted.mean(dim=1, keepdim=True)


def similarity(patches: Float[Tensor, "B P D"], texts: Float[Tensor, "B T D"]) -> Float[Tensor, "B T P"]:
    """Dot products of patches and texts."""
    return texts @ patches.transpose(1, 2)


def similarity_to_texts(patches: Float[Tensor, "B P D"], texts: Float[Tensor, "B T D"]) -> Float[Tensor, "B T P"]:
    """Cosines of patches and texts."""
    return similarity(normalize(patches, dim=-1), normalize(texts, dim=-1))


@torch.no_grad()
def project_patches(tower: ImageTower, trace: ImageTrace) -> Float[Tensor, "B P D"]:
    """Project patch tokens into the space of the texts.

    They take the layer norm and the projection that the pooled feature takes.

    Args:
        tower: with patch tokens.
        trace: of the images, by that tower.
    """
    with full_precision(tower.backbone):
        return trace.patches(tower.project(trace.blocks[-1].left))
