"""Patch tokens, guidance and texts in, a projection that turns them into maps out: ECLIP (arXiv:2209.07046).

While learning, patches are pooled into one feature per image; for maps the pooling is dropped, and each projected patch
is compared with the text (`ecor.explain.methods.similarity.Eclip`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from ecor.clip.backbone import Backbone
from ecor.clip.image_tower import ImageTower
from ecor.config import EclipConfig, PoolingName, require
from ecor.explain.methods.attention import AttentionRollout
from ecor.explain.methods.similarity import Eclip, projected_patches
from ecor.storage.artifact import Saved, read_saved, read_tensors, require_backbone
from ecor.training.clip_loss import shared_text_loss
from ecor.training.distributed import gather_features, gather_ids
from ecor.training.negative_sampling import distinct, positions

SYSTEM = "eclip"
Guidance = Callable[[ImageTower, Float[Tensor, "B 3 H W"]], Float[Tensor, "B P"]]
"""Normalised pixels in, how much each patch is looked at out: not negative, free of labels, for training only."""


def class_attention(tower: ImageTower, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P"]:
    """The class token's attention to patches in the last block, its mean over heads.

    Of a tower that pools patches by their mean: the mean over all queries (ours). Of a ResNet: of its attention pool.
    """
    tower.check_gives("attention", asked_by="guidance")
    trace = tower.trace(pixels)
    rows = trace.blocks[-1].attention.mean(dim=1)
    row = rows[:, 0] if "class_token" in tower.capabilities else rows.mean(dim=1)
    return trace.patches(row[..., None])[..., 0]


def rollout_attention(tower: ImageTower, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P"]:
    """Attention followed through all blocks (`AttentionRollout`)."""
    any_text = pixels.new_zeros(len(pixels), 1, tower.backbone.embed_dim)
    return AttentionRollout()(tower, pixels, any_text).flatten(2)[:, 0]


GUIDANCE: dict[str, Guidance] = {"class_attention": class_attention, "rollout": rollout_attention}
"""What needs no model but the tower itself, by name."""


def guidance_of(name: str) -> Guidance:
    """The guidance of that name; ValueError lists the names."""
    require(name in GUIDANCE, f"unknown guidance {name!r}: choose from {', '.join(GUIDANCE)}")
    return GUIDANCE[name]


@torch.no_grad()
def guided_patches(
    tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], *, guidance: Guidance
) -> Float[Tensor, "B P E"]:
    """What is learned from: each patch token in the space of the texts, and after it the patch's guidance (E = D + 1).

    ValueError for guidance of another number of patches, or below zero.
    """
    tower.check_gives("patch_tokens", asked_by=SYSTEM)
    patches_BPD = projected_patches(tower, tower.trace(pixels))
    weights_BP = guidance(tower, pixels).to(patches_BPD)
    require(
        weights_BP.shape == patches_BPD.shape[:2],
        f"guidance is {tuple(weights_BP.shape)}, patches are {tuple(patches_BPD.shape[:2])}: resize it to their grid",
    )
    require(bool((weights_BP >= 0).all()), f"guidance must not be negative, got {float(weights_BP.min()):.3g}")
    return torch.cat([patches_BPD, weights_BP[..., None]], dim=-1)


def mask_by_threshold(guidance: Float[Tensor, "B P"], *, threshold: float) -> Bool[Tensor, "B P"]:
    """Patches of at least `threshold` times the image's mean; where none is, the strongest (ours)."""
    strongest = guidance == guidance.amax(dim=1, keepdim=True)
    return (guidance >= threshold * guidance.mean(dim=1, keepdim=True)) | strongest


def mask_by_mass(guidance: Float[Tensor, "B P"], *, keep_mass: float) -> Bool[Tensor, "B P"]:
    """The fewest patches, strongest first, that hold that share of the guidance; equal ones from the top left."""
    ranked, order = guidance.sort(dim=1, descending=True, stable=True)
    before = ranked.cumsum(dim=1) - ranked
    total = guidance.sum(dim=1, keepdim=True)
    kept = before < keep_mass * total
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(1, order, kept)


def max_pooled(patches: Float[Tensor, "B P D"], *, mask: Bool[Tensor, "B P"] | None = None) -> Float[Tensor, "B D"]:
    """The maximum of each channel over patches, or over those in the mask (each image has one at least)."""
    if mask is None:
        return patches.amax(dim=1)
    return patches.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)


def average_pooled(
    patches: Float[Tensor, "B P D"], *, weights: Float[Tensor, "B P"] | None = None
) -> Float[Tensor, "B D"]:
    """The mean over patches, or their mean weighted by guidance; guidance that is all zero counts as even."""
    if weights is None:
        return patches.mean(dim=1)
    total = weights.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, weights / total.clamp(min=torch.finfo(weights.dtype).tiny), 1 / weights.shape[1])
    return (share[:, None] @ patches)[:, 0]


