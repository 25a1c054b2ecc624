"""Settings of `ecor review`. Nothing heavy is imported here."""

import getpass
import ipaddress
from dataclasses import dataclass, field

import tyro

from ecor.config.address_types import LocalPath, StoreAddress
from ecor.config.checks import require, require_at_least
from pipelines.config.addresses import CheckedSettings

LONGEST_NAME = 100
"""Characters of a reviewer's name."""
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - these are refused


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
