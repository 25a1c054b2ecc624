"""Draw scenes with one thing in front, with its bounding box, for the concept study."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.config.checks import require
from ecor.data.images.preprocessing import image_to_pixels
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.demo.worlds.scenes import Drawing, Scene, compose, draw_scene
from ecor.demo.worlds.schema import WorldSet
from ecor.explain.metrics.boxes import box_of

MAX_SHIFT = 0.25
"""Largest shift of a thing from the middle, vertical and horizontal, as a share of the picture."""


SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPictures:
    """Drawn scenes with one thing in front."""

    pixels: UInt8[Tensor, "N 3 H W"]
    """Input of the image tower."""
    categories: tuple[str, ...]
    boxes: Int[Tensor, "N 4"]
    """Box around the visible part of the thing in the drawing: first and last row and column."""
    source_size: tuple[int, int]
    """Height and width of the drawings."""


def draw_pictures(
    categories: Sequence[str], *, split: SplitName, num_images: int, seed: int, backbone: Backbone, alone: bool = False
) -> DrawnPictures:
    """Draw scenes of some categories in turn; a second thing, if there is one, is of the same categories.

    Args:
        categories: names of the categories.
        split: part of each picture's seed, so that splits differ.
        num_images: number of pictures.
        seed: seed of the pictures.
        backbone: its transform makes the pixels.
        alone: draw one thing per scene, at a random place, because the middle would be found without looking.

    Raises:
        ValueError: when there is no category.
    """
    require(bool(categories), "no category to draw")
    world = WorldSet(
        kinds=FAMILIAR.kinds,
        categories=tuple(categories),
        role="concepts",
        two_things=0.0 if alone else 0.3,
        look=FAMILIAR.look,
    )
    names = [categories[index % len(categories)] for index in range(num_images)]
    drawings = [
        _draw_scene(world, category=name, key=f"concepts/{split}/{seed}/{index}", moved=MAX_SHIFT if alone else 0.0)
        for index, name in enumerate(names)
    ]
    pixels = [image_to_pixels(each.image, preprocess=backbone.preprocess) for each in drawings]
    return DrawnPictures(
        pixels=torch.from_numpy(np.stack(pixels)),
        categories=tuple(names),
        boxes=torch.stack([box_of(torch.from_numpy(_thing_mask(each))) for each in drawings]),
        source_size=(drawings[0].image.height, drawings[0].image.width),
    )


def _draw_scene(world: WorldSet, *, category: str, key: str, moved: float) -> Drawing:
    """Draw the first scene of a key that shows a part of the thing in front."""
    for attempt in range(100):
        scene = compose(world, seed=f"{key}/{attempt}", category=category)
        if moved:
            scene = _shift_thing(scene, by=moved, rng=random.Random(f"{key}/{attempt}/place"))
        drawing = draw_scene(scene)
        if drawing.visible[0]:
            return drawing
    raise AssertionError(f"no part of a {category} can be seen in 100 scenes")


def _shift_thing(scene: Scene, *, by: float, rng: random.Random) -> Scene:
    first = scene.things[0]
    place = replace(first.placement, x=0.5 + rng.uniform(-by, by), y=0.5 + rng.uniform(-by, by))
    return replace(scene, things=(replace(first, placement=place), *scene.things[1:]))


def _thing_mask(drawing: Drawing) -> Bool[np.ndarray, "H W"]:
    """Pixels that show the thing in front."""
    own = [label for label, (owner, _) in drawing.legend.items() if owner == 0]
    return np.isin(np.asarray(drawing.labels), own)
