"""Compose and draw random scenes of a set, with the truth about which parts are visible."""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ecor.demo.art.canvas import Canvas, Pen, Placement
from ecor.demo.worlds.schema import WorldSet
from ecor.demo.worlds.styles import WHOLE

# A part is visible when this many pixels show it; fewer are indistinguishable from noise.
MIN_VISIBLE_PIXELS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object of a scene, not yet drawn."""

    category: str
    # seed of its colours and wiggles
    seed: int
    placement: Placement
    # rationales that this specimen lacks
    left_out: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that decides a picture; the first thing is the labelled one, drawn last and in front."""

    things: tuple[Thing, ...]
    # seed of background, clutter and noise
    seed: int
    # the set whose kinds, look, occluders and grain it has
    world: WorldSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A scene as pixels, with its truth."""

    image: Image.Image
    # per pixel 0 for nothing, else a key of `legend`
    labels: Image.Image
    # label -> (index of the thing, rationale or None for the rest of its body)
    legend: dict[int, tuple[int, str | None]]
    # per thing its rationales that can be seen
    visible: tuple[tuple[str, ...], ...]


def compose(world: WorldSet, *, seed: str, category: str | None = None) -> Scene:
    """Compose a random scene of a set: one thing in front, sometimes a second one behind it.

    Args:
        world: the set.
        seed: of all choices.
        category: of the thing in front; None: a random one.
    """
    rng, size = random.Random(seed), random.Random(f"{seed}/size").uniform(*world.size)
    main = category or rng.choice(world.categories)
    others = [c for c in world.categories if c != main]
    two = bool(others) and rng.random() < world.two_things
    x, y = rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56)
    scale = rng.uniform(0.36, 0.45) * size
    if two:
        side = rng.choice((-1, 1))
        x, y, scale = 0.5 + side * rng.uniform(0.1, 0.16), rng.uniform(0.5, 0.6), rng.uniform(0.32, 0.37) * size
    things = [_random_thing(rng, main, x=x, y=y, scale=scale, world=world)]
    if two:
        small = rng.uniform(0.17, 0.23) * size
        x2, y2 = 0.5 - side * rng.uniform(0.26, 0.32), rng.uniform(0.2, 0.34)
        things.append(_random_thing(rng, rng.choice(others), x=x2, y=y2, scale=small, world=world))
    return Scene(things=tuple(things), seed=rng.getrandbits(32), world=world)


def _random_thing(rng: random.Random, category: str, *, x: float, y: float, scale: float, world: WorldSet) -> Thing:
    rationales = world.kinds[category].rationales
    left_out = {text for text in rationales if rng.random() < world.part_missing}
    if len(left_out) == len(rationales):
        left_out.discard(rng.choice(rationales))
    stretch = rng.choice((-1, 1)) * rng.uniform(0.88, 1.12)
    placement = Placement(x=x, y=y, scale=scale, stretch=stretch, turn=rng.gauss(0, world.tilt))
    return Thing(category=category, seed=rng.getrandbits(32), placement=placement, left_out=frozenset(left_out))


def without_part(scene: Scene, rationale: str) -> Scene:
    """Return the same scene, whose first thing lacks one more part.

    Args:
        scene: not yet drawn.
        rationale: the part to leave out.
    """
    first = replace(scene.things[0], left_out=scene.things[0].left_out | {rationale})
    return replace(scene, things=(first, *scene.things[1:]))


def draw_scene(scene: Scene) -> Drawing:
    """Draw the pixels of a scene, and record what can be seen in them."""
    rng = random.Random(scene.seed)
    kinds, look = scene.world.kinds, scene.world.look
    canvas = look.ground(rng)
    outline = look.contour(rng)
    legend: dict[int, tuple[int, str | None]] = {}
    for index, thing in reversed(list(enumerate(scene.things))):
        kind = kinds[thing.category]
        first = 1 + sum(1 + len(kinds[t.category].rationales) for t in scene.things[:index])
        pen = Pen(parts=kind.rationales, left_out=thing.left_out, rng=random.Random(thing.seed))
        kind.draw(pen)
        canvas.draw(
            pen.strokes,
            at=thing.placement,
            first_label=first,
            outline=outline,
            wash=look.wash,
            edge=look.edge,
        )
        legend |= {first + k: (index, text) for k, text in enumerate((None, *kind.rationales))}
    _occluders(rng, canvas, world=scene.world)
    image, labels = canvas.finish()
    counts = labels.histogram()
    visible = tuple(
        tuple(
            text
            for label, (owner, text) in sorted(legend.items())
            if owner == index and text is not None and counts[label] >= MIN_VISIBLE_PIXELS
        )
        for index in range(len(scene.things))
    )
    return Drawing(
        image=_add_noise(image, seed=scene.seed, world=scene.world),
        labels=labels,
        legend=legend,
        visible=visible,
    )


def _occluders(rng: random.Random, canvas: Canvas, *, world: WorldSet) -> None:
    """Shapes in front that may hide something."""
    pen = Pen(parts=(), left_out=frozenset(), rng=rng)
    for _ in range(sum(rng.random() < world.occlusion for _ in range(world.num_occluders))):
        world.look.scrap(pen, 0.0, world.occluder_size)
    canvas.draw(pen.strokes, at=WHOLE, first_label=0, outline=0.0)


def _add_noise(image: Image.Image, *, seed: int, world: WorldSet) -> Image.Image:
    """Add film grain, a random exposure and fog."""
    rng = np.random.default_rng(seed)
    pixels = np.asarray(image, dtype=np.float32)
    speckle = rng.normal(0, rng.uniform(0, world.grain), pixels.shape[:2]).astype(np.float32)
    exposed = pixels * np.float32(rng.uniform(0.8, 1.12)) + speckle[:, :, None]
    if world.fog:
        exposed += (np.float32(rng.uniform(90, 220)) - exposed) * np.float32(rng.uniform(0, world.fog))
    return Image.fromarray(np.clip(exposed, 0, 255).astype(np.uint8))
