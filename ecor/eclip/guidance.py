"""ECLIP's guidance: patch weights from the tower's own attention, masks and pooling by them."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.checks import require
from ecor.config.systems import EclipConfig, PoolingName
from ecor.explain.methods.attention import AttentionRollout
from ecor.explain.methods.similarity import project_patches

Guidance = Callable[[ImageTower, Float[Tensor, "B 3 H W"]], Float[Tensor, "B P"]]
"""Maps normalised pixels to one weight per patch: not negative, without labels, for training only."""


def class_attention(tower: ImageTower, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P"]:
    """The class token's attention to patches in the last block, its mean over heads.

    Of a tower that pools patches by their mean: the mean over all queries (ours). Of a ResNet: of its attention pool.

    Args:
        tower: with attention.
        pixels: normalised.

    Raises:
        ValueError: when the tower gives no attention.
    """
    tower.require_capability("attention", asked_by="guidance")
    trace = tower.trace(pixels)
    rows = trace.blocks[-1].attention.mean(dim=1)
    row = rows[:, 0] if "class_token" in tower.capabilities else rows.mean(dim=1)
    return trace.patches(row[..., None])[..., 0]


def rollout_attention(tower: ImageTower, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P"]:
    """Attention followed through all blocks (`AttentionRollout`)."""
    any_text = pixels.new_zeros(len(pixels), 1, tower.backbone.embed_dim)
    return AttentionRollout()(tower, pixels, any_text).flatten(2)[:, 0]


GUIDANCE: dict[str, Guidance] = {"class_attention": class_attention, "rollout": rollout_attention}
"""Kinds of guidance that need only the tower, by name."""


def guidance_of(name: str) -> Guidance:
    """Return the guidance of a name.

    Raises:
        ValueError: when there is none; the message lists the names.
    """
    require(name in GUIDANCE, f"unknown guidance {name!r}: choose from {', '.join(GUIDANCE)}")
    return GUIDANCE[name]


@torch.no_grad()
def guided_patches(
    tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], *, guidance: Guidance
) -> Float[Tensor, "B P E"]:
    """Projected patch tokens with the guidance of each patch as last channel (E = D + 1).

    Args:
        tower: with patch tokens in the space of the texts.
        pixels: normalised.
        guidance: gives one weight per patch.

    Raises:
        ValueError: when the tower gives no such patch tokens, or the guidance is of another number of patches, or below
            zero.
    """
    tower.require_capability("patch_tokens", asked_by=SYSTEM)
    patches_BPD = project_patches(tower, tower.trace(pixels))
    weights_BP = guidance(tower, pixels).to(patches_BPD)
    require(
        weights_BP.shape == patches_BPD.shape[:2],
        f"guidance is {tuple(weights_BP.shape)}, patches are {tuple(patches_BPD.shape[:2])}: resize it to their grid",
    )
    require(bool((weights_BP >= 0).all()), f"guidance must not be negative, got {float(weights_BP.min()):.3g}")
    return torch.cat([patches_BPD, weights_BP[..., None]], dim=-1)


def mask_by_threshold(guidance: Float[Tensor, "B P"], *, threshold: float) -> Bool[Tensor, "B P"]:
    """Choose the patches of at least `threshold` times the image's mean; where there is none, the strongest (ours).

    Args:
        guidance: of each patch, not negative.
        threshold: a multiple of the mean.
    """
    strongest = guidance == guidance.amax(dim=1, keepdim=True)
    return (guidance >= threshold * guidance.mean(dim=1, keepdim=True)) | strongest


def mask_by_mass(guidance: Float[Tensor, "B P"], *, keep_mass: float) -> Bool[Tensor, "B P"]:
    """Choose the fewest patches, strongest first, that hold a share of the guidance; equal ones from the top left.

    Args:
        guidance: of each patch, not negative.
        keep_mass: the share.
    """
    ranked, order = guidance.sort(dim=1, descending=True, stable=True)
    before = ranked.cumsum(dim=1) - ranked
    total = guidance.sum(dim=1, keepdim=True)
    kept = before < keep_mass * total
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(1, order, kept)


def max_pool(patches: Float[Tensor, "B P D"], *, mask: Bool[Tensor, "B P"] | None = None) -> Float[Tensor, "B D"]:
    """The maximum of each channel over patches, or over those in the mask (each image has one at least)."""
    if mask is None:
        return patches.amax(dim=1)
    return patches.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)


def average_pool(
    patches: Float[Tensor, "B P D"], *, weights: Float[Tensor, "B P"] | None = None
) -> Float[Tensor, "B D"]:
    """The mean over patches, or their mean weighted by guidance; guidance that is all zero counts as even."""
    if weights is None:
        return patches.mean(dim=1)
    total = weights.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, weights / total.clamp(min=torch.finfo(weights.dtype).tiny), 1 / weights.shape[1])
    return (share[:, None] @ patches)[:, 0]


def pool_patches(
    patches: Float[Tensor, "B P D"], guidance: Float[Tensor, "B P"], *, config: EclipConfig
) -> Float[Tensor, "B D"]:
    """Pool patches to one feature per image, not normalised.

    Args:
        patches: projected.
        guidance: of each patch, not negative.
        config: names the pooling and the mask.

    Raises:
        ValueError: when the pooling is unknown.
    """
    mask_of = {
        "threshold": partial(mask_by_threshold, threshold=config.threshold),
        "mass": partial(mask_by_mass, keep_mass=config.keep_mass),
    }
    poolings: dict[PoolingName, Callable[[], Tensor]] = {
        "masked_max": lambda: max_pool(patches, mask=mask_of[config.mask_by](guidance)),
        "max": lambda: max_pool(patches),
        "average": lambda: average_pool(patches),
        "attention": lambda: average_pool(patches, weights=guidance),
    }
    require(config.pooling in poolings, f"unknown pooling {config.pooling!r}: choose from {', '.join(poolings)}")
    return poolings[config.pooling]()


SYSTEM = "eclip"
