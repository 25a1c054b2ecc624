"""Kept features of one or more folders of labels as one long table, which is read one unit of work at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from ecor.clip.image_features import FeaturePart, feature_arrays
from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionPart
from ecor.data.predictions.parts import read_part
from pipelines.config.reporting import FeatureName
from pipelines.runtime.balance import Balance
from pipelines.runtime.retries import retry_in_store
from pipelines.storage.image_source import PLACE_COLUMNS
from pipelines.storage.kept_features import KeptFeatures, read_kept_features, read_unit_features

ROW_COLUMNS = (*PLACE_COLUMNS, "category", "rationale", "confidence")
"""Columns of a label that a result shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image of a result: where it lies, and what it was labelled as."""

    labels: str
    """Folder of its labels, as the user named it."""
    folder: int
    """Place of this folder among those searched."""
    key: str
    source: str
    shard: str | None
    member_offset: int | None
    member_num_bytes: int | None
    category: str
    rationale: str
    confidence: float


@dataclass(frozen=True)
class FeatureFolders:
    """The features of all images of some folders, numbered from 0 in the order of folders, units and labels."""

    addresses: tuple[str, ...]
    """As the user named them."""
    kept: tuple[KeptFeatures, ...]
    feature: FeatureName
    """Which of the two features of an image is read."""

    @property
    def num_rows(self) -> int:
        return sum(each.labels.num_rows for each in self.kept)

    @property
    def num_rejected(self) -> int:
        """Images without a label, and so without a feature."""
        return sum(each.labels.num_rejected for each in self.kept)

    @cached_property
    def units(self) -> tuple[tuple[int, PredictionPart, FeaturePart], ...]:
        """The place of the folder, the labels and the features of each unit."""
        return tuple((place, *parts) for place, each in enumerate(self.kept) for parts in each.units)

    @cached_property
    def starts(self) -> Int64[np.ndarray, " U"]:
        """Number of the first image of each unit."""
        return np.cumsum([0, *(part.num_rows for _, part, _ in self.units[:-1])], dtype=np.int64)

    def iterate(self) -> Iterator[Float32[np.ndarray, "B D"]]:
        """Yield the L2-normalised features of each unit, one in memory at a time, each file verified.

        Raises:
            ValueError: naming a file that is missing or altered, or a unit with a feature that is no unit vector.
        """
        for place, labels, part in self.units:
            folder = self.kept[place].folder
            found = read_unit_features(folder, labels=labels, features=part, columns=["key"])
            rationale, category = feature_arrays(found.features)
            features_BD = (category if self.feature == "category" else rationale).astype(np.float32)
            norms_B = np.linalg.norm(features_BD, axis=1, keepdims=True)
            require(
                bool(np.all(np.abs(norms_B - 1) < 0.1)),
                f"{folder}: a feature in {part.name} is no unit vector: score again with --keep-features",
            )
            yield features_BD / norms_B

    def read_images(self, numbers: Sequence[int]) -> list[LabelledImage]:
        """Read the labels of some images, in the given order; only the files that hold them are read.

        Raises:
            ValueError: when a file is missing or altered.
        """
        numbers_N = np.asarray(numbers, dtype=np.int64)
        unit_N = np.searchsorted(self.starts, numbers_N, side="right") - 1
        found: dict[int, LabelledImage] = {}
        for unit in np.unique(unit_N).tolist():
            place, labels, _ = self.units[unit]
            chosen = np.unique(numbers_N[unit_N == unit])
            rows = self._read_part(place, labels).take(pa.array(chosen - self.starts[unit]))
            for number, row in zip(chosen.tolist(), rows.to_pylist(), strict=True):
                found[number] = LabelledImage(labels=self.addresses[place], folder=place, **row)
        return [found[number] for number in numbers_N.tolist()]

    def _read_part(self, place: int, labels: PredictionPart) -> pa.Table:
        folder = self.kept[place].folder
        return retry_in_store(lambda: read_part(folder, labels, columns=ROW_COLUMNS), place=folder)


def open_feature_folders(addresses: Sequence[str], *, feature: FeatureName) -> FeatureFolders:
    """Open the kept features of some folders of labels; no feature is read yet.

    Args:
        addresses: folders written by `ecor score --keep-features`, local or in a store.
        feature: which of the two features of an image to read.

    Raises:
        ValueError: for a folder without finished labels, features or images, for features of different image sides,
            and for a folder that is named twice.
    """
    kept = tuple(read_kept_features(each) for each in addresses)
    folders = [each.folder for each in kept]
    twice = [each for index, each in enumerate(folders) if each in folders[:index]]
    require(not twice, f"{', '.join(twice)} is named twice: name each folder of labels once")
    for each in kept[1:]:
        each.require_image_side(kept[0].features.image_side, model=kept[0].folder)
    found = FeatureFolders(tuple(addresses), kept, feature)
    require(found.num_rows > 0, f"{', '.join(addresses)}: there are no labels, so there is nothing to search")
    return found


def balance_images(stage: str, among: FeatureFolders, *, num_taken: int, num_copies: int = 0) -> Balance:
    """The images that the manifests of the labels name, and those whose features were compared."""
    return Balance(
        stage=stage,
        num_listed=among.num_rows + among.num_rejected,
        num_taken=num_taken,
        num_copies=num_copies,
        rejected={"unreadable": among.num_rejected},
    )


def without_feature(num_rejected: int) -> str:
    """The end of a line that says how many images a search cannot find; empty where there are none."""
    words = "rejected image has" if num_rejected == 1 else "rejected images have"
    return f"; {num_rejected:,} {words} no feature" if num_rejected else ""
