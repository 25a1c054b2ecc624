"""Settings of the commands by which people judge labels: `ecor audit`.

Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from ecor.config.address_types import StoreAddress
from ecor.config.checks import require, require_at_least
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig(CheckedSettings):
    """Settings of `ecor audit`."""

    labels: tyro.conf.Positional[StoreAddress] = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor score`."""
    right: float = 0.95
    """Share (0 to 1) of the accepted labels that is promised to be right."""
    sure: float = 0.95
    """Probability (0 to 1) of the promise, over the random draw of the sample."""
    reasons: bool = False
    """A label is right only if its category is right and the image shows its rationale."""
    sample_size: int = 1000
    """Labels to be judged, drawn at random without replacement."""
    seed: int = 0
    """Seed of the sample."""
    by: Literal["category"] | None = None
    """`category`: a promise for each labelled category on its own; categories with too few judged labels are pooled."""
    reject: float | None = None
    """Share (0 to 1) of the labels with the highest OOD score that may be rejected: none of these is accepted. Needs
    labels of `ecor score --scoring.ood-score`. None: no label is rejected."""
    reject_wrong: float = 0.9
    """Share (0 to 1) of the rejected labels whose category is promised to be wrong."""
    allow_uncalibrated: bool = False
    """Audit labels without calibrated confidence too: the promise holds, but fewer labels may be accepted."""
    truth: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Judge the sample by the truth columns of the labels. Refused for the images that the model was trained on, or
    that chose its epoch, its temperatures or its promotion."""
    judged: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """The judged sample: `sample.csv` with its column verdict filled in (also JSON Lines or Parquet), or a folder of
    decisions."""
    policy: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Output of an audit of other labels by the same model: apply its thresholds without judging. A policy promises
    nothing."""
    output: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder for sample, certificate and decisions; None: beside the labels, with `-audit` at the end of its name."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("right", "sure", "reject_wrong"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} is a share between 0 and 1, both excluded, got {value}")
        require(
            self.reject is None or 0 < self.reject < 1,
            f"reject is a share between 0 and 1, both excluded, got {self.reject}",
        )
        require_at_least("sample_size", self.sample_size, 1)
        given = [name for name in ("truth", "judged", "policy") if getattr(self, name)]
        require(len(given) <= 1, f"{' and '.join(given)} are ways to judge the same labels: choose one")

    @property
    def folder(self) -> str:
        """Where the audit's files go."""
        return self.output or f"{self.labels.rstrip('/')}-audit"
