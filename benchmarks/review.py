"""How fast `ecor review` answers, and how much memory it takes: labels are made, its real server is asked over HTTP.

    python benchmarks/review.py --labels 1000000

Labels are of 1,000 categories with 5 rationales each, in parts of 10,000; pictures are 500 photo-like JPEG files of
640 x 480 pixels, each the picture of many labels. A client opens lists of groups (with and without filters and search),
groups, pictures and details at random places and sends decisions, one request after the other, while nothing else runs.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ecor.config import ScoringConfig
from ecor.data.prediction_schema import PREDICTION_SCHEMA
from ecor.data.predictions import PredictionParents, PredictionSet, write_part, write_prediction_set
from pipelines.runtime.console import progress_bar

NUM_CATEGORIES, NUM_RATIONALES_OF, NUM_PICTURES, ROWS_PER_PART = 1000, 5, 500, 10_000
RANKED = 10
"""Pairs, categories and rationales of each label."""


def make_pictures(folder: Path) -> list[str]:
    """Draw pictures that cost a JPEG decoder about as much as photos do."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (picture + random.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=88)
    return sorted(map(str, folder.iterdir()))


def make_part(start: int, num_rows: int, *, pictures: list[str], random: np.random.Generator) -> pa.Table:
    """Some labels with random names and confidences; popular categories are more frequent than others."""
    numbers = np.arange(start, start + num_rows)
    category = (NUM_CATEGORIES * random.random(num_rows) ** 2).astype(int)
    ranked = (category[:, None] + np.arange(RANKED)) % NUM_CATEGORIES
    reasons = ranked * NUM_RATIONALES_OF + random.integers(0, NUM_RATIONALES_OF, ranked.shape)
    confidence = random.beta(4, 1.5, size=num_rows).astype(np.float32)
    categories, rationales = (
        pa.array([f"{word} {each:04d}" for each in range(most)])
        for word, most in (("kind of animal", NUM_CATEGORIES), ("visible part", NUM_CATEGORIES * NUM_RATIONALES_OF))
    )
    log_probs = np.tile(np.log(0.5) - np.arange(RANKED, dtype=np.float32), (num_rows, 1))

    def ranking(**names: pa.Array) -> pa.Array:
        fields = [*names.values(), pa.array(log_probs.ravel(), pa.float32())]
        entries = pa.StructArray.from_arrays(fields, names=[*names, "log_prob"])
        return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1) * RANKED, pa.int32()), entries)

    category_names, reason_names = categories.take(pa.array(ranked.ravel())), rationales.take(pa.array(reasons.ravel()))
    columns = {
        "key": pa.array([f"{(each * 2654435761) % 2**48:012x}-{each:08x}-photo_{each}" for each in numbers.tolist()]),
        "source": pa.array([pictures[each % NUM_PICTURES] for each in numbers.tolist()]),
        "category": categories.take(pa.array(ranked[:, 0])),
        "rationale": rationales.take(pa.array(reasons[:, 0])),
        "confidence": pa.array(confidence),
        "category_log_prob": pa.array(np.log(confidence)),
        "pairs": ranking(category=category_names, rationale=reason_names),
        "categories": ranking(category=category_names),
        "rationales": ranking(rationale=reason_names),
        "two_stage_category": categories.take(pa.array(ranked[:, 0])),
        "two_stage_rationale": rationales.take(pa.array(reasons[:, 0])),
        "kept_mass": pa.array(np.full(num_rows, 0.99, dtype=np.float32)),
        "pairs_exact": pa.array(np.ones(num_rows, dtype=bool)),
        "calibrated": pa.array(np.ones(num_rows, dtype=bool)),
        "method": pa.array(["joint"] * num_rows),
        "model_name": pa.array(["ecor"] * num_rows),
        "model_digest": pa.array(["m" * 64] * num_rows),
        "vocabulary_digest": pa.array(["v" * 64] * num_rows),
    }
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(num_rows, field.type)
        for field in PREDICTION_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=PREDICTION_SCHEMA)


def make_labels(folder: str, *, num_labels: int, pictures: list[str]) -> None:
    """A finished folder of labels, as `ecor score` leaves it."""
    random, parts = np.random.default_rng(1), []
    with progress_bar("making labels", total=num_labels, unit="labels") as advance:
        for start in range(0, num_labels, ROWS_PER_PART):
            table = make_part(start, min(ROWS_PER_PART, num_labels - start), pictures=pictures, random=random)
            parts.append(write_part(folder, table, name=f"part-{start:08d}.parquet", unit=f"unit-{start:08d}"))
            advance(table.num_rows)
    parents = PredictionParents(
        input="photos",
        input_digest="i" * 64,
        model_uri="models:/ecor@champion",
        model_name="ecor",
        model_version="1",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )
    write_prediction_set(folder, PredictionSet(parts=tuple(parts), parents=parents, scoring=ScoringConfig()))
