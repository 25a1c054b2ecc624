"""Trace an image tower for explanations: tokens, attention and patches of one forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import unit_features
from ecor.clip.towers.image_forward import project_tokens, run_resnet, run_vit
from ecor.clip.towers.transformer_block import Block
from ecor.config.checks import require

Capability = Literal["patch_tokens", "class_token", "attention", "activations"]
CAPABILITIES: dict[Capability, str] = {
    "patch_tokens": "patch tokens in the space of the texts",
    "class_token": "a feature that is read at one token",
    "attention": "attention between patches and what the feature is read at",
    "activations": "a map of activations before pooling",
}
"""Capabilities of image towers, with descriptions for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTrace:
    """Intermediate tensors of one forward pass of an image tower."""

    feature: Float[Tensor, "B D"]
    """Normalised, as `Backbone.encode_image` gives it."""
    blocks: tuple[Block, ...]
    """Of a ViT its blocks; of a ResNet one, its attention pool. Tokens: class (or mean), visual prompts, patches."""
    activations: Float[Tensor, "B _ W"]
    """What Grad-CAM weighs, patches last: of a ViT what enters its last attention; of a ResNet its last maps."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    num_prompts: int
    """Visual prompt tokens, which stand after the class token and are no patches."""
    prompt_depth: int
    """Blocks that get visual prompt tokens of their own."""

    def patches(self, tokens: Float[Tensor, "B _ W"]) -> Float[Tensor, "B P W"]:
        """The patch tokens among all tokens."""
        return tokens[:, -self.grid[0] * self.grid[1] :]

    def as_maps(self, values: Float[Tensor, "B T P"]) -> Float[Tensor, "B T h w"]:
        """One value per patch, as maps."""
        return values.unflatten(-1, self.grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTower:
    """An image tower with the visual prompt tokens it was tuned with; read only, always in fp32."""

    backbone: Backbone
    tokens: Float[Tensor, "depth M W"] | None = None
    """As `Backbone.encode_image` takes them; None: the plain tower."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities of this tower; ViTs with attentional pooling (CoCa) and timm towers have few or none."""
        if self.backbone.resnet is not None:
            return frozenset(CAPABILITIES)
        vit = self.backbone.vit
        if vit is None:
            return frozenset()
        if vit.attn_pool is not None or vit.pool_type == "none":
            return frozenset({"activations"})
        return frozenset(CAPABILITIES) - ({"class_token"} if vit.pool_type == "avg" else set())

    def require_capability(self, capability: Capability, *, asked_by: str) -> None:
        """Check that the tower has a capability.

        Args:
            capability: a key of `CAPABILITIES`.
            asked_by: what needs it, for the message.

        Raises:
            ValueError: when the tower lacks it; the message names both.
        """
        require(
            capability in self.capabilities,
            f"{asked_by} needs {CAPABILITIES[capability]}, which the image tower of {self.backbone.config.name!r} (a "
            f"{type(self.backbone.model.visual).__name__}) cannot give: use a perturbation method (rise, occlusion)",
        )

    def pixels(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Normalise 8-bit images; floating-point images are taken as normalised."""
        return images.to(self.backbone.device) if images.is_floating_point() else self.backbone.normalise(images)

    def features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Normalised features by the tower's own forward: hooks fire, and gradients reach the pixels."""
        with full_precision(self.backbone):
            tokens = None if self.tokens is None else self.tokens.detach()
            return self.backbone.encode_image(pixels, tokens=tokens, fp32=True)

    def project(self, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B L D"]:
        """Tokens of the last block into the space of the texts: the steps that the pooled feature takes."""
        return tokens if self.backbone.vit is None else project_tokens(self.backbone.vit, tokens)

    def trace(
        self, pixels: Float[Tensor, "B 3 H W"], *, gradients: bool = False, single_head_blocks: int = 0
    ) -> ImageTrace:
        """Recompute the forward pass and keep intermediate tensors; the feature is that of `features` up to rounding.

        Args:
            pixels: normalised.
            gradients: keep the graph, so that `torch.autograd.grad` can differentiate late tensors by early ones. It
                begins after the embedding, or at the pixels where they require a gradient.
            single_head_blocks: last blocks that attend with one head, as Grad-ECLIP's reference implementation does.

        Raises:
            ValueError: when the tower is neither an open_clip ViT nor a ModifiedResNet, or its blocks cannot be traced.
        """
        self.require_capability("activations", asked_by="a trace")
        with full_precision(self.backbone), torch.set_grad_enabled(gradients):
            if self.backbone.resnet is not None:
                require(not single_head_blocks, "an attention pool is traced with its own heads only")
                prompts, passed = None, run_resnet(self.backbone.resnet, pixels)
            else:
                prompts = self._prompt_tokens()
                passed = run_vit(self.backbone.vit, pixels, prompts=prompts, single_head_blocks=single_head_blocks)
            return ImageTrace(
                feature=unit_features(passed.feature),
                blocks=passed.blocks,
                activations=passed.activations,
                grid=passed.grid,
                num_prompts=0 if prompts is None else prompts.shape[1],
                prompt_depth=0 if prompts is None else prompts.shape[0],
            )

    def _prompt_tokens(self) -> Tensor | None:
        if self.tokens is None or self.tokens.shape[1] == 0:
            return None
        self.backbone.check_tokens(self.tokens)
        return self.tokens.detach().to(self.backbone.device)


@contextmanager
def full_precision(backbone: Backbone) -> Iterator[None]:
    """Disable autocast inside the block: maps are small differences, which need fp32."""
    with torch.autocast(backbone.device.type, enabled=False):
        yield


def score_gradients(scores: Float[Tensor, "B T"], of: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield, text by text, the gradient of its scores by each tensor.

    The scores of different images do not depend on each other, so one backward pass serves all images.

    Args:
        scores: with a graph.
        of: tensors of that graph.
    """
    for text in range(scores.shape[1]):
        yield torch.autograd.grad(scores[:, text].sum(), of, retain_graph=text + 1 < scores.shape[1])
