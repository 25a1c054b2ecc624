"""Read the features that `ecor score --keep-features` has kept beside its labels, unit by unit, each file verified."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ecor.clip.image_features import (
    FEATURES_FOLDER,
    FeaturePart,
    FeatureSet,
    ImageSide,
    read_feature_part,
    read_feature_set,
    rejected_in,
)
from ecor.data.predictions.manifest import PredictionPart, PredictionSet, read_prediction_set
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.schema import ORIGIN_SCHEMA
from ecor.storage import filesystem
from pipelines.config.infrastructure import absolute_address
from pipelines.runtime.retries import retry_in_store


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFeatures:
    """The labels of a unit of work and the features of their images, in the same order."""

    labels: pa.Table
    """N rows with the columns that were asked for."""
    features: pa.Table
    """N rows of `ecor.clip.image_features.features_table`."""
    rejected: tuple[dict[str, str], ...]
    """Images of the unit without a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFeatures:
    """A finished folder of labels whose features were kept."""

    folder: str
    """Absolute address of the labels."""
    labels: PredictionSet
    features: FeatureSet

    @property
    def units(self) -> Iterator[tuple[PredictionPart, FeaturePart]]:
        """The files of each unit: labels and features, in the manifest's order."""
        features = {part.unit: part for part in self.features.parts}
        for part in self.labels.parts:
            yield part, features[part.unit]

    def require_image_side(self, expected: ImageSide, *, model: str) -> None:
        """Check that a model encodes images as the model that made these features did.

        Args:
            expected: image side of the model.
            model: its name, for the error.

        Raises:
            ValueError: naming both digests when the image sides differ.
        """
        found = self.features.image_side
        if found == expected:
            return
        reason = (
            f"they were computed in {found.precision}, not in {expected.precision} (--precision)"
            if found.model_digest == expected.model_digest
            else "another tower, other visual tokens or other preprocessing"
        )
        raise ValueError(
            f"the features of {self.folder} have image side {found.digest}, {model} has {expected.digest} ({reason}): "
            "name a model with that image side, or encode the images again with --input"
        )


def read_kept_features(labels: str) -> KeptFeatures:
    """Open the features that were kept beside some labels; no feature is read yet.

    Args:
        labels: folder written by `ecor score --keep-features`, local or in a store.

    Raises:
        ValueError: when the folder holds no finished labels, no features, or features of other labels.
        OSError: when a disk or a store fails.
    """
    folder = absolute_address(labels)
    found = retry_in_store(lambda: read_prediction_set(folder), place=folder)
    features = retry_in_store(lambda: read_feature_set(folder), place=folder)
    if features is None:
        raise ValueError(
            f"{labels} holds labels without features: run the `ecor score` that made it again with --keep-features "
            "(which encodes its images again), or name the images with --input"
        )
    is_complete = {part.unit: part.num_rows for part in features.parts} == {
        part.unit: part.num_rows for part in found.parts
    }
    if features.labels_digest != found.digest or not is_complete:
        raise ValueError(
            f"{labels}/{FEATURES_FOLDER} belongs to labels {features.labels_digest}, {labels} holds {found.digest}: "
            "run the `ecor score` that made it again with --keep-features"
        )
    return KeptFeatures(folder=folder, labels=found, features=features)


def read_unit_features(
    folder: str, *, labels: PredictionPart, features: FeaturePart, columns: Sequence[str] | None = ORIGIN_SCHEMA.names
) -> UnitFeatures:
    """Read a unit's features with the rows of labels that they belong to.

    Args:
        folder: of the labels.
        labels: file of the unit's labels.
        features: file of the unit's features.
        columns: of the labels to read, with `key`; None: all.

    Raises:
        ValueError: when a file is missing or altered, or they do not belong together.
        OSError: when a disk or a store fails.
    """
    rows = retry_in_store(lambda: read_part(folder, labels, columns=columns), place=folder)
    place = filesystem.join(folder, FEATURES_FOLDER)
    table = retry_in_store(lambda: read_feature_part(place, features), place=folder)
    if table["key"].to_pylist() != rows["key"].to_pylist():
        raise ValueError(f"{place}/{features.name} has other images than {folder}/{labels.name}: score again")
    return UnitFeatures(labels=rows, features=table, rejected=tuple(rejected_in(table)))


def iterate_features(kept: KeptFeatures, *, columns: Sequence[str] = ORIGIN_SCHEMA.names) -> Iterator[UnitFeatures]:
    """Yield all units, one in memory at a time; arguments and errors as `read_unit_features`."""
    for labels, features in kept.units:
        yield read_unit_features(kept.folder, labels=labels, features=features, columns=columns)
