"""Units of work whose images are not read: their kept features are. In place of the decoder of `ecor score`."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ecor.clip.image_features import FeaturePart
from ecor.data.predictions.manifest import PredictionPart
from pipelines.scoring.decoder import UnitPart, attempt_from_json, from_ipc, to_ipc
from pipelines.scoring.inputs import Input
from pipelines.scoring.work_units import Rejection
from pipelines.storage.attempt import Attempt
from pipelines.storage.kept_features import KeptFeatures, read_unit_features

_PART_BYTES = 8 * 1024**2
_ONCE_MENDED = "score them again with --input and --keep-features"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureUnit:
    """A unit of a finished job, to be labelled by its features."""

    folder: str
    """Of the labels that the features lie beside."""
    labels: PredictionPart
    features: FeaturePart

    @property
    def name(self) -> str:
        return self.labels.unit

    @property
    def num_images(self) -> int:
        """Images that the unit had, those without a label included."""
        return self.features.num_rows + self.features.num_rejected

    @classmethod
    def from_json(cls, text: str) -> "FeatureUnit":
        """Deserialize the text of `pipelines.scoring.work_units.unit_to_json`."""
        fields: Mapping[str, Any] = json.loads(text)
        labels, features = PredictionPart(**fields["labels"]), FeaturePart(**fields["features"])
        return cls(folder=fields["folder"], labels=labels, features=features)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPart(UnitPart):
    """Some images of a unit as features, in order: what `pipelines.scoring.decoder.Part` is for pixels.

    The images of the unit without a label are rejected with its first part.
    """

    features: pa.Table
    """B rows of `ecor.clip.image_features.features_table`."""
    origins: pa.Table
    """B rows with `ecor.data.predictions.schema.ORIGIN_SCHEMA`."""
    decode_s: float
    """Reading the features, in place of decoding."""

    @property
    def num_images(self) -> int:
        return self.features.num_rows

    def to_row(self) -> pa.Table:
        """The part as one row of an Arrow table, for Ray Data."""
        return pa.table(
            {
                **self.shared_columns(),
                "features": pa.array([to_ipc(self.features)], pa.large_binary()),
                "origins": [to_ipc(self.origins)],
                "decode_s": [self.decode_s],
            }
        )

    @classmethod
    def from_row(cls, table: pa.Table) -> "EncodedPart":
        """Read a table with one row."""
        row = table.to_pylist()[0]
        return cls(
            **cls.shared_values(row),
            features=from_ipc(row["features"]),
            origins=from_ipc(row["origins"]),
            decode_s=row["decode_s"],
        )


class FeatureReader:
    """The Ray Data actor in place of the decoder: maps rows with a unit to rows with a part."""

    def __init__(self, *, batch_size: int) -> None:
        self.batch_size = batch_size

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows.to_pylist():
            unit, attempt = FeatureUnit.from_json(row["unit"]), attempt_from_json(row["attempt"])
            for part in read_unit(unit, attempt=attempt, batch_size=self.batch_size):
                yield part.to_row()


def read_unit(unit: FeatureUnit, *, batch_size: int, attempt: Attempt | None = None) -> Iterator[EncodedPart]:
    """Read a unit in parts of at most 8 MiB of features, but at least one batch; an empty unit has one empty part.

    Args:
        unit: the unit.
        batch_size: images per batch; a part has whole batches.
        attempt: the job's claim of the unit; None where nothing is committed.

    Raises:
        ValueError: when a file is missing or altered.
        OSError: when a disk or a store fails.
    """
    began = time.perf_counter()
    found = read_unit_features(unit.folder, labels=unit.labels, features=unit.features)
    rejected = tuple(Rejection(**each) for each in found.rejected)
    num_images = max(1, _PART_BYTES // _row_bytes(found.features) // batch_size) * batch_size
    num_parts = max(1, math.ceil(found.features.num_rows / num_images))
    for index in range(num_parts):
        yield EncodedPart(
            unit=unit.name,
            attempt=attempt,
            index=index,
            num_parts=num_parts,
            features=found.features.slice(index * num_images, num_images),
            origins=found.labels.slice(index * num_images, num_images),
            rejected=rejected if index == 0 else (),
            decode_s=time.perf_counter() - began,
        )
        began = time.perf_counter()


def input_of_features(kept: KeptFeatures) -> Input:
    """The images of finished labels as an input: with their units and their digest."""
    units = tuple(FeatureUnit(folder=kept.folder, labels=labels, features=features) for labels, features in kept.units)
    return Input(
        digest=kept.labels.parents.input_digest,
        units=units,
        once_mended=_ONCE_MENDED,
        num_listed=kept.labels.num_rows + kept.labels.num_rejected,
    )


def describe(kept: KeptFeatures) -> dict[str, Any]:
    """Which features were labelled, for a job's summary."""
    facts = {"labels": kept.folder, "digest": kept.features.digest}
    return {**facts, "image_side": asdict(kept.features.image_side), "num_bytes": kept.features.num_bytes}


def _row_bytes(features: pa.Table) -> int:
    return sum(2 * field.type.list_size for field in features.schema if pa.types.is_fixed_size_list(field.type))
