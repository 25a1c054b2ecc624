"""Forward passes of open_clip's image towers: with visual prompts, block by block, up to the last feature maps.

`vit` is an open_clip VisionTransformer, `resnet` a ModifiedResNet. Every pass gives what open_clip's own forward gives.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.open_clip_api import ModifiedResNet, VisionTransformer
from ecor.clip.towers.transformer_block import Block, run_attention_pool, run_block
from ecor.config.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePass:
    """Result of one forward pass of an image tower. With gradients on, the graph starts after the embedding."""

    feature: Float[Tensor, "B D"]
    """Not normalised."""
    blocks: tuple[Block, ...]
    """Of a ViT its blocks; of a ResNet one, its attention pool. Tokens: class (or mean), visual prompts, patches."""
    activations: Float[Tensor, "B _ W"]
    """Patches last: of a ViT what enters its last attention; of a ResNet its last maps."""
    grid: tuple[int, int]
    """Rows and columns of patches."""


def encode_pixels(model: Any, pixels: Tensor, prompts: Tensor | None) -> Tensor:
    """Compute image features, not normalised: open_clip's own forward, or the same steps with visual prompts inserted.

    Args:
        model: an open_clip CLIP; with prompts, one whose image tower is a ViT.
        pixels: normalised, [B 3 H W].
        prompts: [depth M W], a row for each of the first `depth` blocks.
    """
    if prompts is None or prompts.shape[1] == 0:
        return model.encode_image(pixels)
    vit = model.visual
    x_BLW = vit._embeds(pixels)
    for index, block in enumerate(vit.transformer.resblocks):
        x_BLW = block(_insert_prompts(x_BLW, prompts, block=index))
    return _pool(vit, x_BLW, num_prompts=prompts.shape[1])


def check_prompts(visual: Any, prompts: Float[Tensor, "depth M W"] | None, *, model_name: str) -> None:
    """Check that an image tower accepts visual prompts.

    Args:
        visual: the image tower of an open_clip CLIP.
        prompts: of any prompt learner; None is always accepted.
        model_name: named in the error.

    Raises:
        ValueError: when the image tower is no open_clip ViT, has fewer blocks, or has another width.
    """
    if prompts is None:
        return
    if not isinstance(visual, VisionTransformer):
        raise ValueError(
            f"visual tokens need an open_clip ViT, but the image tower of {model_name!r} is a "
            f"{type(visual).__name__}: set visual_tokens to 0"
        )
    depth, _, width = prompts.shape
    num_blocks, expected = len(visual.transformer.resblocks), visual.transformer.width
    require(depth <= num_blocks, f"visual depth {depth} is more than {num_blocks} blocks")
    require(width == expected, f"visual tokens are {width} wide, the tower {expected}")


def run_vit(
    vit: Any,
    pixels: Float[Tensor, "B 3 H W"],
    *,
    prompts: Float[Tensor, "depth M width"] | None = None,
    single_head_blocks: int = 0,
) -> ImagePass:
    """Run a ViT block by block.

    Args:
        vit: an open_clip VisionTransformer.
        pixels: normalised.
        prompts: visual prompts, a row for each of the first `depth` blocks.
        single_head_blocks: last blocks that attend with one head (`run_block`).
    """
    x_BLW = start_graph(vit._embeds(pixels))
    resblocks, blocks = vit.transformer.resblocks, []
    for index, resblock in enumerate(resblocks):
        x_BLW = x_BLW if prompts is None else _insert_prompts(x_BLW, prompts, block=index)
        blocks.append(run_block(resblock, x_BLW, single_head=index >= len(resblocks) - single_head_blocks))
        x_BLW = blocks[-1].left
    return ImagePass(
        feature=_pool(vit, x_BLW, num_prompts=0 if prompts is None else prompts.shape[1]),
        blocks=tuple(blocks),
        activations=blocks[-1].normed,
        grid=vit.grid_size,
    )


def run_resnet(resnet: Any, pixels: Float[Tensor, "B 3 H W"]) -> ImagePass:
    """Run a ResNet up to its last maps, and its attention pool with every token as a query."""
    maps_BWhw = feature_maps(resnet, pixels)
    activations_BPW = start_graph(maps_BWhw.flatten(2).transpose(1, 2))
    pool = run_attention_pool(resnet.attnpool, activations_BPW)
    return ImagePass(
        feature=pool.left[:, 0],
        blocks=(pool,),
        activations=activations_BPW,
        grid=(maps_BWhw.shape[2], maps_BWhw.shape[3]),
    )


def project_tokens(vit: Any, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B L D"]:
    """Take tokens of a ViT's last block into the space of the texts, by the steps that the pooled feature takes."""
    normed = vit.ln_post(tokens)
    return normed if vit.proj is None else normed @ vit.proj


def feature_maps(visual: Any, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
    """Compute the last feature maps: of a ResNet its last layer; of a ViT the patch tokens of its last block.

    Patch tokens are normed where the tower's own pool norms them too.

    Args:
        visual: a ModifiedResNet or a VisionTransformer.
        pixels: normalised.
    """
    if isinstance(visual, ModifiedResNet):
        return visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    tokens_BLW = visual.transformer(visual._embeds(pixels))
    return token_maps(visual, tokens_BLW if visual.attn_pool is not None else visual.ln_post(tokens_BLW))


def freeze_after_maps(visual: Any) -> None:
    """Freeze the parts that `feature_maps` does not use, so that they are not trained."""
    is_normed = not isinstance(visual, ModifiedResNet) and visual.attn_pool is None
    for name in ("proj", "attn_pool", "attnpool", *(() if is_normed else ("ln_post",))):
        if getattr(visual, name, None) is not None:
            getattr(visual, name).requires_grad_(False)


def token_maps(vit: Any, tokens: Float[Tensor, "B L W"]) -> Float[Tensor, "B W h w"]:
    """The patches among a ViT's tokens, as maps."""
    height, width = vit.grid_size
    return tokens[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def last_tensors(vit: Any, *, num_blocks: int) -> list[Tensor]:
    """Weights of a ViT's last blocks and of all behind them: projection, last norm, then block by block backwards.

    Args:
        vit: an open_clip VisionTransformer.
        num_blocks: blocks to include, counted from the end.
    """
    blocks = list(vit.transformer.resblocks)
    parts = [vit.ln_post, *reversed(blocks[len(blocks) - num_blocks :])]
    return [*([] if vit.proj is None else [vit.proj]), *(each for part in parts for each in part.parameters())]


def start_graph(x: Tensor) -> Tensor:
    """Let the autograd graph start at `x`, unless an earlier tensor already requires a gradient."""
    return x.requires_grad_() if torch.is_grad_enabled() and not x.requires_grad else x


def _insert_prompts(x_BLW: Tensor, prompts: Tensor, *, block: int) -> Tensor:
    """The tokens that enter a block: its own visual prompts, if it has any, replace those that entered the last."""
    depth, num_prompts = prompts.shape[:2]
    if block >= depth:
        return x_BLW
    patches = x_BLW[:, 1:] if block == 0 else x_BLW[:, 1 + num_prompts :]
    return torch.cat([x_BLW[:, :1], prompts[block].to(x_BLW.dtype).expand(len(x_BLW), -1, -1), patches], dim=1)


def _pool(vit: Any, x_BLW: Tensor, *, num_prompts: int) -> Tensor:
    """The feature of the tokens that leave the last block; visual prompts are no patches."""
    pooled, _ = vit._pool(torch.cat([x_BLW[:, :1], x_BLW[:, 1 + num_prompts :]], dim=1))
    return pooled if vit.proj is None else pooled @ vit.proj
