"""Explain a model's labels with heat maps: `explain`, `explain_joint`, and `attribute` for plain text features."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.checks import require
from ecor.data.heatmap import Heatmap
from ecor.explain.methods.registry import Method, build_method, method_name
from ecor.explain.targets import (
    CategoryGivenRationale,
    Concept,
    Target,
    contrast,
    target_feature,
    target_name,
    tower_of,
)
from ecor.model import Recognizer


def attribute(
    tower: ImageTower,
    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
    texts: Float[Tensor, "T D"] | Float[Tensor, "B T D"],
    *,
    method: Method,
    names: Sequence[str] | None = None,
    batch_size: int = 16,
) -> Heatmap:
    """Make maps of B images and T texts by one method. The tower is unchanged afterwards, also after an error.

    Args:
        tower: image tower with its visual prompts.
        images: 8-bit, or normalised as the tower takes them.
        texts: text features, the same for all images or each image's own; they are normalised here.
        method: from `ecor.explain.build_method`.
        names: of the texts.
        batch_size: images per pass.

    Raises:
        ValueError: when the tower lacks what the method requires, there is no image or no text, or shapes do not fit.
    """
    name = method_name(method)
    if method.requires is not None:
        tower.require_capability(method.requires, asked_by=name)
    require(len(images) > 0, "no image to explain")
    texts_BTD = normalize(texts.detach().float(), dim=-1).to(tower.backbone.device)
    texts_BTD = texts_BTD if texts_BTD.ndim == 3 else texts_BTD.expand(len(images), -1, -1)
    require(len(texts_BTD) == len(images), f"{len(texts_BTD)} lists of texts for {len(images)} images")
    require(texts_BTD.shape[1] > 0, "no text to explain")
    maps = []
    with torch.autocast(tower.backbone.device.type, enabled=False):
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            maps.append(method(tower, tower.pixels(images[part]).detach(), texts_BTD[part]).detach().float())
    texts_known = tuple(names) if names is not None else tuple(f"text {t}" for t in range(texts_BTD.shape[1]))
    input_size = (images.shape[-2], images.shape[-1])
    return Heatmap(scores=torch.cat(maps), method=name, texts=texts_known, input_size=input_size)


def attribute_among(
    tower: ImageTower,
    images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"],
    texts: Float[Tensor, "B T D"],
    *,
    method: Method,
    vocabulary: Float[Tensor, "V D"],
    own: Int[Tensor, "B K"],
    names: Sequence[str] | None = None,
    batch_size: int = 16,
) -> Heatmap:
    """Make maps as `attribute` does, with distractors from a vocabulary.

    A method that needs distractors and has none gets the vocabulary without the image's own texts.

    Args:
        tower: as for `attribute`.
        images: as for `attribute`.
        texts: features of T texts of each image.
        method: as for `attribute`.
        vocabulary: features of all texts; those that are not the image's own are the distractors.
        own: ids of each image's texts in the vocabulary, all different.
        names: as for `attribute`.
        batch_size: images per pass.

    Raises:
        ValueError: as `attribute`.
    """
    if not _lacks_distractors(method):
        return attribute(tower, images, texts, method=method, names=names, batch_size=batch_size)
    if own.shape[1] == len(vocabulary):  # nothing else is left
        contrasted = _with_distractors(method, {"redundant": tower.backbone.encode_text([""])[0]})
        return attribute(tower, images, texts, method=contrasted, names=names, batch_size=batch_size)
    is_other = torch.ones(len(own), len(vocabulary), dtype=torch.bool, device=own.device).scatter(1, own, False)
    others_BN = is_other.nonzero()[:, 1].unflatten(0, (len(own), -1))
    parts = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        contrasted = _with_distractors(method, {"distractors": vocabulary[others_BN[part]]})
        parts.append(attribute(tower, images[part], texts[part], method=contrasted, names=names, batch_size=batch_size))
    return replace(parts[0], scores=torch.cat([each.scores for each in parts]))


def explain(
    model: Recognizer,
    images: UInt8[Tensor, "B 3 H W"],
    targets: Sequence[Target],
    *,
    by: str | Method = "contrastive_attribution",
    batch_size: int = 16,
    **settings: Any,
) -> Heatmap:
    """Explain targets with heat maps: one map per image and target.

    Each kind of target uses the prompt and the visual tokens that the model itself uses for it. Methods that need
    distractors get the vocabulary's other texts of the same kind, unless they have some. Methods that need a lexicon
    get that of `Concept` targets.

    Args:
        model: left unchanged.
        images: pixels as `ecor.data.images.preprocessing.image_to_pixels` makes them.
        targets: what to explain.
        by: a method, or its name.
        batch_size: images per pass.
        settings: of the named method.

    Raises:
        ValueError: when there is no target, a method, a setting or a name is unknown, or the tower lacks what the
            method requires.
    """
    require(len(targets) > 0, "no target to explain")
    require(isinstance(by, str) or not settings, "give settings to the method itself, or the method by name")
    chosen = build_method(by, **settings) if isinstance(by, str) else by
    maps: list[Tensor] = []
    for _, group in groupby(targets, key=_group_key):
        alike = list(group)
        features = torch.stack([target_feature(model, target) for target in alike])
        heatmap = attribute(
            tower_of(model, alike[0]),
            images,
            features,
            method=_with_concepts(_with_distractors(chosen, contrast(model, alike)), alike),
            batch_size=batch_size,
        )
        maps.append(heatmap.scores)
    return Heatmap(
        scores=torch.cat(maps, dim=1),
        method=method_name(chosen),
        texts=tuple(target_name(target) for target in targets),
        input_size=(images.shape[-2], images.shape[-1]),
    )


def _group_key(target: Target) -> tuple[str, str]:
    """Targets of one group share prompt, tower and distractors."""
    if isinstance(target, Concept):
        return type(target).__name__, str(id(target.among))
    return type(target).__name__, target.rationale if isinstance(target, CategoryGivenRationale) else ""


def _lacks_distractors(method: Method) -> bool:
    """Whether the method needs distractors, and has neither distractors nor a redundant feature."""
    if "distractors" not in method.needs:
        return False
    return all(getattr(method, name, None) is None for name in ("distractors", "redundant"))


def _with_distractors(chosen: Method, settings: dict[str, Tensor]) -> Method:
    """The method with these settings, where it needs distractors and has none."""
    return replace(chosen, **settings) if _lacks_distractors(chosen) else chosen  # type: ignore[type-var]


def _with_concepts(chosen: Method, targets: Sequence[Target]) -> Method:
    """The method with the explained concepts, where it needs a lexicon and the targets are concepts."""
    concepts = [target for target in targets if isinstance(target, Concept)]
    if "lexicon" not in chosen.needs or not concepts:
        return chosen
    settings = {"concepts": concepts[0].among, "explained": tuple(each.name for each in concepts)}
    return replace(chosen, **settings)  # type: ignore[type-var]
