"""Settings of the stages: one frozen dataclass per command, checked when it is made.

The command line and the TOML file are both made from these types. Nothing heavy is imported here.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from ecor.config import (
    LocalPath,
    ModelAddress,
    ScoringConfig,
    StoreAddress,
    TextConfig,
    require,
    require_at_least,
)
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.training import TrainConfig

Layout = Literal["auto", "dror", "folders", "table"]
EvidenceImages = Literal["all", "sample", "uncertain"]


def _check_alias(alias: str) -> None:
    """Raise ValueError for a name that MLflow refuses as an alias."""
    require(
        re.fullmatch(r"[\w-]{1,255}", alias, re.ASCII) is not None
        and re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE) is None,
        f"alias must be letters, digits, _ and -, and neither `latest` nor `v` and a number, got {alias!r}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig(CheckedSettings):
    """Images to WebDataset tars."""

    input: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """A folder in DROR's layout (`<split>/<category>/<rationale>/<n>/<file>`), a folder per category (with or without
    a level of splits above), or a table (CSV, Parquet, JSONL) with columns path, category, rationales[, split]."""
    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder that gets `<split>/*.tar`, `<split>/manifest.json` and `vocabulary.json`."""
    vocabulary: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Categories and rationales (DROR JSON, CSV, Parquet); None: `vocabulary.json` in the input, else what the labels
    of the images say."""
    layout: Layout = "auto"
    """Of the input; `auto` finds it out."""
    split_shares: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    """Where the input has no splits: share of images per split, decided by each image's content hash. Where it has a
    `train` and no `validation` split, `validation`'s share is taken from `train`."""
    samples_per_shard: int = 512
    """Images per tar; the last one of a split has fewer."""
    validate: Literal["decode", "header"] = "decode"
    """`decode` reads every pixel, `header` only the size and format: faster, finds less."""
    max_rejected: float = field(default=0.05, metadata=NOT_IN_OUTPUT)
    """Largest share of images in quarantine; above it the stage stops."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Redo finished shards, and accept an output folder made with other settings."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require_at_least("samples_per_shard", self.samples_per_shard, 1)
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        shares = self.split_shares
        require(
            bool(shares) and all(share >= 0 for share in shares.values()) and abs(sum(shares.values()) - 1) < 1e-6,
            f"split_shares must be shares that add up to 1, got {shares}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig(CheckedSettings):
    """A checkpoint to a version of a registered model."""

    checkpoint: StoreAddress
    """Folder written by `ecor train`, or its `checkpoint/`."""
    name: str = "ecor"
    """Registered model name."""
    alias: str = "candidate"
    """Alias that is set on the new version; empty: none."""
    with_backbone: bool = True
    """Pack the backbone's weights into the model, so that a cluster without a model hub can score."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(
            bool(self.name.strip()) and not set(self.name) & set("/:.%\"'@"),
            f"name must be a model name that MLflow takes: not empty, without / : . % @ and quotes, got {self.name!r}",
        )
        if self.alias:
            _check_alias(self.alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteConfig(CheckedSettings):
    """The champion alias to a version."""

    model: ModelAddress = "models:/ecor@candidate"
    """Model URI of the version to promote."""
    alias: str = "champion"
    """Alias that is moved to the version."""
    evaluation: StoreAddress | None = None
    """Folder written by `ecor evaluate` for that version. Where another version has the alias, promotion is refused
    when the candidate is worse beyond the confidence interval of the difference (strict RR), or was not compared."""
    champion_evaluation: StoreAddress | None = None
    """Folder of the version that has the alias, of the same images."""
    force: bool = False
    """Promote all the same; recorded as a tag on the version."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        _check_alias(self.alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig(CheckedSettings):
    """Images to explained labels."""

    input: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """A split written by `ecor shard` (a folder with `manifest.json`), a folder of images, or a table with a column
    `path`."""
    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder that gets one Parquet file per unit of work, `quarantine.parquet` and `manifest.json`."""
    model: ModelAddress = field(default="models:/ecor@champion", metadata=NOT_IN_OUTPUT)
    """Model URI (`models:/name@alias`, `models:/name/3`), or a checkpoint folder."""
    vocabulary: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Another vocabulary than the model was tuned on (zero-shot transfer)."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    text: TextConfig = field(default_factory=TextConfig, metadata=NOT_IN_OUTPUT)
    batch_size: int = 64
    """Images per forward pass."""
    unit_size: int = 512
    """Images per unit of work of a plain folder or table."""
    num_decoders: int | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Decoding actors; None: what the cluster's CPUs leave."""
    num_scorers: int | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Scoring actors, with a GPU each where GPUs are used; None: one per GPU there is, or one per machine."""
    use_gpu: bool = False
    """Score on GPUs; decoding stays on CPUs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the towers; `auto` is fp32 on CPUs and bf16 on GPUs."""
    max_rejected: float = field(default=0.05, metadata=NOT_IN_OUTPUT)
    """Largest share of images in quarantine; above it the job stops."""
    explain: str | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Method that shows where the evidence is (a wrong name lists them all): the rows get maps, of the category and of
    the best rationales. None: none."""
    explain_settings: tuple[str, ...] = field(default=(), metadata=NOT_IN_OUTPUT)
    """Of the method, as `num_masks=500` or `compat=reference`; a wrong one lists them."""
    explain_top: int = field(default=3, metadata=NOT_IN_OUTPUT)
    """Rationales per image that get a map."""
    explain_images: EvidenceImages = field(default="all", metadata=NOT_IN_OUTPUT)
    """Which images get maps: `all`, a `sample`, or the `uncertain` ones."""
    explain_sample: int = field(default=1000, metadata=NOT_IN_OUTPUT)
    """Of `sample`: about how many images, drawn by their keys."""
    explain_share: float = field(default=0.1, metadata=NOT_IN_OUTPUT)
    """Of `uncertain`: share of the images (of each part of a unit) that the model is least sure of."""
    explain_seed: int = field(default=0, metadata=NOT_IN_OUTPUT)
    """Of `sample`."""
    explain_projection: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """What the method `eclip` needs: what `ecor train --system eclip` made (a folder, or `models:/…`), or a safetensors
    file with a projection."""
    explain_lexicon: str | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """What the method `convis` needs: `demo`, a JSON file, or `wordnet:<file of words>`."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Redo finished units, and accept an output folder made with other settings."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("batch_size", "unit_size", "explain_top", "explain_sample"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("num_decoders", "num_scorers"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        require(
            0 < self.explain_share <= 1, f"explain_share is a share above 0 and at most 1, got {self.explain_share}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainConfig(CheckedSettings):
    """Photos to overlays of where the evidence is."""

    model: ModelAddress = "ecor-demo"
    """Model URI (`models:/name@alias`, `models:/name/3`), a checkpoint folder, or `ecor-demo`: the model that comes
    with the package, not tuned, on the names of its small drawn world. Also a classifier of `ecor train --system
    lico`."""
    method: str | None = None
    """How maps are made; a wrong name lists them all. None: `grad_eclip`, or with a projection `eclip`; of a
    classifier `grad_cam`."""
    output: LocalPath = "explained"
    """Folder that gets one PNG per picture."""
    vocabulary: StoreAddress | None = None
    """Other names than the model's own."""
    num_rationales: int = 3
    """Most probable ones, each with a map; of a classifier: categories."""
    projection: StoreAddress | None = None
    """What the method `eclip` needs: what `ecor train --system eclip` made (a folder, or `models:/…`), or a safetensors
    file with a projection."""
    lexicon: str = "demo"
    """Of the method `convis`, and of concepts: `demo`, a JSON file, or `wordnet:<file of words>`."""
    batch_size: int = 16
    """Pictures per pass."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_rationales", "batch_size"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(CheckedSettings):
    """Explained labels with known truth to metrics, tables and plots."""

    predictions: tuple[StoreAddress, ...]
    """Folders written by `ecor score`, or Parquet files; several are compared, the first with each other one."""
    output: StoreAddress
    """Folder that gets the record, tables and plots."""
    compare: tuple[StoreAddress, ...] = ()
    """More of them, to compare the first with."""
    names: tuple[str, ...] = ()
    """A name per set of predictions, in order, for tables and plots; empty: as their folders are called."""
    confidence: float = 0.95
    """Level of the bootstrap intervals."""
    num_resamples: int = 2000
    """Of the bootstrap over images."""
    num_bins: int = 15
    """Of the reliability diagram and the expected calibration error."""
    seed: int = 0
    """Of the bootstrap."""

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
        """All that are evaluated."""
        return (*self.predictions, *self.compare)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(CheckedSettings):
    """Explained labels to one page of HTML."""

    predictions: StoreAddress
    """Folder written by `ecor score`."""
    output: StoreAddress = "report.html"
    """The page; a summary is written beside it."""
    evaluation: StoreAddress | None = None
    """Folder written by `ecor evaluate`: its tables go into the page."""
    beside: tuple[StoreAddress, ...] = ()
    """Other labels of the same pictures (folders of `ecor score`, or Parquet files): each card tells what they say, and
    the gallery can show the pictures on which they differ."""
    beside_names: tuple[str, ...] = ()
    """What to call them; none: as their folders are called."""
    max_images: int = 200
    """Pictures in the gallery, drawn from all outcomes in equal parts."""
    thumbnail_px: int = 192
    """Longer side of a picture in the page."""
    title: str = "Explained labels"
    """Heading of the page."""
    seed: int = 0
    """Of the draw of pictures for the gallery."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require_at_least("max_images", self.max_images, 1)
        require_at_least("thumbnail_px", self.thumbnail_px, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(CheckedSettings):
    """The whole job on drawn scenes."""

    output: LocalPath = "demo-run"
    """Folder of everything the demo makes, MLflow's file included."""
    num_train: int = 1200
    """Images drawn to tune on."""
    num_validation: int = 400
    """Images drawn per split."""
    seed: int = 0
    """Of the drawings and of tuning."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_train", "num_validation"):
            require_at_least(name, getattr(self, name), 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig(CheckedSettings):
    """A whole pipeline: what one TOML file says. Folders that are left out lie below `output`."""

    output: StoreAddress
    """Folder of all records: `shards/`, `run/`, `labels/`, `evaluation/`, `report.html`."""
    shard: ShardConfig
    train: TrainConfig
    register: RegisterConfig
    promote: PromoteConfig
    score: ScoreConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
