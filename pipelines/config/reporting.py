"""Settings of the commands that show results (`evaluate`, `report`, `find`, `copies`, `diff`, `card`).

Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from ecor.config.address_types import LocalPath, ModelAddress, StoreAddress
from ecor.config.checks import require, require_at_least
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT
from pipelines.config.stages import DeviceName


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffConfig(CheckedSettings):
    """Settings of `ecor diff`."""

    before: tyro.conf.Positional[StoreAddress] = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor score`."""
    after: tyro.conf.Positional[StoreAddress] = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor score`: another model, another day or another vocabulary."""
    output: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of the result; None: beside the labels `after`, with `-diff` at the end of its name."""
    false_alarms: float = 0.05
    """Largest probability (0.001 to 1) of reporting any drift when nothing has changed, over all tests together."""
    smallest_effect: float = 0.02
    """Smallest effect (0 to 1) that is reported as a drift: the share of labels that moved."""
    confidence_step: float = 0.1
    """Change (0 to 1) of the confidence from which a label of the same category and rationale counts as changed."""
    fail_on_drift: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Exit with code 3 when a drift is found."""
    max_images: int = 120
    """Pictures in the gallery, of the most frequent changes first."""
    thumbnail_px: int = 192
    """Longer side of a picture in the page, in pixels."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(
            0.001 <= self.false_alarms < 1,
            f"false_alarms is a probability from 0.001 to below 1, got {self.false_alarms}",
        )
        require(0 <= self.smallest_effect < 1, f"smallest_effect lies between 0 and 1, got {self.smallest_effect}")
        require(0 < self.confidence_step <= 1, f"confidence_step lies between 0 and 1, got {self.confidence_step}")
        require_at_least("max_images", self.max_images, 1)
        require_at_least("thumbnail_px", self.thumbnail_px, 16)

    @property
    def folder(self) -> str:
        """Where the result goes."""
        return self.output or f"{self.after.rstrip('/')}-diff"


FeatureName = Literal["category", "rationale"]
"""The prompt whose visual tokens an image was encoded with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindConfig(CheckedSettings):
    """Settings of `ecor find`."""

    labels: tyro.conf.Positional[StoreAddress] = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor score --keep-features`."""
    text: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A sentence to search for, read as it is; may be given several times: each is a search of its own."""
    image: tyro.conf.UseAppendAction[tuple[StoreAddress, ...]] = ()
    """A picture to search for; may be given several times: each is a search of its own."""
    output: StoreAddress = field(default="found", metadata=NOT_IN_OUTPUT)
    """Folder of the result: a table and a page."""
    top: int = 100
    """Images that each search returns, the most similar first."""
    index: LocalPath | None = None
    """Folder on this machine for an index of the features, which the first search makes and later ones read: for many
    millions of images; nearly exact (`pip install 'ecor[index]'`). None: every feature is compared."""
    feature: FeatureName = "category"
    """Feature of an image that is compared, where the two prompts have visual tokens of their own; `category` is what
    `ecor explain --text` reads."""
    model: ModelAddress | None = None
    """Model that reads sentences and pictures; None: that of the labels. Its image side has to be that of the
    features."""
    device: DeviceName = field(default="cpu", metadata=NOT_IN_OUTPUT)
    """Where the model runs; the search itself runs on CPUs."""
    max_images: int = 400
    """Most pictures on the page; the table has all images."""
    thumbnail_px: int = 192
    """Longer side of a picture in the page, in pixels."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(bool(self.text or self.image), "say what to find, with --text or --image")
        require(all(each.strip() for each in self.text), "a --text is empty: say what to find")
        for name, least in (("top", 1), ("max_images", 0), ("thumbnail_px", 16)):
            require_at_least(name, getattr(self, name), least)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesConfig(CheckedSettings):
    """Settings of `ecor copies`. Every image is compared with every other one: 10^5 images take minutes, 10^6 hours."""

    labels: tyro.conf.Positional[tuple[StoreAddress, ...]] = field(metadata=NOT_IN_OUTPUT)
    """Folders written by `ecor score --keep-features`; images of all are compared with each other."""
    output: StoreAddress = field(default="copies", metadata=NOT_IN_OUTPUT)
    """Folder of the result: tables and a page."""
    similarity: float = 0.97
    """Cosine (above 0, up to 1) of two images from which they count as near copies."""
    feature: FeatureName = "category"
    """Feature of an image that is compared, where the two prompts have visual tokens of their own."""
    num_nearest: int = 5
    """Most similar images whose mean distance tells an outlier."""
    num_outliers: int = 40
    """Outliers in the table, those farthest from all others first."""
    max_images: int = 400
    """Most pictures on the page; the tables have all."""
    thumbnail_px: int = 192
    """Longer side of a picture in the page, in pixels."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(bool(self.labels), "name at least one folder of labels")
        require(0 < self.similarity <= 1, f"similarity is a cosine above 0 and up to 1, got {self.similarity}")
        for name, least in (("num_nearest", 1), ("num_outliers", 0), ("max_images", 0), ("thumbnail_px", 16)):
            require_at_least(name, getattr(self, name), least)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig(CheckedSettings):
    """Settings of `ecor card`."""

    address: tyro.conf.Positional[ModelAddress]
    """Folder of shards or one of its splits (dataset card), or a model: `models:/<name>/<version>`,
    `models:/<name>@<alias>`, or a folder of `ecor train` (model card)."""
    evaluation: tuple[StoreAddress, ...] = ()
    """Folders written by `ecor evaluate` for labels of this model; their figures are in the card."""
    audit: tuple[StoreAddress, ...] = ()
    """Folders written by `ecor audit` for labels of this model; their certificates are in the card."""
    output: StoreAddress | None = None
    """Path of the Markdown file; None: `dataset_card.md` beside the shards, `model_card.md` beside the checkpoint, and
    for a registered model its description in MLflow alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainConfig(CheckedSettings):
    """Settings of `ecor explain`."""

    model: ModelAddress = "ecor-demo"
    """Model URI (`models:/name@alias`, `models:/name/3`), a checkpoint folder, or `ecor-demo`: the model that comes
    with the package, not tuned, on the names of its small drawn world. Also a classifier of `ecor train --system
    lico`."""
    method: str | None = None
    """Attribution method; an unknown name lists all. None: `contrastive_attribution`, with a projection `eclip`, for a
    classifier `grad_cam`. Of `contrastive_attribution`, `largest_grid` is 24 here and `all_grids` True: better and
    slower than in `ecor score`."""
    output: LocalPath = "explained"
    """Folder for one PNG per picture."""
    vocabulary: StoreAddress | None = None
    """Vocabulary to use instead of the model's own."""
    num_rationales: int = 3
    """Number of most probable rationales (for a classifier: categories) with a map each."""
    projection: StoreAddress | None = None
    """Projection for the method `eclip`: output of `ecor train --system eclip` (a folder, or `models:/…`), or a
    safetensors file."""
    lexicon: str = "demo"
    """Lexicon for the method `convis` and for concepts: `demo`, a JSON file, or `wordnet:<file of words>`."""
    batch_size: int = 16
    """Pictures per pass."""
    device: DeviceName = "cpu"
    """Where the model runs: `cpu`, `cuda` (a GPU), or `auto`: a GPU if this machine has one that torch can use."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the towers; `auto` is fp32 on CPUs and bf16 on GPUs. A classifier of `ecor train --system lico`
    always runs in fp32."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_rationales", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
