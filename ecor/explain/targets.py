"""Targets of an explanation, by name, and the text features that stand for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.towers.image_tower import ImageTower
from ecor.convis.concept_features import ConceptFeatures
from ecor.model import Recognizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """Why this category, by its name alone?"""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """Where is this rationale?"""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryGivenRationale:
    """Why this category because of that rationale?"""

    category: str
    rationale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeText:
    """Where is what this sentence says? It is read as it stands, without learned text tokens (ours)."""

    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """Where is this concept of a lexicon? `convis` looks for all its kinds too, other methods for its definition.

    Read as free text is.
    """

    name: str
    among: ConceptFeatures = field(repr=False)
    """Of the lexicon."""


Target = Category | Rationale | CategoryGivenRationale | FreeText | Concept


def target_name(target: Target) -> str:
    """Name of a target, for people."""
    if isinstance(target, CategoryGivenRationale):
        return f"{target.category} because of {target.rationale}"
    return target.sentence if isinstance(target, FreeText) else target.name


@torch.no_grad()
def target_feature(model: Recognizer, target: Target) -> Float[Tensor, " D"]:
    """Compute the normalised feature of the sentence that the tuned model reads.

    Args:
        model: tuned or zero-shot.
        target: what to explain.

    Raises:
        ValueError: when the vocabulary, or the lexicon of a concept, lacks a name.
    """
    names = model.vocabulary
    match target:
        case Category(name=name):
            return model.text.categories[names.category_id(name)]
        case Rationale(name=name):
            return model.text.rationales[names.rationale_id(name)]
        case CategoryGivenRationale(category=category, rationale=rationale):
            return model.text.row(names.rationale_id(rationale))[names.category_id(category)]
        case Concept(name=name, among=among):
            return among.of([name])[0]
        case FreeText(sentence=sentence):
            return model.backbone.encode_text([sentence])[0]


@torch.no_grad()
def contrast(model: Recognizer, targets: Sequence[Target]) -> dict[str, Float[Tensor, "..."]]:
    """Return settings for methods that need distractors.

    Not in the papers: `distractors` are the vocabulary's other texts of the same prompt; for concepts, all concepts
    that are not among their descendants. Where there are none, as for free text, `redundant` is the feature of the
    empty sentence.

    Args:
        model: tuned or zero-shot.
        targets: of one kind.

    Raises:
        ValueError: when the vocabulary, or the lexicon of a concept, lacks a name.
    """
    first, names = targets[0], model.vocabulary
    match first:
        case Category():
            own = {names.category_id(each.name) for each in targets if isinstance(each, Category)}
            features = model.text.categories
        case Rationale():
            own = {names.rationale_id(each.name) for each in targets if isinstance(each, Rationale)}
            features = model.text.rationales
        case CategoryGivenRationale():
            own = {names.category_id(each.category) for each in targets if isinstance(each, CategoryGivenRationale)}
            features = model.text.row(names.rationale_id(first.rationale))
        case Concept(among=among):
            own = {place for each in targets if isinstance(each, Concept) for place in among.kinds(each.name).tolist()}
            features = among.features
        case FreeText():
            own, features = set(), model.text.categories[:0]
    others = [index for index in range(len(features)) if index not in own]
    if others:
        return {"distractors": features[others]}
    return {"redundant": model.backbone.encode_text([""])[0]}


def tower_of(model: Recognizer, target: Target) -> ImageTower:
    """Return the image tower with the visual prompts that the target's prompt was tuned with.

    Free text and concepts have those of the category.

    Args:
        model: tuned or zero-shot.
        target: what to explain.
    """
    if model.prompts.visual is None:
        return ImageTower(backbone=model.backbone)
    place = 0 if isinstance(target, Rationale) else -1
    return ImageTower(backbone=model.backbone, tokens=model.prompts.visual[place].detach())
