"""Write the kept features of a scoring job beside its labels; commit records decide which files count.

features/manifest.json            the `FeatureSet`, written before the manifest of the labels
features/<unit>-<attempt>.arrow   features of a unit, written before the unit is committed
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import pyarrow as pa

from ecor.clip.image_features import (
    FEATURES_FOLDER,
    MANIFEST,
    FeaturePart,
    FeatureSet,
    ImageSide,
    read_feature_part,
    read_feature_set,
    write_feature_part,
    write_feature_set,
)
from ecor.storage import filesystem
from pipelines.runtime.retries import Result, retry_in_store
from pipelines.storage.attempt import Attempt

SUFFIX = ".arrow"
_PART = re.compile(r".+-\d+-[^-]+\.arrow")
"""Name of the features of an attempt."""


class FeaturesFolder:
    """The folder of features in a folder of labels; it exists once features were kept."""

    def __init__(self, labels: str) -> None:
        """`labels` is the address of the labels."""
        self.labels = labels
        self.folder = filesystem.join(labels, FEATURES_FOLDER)

    def has_record(self) -> bool:
        """Whether the features of a finished job are here."""
        return self._retry(lambda: filesystem.exists(filesystem.join(self.labels, MANIFEST)))

    def write(
        self, attempt: Attempt, table: pa.Table, *, image_side: ImageSide, rejected: Sequence[Mapping[str, str]]
    ) -> FeaturePart:
        """Write the features of a unit under the attempt's name.

        Args:
            attempt: of the unit.
            table: of `ecor.clip.image_features.features_table`.
            image_side: that made them.
            rejected: images of the unit without a label, as JSON objects.
        """
        write = partial(
            write_feature_part,
            self.folder,
            table,
            name=f"{attempt.unit}-{attempt.name}{SUFFIX}",
            unit=attempt.unit,
            image_side=image_side,
            rejected=rejected,
        )
        return self._retry(write)

    def is_whole(self, part: FeaturePart | None) -> bool:
        """Whether a unit has its features, undamaged."""
        if part is None:
            return False
        try:
            self._retry(lambda: read_feature_part(self.folder, part))
        except ValueError:
            return False
        return True

    def publish(self, features: FeatureSet) -> None:
        """Write the record, unless it is there."""
        try:
            found = self._retry(lambda: read_feature_set(self.labels))
        except ValueError:
            found = None  # damaged
        if found != features:
            self._retry(lambda: write_feature_set(self.labels, features))

    def remove_all_but(self, names: Iterable[str]) -> None:
        """Delete the files of attempts that do not count."""
        counting = set(names)
        for name in self._retry(lambda: filesystem.names_in(self.folder)):
            if _PART.fullmatch(name) and name not in counting:
                self._retry(partial(filesystem.remove, filesystem.join(self.folder, name)))

    def clear(self) -> None:
        """Delete all features and their record; other files in the folder stay."""
        self.remove_all_but(())
        self._retry(lambda: filesystem.remove(filesystem.join(self.labels, MANIFEST)))
        if not self._retry(lambda: filesystem.names_in(self.folder)):
            self._retry(lambda: filesystem.remove(self.folder))

    def _retry(self, operation: Callable[[], Result]) -> Result:
        return retry_in_store(operation, place=self.labels)
