"""Draw the pretraining corpus of a world, cache it, and write captions for batches of it."""

import random
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Bool, Int, UInt8

from ecor.demo.worlds.scenes import compose, draw_scene
from ecor.demo.worlds.schema import DrawnWorld, WorldSet
from ecor.demo.worlds.styles import NUM_PIXELS
from ecor.storage.digests import json_digest

DRAWING_VERSION = 1
"""Version of the drawing code. Increase it with every change of a pixel, caption or label; a test checks it."""
_IMAGES_PER_TASK = 1000

CATEGORY_TEMPLATES = ("a {c}", "a photo of a {c}", "This is a photo of a {c}.", "a drawing of a {c}", "the {c}")
RATIONALE_TEMPLATES = ("There is {r}.", "There is {r}.", "{r}", "something with {r}")
PAIR_TEMPLATES = (
    "a {c} with {r}",
    "This is a photo of a {c} because there is {r}.",
    "This is a photo of a {c} because there is {r}.",
    "a photo of a {c}, with {r}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Drawn images with the truth about their one or two things; category -1 means no second thing."""

    world: DrawnWorld
    pixels: UInt8[np.ndarray, "N 64 64 3"]
    categories: Int[np.ndarray, "N 2"]
    visible: Bool[np.ndarray, "N 2 R"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Content of a caption; -1 where it names nothing."""

    category: int
    rationale: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedBatch:
    """Images of a batch with distinct captions: own ones, and contradictions that were written against them."""

    rows: Int[np.ndarray, " B"]
    captions: tuple[str, ...]
    own: Bool[np.ndarray, "B T"]
    true: Bool[np.ndarray, "B T"]
    attributes: Bool[np.ndarray, "B A"]


def corpus_digest(world: DrawnWorld, *, num_images: int, seed: int) -> str:
    """sha256 of the arguments, of what exists in the world and of `DRAWING_VERSION`: equal digests, equal corpora.

    Args:
        world: whose things are drawn.
        num_images: in the corpus.
        seed: of the scenes.
    """
    what = {name: kind.rationales for name, kind in world.kinds.items()}
    return json_digest([DRAWING_VERSION, world.name, what, num_images, seed], sort_keys=False)


def cached_corpus(world: DrawnWorld, *, num_images: int, seed: int, num_processes: int, folder: Path) -> Corpus:
    """Draw the corpus once, in one of the processes that ask for it, and open it; its pixels are mapped, not read.

    Args:
        world: whose things are drawn.
        num_images: in the corpus.
        seed: of the scenes.
        num_processes: that draw.
        folder: of the cache, on a local disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / corpus_digest(world, num_images=num_images, seed=seed)
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            corpus = draw_corpus(world, num_images=num_images, seed=seed, num_processes=num_processes)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                finished = Path(scratch) / "corpus"
                finished.mkdir()
                for name in ("pixels", "categories", "visible"):
                    np.save(finished / f"{name}.npy", getattr(corpus, name))
                finished.replace(kept)
    return Corpus(
        world=world,
        pixels=np.load(kept / "pixels.npy", mmap_mode="r"),
        categories=np.load(kept / "categories.npy"),
        visible=np.load(kept / "visible.npy"),
    )


def draw_corpus(world: DrawnWorld, *, num_images: int, seed: int, num_processes: int) -> Corpus:
    """Draw scenes of every kind, more varied in size and in missing parts than the evaluation sets.

    Args:
        world: whose things are drawn.
        num_images: in the corpus.
        seed: of the scenes.
        num_processes: that draw; the result does not depend on it.
    """
    keys = [f"corpus/{seed}/{k}" for k in range(num_images)]
    tasks = [keys[k : k + _IMAGES_PER_TASK] for k in range(0, num_images, _IMAGES_PER_TASK)]
    if num_processes == 1 or len(tasks) == 1:
        parts = [_draw_part(world, task) for task in tasks]
    else:
        with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(_draw_part, repeat(world), tasks))
    return Corpus(
        world=world,
        pixels=np.concatenate([p.pixels for p in parts]),
        categories=np.concatenate([p.categories for p in parts]),
        visible=np.concatenate([p.visible for p in parts]),
    )


def _draw_part(world: DrawnWorld, keys: list[str]) -> Corpus:
    pixels = np.empty((len(keys), NUM_PIXELS, NUM_PIXELS, 3), dtype=np.uint8)
    categories = np.full((len(keys), 2), -1, dtype=np.int64)
    visible = np.zeros((len(keys), 2, len(world.rationales)), dtype=bool)
    category_id = {c: k for k, c in enumerate(world.categories)}
    rationale_id = {r: k for k, r in enumerate(world.rationales)}
    for n, key in enumerate(keys):
        rng = random.Random(f"{key}/style")
        size = rng.uniform(0.8, 1.15)
        scene = compose(_corpus_set(world, size=size, part_missing=rng.uniform(0.1, 0.5)), seed=key)
        drawing = draw_scene(scene)
        pixels[n] = np.asarray(drawing.image)
        for o, (thing, seen) in enumerate(zip(scene.things, drawing.visible, strict=True)):
            categories[n, o] = category_id[thing.category]
            visible[n, o, [rationale_id[text] for text in seen]] = True
    return Corpus(world=world, pixels=pixels, categories=categories, visible=visible)


def _corpus_set(world: DrawnWorld, *, size: float, part_missing: float) -> WorldSet:
    return WorldSet(
        kinds=world.kinds,
        categories=world.categories,
        role="pretraining",
        part_missing=part_missing,
        size=(size, size),
        num_occluders=1,
        occlusion=0.3,
        occluder_size=1.0,
        grain=7.0,
        tilt=7.0,
        fog=0.0,
        look=world.look,
    )


def write_captions(corpus: Corpus, rows: Int[np.ndarray, " B"], *, rng: random.Random, noise: float) -> CaptionedBatch:
    """Write two true captions and a contradiction per image, or fewer where less can be said.

    Args:
        corpus: images with their truth.
        rows: positions of the batch's images in the corpus.
        rng: of all choices.
        noise: share of images whose captions describe another image of the batch.
    """
    world, texts = corpus.world, dict[str, tuple[int, Claim]]()
    own_pairs = []
    for b, row in enumerate(rows):
        described = int(rng.choice(rows)) if rng.random() < noise else int(row)
        thing = 0 if corpus.categories[described, 1] < 0 or rng.random() < 0.8 else 1
        category = int(corpus.categories[described, thing])
        seen = np.flatnonzero(corpus.visible[described, thing]).tolist()
        for claim in _true_claims(world, category, seen, rng=rng):
            own_pairs.append((b, texts.setdefault(_caption(world, claim, rng=rng), (len(texts), claim))[0]))
        for claim in _contradictions(world, category, seen, rng=rng):
            texts.setdefault(_caption(world, claim, rng=rng), (len(texts), claim))
    own = np.zeros((len(rows), len(texts)), dtype=bool)
    own[tuple(np.array(own_pairs).T)] = True
    claims = [claim for _, claim in texts.values()]
    true = claim_truth(corpus, rows, claims)
    present = np.zeros((len(rows), len(world.categories) + 1), dtype=bool)
    for o in (0, 1):
        present[np.arange(len(rows)), corpus.categories[rows, o]] = True
    attributes = np.concatenate([present[:, list(world.named)], corpus.visible[rows].any(1)], axis=1)
    return CaptionedBatch(rows=rows, captions=tuple(texts), own=own, true=true, attributes=attributes)


def claim_truth(corpus: Corpus, rows: Int[np.ndarray, " B"], claims: list[Claim]) -> Bool[np.ndarray, "B T"]:
    """Whether each claim is true of each image: one thing in it has the category and shows the rationale."""
    c_T = np.array([claim.category for claim in claims])
    r_T = np.array([claim.rationale for claim in claims])
    things_BO = corpus.categories[rows]
    right_kind = (c_T == -1) | (things_BO[:, :, None] == c_T)
    shows = (r_T == -1) | corpus.visible[rows][:, :, r_T]
    exists = (things_BO >= 0)[:, :, None]
    return np.asarray((right_kind & shows & exists).any(1))


def _true_claims(world: DrawnWorld, category: int, seen: list[int], *, rng: random.Random) -> list[Claim]:
    """One about the category and one about a part, or both at once; parts alone of what has no name."""
    said = category if category in world.named else -1
    if not seen:
        return [Claim(said, -1)] if said >= 0 else []
    if said < 0:
        return [Claim(-1, rng.choice(seen))]
    first = Claim(said, -1) if rng.random() < 0.6 else Claim(-1, rng.choice(seen))
    return [first, Claim(said, rng.choice(seen)) if rng.random() < 0.6 else Claim(-1, rng.choice(seen))]


def _contradictions(world: DrawnWorld, category: int, seen: list[int], *, rng: random.Random) -> list[Claim]:
    """A wrong name with a part that is there, a part that is missing here, or the right name with a part it lacks."""
    said = category if category in world.named else rng.choice(world.named)
    absent = [r for r in world.own_rationales[category] if r not in seen]
    draw = rng.random()
    if seen and draw < 0.4:
        return [Claim(rng.choice(world.named), rng.choice(seen))]
    if absent and draw < 0.6:
        return [Claim(-1, rng.choice(absent))]
    lie = rng.choice(absent) if absent and draw < 0.8 else rng.randrange(len(world.rationales))
    return [Claim(said, lie)] if lie not in seen else []


def _caption(world: DrawnWorld, claim: Claim, *, rng: random.Random) -> str:
    if claim.rationale < 0:
        return rng.choice(CATEGORY_TEMPLATES).format(c=world.categories[claim.category])
    if claim.category < 0:
        return rng.choice(RATIONALE_TEMPLATES).format(r=world.rationales[claim.rationale])
    return rng.choice(PAIR_TEMPLATES).format(c=world.categories[claim.category], r=world.rationales[claim.rationale])