def pooled(
    patches: Float[Tensor, "B P D"], guidance: Float[Tensor, "B P"], *, config: EclipConfig
) -> Float[Tensor, "B D"]:
    """One feature per image, as the settings say; not normalised."""
    mask_of = {
        "threshold": partial(mask_by_threshold, threshold=config.threshold),
        "mass": partial(mask_by_mass, keep_mass=config.keep_mass),
    }
    poolings: dict[PoolingName, Callable[[], Tensor]] = {
        "masked_max": lambda: max_pooled(patches, mask=mask_of[config.mask_by](guidance)),
        "max": lambda: max_pooled(patches),
        "average": lambda: average_pooled(patches),
        "attention": lambda: average_pooled(patches, weights=guidance),
    }
    require(config.pooling in poolings, f"unknown pooling {config.pooling!r}: choose from {', '.join(poolings)}")
    return poolings[config.pooling]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Normalised features of the sentences that images are compared with."""

    rationales: Float[Tensor, "R D"]
    categories: Float[Tensor, "C D"]
    captions: Float[Tensor, "N D"] | None = None
    """Where images are compared with captions."""


class Projection(nn.Module):
    """What ECLIP learns: a linear map of patch tokens, and where asked for one of texts. It starts as no map (ours)."""

    def __init__(self, dim: int, *, has_text: bool) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.eye(dim))
        self.text_projection = nn.Parameter(torch.eye(dim)) if has_text else None

    def as_method(self) -> Eclip:
        """For maps, as `ecor.explain.attribute` takes it."""
        text = None if self.text_projection is None else self.text_projection.detach().clone()
        return Eclip(projection=self.projection.detach().clone(), text_projection=text)


class EclipModule(nn.Module):
    """Guided patches with labels in, ECLIP's loss terms out; its parameters are the projection and nothing else."""

    def __init__(self, projection: Projection, *, names: Names, logit_scale: float, config: EclipConfig) -> None:
        super().__init__()
        self.learned = projection
        self._frozen = (names, logit_scale, config)  # a tuple, so that nothing in it is registered

    def forward(
        self,
        pictures: Float[Tensor, "B P E"],
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Symmetric InfoNCE of the images of all ranks and their distinct sentences (`ecor.training.clip_loss`).

        Labels are ids, −1 where unknown; with captions, `rationales` are ids of captions. With both kinds of sentences,
        each has half of the weight (ours).
        """
        features = gather_features(self.features(pictures))
        labels = {"rationales": rationales, "categories": categories, "captions": rationales}
        kinds, terms = self.kinds, {}
        for kind, texts in kinds.items():
            ids = gather_ids(labels[kind])
            present = distinct(ids)
            logits = self.logits(features, texts[present])
            terms[kind] = shared_text_loss(logits, positions(present, ids)) / len(kinds)
        return terms

    @property
    def kinds(self) -> dict[str, Float[Tensor, "T D"]]:
        """The sentences that images are compared with, by what they are."""
        names, _, config = self._frozen
        if config.texts == "captions":
            require(names.captions is not None, "captions are to be learned from, and there are none")
            assert names.captions is not None
            return {"captions": names.captions}
        both = {"rationales": names.rationales, "categories": names.categories}
        return both if config.texts == "both" else {config.texts: both[config.texts]}

    def features(self, pictures: Float[Tensor, "B P E"]) -> Float[Tensor, "B D"]:
        """Normalised pooled features of projected patches."""
        config = self._frozen[2]
        patches, guidance = pictures[..., :-1], pictures[..., -1]
        return normalize(pooled(patches @ self.learned.projection, guidance, config=config), dim=-1)

    def logits(self, features: Float[Tensor, "B D"], texts: Float[Tensor, "T D"]) -> Float[Tensor, "B T"]:
        """Of pooled features with all of some sentences."""
        if self.learned.text_projection is not None:
            texts = normalize(texts @ self.learned.text_projection, dim=-1)
        return self._frozen[1] * features @ texts.T


def load_eclip(folder: str | Path, *, backbone: Backbone) -> Eclip:
    """The method `eclip` with the projection that `ecor train --system eclip` made.

    Args:
        folder: of the run, or its `checkpoint/`.
        backbone: whose patches it will be used on.

    Raises:
        ValueError: when a part is missing or altered, or the projection was learned on another backbone.
    """
    record = read_saved(folder, SYSTEM)
    require_backbone(record, digest=backbone.digest)
    return eclip_of(record)


def eclip_of(record: Saved) -> Eclip:
    """The method with a record's projection."""
    tensors = read_tensors(record)
    require("projection" in tensors, f"{record.folder} holds no projection, but {', '.join(tensors)}: save it again")
    return Eclip(projection=tensors["projection"], text_projection=tensors.get("text_projection"))
