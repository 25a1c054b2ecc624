"""Settings of the stages in, checked settings out: one frozen dataclass per stage, composed of `ecor.config`'s.

The command line and the TOML file are both made from these types. Nothing heavy is imported here.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ecor.config import (
    BackboneConfig,
    EclipConfig,
    FitConfig,
    LicoConfig,
    ObjectiveConfig,
    PromptConfig,
    ScoringConfig,
    SystemName,
    TemplateConfig,
    TextConfig,
    WorldName,
    require,
    require_at_least,
)
from pipelines.addresses import check_address

_PLACES = (
    *(
        "input",
        "output",
        "vocabulary",
        "shards",
        "checkpoint",
        "evaluation",
        "champion_evaluation",
        "cache_dir",
        "work",
    ),
    *("weights", "predictions", "beside", "projection", "explain_projection"),
)
"""Settings that are paths or addresses of stores."""
Layout = Literal["auto", "dror", "folders", "table"]
EvidenceImages = Literal["all", "sample", "uncertain"]
StudyName = Literal["eclip", "lico", "prompts"]


class _Addressed:
    """Settings whose addresses are checked when they are made (`pipelines.addresses.check_address`)."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name in _PLACES:
            value = getattr(self, name, None)
            for each in (value,) if isinstance(value, str) else value or ():
                check_address(each, name=name)


