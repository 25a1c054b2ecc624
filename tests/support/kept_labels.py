"""Features in, a finished folder of labels with kept features out: for searches without a model or a picture."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from ecor.clip.image_features import FEATURES_FOLDER, FeatureSet, ImageSide, features_table, write_feature_set
from ecor.clip.image_features import write_feature_part as write_features
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.records import predictions_table
from ecor.storage import filesystem
from tests.support.prediction_rows import row

SIDE = ImageSide(model_digest="a" * 64, precision="fp32")


def unit_vectors(num: int, *, dim: int, seed: int = 0) -> np.ndarray:
    """Random directions, fp16."""
    found = np.random.default_rng(seed).standard_normal((num, dim), dtype=np.float32)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def rows_of(keys: list[str], sources: list[str] | None = None) -> pa.Table:
    """Rows that differ in key and source only."""
    rows = predictions_table([row("k", ("fox", "pointed ears"))]).take(np.zeros(len(keys), dtype=np.int64))
    for name, values in (("key", keys), ("source", sources or [f"photos/{key}.jpg" for key in keys])):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, pa.string()))
    return rows


def write_kept_labels(
    folder: str,
    units: Iterable[tuple[pa.Table, np.ndarray]],
    *,
    image_side: ImageSide = SIDE,
    category: Iterable[np.ndarray] | None = None,
    input_address: str = "photos",
    num_rejected: int = 0,
) -> None:
    """A finished folder of labels: rows and fp16 features of each unit, as `ecor score --keep-features` leaves them."""
    parts, features, others = [], [], None if category is None else iter(category)
    for number, (rows, vectors) in enumerate(units):
        unit = f"{number:06d}"
        parts.append(write_part(folder, rows, name=f"{unit}.parquet", unit=unit))
        table = features_table(
            rows["key"].to_pylist(), rationale=vectors, category=None if others is None else next(others)
        )
        name, place = f"{unit}.arrow", filesystem.join(folder, FEATURES_FOLDER)
        features.append(write_features(place, table, name=name, unit=unit, image_side=image_side, rejected=()))
    parents = PredictionParents(
        input=input_address,
        input_digest="i" * 64,
        model_uri="run",
        model_name="run",
        model_version=None,
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )
    found = PredictionSet(parts=tuple(parts), parents=parents, scoring=ScoringConfig(), num_rejected=num_rejected)
    write_feature_set(folder, FeatureSet(parts=tuple(features), image_side=image_side, labels_digest=found.digest))
    write_prediction_set(folder, found)
