"""Settings of the stages: one frozen dataclass per command, checked when it is made.

The command line and the TOML file are both made from these types. This module imports nothing heavy.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from ecor.config.address_types import ModelAddress, StoreAddress
from ecor.config.checks import require, require_at_least
from ecor.config.model import TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.storage.web.allowed_hosts import check_hosts
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT

Layout = Literal["auto", "dror", "folders", "table", "webdataset"]
EvidenceImages = Literal["all", "sample", "uncertain"]
SinceCheck = Literal["time", "content"]
DeviceName = Literal["auto", "cpu", "cuda"]


def _check_alias(alias: str) -> None:
    """Raise ValueError for a name that MLflow refuses as an alias."""
    require(
        re.fullmatch(r"[\w-]{1,255}", alias, re.ASCII) is not None
        and re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE) is None,
        f"alias must be letters, digits, _ and -, and neither `latest` nor `v` and a number, got {alias!r}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig(CheckedSettings):
    """Settings of `ecor shard`."""

    input: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """A folder in DROR's layout (`<split>/<category>/<rationale>/<n>/<file>`), a folder per category (with or without
    a level of splits above), a table (CSV, Parquet, JSONL) with columns path, category, rationales[, split], or images
    in Parquet, tars, zips, COCO or Hugging Face datasets (docs/inputs.md)."""
    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder that gets `<split>/*.tar`, `<split>/manifest.json` and `vocabulary.json`."""
    vocabulary: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Categories and rationales (DROR JSON, CSV, Parquet); None: `vocabulary.json` in the input, else the labels of the
    images."""
    since: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of finished shards with the same settings: tars of unchanged images are linked or copied, only new and
    changed images are read. None: all are read."""
    since_check: SinceCheck = field(default="time", metadata=NOT_IN_OUTPUT)
    """As of `ecor score`: an image is unchanged if its size and `time` are the same, or only if its `content` is."""
    layout: Layout = "auto"
    """Layout of the input; `auto` detects it."""
    split_folders: bool = field(default=True, metadata=NOT_IN_OUTPUT)
    """Folders called `train`, `validation`, `test` or alike (`val`, `Train`, `train2017`) are splits; otherwise they
    are categories, as all others."""
    follow_links: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Go into links to folders; otherwise one line names those in place of categories, and others are rejected."""
    allow_http: tuple[str, ...] = field(default=(), metadata=NOT_IN_OUTPUT)
    """Of a table: hosts from which images are read over HTTP, as `images.example.org`, `*.cdn.example.org`,
    `10.0.3.7:8080` or `images.lan=10.0.3.0/24` (docs/inputs.md). None: nothing is read from the web."""
    split_shares: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    """If the input has no splits: share of images per split, assigned by the hash of each image's content. If it has
    `train` but no `validation`, the share of `validation` is taken from `train`."""
    samples_per_shard: int = 512
    """Images per tar; the last one of a split has fewer."""
    validate: Literal["decode", "header"] = "decode"
    """`decode` decodes every image, `header` reads size and format only: faster, but finds fewer errors."""
    max_rejected: float = field(default=0.05, metadata=NOT_IN_OUTPUT)
    """Largest share of images in quarantine; above it the stage stops."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Redo finished shards; also accept an output folder of other settings."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require_at_least("samples_per_shard", self.samples_per_shard, 1)
        check_hosts(self.allow_http)
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        shares = self.split_shares
        require(
            bool(shares) and all(share >= 0 for share in shares.values()) and abs(sum(shares.values()) - 1) < 1e-6,
            f"split_shares must be shares that add up to 1, got {shares}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig(CheckedSettings):
    """Settings of `ecor register`."""

    checkpoint: StoreAddress
    """Folder written by `ecor train`, or its `checkpoint/`."""
    name: str = "ecor"
    """Registered model name."""
    alias: str = "candidate"
    """Alias of the new version; empty: none."""
    with_backbone: bool = True
    """Include the backbone's weights in the model, so that a cluster without access to a model hub can score."""

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
    """Settings of `ecor promote`."""

    model: ModelAddress = "models:/ecor@candidate"
    """Model URI of the version to promote."""
    alias: str = "champion"
    """Alias that is moved to the version."""
    evaluation: StoreAddress | None = None
    """Folder written by `ecor evaluate` for that version. If another version has the alias, promotion is refused when
    the candidate is worse (the whole confidence interval of the difference in strict RR is below zero), or when the two
    were not compared."""
    champion_evaluation: StoreAddress | None = None
    """The same for the version that has the alias, on the same images."""
    force: bool = False
    """Promote in any case; recorded as a tag on the version."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        _check_alias(self.alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig(CheckedSettings):
    """Settings of `ecor score`."""

    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder that gets one Parquet file per unit of work, `quarantine.parquet` and `manifest.json`."""
    input: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """A split written by `ecor shard` (a folder with `manifest.json`), a folder of images, a table with a column
    `path`, or images in Parquet, tars, zips, COCO or Hugging Face datasets (docs/inputs.md). None: the images of
    `features`."""
    features: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of labels of `ecor score --keep-features`, instead of `input`: its images are labelled by their kept
    features; none is read."""
    since: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of finished labels of an earlier job with the same settings: unchanged images keep their rows (with heat
    maps and features), only new and changed ones are labelled. None: all are labelled."""
    since_check: SinceCheck = field(default="time", metadata=NOT_IN_OUTPUT)
    """With `since`: an image is unchanged if its size and `time` are the same (other times: if its content is), or only
    if its `content` is, which reads all images."""
    keep_features: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Keep the features of the labelled images in `features/` of the output, for `--features` of later jobs. Finished
    units without features are done again."""
    model: ModelAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Model URI (`models:/name@alias`, `models:/name/3`), or a checkpoint folder. None: `models:/ecor@champion`; with
    `features` or `since`, the model that made them."""
    vocabulary: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Vocabulary to label with, instead of the model's own (zero-shot transfer)."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    text: TextConfig = field(default_factory=TextConfig, metadata=NOT_IN_OUTPUT)
    batch_size: int = 64
    """Images per forward pass."""
    unit_size: int = 512
    """Images per unit of work, for a folder or a table."""
    follow_links: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Of a folder: go into links to folders; otherwise each is in quarantine."""
    allow_http: tuple[str, ...] = field(default=(), metadata=NOT_IN_OUTPUT)
    """As of `ecor shard`: hosts from which images of a table are read over HTTP. None: nothing is."""
    num_decoders: int | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Decoding actors; None: as many as the remaining CPUs allow."""
    num_scorers: int | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Scoring actors, each with its own GPU if GPUs are used; None: one per GPU, or one per machine."""
    use_gpu: bool = False
    """Score on GPUs; decoding stays on CPUs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the image tower, on GPUs of the text tower too. `auto`: that of labels in `features`, `since` or the
    output; else bf16 on GPUs and if this machine's processor has bf16 units (AMX, AVX-512 BF16), fp32 otherwise."""
    fast_jpeg: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Decode JPEG files at a half, a quarter or an eighth of their size, where each side stays at least twice as long
    as the tower's input: faster for large photos; probabilities change a little."""
    max_rejected: float = field(default=0.05, metadata=NOT_IN_OUTPUT)
    """Largest share of images in quarantine; above it the job stops."""
    explain: str | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Attribution method (an unknown name lists all): the rows get heat maps of the category and of the best
    rationales. None: no maps."""
    explain_settings: tuple[str, ...] = field(default=(), metadata=NOT_IN_OUTPUT)
    """Settings of the method, such as `num_masks=500`; an unknown name lists all."""
    explain_top: int = field(default=3, metadata=NOT_IN_OUTPUT)
    """Number of rationales per image that get a map."""
    explain_images: EvidenceImages = field(default="all", metadata=NOT_IN_OUTPUT)
    """Which images get maps: `all`, a `sample`, or the `uncertain` ones."""
    explain_sample: int = field(default=1000, metadata=NOT_IN_OUTPUT)
    """For `sample`: approximate number of images, drawn by their keys."""
    explain_share: float = field(default=0.1, metadata=NOT_IN_OUTPUT)
    """For `uncertain`: share of images, of each part of a unit, with the least confident label."""
    explain_seed: int = field(default=0, metadata=NOT_IN_OUTPUT)
    """Seed of `sample`."""
    explain_projection: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Projection for the method `eclip`: output of `ecor train --system eclip` (a folder, or `models:/…`), or a
    safetensors file."""
    explain_lexicon: str | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Lexicon for the method `convis`: `demo`, a JSON file, or `wordnet:<file of words>`."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Redo finished units; also accept an output folder of other settings."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        check_hosts(self.allow_http)
        for name in ("batch_size", "unit_size", "explain_top", "explain_sample"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("num_decoders", "num_scorers"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        require(
            0 < self.explain_share <= 1, f"explain_share is a share above 0 and at most 1, got {self.explain_share}"
        )
        self._check_features()
        self._check_since()

    def _check_since(self) -> None:
        if self.since is None:
            return
        require(
            self.features is None,
            f"--since {self.since} and --features {self.features}: name one; labels from features cost little",
        )
        require(
            self.explain is None or self.explain_images == "all",
            f"--explain-images {self.explain_images} chooses among all images of a job, and --since labels a few: use "
            "--explain-images all, or leave --since out",
        )

    def _check_features(self) -> None:
        require(
            (self.input is None) != (self.features is None),
            "name the images to label: --input, or --features of labels whose features were kept"
            if self.input is None
            else f"--input {self.input} and --features {self.features}: name one, images or labels with kept features",
        )
        if self.features is None:
            return
        asked = [name for name in ("explain", "explain_projection", "explain_lexicon") if getattr(self, name)]
        require(
            not asked and not self.explain_settings,
            "--explain draws heat maps, which need the pictures, and --features reads none: name the images with "
            "--input, or leave --explain out",
        )
        require(
            not self.keep_features,
            f"--keep-features with --features: the features lie beside {self.features} already, for later jobs too",
        )
