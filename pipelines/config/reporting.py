"""Settings of the stages that show results: `ecor evaluate` and `ecor report`. Nothing heavy is imported here."""

from dataclasses import dataclass

from ecor.config.address_types import StoreAddress
from ecor.config.checks import require, require_at_least
from pipelines.config.addresses import CheckedSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(CheckedSettings):
    """Settings of `ecor evaluate`."""

    predictions: tuple[StoreAddress, ...]
    """Folders written by `ecor score`, or Parquet files; the first is compared with each of the others."""
    output: StoreAddress
    """Folder for the record, tables and plots."""
    compare: tuple[StoreAddress, ...] = ()
    """More predictions to compare the first with."""
    names: tuple[str, ...] = ()
    """A name per set of predictions, in order, for tables and plots; empty: the names of their folders."""
    confidence: float = 0.95
    """Level of the bootstrap intervals."""
    num_resamples: int = 2000
    """Resamples of the bootstrap over images."""
    num_bins: int = 15
    """Bins of the reliability diagram and of the expected calibration error."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(bool(self.predictions), "name at least one folder of predictions")
        require(
            not self.names or len(self.names) == len(self.sets),
            f"{len(self.names)} names for {len(self.sets)} folders of predictions",
        )
        require(0 < self.confidence < 1, f"confidence lies between 0 and 1, got {self.confidence}")
        require_at_least("num_resamples", self.num_resamples, 100)
        require_at_least("num_bins", self.num_bins, 2)

    @property
    def sets(self) -> tuple[str, ...]:
        """All sets of predictions that are evaluated."""
        return (*self.predictions, *self.compare)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(CheckedSettings):
    """Settings of `ecor report`."""

    predictions: StoreAddress
    """Folder written by `ecor score`."""
    output: StoreAddress = "report.html"
    """Path of the page; a summary is written beside it."""
    evaluation: StoreAddress | None = None
    """Folder written by `ecor evaluate`; its tables are shown in the page."""
    audit: StoreAddress | None = None
    """Folder written by `ecor audit` for these labels; its certificate is shown in the page."""
    beside: tuple[StoreAddress, ...] = ()
    """Other labels of the same pictures (folders of `ecor score`, or Parquet files): each card shows them too, and the
    gallery can filter the pictures on which they differ."""
    beside_names: tuple[str, ...] = ()
    """Names of these labels; none: the names of their folders."""
    max_images: int = 200
    """Pictures in the gallery, sampled equally from all outcomes."""
    thumbnail_px: int = 192
    """Longer side of a picture in the page."""
    title: str = "Explained labels"
    """Heading of the page."""
    seed: int = 0
    """Seed of the sample of pictures for the gallery."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require_at_least("max_images", self.max_images, 1)
        require_at_least("thumbnail_px", self.thumbnail_px, 16)
