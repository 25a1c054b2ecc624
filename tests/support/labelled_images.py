"""Labels of images that lie on the disk or in shards, with names that trouble other formats."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ecor.data.heatmap_codec import Evidence, quantize
from ecor.data.predictions.manifest import PredictionSet, write_prediction_set
from ecor.data.predictions.records import ExplainablePrediction, predictions_table
from ecor.data.samples import sample_key
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.storage.digests import bytes_sha256
from tests.support.prediction_rows import row, write_labels
from tests.support.tiny_splits import sample, write_split

CATEGORIES = ("zebra", "..", "con", "=1+1", "zèbre <b>&\"'", "a|b", "horse, wild")
RATIONALES = ("stripes", "a | b", "[1, 2]", "-2+3", "斑马 & <i>", "a flowing mane", "because of water")
FILE_NAMES = ("plain.png", "=sum(1).png", 'two words, "quoted".png', "a\nb.png", "斑马.png", "x/same.png", "y/same.png")
NUM_LABELS = len(FILE_NAMES)


def picture(number: int) -> bytes:
    """A small PNG that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 255, (18, 24, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def evidence(number: int, *, category: str, rationale: str) -> Evidence:
    """A map of the category, and one of the rationale; the corner of the second is its only evidence."""
    corner = np.zeros((4, 4))
    corner[0, 0] = 1.0
    return Evidence(
        method="eclip",
        category=category,
        input_height=16,
        input_width=16,
        resize_mode="squash",
        maps=(
            quantize(np.random.default_rng(number).normal(size=(4, 4)), rationale=None),
            quantize(corner, rationale=rationale),
        ),
    )


def label(number: int, *, source: str, key: str) -> ExplainablePrediction:
    category, rationale = CATEGORIES[number % len(CATEGORIES)], RATIONALES[number % len(RATIONALES)]
    pairs = ((category, rationale), (category, RATIONALES[(number + 1) % len(RATIONALES)]))
    made = row(key, *pairs, category=category, rationales=(rationale,), confidence=0.5 + 0.05 * (number % 9))
    return replace(made, source=source)


def write_image_labels(
    folder: Path,
    *,
    with_maps: bool = False,
    change: Callable[[ExplainablePrediction], ExplainablePrediction] = lambda row: row,
) -> PredictionSet:
    """Images below `folder`/pictures, and their labels in `folder`/labels."""
    rows = []
    for number, name in enumerate(FILE_NAMES):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
        key = sample_key(str(path), sha256=bytes_sha256(picture(number)))
        made = change(label(number, source=str(path), key=key))
        if with_maps:
            made = replace(made, evidence=evidence(number, category=made.category, rationale=made.rationale))
        rows.append(made)
    return write_labels(str(folder / "labels"), predictions_table(rows), rows_per_part=3)


def write_shard_labels(folder: Path, *, num_labels: int = 9) -> PredictionSet:
    """Shards in `folder`/shards/test, with their vocabulary, and labels of their images in `folder`/labels."""
    samples = [sample(number) for number in range(num_labels)]
    write_split(folder / "shards", samples, split="test", per_shard=4)
    split = folder / "shards" / "test"
    manifest = read_shard_manifest(split)
    places = [
        {**place, "shard": shard.name} for shard in manifest.shards for place in read_index(split, shard).to_pylist()
    ]
    rows = [
        replace(
            label(number, source=place["source"], key=place["key"]),
            category=place["category"],
            rationale=place["rationales"][0],
            shard=place["shard"],
            member_offset=place["member_offset"],
            member_num_bytes=place["member_num_bytes"],
        )
        for number, place in enumerate(places)
    ]
    made = write_labels(str(folder / "labels"), predictions_table(rows), rows_per_part=4)
    parents = replace(
        made.parents,
        input=str(split),
        input_digest=manifest.digest,
        vocabulary_digest=manifest.vocabulary_digest,
    )
    made = replace(made, parents=parents)
    write_prediction_set(str(folder / "labels"), made)
    return made
