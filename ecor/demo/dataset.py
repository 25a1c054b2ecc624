"""Draw labelled images of a named set, in memory or as files in DROR's layout."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ecor.demo.worlds.registry import set_vocabulary, world_set
from ecor.demo.worlds.scenes import Drawing, Scene, compose, draw_scene

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledDrawing:
    """One image of an evaluation set."""

    # position within its split
    index: int
    scene: Scene
    drawing: Drawing
    # the one labelled rationale, drawn among the visible ones
    rationale: str

    @property
    def category(self) -> str:
        return self.scene.things[0].category

    @property
    def visible_rationales(self) -> tuple[str, ...]:
        """Visible rationales of the labelled thing."""
        return self.drawing.visible[0]


def labelled_drawings(
    *, set_name: str, split: str, num_images: int, seed: int, categories: tuple[str, ...] | None = None
) -> Iterator[LabelledDrawing]:
    """Draw the images of a split, categories in turn; a longer split begins with the same images as a shorter one.

    Args:
        set_name: a set of a drawn world (`ecor.demo.worlds.registry.all_sets`).
        split: `train`, `validation` or `test`.
        num_images: in the split.
        seed: of the scenes.
        categories: draw only these; None: all of the set.

    Raises:
        ValueError: when there is no such set or split, or the set lacks one of the categories.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
    world = world_set(set_name)
    if categories is not None:
        if unknown := set(categories) - set(world.categories):
            raise ValueError(f"{set_name} has no {', '.join(sorted(unknown))}: it has {', '.join(world.categories)}")
        world = replace(world, categories=categories)
    for index in range(num_images):
        category, attempt = world.categories[index % len(world.categories)], 0
        while True:
            key = f"{set_name}/{split}/{seed}/{index}/{attempt}"
            scene = compose(world, seed=key, category=category)
            drawing = draw_scene(scene)
            if drawing.visible[0]:
                break
            attempt += 1
        rationale = random.Random(f"{key}/label").choice(drawing.visible[0])
        yield LabelledDrawing(index=index, scene=scene, drawing=drawing, rationale=rationale)


def write_dataset(root: Path, *, set_name: str, num_images: dict[str, int], seed: int) -> None:
    """Write `<root>/<split>/<category>/<rationale>/<digits>/<file>.png` for each split of `num_images`.

    Beside the images: `<root>/vocabulary.json` (DROR's flat form) and per split `truth.jsonl`, one object per image:
    file, category, rationale, visible_rationales, the path of its label map (under `<split>-masks/`, relative to the
    root), what each label means, and the other things in view. The same arguments give the same bytes.

    Args:
        root: local folder; created where it is missing.
        set_name: a set of a drawn world.
        num_images: by the name of the split.
        seed: of the scenes.

    Raises:
        ValueError: when there is no such set or split.
    """
    if unknown := set(num_images) - set(SPLITS):
        raise ValueError(f"no split {', '.join(sorted(unknown))}: choose among {', '.join(SPLITS)}")
    root.mkdir(parents=True, exist_ok=True)
    text = json.dumps(set_vocabulary(set_name), indent=1, ensure_ascii=False)
    (root / "vocabulary.json").write_text(text + "\n", encoding="utf-8")
    for split, count in num_images.items():
        _write_split(root, set_name=set_name, split=split, num_images=count, seed=seed)


def _write_split(root: Path, *, set_name: str, split: str, num_images: int, seed: int) -> None:
    folder = root / split
    masks = root / f"{split}-masks"
    for directory in (folder, masks):
        directory.mkdir(parents=True, exist_ok=True)
    lines = []
    for item in labelled_drawings(set_name=set_name, split=split, num_images=num_images, seed=seed):
        name = f"{item.index:06d}.png"
        query = world_set(set_name).categories.index(item.category)
        file = folder / _as_folder(item.category) / _as_folder(item.rationale) / str(query) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        item.drawing.image.save(file, compress_level=1)
        item.drawing.labels.save(masks / name, compress_level=1)
        place = {"file": file.relative_to(folder).as_posix(), "masks": f"{masks.name}/{name}"}
        lines.append(json.dumps(place | _truth(item), ensure_ascii=False))
    (folder / "truth.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _as_folder(name: str) -> str:
    return name.replace("/", "__")


def _truth(item: LabelledDrawing) -> dict[str, object]:
    things = item.scene.things
    legend = {}
    for label, (owner, text) in sorted(item.drawing.legend.items()):
        name = text or things[owner].category
        legend[str(label)] = name if owner == 0 else f"other/{name}"
    others = [
        {"category": thing.category, "visible_rationales": list(seen)}
        for thing, seen in zip(things[1:], item.drawing.visible[1:], strict=True)
    ]
    return {
        "category": item.category,
        "rationale": item.rationale,
        "visible_rationales": list(item.visible_rationales),
        "mask_legend": legend,
        "others": others,
    }
