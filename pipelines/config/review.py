"""Settings of the commands by which people judge labels: `ecor audit` and `ecor review`.

Nothing heavy is imported here.
"""

import getpass
import ipaddress
from dataclasses import dataclass, field
from typing import Literal

import tyro

from ecor.config.address_types import LocalPath, ModelAddress, StoreAddress
from ecor.config.checks import require, require_at_least
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT
from pipelines.config.stages import DeviceName

LONGEST_NAME = 100
"""Characters of a reviewer's name."""
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - these are refused


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


def default_reviewer() -> str:
    """The login name of the user; `reviewer` where the machine knows none (in some containers)."""
    try:
        return getpass.getuser().strip()[:LONGEST_NAME] or "reviewer"
    except (OSError, KeyError):
        return "reviewer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewConfig(CheckedSettings):
    """Settings of `ecor review`."""

    labels: tyro.conf.Positional[StoreAddress]
    """Folder written by `ecor score`."""
    decisions: LocalPath | None = None
    """Folder of the decisions, on a local disk; None: beside the labels, with `-review` at the end of its name."""
    reviewer: str = field(default_factory=default_reviewer)
    """Your name, as the decisions hold it (default: the login name). Others can give theirs on the page."""
    sample: StoreAddress | None = None
    """A table with a column `key`, such as `sample.csv` of `ecor audit` (also JSON Lines or Parquet): review exactly
    these images, in this order."""
    vocabulary: StoreAddress | None = None
    """The vocabulary that the labels were scored with, for completion and to mark new names. None: that of the shards
    or, where there are none, the names in the labels."""
    model: ModelAddress | None = None
    """Model that makes maps of the evidence where the labels hold none: a model URI (`models:/name@alias`,
    `models:/name/3`), a checkpoint folder, or `ecor-demo`. It is loaded when the first map is asked for."""
    device: DeviceName = "cpu"
    """Where the model runs: `cpu`, `cuda` (a GPU), or `auto`: a GPU if this machine has one that torch can use."""
    host: str = "127.0.0.1"
    """Address or name of this machine that the page is served at. Any other than loopback is reachable from the
    network, and not encrypted."""
    port: int = 0
    """Port; 0: a free one."""
    thumbnail_px: int = 256
    """Longer side of a picture in a group, in pixels."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require_at_least("port", self.port, 0)
        require(self.port < 2**16, f"port must be below 65,536, got {self.port}")
        require_at_least("thumbnail_px", self.thumbnail_px, 16)
        require(
            bool(self.reviewer.strip()) and len(self.reviewer) <= LONGEST_NAME,
            f"reviewer must be a name of 1 to {LONGEST_NAME} characters, got {self.reviewer!r}",
        )
        require(
            self.host not in _WILDCARDS,
            f"host {self.host!r} stands for all addresses of this machine: name one of them",
        )
        require(
            self.decisions is not None or "://" not in self.labels,
            f"decisions are logged on a local disk, and {self.labels} is in a store: name a folder with --decisions",
        )

    @property
    def decisions_folder(self) -> str:
        """Where the decisions go."""
        return self.decisions or f"{self.labels.rstrip('/')}-review"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
