"""Finished labels whose rows a new job reuses (`ecor score --since`): their settings must be those of the new job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ecor.clip.image_features import FeatureSet
from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set
from pipelines.config.identity import describe_changes
from pipelines.config.infrastructure import absolute_address
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.listing_record import read_listing
from pipelines.scoring.predictions_folder import job_records, ledger_address
from pipelines.storage.kept_features import read_kept_features

_FREE = ("input_digest", "since_digest", "since_check", "batch_size", "unit_size")
"""Of a job's identity: what may differ. Rows do not depend on units and batches, to the rounding of the tower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierLabels:
    """Labels of an earlier job."""

    folder: str
    """Absolute address."""
    labels: PredictionSet
    features: FeatureSet | None
    """Features that were kept beside them; None where they are not needed."""
    identity: Mapping[str, Any]
    """What decided the rows of the earlier job, by name."""

    @property
    def digest(self) -> str:
        return self.labels.digest

    def require_same_settings(self, identity: Mapping[str, Any]) -> None:
        """Check that a job labels images as the earlier job did.

        Args:
            identity: of the new job (`pipelines.scoring.job.ScoreJob.identity`).

        Raises:
            ValueError: naming each setting and digest that differs.
        """
        found, asked = ({name: each[name] for name in each if name not in _FREE} for each in (self.identity, identity))
        if changes := describe_changes(found, asked):
            raise ValueError(
                f"the labels of {self.folder} were made otherwise: {changes}. Repeat the settings of that job, or "
                "leave out --since to label all images again"
            )

    def read_listing(self) -> pa.Table | None:
        """Sizes and times of the images when they were labelled; None where that was not recorded."""
        return read_listing(ledger_address(self.folder, identity=self.identity))


def read_earlier_labels(since: str, *, with_features: bool) -> EarlierLabels:
    """Open the labels of an earlier job; no row is read yet.

    Args:
        since: folder of finished labels, local or in a store.
        with_features: whether their features are needed.

    Raises:
        ValueError: when the folder holds no finished labels, none with features, or no record of how they were made.
        OSError: when a disk or a store fails.
    """
    folder = absolute_address(since)
    if with_features:
        kept = read_kept_features(since)
        labels, features = kept.labels, kept.features
    else:
        labels, features = retry_in_store(lambda: read_prediction_set(folder), place=folder), None
    identity = job_records(folder).read("identity") or {}
    parents = labels.parents
    require(
        all(identity.get(name) == getattr(parents, name) for name in ("input_digest", "model_digest")),
        f"{since} has no record of the settings that made its labels (_commits/job): name the folder that `ecor score` "
        "wrote, not a copy of its tables, or leave out --since to label all images again",
    )
    return EarlierLabels(folder=folder, labels=labels, features=features, identity=identity)
