"""Pictures whose colours tell their category, as shards of two splits beside a tiny CLIP: what stages learn from."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from tests.support.tiny_models import NAMES, TINY_CLIP

VOCABULARY = vocabulary_from_mapping(NAMES)
NUM_TRAIN, NUM_VALIDATION = 22, 7


def sample(number: int, *, vocabulary: Vocabulary = VOCABULARY) -> Sample:
    """A picture whose colours tell its category; the labels are all its category's rationales."""
    random = np.random.default_rng(number)
    category = number % len(vocabulary.categories)
    colours = random.integers(0, 100, (8, 8, 3), dtype=np.uint8)
    colours[..., category % 3] += 150
    file = io.BytesIO()
    Image.fromarray(colours).resize((40, 36), Image.Resampling.NEAREST).save(file, "png")
    return Sample(
        key=f"{number:04d}",
        image=file.getvalue(),
        extension="png",
        category=vocabulary.categories[category],
        rationales=tuple(vocabulary.rationales[r] for r in vocabulary.rationales_of[category]),
        visible_rationales=None,
        source=f"{number}.png",
    )


def write_split(folder: Path, samples: list[Sample], *, split: str, per_shard: int = 6) -> None:
    shards = [
        write_shard(
            [ShardEntry(sample=each) for each in samples[start : start + per_shard]],
            folder=folder / split,
            name=f"{start:06d}.tar",
            vocabulary=VOCABULARY,
        )
        for start in range(0, len(samples), per_shard)
    ]
    manifest = ShardManifest(
        split=split,
        shards=tuple(shards),
        vocabulary_digest=VOCABULARY.digest,
        num_samples=len(samples),
        num_rejected=0,
        num_duplicates=0,
        config_digest="c" * 64,
        parents={},
    )
    write_shard_manifest(manifest, folder / split)
    write_side_files(folder, vocabulary=VOCABULARY)


def write_world(folder: Path) -> Path:
    """A tiny CLIP, and shards of two splits; the folder."""
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    write_split(folder / "shards", [sample(n) for n in range(NUM_TRAIN)], split="train")
    write_split(folder / "shards", [sample(n) for n in range(100, 100 + NUM_VALIDATION)], split="validation")
    return folder
