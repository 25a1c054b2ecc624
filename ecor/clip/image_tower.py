"""An image tower and pixels in, what it computes on the way to its feature out: tokens, attention, patches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from ecor.clip.backbone import Backbone
from ecor.clip.transformer_block import Block, run_attention_pool, run_block
from ecor.config import require

Capability = Literal["patch_tokens", "class_token", "attention", "activations"]
CAPABILITIES: dict[Capability, str] = {
    "patch_tokens": "patch tokens in the space of the texts",
    "class_token": "a feature that is read at one token",
    "attention": "attention between patches and what the feature is read at",
    "activations": "a map of activations before pooling",
}
"""What a tower may be able to give, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTrace:
    """One forward pass of an image tower, opened."""

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
    """A lent image tower with the visual prompt tokens it was tuned with: read only, always in fp32."""

    backbone: Backbone
    tokens: Float[Tensor, "depth M W"] | None = None
    """As `Backbone.encode_image` takes them; None: the plain tower."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this tower can give; a ViT with attentional pooling (CoCa) and towers of timm give little or nothing."""
        if self.backbone.resnet is not None:
            return frozenset(CAPABILITIES)
        vit = self.backbone.vit
        if vit is None:
            return frozenset()
        if vit.attn_pool is not None or vit.pool_type == "none":
            return frozenset({"activations"})
        return frozenset(CAPABILITIES) - ({"class_token"} if vit.pool_type == "avg" else set())

    def check_gives(self, capability: Capability, *, asked_by: str) -> None:
        """ValueError, naming tower and capability, unless the tower can give it."""
        require(
            capability in self.capabilities,
            f"{asked_by} needs {CAPABILITIES[capability]}, which the image tower of {self.backbone.config.name!r} (a "
            f"{type(self.backbone.model.visual).__name__}) cannot give: use a perturbation method (rise, occlusion)",
        )

    def pixels(self, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """As the tower takes them: 8-bit images are normalised, others taken as normalised."""
        return images.to(self.backbone.device) if images.is_floating_point() else self.backbone.normalise(images)

    def features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Normalised features by the tower's own forward: hooks fire, and gradients reach the pixels."""
        with full_precision(self.backbone):
            tokens = None if self.tokens is None else self.tokens.detach()
            return self.backbone.encode_image(pixels, tokens=tokens, fp32=True)

    def project(self, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B L D"]:
        """Tokens of the last block into the space of the texts: the steps that the pooled feature takes."""
        vit = self.backbone.vit
        if vit is None:
            return tokens
        normed = vit.ln_post(tokens)
        return normed if vit.proj is None else normed @ vit.proj

    def trace(
        self, pixels: Float[Tensor, "B 3 H W"], *, gradients: bool = False, single_head_blocks: int = 0
    ) -> ImageTrace:
        """Recompute the forward pass, keeping what it computes; its feature is that of `features` up to rounding.

        Args:
            pixels: normalised.
            gradients: keep the graph, so that `torch.autograd.grad` of anything late by anything early can be had. It
                begins after the embedding, or at the pixels where they require a gradient.
            single_head_blocks: last blocks that attend with one head, as Grad-ECLIP's reference implementation does.

        Raises:
            ValueError: for towers that are neither an open_clip ViT nor a ModifiedResNet.
        """
        self.check_gives("activations", asked_by="a trace")
        with full_precision(self.backbone), torch.set_grad_enabled(gradients):
            if self.backbone.resnet is not None:
                require(not single_head_blocks, "an attention pool is traced with its own heads only")
                return _trace_resnet(self.backbone.resnet, pixels)
            return self._trace_vit(pixels, single_head_blocks=single_head_blocks)

    def _trace_vit(self, pixels: Tensor, *, single_head_blocks: int) -> ImageTrace:
        vit: Any = self.backbone.vit
        tokens = self._prompt_tokens()
        depth, num_prompts = (0, 0) if tokens is None else tokens.shape[:2]
        x_BLW = _in_graph(vit._embeds(pixels))
        resblocks, blocks = vit.transformer.resblocks, []
        for index, resblock in enumerate(resblocks):
            if tokens is not None and index < depth:
                patches = x_BLW[:, 1:] if index == 0 else x_BLW[:, 1 + num_prompts :]
                x_BLW = torch.cat([x_BLW[:, :1], tokens[index].expand(len(x_BLW), -1, -1), patches], dim=1)
            blocks.append(run_block(resblock, x_BLW, single_head=index >= len(resblocks) - single_head_blocks))
            x_BLW = blocks[-1].left
        pooled, _ = vit._pool(torch.cat([x_BLW[:, :1], x_BLW[:, 1 + num_prompts :]], dim=1))
        return ImageTrace(
            feature=normalize(pooled if vit.proj is None else pooled @ vit.proj, dim=-1),
            blocks=tuple(blocks),
            activations=blocks[-1].normed,
            grid=vit.grid_size,
            num_prompts=num_prompts,
            prompt_depth=depth,
        )

    def _prompt_tokens(self) -> Tensor | None:
        if self.tokens is None or self.tokens.shape[1] == 0:
            return None
        self.backbone.check_tokens(self.tokens)
        return self.tokens.detach().to(self.backbone.device).float()


def _trace_resnet(resnet: Any, pixels: Tensor) -> ImageTrace:
    maps_BWhw = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(resnet.stem(pixels)))))
    activations_BPW = _in_graph(maps_BWhw.flatten(2).transpose(1, 2))
    pool = run_attention_pool(resnet.attnpool, activations_BPW)
    return ImageTrace(
        feature=normalize(pool.left[:, 0], dim=-1),
        blocks=(pool,),
        activations=activations_BPW,
        grid=(maps_BWhw.shape[2], maps_BWhw.shape[3]),
        num_prompts=0,
        prompt_depth=0,
    )


def _in_graph(x: Tensor) -> Tensor:
    """`x` itself, or where nothing before it requires a gradient, the place where the graph begins."""
    return x.requires_grad_() if torch.is_grad_enabled() and not x.requires_grad else x


@contextmanager
def full_precision(backbone: Backbone) -> Iterator[None]:
    """fp32 inside, whatever autocast the caller is in: maps are made of small differences."""
    with torch.autocast(backbone.device.type, enabled=False):
        yield


def score_gradients(scores: Float[Tensor, "B T"], of: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """For each text in turn, the gradient of its scores by each tensor; images do not mix, so one pass serves all."""
    for text in range(scores.shape[1]):
        yield torch.autograd.grad(scores[:, text].sum(), of, retain_graph=text + 1 < scores.shape[1])