def located(place: str) -> str:
    """A local path made absolute, for workers run in folders of their own; a URI without a slash at its end."""
    return (
        place.rstrip("/")
        if "://" in place and not place.startswith("file://")
        else str(Path(place.removeprefix("file://")).expanduser().absolute())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where the work runs."""

    address: str | None = None
    """A Ray cluster's address (`auto`, `ray://host:10001`); None joins the cluster of a submitted job, or starts one
    on this machine."""
    num_cpus: int | None = None
    """CPUs of a cluster started here; None: all of this machine's."""
    num_gpus: int | None = None
    """GPUs of a cluster started here; None: what Ray finds."""
    no_progress_timeout_s: float = 1800.0
    """A stage that moves nothing for this long, or waits this long for the cluster's CPUs or GPUs, ends in an
    error."""
    lease_s: float = 60.0
    """Units of work of a job that shows no sign of life for this long are taken over by another job on the same
    output."""

    def __post_init__(self) -> None:
        require(self.lease_s > 0, f"lease_s must be positive, got {self.lease_s}")
        require(self.num_cpus is None or self.num_cpus >= 1, f"num_cpus must be at least 1, got {self.num_cpus}")
        require(self.no_progress_timeout_s > 0, f"no_progress_timeout_s must be positive: {self.no_progress_timeout_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """The MLflow server, or file, that runs and models are recorded in."""

    uri: str | None = field(default=None, repr=False)
    """Tracking and registry URI; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current folder. User and
    password are better given by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: command lines are seen."""
    experiment: str = "ecor"


def resolved(tracking: TrackingConfig) -> TrackingConfig:
    """The same settings with the URI written out and absolute, fit to be sent to workers with another folder or
    environment.

    None becomes MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current folder.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    prefix = "sqlite:///"
    if uri.startswith(prefix):
        uri = prefix + str(Path(uri.removeprefix(prefix)).absolute())
    return replace(tracking, uri=uri)


def uri_of(tracking: TrackingConfig) -> str:
    """The URI of `resolved(tracking)`."""
    uri = resolved(tracking).uri
    assert uri is not None  # resolved() never leaves it open
    return uri


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardConfig(_Addressed):
    """Images to WebDataset tars."""

    input: str
    """A folder in DROR's layout (`<split>/<category>/<rationale>/<n>/<file>`), a folder per category (with or without
    a level of splits above), or a table (CSV, Parquet, JSONL) with columns path, category, rationales[, split]."""
    output: str
    """Folder that gets `<split>/*.tar`, `<split>/manifest.json` and `vocabulary.json`."""
    vocabulary: str | None = None
    """Categories and rationales (DROR JSON, CSV, Parquet); None: `vocabulary.json` in the input, else what the labels
    of the images say."""
    layout: Layout = "auto"
    split_shares: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    """Where the input has no splits: share of images per split, decided by each image's content hash. Where it has a
    `train` and no `validation` split, `validation`'s share is taken from `train`."""
    samples_per_shard: int = 512
    validate: Literal["decode", "header"] = "decode"
    """`decode` reads every pixel, `header` only the size and format: faster, finds less."""
    max_rejected: float = 0.05
    """Largest share of images in quarantine; above it the stage stops."""
    fresh: bool = False
    """Redo finished shards, and accept an output folder made with other settings."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        require_at_least("samples_per_shard", self.samples_per_shard, 1)
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        shares = self.split_shares
        require(
            bool(shares) and all(share >= 0 for share in shares.values()) and abs(sum(shares.values()) - 1) < 1e-6,
            f"split_shares must be shares that add up to 1, got {shares}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(_Addressed):
    """Shards to learned prompt tokens, or to what another system learns."""

    shards: str
    """Folder written by `ecor shard` (holds `train/manifest.json`, `validation/manifest.json`)."""
    output: str
    """Folder of the run: `checkpoint/`, `summary.json`."""
    system: SystemName = "ecor"
    """What is learned: `ecor`, prompt tokens for labels with reasons; `eclip`, a projection of patches for maps;
    `lico`, an image classifier beside language."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    templates: TemplateConfig = field(default_factory=TemplateConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    """Of `ecor`, as `prompts`, `objective`, `preset` and `calibrate` are; the other systems have their own."""
    eclip: EclipConfig = field(default_factory=EclipConfig)
    lico: LicoConfig = field(default_factory=LicoConfig)
    text: TextConfig = field(default_factory=TextConfig)
    preset: Literal["none", "dror"] = "none"
    """`dror` replaces `fit` and `objective` by DROR's recipe (SGD, one softmax over pairs)."""
    num_epochs: int = 10
    batch_size: int = 64
    """Images per step, over all workers."""
    num_workers: int = 1
    """Ray Train workers (ranks)."""
    cpus_per_worker: float = 1.0
    """CPUs reserved per worker; torch uses as many threads."""
    use_gpu: bool = False
    seed: int = 0
    validation_split: str = "validation"
    patience: int = 5
    """Epochs without a better validation loss before stopping."""
    checkpoint_every_steps: int = 200
    calibrate: bool = True
    """Fit one temperature per factor on validation after tuning."""
    max_rejected: float = 0.05
    """Largest share of pictures that cannot be read; above it the stage stops."""
    max_failures: int = 0
    """How often a failed group of workers starts again from the last state; preempted nodes do not count."""
    cache_dir: str | None = None
    """Folder on every node for copies of remote shards and for image features, shared by runs; None: below the
    system's temporary folder."""
    fresh: bool = False
    """Start over where a run with other settings, or an unfinished one, is in the output folder."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_epochs", "num_workers", "patience", "checkpoint_every_steps"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("batch_size", self.batch_size, 2)
        require_at_least("max_failures", self.max_failures, 0)
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        require(
            self.batch_size % self.num_workers == 0,
            f"batch_size ({self.batch_size}) must be a multiple of num_workers ({self.num_workers})",
        )
        require(self.cpus_per_worker > 0, f"cpus_per_worker must be positive, got {self.cpus_per_worker}")
        require(
            self.system == "ecor" or (self.fit == FitConfig() and self.preset == "none"),
            f"fit and preset are of the system ecor, not of {self.system}: set {self.system}.fit",
        )

    @property
    def own_fit(self) -> FitConfig:
        """Optimiser and schedule of the system."""
        return {"ecor": self.fit, "eclip": self.eclip.fit, "lico": self.lico.fit}[self.system]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(_Addressed):
    """Captioned images to a small CLIP."""

    output: str
    """Folder of the run: `model.json`, `weights.safetensors` (both open_clip's formats), `summary.json`."""
    shards: str | None = None
    """Folder written by `ecor shard`, whose captions (`.txt`) are learned from; None: drawings, as the embedded model
    was."""
    split: str = "train"
    """Of the shards."""
    world: WorldName = "demo"
    """Drawings only: familiar things (`demo`), or invented ones in another style (`other`)."""
    model: str = "ecor-demo"
    """What to build: an open_clip model name, the path of an open_clip model config (JSON), or `ecor-demo`. The text
    tower must be CLIP's own."""
    seed: int = 0
    """Of the drawings, the first weights, the order of batches and the dropped tokens."""
    num_samples: int = 260_000
    """Images of the whole schedule, counted each time they are seen."""
    stop_after_samples: int | None = None
    """End before the schedule does: the embedded weights stopped after 192,000."""
    batch_size: int = 128
    """Images per step, over all workers: each is a negative for the others' captions."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.04
    """Share of the steps in which the learning rate rises; then it falls as a cosine."""
    patch_dropout: float = 0.5
    """Share of image tokens dropped in the first part of the schedule (arXiv:2212.00794); 0 for towers that are no
    ViT."""
    whole_images: float = 0.3
    """Share of the schedule, at its end, in which all image tokens are seen."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the towers: bf16 is faster on processors that multiply it, slower on others."""
    attribute_weight: float = 0.2
    """Drawings only: weight of the auxiliary loss that names categories and parts in view."""
    caption_noise: float = 0.02
    """Drawings only: share of captions that describe another image."""
    num_images: int = 100_000
    """Drawings only: how many there are; they come again mirrored and shifted at random."""
    num_workers: int = 1
    """Ray Train workers (ranks)."""
    cpus_per_worker: float = 1.0
    """CPUs reserved per worker; torch uses as many threads."""
    use_gpu: bool = False
    report_every_steps: int = 50
    """Steps between points of the curves and printed lines."""
    judge_every_steps: int = 500
    """Drawings only: steps between zero-shot figures on validation drawings."""
    checkpoint_every_steps: int = 200
    max_rejected: float = 0.05
    """Largest share of pictures that cannot be read; above it the stage stops."""
    max_failures: int = 0
    """How often a failed group of workers starts again from the last state; preempted nodes do not count."""
    cache_dir: str | None = None
    """Folder on every node for drawings and for copies of remote shards, shared by runs; None: below the system's
    temporary folder."""
    fresh: bool = False
    """Start over where a run with other settings, or an unfinished one, is in the output folder."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_workers", "report_every_steps", "judge_every_steps", "checkpoint_every_steps"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("max_failures", self.max_failures, 0)
        require_at_least("batch_size", self.batch_size, 2)
        for name in ("weight_decay", "attribute_weight"):
            require_at_least(name, getattr(self, name), 0)
        require_at_least("num_samples", self.num_samples, self.batch_size)
        if self.stop_after_samples is not None:
            require_at_least("stop_after_samples", self.stop_after_samples, self.batch_size)
        if self.shards is None:
            require_at_least("num_images", self.num_images, self.batch_size)
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        require(self.cpus_per_worker > 0, f"cpus_per_worker must be positive, got {self.cpus_per_worker}")
        for name in ("whole_images", "caption_noise", "max_rejected"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name} is a share between 0 and 1, got {share}")
        for name in ("warmup", "patch_dropout"):
            share = getattr(self, name)
            require(0 <= share < 1, f"{name} is a share from 0 to below 1, got {share}")
        require(
            self.batch_size % self.num_workers == 0,
            f"batch_size ({self.batch_size}) must be a multiple of num_workers ({self.num_workers})",
        )

    @property
    def num_steps(self) -> int:
        """Of the whole schedule."""
        return self.num_samples // self.batch_size

    @property
    def last_step(self) -> int:
        """Where the run ends."""
        stop = self.num_samples if self.stop_after_samples is None else self.stop_after_samples
        return min(self.num_samples, stop) // self.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig(_Addressed):
    """A checkpoint to a version of a registered model."""

    checkpoint: str
    """Folder written by `ecor train`, or its `checkpoint/`."""
    name: str = "ecor"
    """Registered model name."""
    alias: str = "candidate"
    """Alias that is set on the new version; empty: none."""
    with_backbone: bool = True
    """Pack the backbone's weights into the model, so that a cluster without a model hub can score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteConfig(_Addressed):
    """The champion alias to a version."""

    model: str = "models:/ecor@candidate"
    """Model URI of the version to promote."""
    alias: str = "champion"
    evaluation: str | None = None
    """Folder written by `ecor evaluate` for that version. Where another version has the alias, promotion is refused
    when the candidate is worse beyond the confidence interval of the difference (strict RR), or was not compared."""
    champion_evaluation: str | None = None
    """Folder of the version that has the alias, of the same images."""
    force: bool = False
    """Promote all the same; recorded as a tag on the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig(_Addressed):
    """Images to explained labels."""

    input: str
    """A split written by `ecor shard` (a folder with `manifest.json`), a folder of images, or a table with a column
    `path`."""
    output: str
    """Folder that gets one Parquet file per unit of work, `quarantine.parquet` and `manifest.json`."""
    model: str = "models:/ecor@champion"
    """Model URI (`models:/name@alias`, `models:/name/3`), or a checkpoint folder."""
    vocabulary: str | None = None
    """Another vocabulary than the model was tuned on (zero-shot transfer)."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    text: TextConfig = field(default_factory=TextConfig)
    batch_size: int = 64
    """Images per forward pass."""
    unit_size: int = 512
    """Images per unit of work of a plain folder or table."""
    num_decoders: int | None = None
    """Decoding actors; None: what the cluster's CPUs leave."""
    num_scorers: int | None = None
    """Scoring actors, with a GPU each where GPUs are used; None: one per GPU there is, or one per machine."""
    use_gpu: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    max_rejected: float = 0.05
    """Largest share of images in quarantine; above it the job stops."""
    explain: str | None = None
    """Method that shows where the evidence is (a wrong name lists them all): the rows get maps, of the category and of
    the best rationales. None: none."""
    explain_settings: tuple[str, ...] = ()
    """Of the method, as `num_masks=500` or `compat=True`; a wrong one lists them."""
    explain_top: int = 3
    """Rationales per image that get a map."""
    explain_images: EvidenceImages = "all"
    """Which images get maps: `all`, a `sample`, or the `uncertain` ones."""
    explain_sample: int = 1000
    """Of `sample`: about how many images, drawn by their keys."""
    explain_share: float = 0.1
    """Of `uncertain`: share of the images (of each part of a unit) that the model is least sure of."""
    explain_seed: int = 0
    """Of `sample`."""
    explain_projection: str | None = None
    """What the method `eclip` needs: what `ecor train --system eclip` made (a folder, or `models:/…`), or a safetensors
    file with a projection."""
    explain_lexicon: str | None = None
    """What the method `convis` needs: `demo`, a JSON file, or `wordnet:<file of words>`."""
    fresh: bool = False
    """Redo finished units, and accept an output folder made with other settings."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
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
class ExplainConfig(_Addressed):
    """Photos to overlays of where the evidence is."""

    model: str = "ecor-demo"
    """Model URI (`models:/name@alias`, `models:/name/3`), a checkpoint folder, or `ecor-demo`: the model that comes
    with the package, not tuned, on the names of its small drawn world. Also a classifier of `ecor train --system
    lico`."""
    method: str | None = None
    """How maps are made; a wrong name lists them all. None: `grad_eclip`, or with a projection `eclip`; of a
    classifier `grad_cam`."""
    output: str = "explained"
    """Folder that gets one PNG per picture."""
    vocabulary: str | None = None
    """Other names than the model's own."""
    num_rationales: int = 3
    """Most probable ones, each with a map; of a classifier: categories."""
    projection: str | None = None
    """What the method `eclip` needs: what `ecor train --system eclip` made (a folder, or `models:/…`), or a safetensors
    file with a projection."""
    lexicon: str = "demo"
    """Of the method `convis`, and of concepts: `demo`, a JSON file, or `wordnet:<file of words>`."""
    batch_size: int = 16
    """Pictures per pass."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_rationales", "batch_size"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainBenchmarkConfig(_Addressed):
    """Methods that explain to a table of what their maps are worth, on drawn scenes."""

    output: str = "explanations"
    """Folder of `explanations.csv` and `explanations.md`; text of `explanations-words.md` there opens the page."""
    model: str = "ecor-demo"
    """Model URI, checkpoint folder, or the model that comes with the package."""
    set_name: str = "demo-main"
    """Set of the drawn world, whose names the model chooses from."""
    methods: tuple[str, ...] = ()
    """Some of them; none: all. Those that lack something are left out, with a line that says what."""
    num_cases: int = 150
    """Images for rationales, and as many for categories."""
    num_checked: int = 20
    """Of them, images for the checks that make all maps anew (random weights, mirrored pictures)."""
    rise_masks: int = 400
    """Masks per image of the method `rise`."""
    projection: str | None = None
    """What the method `eclip` needs: what `ecor train --system eclip` made (a folder, or `models:/…`), or a safetensors
    file with a projection."""
    lexicon: str | None = None
    """Of the method `convis`: `demo`, a JSON file, or `wordnet:<file of words>`; None: it is left out, for it takes
    hundreds of passes per image."""
    convis_steps: int = 7
    """Of `convis`: steps between patches from one side of the picture to the other (its own default is 14)."""
    num_resamples: int = 2000
    seed: int = 3100
    """Of the images: of no other experiment here."""
    num_threads: int = 2
    quick: bool = False
    """24 images: shows in minutes that everything runs; its figures mean little."""
    only_page: bool = False
    """Make the page from the CSV that is there."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_cases", "num_checked", "rise_masks", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(_Addressed):
    """Explained labels with known truth to metrics, tables and plots."""

    predictions: tuple[str, ...]
    """Folders written by `ecor score`; several are compared side by side."""
    output: str
    names: tuple[str, ...] = ()
    """A name per folder for tables and plots; empty: folder names."""
    confidence: float = 0.95
    """Level of the bootstrap intervals."""
    num_resamples: int = 2000
    num_bins: int = 15
    """Of the reliability diagram and the expected calibration error."""
    seed: int = 0

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        require(bool(self.predictions), "name at least one folder of predictions")
        require(
            not self.names or len(self.names) == len(self.predictions),
            f"{len(self.names)} names for {len(self.predictions)} folders of predictions",
        )
        require(0 < self.confidence < 1, f"confidence lies between 0 and 1, got {self.confidence}")
        require_at_least("num_resamples", self.num_resamples, 100)
        require_at_least("num_bins", self.num_bins, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(_Addressed):
    """Explained labels to one page of HTML."""

    predictions: str
    """Folder written by `ecor score`."""
    output: str = "report.html"
    evaluation: str | None = None
    """Folder written by `ecor evaluate`: its tables go into the page."""
    beside: tuple[str, ...] = ()
    """Other labels of the same pictures (folders of `ecor score`, or Parquet files): each card tells what they say, and
    the gallery can show the pictures on which they differ."""
    beside_names: tuple[str, ...] = ()
    """What to call them; none: as their folders are called."""
    max_images: int = 200
    """Pictures in the gallery, drawn from all outcomes in equal parts."""
    thumbnail_px: int = 192
    """Longer side of a picture in the page."""
    title: str = "Explained labels"
    seed: int = 0

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        require_at_least("max_images", self.max_images, 1)
        require_at_least("thumbnail_px", self.thumbnail_px, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(_Addressed):
    """Questions to a page of tables: the ablation study on drawn scenes."""

    world: WorldName = "demo"
    """Whose sets are tuned and judged on: `demo`, or `other`, the second look. No weights come with `other`: a CLIP is
    pretrained for each pretraining seed, 0 too."""
    output: str = "study"
    """Folder, one per world, of `results.csv`, `results.md` and its plots; text of `results-words.md` there opens the
    page."""
    work: str | None = None
    """Folder of all that cells share: drawings, tuned tokens, other CLIPs; None: `work/` in the output."""
    questions: tuple[str, ...] = ()
    """Some of methods, crossed, tokens, negatives, wording, sets, transfer, growth, objects, why; none: all."""
    num_repetitions: int = 6
    """Each with images, tokens and training order of its own."""
    num_pretrainings: int = 3
    """Pretraining seeds that the repetitions go round; 0 of the world `demo` is the model that comes with the
    package."""
    pretraining_samples: int = 96_000
    """Images seen in pretraining the other ones: half of the shipped model's."""
    quick: bool = False
    """Two small sets, two repetitions, two epochs: shows that everything runs, in minutes; its figures mean nothing."""
    only_page: bool = False
    """Make the page from the CSV that is there."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_repetitions", "num_pretrainings", "pretraining_samples"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudiesConfig(_Addressed):
    """Seeds to tables of what ECLIP and LICO are good for on drawn scenes."""

    output: str = "explain-studies"
    """Folder of `results.csv`, `results.md`, and `work/`, which arms share."""
    studies: tuple[StudyName, ...] = ()
    """Some of `eclip` (poolings), `lico` (a classifier beside language), `prompts` (tuned with manifold matching);
    none: all."""
    num_seeds: int = 5
    """Each with drawings and a start of its own."""
    num_threads: int = 2
    quick: bool = False
    """Two seeds, few drawings, two epochs: shows that everything runs, in minutes; its figures mean nothing."""
    only_page: bool = False
    """Make the page from the CSV that is there."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_seeds", "num_threads"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityConfig(_Addressed):
    """Weights of the small CLIP to figures of what it knows of a drawn world."""

    world: WorldName = "demo"
    """Of familiar things (`demo`), or of invented ones in another style (`other`), with which no weights come."""
    weights: str | None = None
    """Safetensors of the model `ecor-demo`; None: those that come with the package."""
    sets: tuple[str, ...] = ()
    """Of the world; none: all."""
    num_train: int = 1500
    """Images for the linear probe."""
    num_images: int = 600
    """Images to choose templates and penalties by, and as many to judge by."""
    seed: int = 1900
    """Of the images: of no other experiment here."""
    num_threads: int = 2

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_train", "num_images"):
            require_at_least(name, getattr(self, name), 50)
        require_at_least("num_threads", self.num_threads, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig(_Addressed):
    """Concepts of the drawn world's own lexicon to tables of how well they tell the unknown, and find things."""

    output: str = "concepts"
    """Folder of `concepts.csv` and `concepts.md`; text of `concepts-words.md` there opens the page."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Whose features are compared with definitions: it is not tuned on anything."""
    num_train: int = 400
    """Images of known categories per pair of concepts, for the linear probe; a quarter as many choose its penalty."""
    num_images: int = 300
    """Images of known categories per pair, and as many of unknown ones."""
    num_found: int = 60
    """Images in which named categories are to be found, and as many for those that pretraining never named."""
    box_rule: Literal["wsol", "convis"] = "wsol"
    """How boxes come from maps and are judged: as in the benchmark of arXiv:2007.04178, or as ConVis does it."""
    num_resamples: int = 2000
    """Of the bootstrap over images."""
    seed: int = 1960
    """Of the images: of no other experiment here."""
    num_threads: int = 2
    quick: bool = False
    """Few images and patches: shows that everything runs, in a minute; its figures mean nothing."""

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_train", "num_images", "num_found", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(_Addressed):
    """The whole job on drawn scenes."""

    output: str = "demo-run"
    """Folder of everything the demo makes, MLflow's file included."""
    num_train: int = 1200
    num_validation: int = 400
    """Images drawn per split."""
    seed: int = 0
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        _Addressed.__post_init__(self)
        for name in ("num_train", "num_validation"):
            require_at_least(name, getattr(self, name), 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """A whole pipeline: what one TOML file says. Folders that are left out lie below `output`."""

    output: str
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
