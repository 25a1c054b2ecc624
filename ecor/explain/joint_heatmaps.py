"""Heat maps of a label's two factors: P(r | I) and P(c | r, I)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.scoring import ScoringConfig
from ecor.data.heatmap import Heatmap
from ecor.explain.attribution import attribute, attribute_among
from ecor.explain.methods.registry import Method, build_method
from ecor.explain.targets import CategoryGivenRationale, Rationale, tower_of
from ecor.model import Recognizer
from ecor.probability.joint import Joint


@dataclass(frozen=True, slots=True, kw_only=True)
class JointHeatmaps:
    """Heat maps of a model's answers for B images: its K best rationales, and its category given them."""

    joint: Joint
    """The model's joint probability."""
    rationale_ids: Int[Tensor, "B K"]
    """Best first."""
    category_ids: Int[Tensor, " B"]
    """Of the category that the maps are given for."""
    rationales: Heatmap
    """[B K h w]; its texts are ranks, for each image has rationales of its own."""
    category: Heatmap
    """[B 1 h w]"""


def explain_joint(
    model: Recognizer,
    images: UInt8[Tensor, "B 3 H W"],
    *,
    by: str | Method = "contrastive_attribution",
    num_rationales: int = 3,
    scoring: ScoringConfig | None = None,
    batch_size: int = 16,
    **settings: Any,
) -> JointHeatmaps:
    """Make a map per kept rationale and one of the best category given them (ECOR's joint, arXiv:2404.12839).

    Not in the paper: the category's map is of one text feature, Prompt_{c|R} with each kept rationale, weighted by
    P(r | c, I) among the kept. Methods that need distractors get the vocabulary's other rationales, or its other
    categories by name.

    Args:
        model: left unchanged.
        images: pixels as `ecor.data.images.preprocessing.image_to_pixels` makes them.
        by: a method, or its name.
        num_rationales: K; cut to the number that the joint kept.
        scoring: settings of the joint; None: the default.
        batch_size: images per pass.
        settings: of the named method.

    Raises:
        ValueError: when a method or a setting is unknown, or the tower lacks what the method requires.
    """
    method = build_method(by, **settings) if isinstance(by, str) else by
    joint = model.joint(images, scoring=scoring)
    rationales, categories = joint.rationales[:, :num_rationales], joint.category_log_prob.argmax(dim=-1)
    texts = model.text.rationales[rationales], _mean_pair_features(model, joint, rationales, categories)
    first_rationale = model.vocabulary.rationales[int(rationales[0, 0])]
    first_category = model.vocabulary.categories[int(categories[0])]
    any_pair = CategoryGivenRationale(category=first_category, rationale=first_rationale)
    towers = tower_of(model, Rationale(name=first_rationale)), tower_of(model, any_pair)
    rationale_maps, category_maps = _joint_maps(
        towers,
        images,
        texts,
        method=method,
        vocabularies=(model.text.rationales, model.text.categories),
        own=(rationales, categories[:, None]),
        batch_size=batch_size,
    )
    return JointHeatmaps(
        joint=joint,
        rationale_ids=rationales,
        category_ids=categories,
        rationales=rationale_maps,
        category=category_maps,
    )


def _joint_maps(
    towers: tuple[ImageTower, ImageTower],
    images: UInt8[Tensor, "B 3 H W"],
    texts: tuple[Float[Tensor, "B K D"], Float[Tensor, "B 1 D"]],
    *,
    method: Method,
    vocabularies: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    batch_size: int,
) -> tuple[Heatmap, Heatmap]:
    """Maps of the rationales and of the category; in one pass where tower and distractors allow it."""
    names = [f"rationale {rank + 1}" for rank in range(texts[0].shape[1])], ["category"]
    if _same_prompts(*towers) and "distractors" not in method.needs:
        both = torch.cat(texts, dim=1)
        maps = attribute(towers[0], images, both, method=method, names=[*names[0], *names[1]], batch_size=batch_size)
        return maps.part(slice(0, -1)), maps.part(slice(-1, None))
    rationale_maps, category_maps = (
        attribute_among(
            towers[k],
            images,
            texts[k],
            method=method,
            vocabulary=vocabularies[k],
            own=own[k],
            names=names[k],
            batch_size=batch_size,
        )
        for k in range(2)
    )
    return rationale_maps, category_maps


def _mean_pair_features(
    model: Recognizer, joint: Joint, rationales: Int[Tensor, "B K"], categories: Int[Tensor, " B"]
) -> Float[Tensor, "B 1 D"]:
    """Features of Prompt_{c|R} of each image's category, averaged over its rationales by P(r | c, I) among them."""
    num_rationales = rationales.shape[1]
    pairs = zip(rationales.flatten().tolist(), categories.repeat_interleave(num_rationales).tolist(), strict=True)
    pair_features = torch.stack([model.text.row(r)[c] for r, c in pairs]).unflatten(0, rationales.shape)
    images = torch.arange(len(rationales), device=rationales.device)
    log_prob = joint.log_prob[:, :num_rationales][images, :, categories]
    return (log_prob.softmax(dim=-1)[..., None] * pair_features).sum(dim=1, keepdim=True)


def _same_prompts(one: ImageTower, other: ImageTower) -> bool:
    """Whether two towers of one model have the same visual prompts."""
    if one.tokens is None or other.tokens is None:
        return one.tokens is other.tokens
    return torch.equal(one.tokens, other.tokens)
