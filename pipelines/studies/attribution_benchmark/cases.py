"""Test cases with pixel-level truth: drawn images with a name that the model ranks right.

A heat map can be compared with the truth only if the model recognizes the thing. So a part is used when the model ranks
it above everything that is not visible, and a category when the model ranks it first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ecor.clip.towers.image_tower import ImageTower
from ecor.config.checks import require
from ecor.data.images.preprocessing import image_to_pixels
from ecor.demo.dataset import LabelledDrawing, labelled_drawings
from ecor.demo.worlds.scenes import draw_scene, without_part
from ecor.explain.targets import Category, Rationale, tower_of
from ecor.model import Recognizer

TargetKind = Literal["rationale", "category"]
_BATCH = 64
_MAX_IMAGES_PER_CASE = 40
"""Images drawn per case before the search for cases fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """N images, each with one name that the model ranks right."""

    kind: TargetKind
    names: tuple[str, ...]
    """The name of each case."""
    present: tuple[frozenset[str], ...]
    """All names of that kind that each image shows, also those of a second thing."""
    pixels: UInt8[Tensor, "N 3 H W"]
    lacking: UInt8[Tensor, "N 3 H W"]
    """The same scenes without the named part or thing."""
    masks: Bool[Tensor, "N H W"]
    """Pixels of the tower's input that show the named part or thing."""
    vocabulary: Float[Tensor, "V D"]
    """Text features of all names of that kind."""
    ids: Int[Tensor, " N"]
    """Id of each image's name."""
    tower: ImageTower
    """Image tower with the visual prompts of that kind of names."""
    logit_scale: float
    num_looked_at: int
    """Images that were drawn to find these cases."""

    @property
    def texts(self) -> Float[Tensor, "N 1 D"]:
        """Text feature of each image's own name."""
        return self.vocabulary[self.ids][:, None]

    def prob(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, " N"]:
        """Return the probability of each image's own name among all names of its kind.

        `pixels` are altered pictures in the same order.
        """
        features = torch.cat([self.tower.features(part) for part in pixels.split(128)])
        prob_NV = (self.logit_scale * features @ self.vocabulary.T).softmax(dim=-1)
        return prob_NV.gather(1, self.ids[:, None])[:, 0]


def find_cases(model: Recognizer, *, set_name: str, kind: TargetKind, num_cases: int, seed: int) -> Cases:
    """Find the first `num_cases` usable test images of a seed; images where a second thing shows the part are skipped.

    Raises:
        ValueError: for a vocabulary without names of the set, and for a model that ranks too few images right.
    """
    tower = tower_of(model, Rationale(name="") if kind == "rationale" else Category(name=""))
    vocabulary = model.text.rationales if kind == "rationale" else model.text.categories
    found: list[tuple[LabelledDrawing, int]] = []
    num_looked_at = 0
    for drawings in _draw_batches(set_name, num_images=_MAX_IMAGES_PER_CASE * num_cases, seed=seed):
        scores = tower.features(tower.pixels(_stack_pixels(drawings, model=model))) @ vocabulary.T
        for item, row in zip(drawings, scores, strict=True):
            num_looked_at += 1
            number = _right_id(item, row, model=model, kind=kind)
            if number is not None:
                found.append((item, number))
            if len(found) == num_cases:
                break
        if len(found) == num_cases:
            break
    require(len(found) == num_cases, f"the model ranks {len(found)} of {num_looked_at} images right: too few to judge")
    items, numbers = [item for item, _ in found], [number for _, number in found]
    return Cases(
        kind=kind,
        names=tuple(item.rationale if kind == "rationale" else item.category for item in items),
        present=tuple(_visible_names(item, kind=kind) for item in items),
        pixels=_stack_pixels(items, model=model),
        lacking=torch.stack([_to_pixels(_image_without(item, kind=kind), model=model) for item in items]),
        masks=torch.stack([_mask(item, kind=kind, model=model) for item in items]),
        vocabulary=vocabulary,
        ids=torch.tensor(numbers, device=vocabulary.device),
        tower=tower,
        logit_scale=float(model.backbone.logit_scale),
        num_looked_at=num_looked_at,
    )


def _draw_batches(set_name: str, *, num_images: int, seed: int) -> Iterator[list[LabelledDrawing]]:
    drawings = labelled_drawings(set_name=set_name, split="test", num_images=num_images, seed=seed)
    while batch := list(islice(drawings, _BATCH)):
        yield batch


def _right_id(item: LabelledDrawing, scores: Float[Tensor, " V"], *, model: Recognizer, kind: TargetKind) -> int | None:
    """Return the id of the image's name if the model ranks it right, else None."""
    names = model.vocabulary
    if kind == "category":
        number = names.category_id(item.category)
        return number if int(scores.argmax()) == number else None
    number = names.rationale_id(item.rationale)
    if any(item.rationale in seen for seen in item.drawing.visible[1:]):
        return None
    visible = {names.rationale_id(text) for seen in item.drawing.visible for text in seen}
    others = [each for each in range(len(scores)) if each not in visible]
    return number if float(scores[number]) > float(scores[others].max()) else None


def _visible_names(item: LabelledDrawing, *, kind: TargetKind) -> frozenset[str]:
    if kind == "category":
        return frozenset(thing.category for thing in item.scene.things)
    return frozenset(text for seen in item.drawing.visible for text in seen)


def _image_without(item: LabelledDrawing, *, kind: TargetKind) -> Image.Image:
    if kind == "rationale":
        return draw_scene(without_part(item.scene, item.rationale)).image
    return draw_scene(replace(item.scene, things=item.scene.things[1:])).image


def _mask(item: LabelledDrawing, *, kind: TargetKind, model: Recognizer) -> Bool[Tensor, "H W"]:
    """Mask the tower's input: a pixel counts if at least half of it shows the thing."""
    own = [label for label, (owner, text) in item.drawing.legend.items() if owner == 0]
    if kind == "rationale":
        own = [label for label in own if item.drawing.legend[label][1] == item.rationale]
    mask = np.isin(np.asarray(item.drawing.labels), own)
    return _to_pixels(Image.fromarray((255 * mask).astype(np.uint8)).convert("RGB"), model=model)[0] >= 128


def _stack_pixels(items: list[LabelledDrawing], *, model: Recognizer) -> UInt8[Tensor, "B 3 H W"]:
    return torch.stack([_to_pixels(item.drawing.image, model=model) for item in items])


def _to_pixels(image: Image.Image, *, model: Recognizer) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(image_to_pixels(image, preprocess=model.backbone.preprocess))
