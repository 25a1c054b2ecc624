"""Draw the splits of a set of the drawn world: shards, and the full ground truth beside them."""

import random
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from filelock import FileLock

from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from ecor.demo.dataset import SPLITS, LabelledDrawing, labelled_drawings
from ecor.demo.worlds.registry import set_vocabulary, world_set
from ecor.storage.atomic_write import replace_file
from ecor.storage.digests import json_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of images and epochs of a cell; the same for all cells."""

    train_per_category: int = 16
    """Training images per category, as in the few-shot settings of CoOp (arXiv:2109.01134)."""
    least_train: int = 320
    """Smallest number of training images."""
    num_validation: int = 300
    num_test: int = 600
    num_epochs: int = 5
    batch_size: int = 32
    max_sentences_per_step: int = 800
    """Limit for every loss: larger vocabularies get sampled negatives, so that all methods cost about the same."""

    def num_images(self, split: str, *, num_categories: int) -> int:
        """Number of images of a split."""
        if split == "train":
            return max(self.least_train, self.train_per_category * num_categories)
        return self.num_validation if split == "validation" else self.num_test


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSplits:
    """A set, or some of its categories, drawn from one seed: a folder of shards with the full ground truth."""

    folder: Path
    set_name: str
    categories: tuple[str, ...]
    seed: int
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def vocabulary(self) -> Vocabulary:
        names = set_vocabulary(self.set_name)
        return vocabulary_from_mapping({category: names[category] for category in self.categories})

    def truth(self, split: str) -> Path:
        """Return the path of the ground truth of a split, an .npz file of N images.

        It holds pixels [N 3 H W], categories, rationales [N], visible [N R] and num_things [N].
        """
        return self.folder / f"{split}.npz"


def locate_world(root: Path, *, set_name: str, num_categories: int | None, seed: int, sizes: Sizes) -> WorldSplits:
    """Locate the folder of a drawn world; nothing is drawn yet.

    Args:
        root: folder that all cells share.
        set_name: name of the set.
        num_categories: number of categories, sampled by the seed; None: all. A larger sample contains each smaller one.
        seed: seed of the drawings.
        sizes: numbers of images.

    Raises:
        ValueError: for an unknown set.
    """
    categories, name = world_set(set_name).categories, f"{set_name}-{seed}"
    if num_categories is not None:
        chosen = random.Random(f"{set_name}/{seed}/categories").sample(categories, len(categories))[:num_categories]
        categories, name = tuple(sorted(chosen)), f"{set_name}-{num_categories}-{seed}"
    name += f"-{json_digest(asdict(sizes))[:8]}"
    return WorldSplits(folder=root / "worlds" / name, set_name=set_name, categories=categories, seed=seed, sizes=sizes)


def draw_world(world: WorldSplits) -> None:
    """Draw the splits of a world once; the ground truth of a split is written last."""
    world.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(world.folder / ".drawing.lock"):
        for split in SPLITS:
            if not world.truth(split).is_file():
                _draw_split(world, split=split)


def _draw_split(world: WorldSplits, *, split: str) -> None:
    vocabulary = world.vocabulary
    drawings = list(
        labelled_drawings(
            set_name=world.set_name,
            split=split,
            num_images=world.sizes.num_images(split, num_categories=len(world.categories)),
            seed=world.seed,
            categories=world.categories,
        )
    )
    folder = world.folder / "shards"
    entries = [ShardEntry(sample=_make_sample(each, world=world, split=split)) for each in drawings]
    manifest = ShardManifest(
        split=split,
        shards=(write_shard(entries, folder=folder / split, name="000000.tar", vocabulary=vocabulary),),
        vocabulary_digest=vocabulary.digest,
        num_samples=len(entries),
        num_rejected=0,
        num_duplicates=0,
        config_digest=json_digest({"set": world.set_name, "seed": world.seed, **asdict(world.sizes)}),
        parents={},
    )
    write_shard_manifest(manifest, folder / split)
    write_side_files(folder, vocabulary=vocabulary)
    with replace_file(world.truth(split)) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **_ground_truth(drawings, vocabulary=vocabulary))


def _make_sample(drawing: LabelledDrawing, *, world: WorldSplits, split: str) -> Sample:
    file = BytesIO()
    drawing.drawing.image.save(file, "png", compress_level=1)
    return Sample(
        key=f"{split}-{drawing.index:06d}",
        image=file.getvalue(),
        extension="png",
        category=drawing.category,
        rationales=(drawing.rationale,),
        visible_rationales=drawing.visible_rationales,
        source=f"{world.set_name}/{split}/{drawing.index}",
    )


def _ground_truth(drawings: list[LabelledDrawing], *, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    visible = np.zeros((len(drawings), len(vocabulary.rationales)), dtype=bool)
    for number, each in enumerate(drawings):
        visible[number, [vocabulary.rationale_id(text) for text in each.visible_rationales]] = True
    return {
        "pixels": np.stack([np.asarray(each.drawing.image).transpose(2, 0, 1) for each in drawings]),
        "categories": np.array([vocabulary.category_id(each.category) for each in drawings]),
        "rationales": np.array([vocabulary.rationale_id(each.rationale) for each in drawings]),
        "visible": visible,
        "num_things": np.array([len(each.scene.things) for each in drawings]),
    }
