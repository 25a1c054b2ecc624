"""Settings of what is measured and pretrained beside the pipeline in, checked settings out: a dataclass per command.

As in `pipelines.config.stages`, nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Literal

from ecor.config import BackboneConfig, LocalPath, ModelAddress, StoreAddress, WorldName, require, require_at_least
from pipelines.config.addresses import Addressed
from pipelines.config.identity import NOT_IN_OUTPUT

StudyName = Literal["eclip", "lico", "prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(Addressed):
    """Captioned images to a small CLIP."""

    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder of the run: `model.json`, `weights.safetensors` (both open_clip's formats), `summary.json`."""
    shards: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor shard`, whose captions (`.txt`) are learned from; None: drawings, as the embedded model
    was."""
    split: str = "train"
    """Of the shards."""
    world: WorldName = field(default="demo", metadata=NOT_IN_OUTPUT)
    """Drawings only: familiar things (`demo`), or invented ones in another style (`other`)."""
    model: StoreAddress = field(default="ecor-demo", metadata=NOT_IN_OUTPUT)
    """What to build: an open_clip model name, the path or address of an open_clip model config (JSON), or
    `ecor-demo`. The text tower must be CLIP's own."""
    seed: int = 0
    """Of the drawings, the first weights, the order of batches and the dropped tokens."""
    num_samples: int = 260_000
    """Images of the whole schedule, counted each time they are seen."""
    stop_after_samples: int | None = None
    """End before the schedule does: the embedded weights stopped after 192,000."""
    batch_size: int = 128
    """Images per step, over all workers: each is a negative for the others' captions."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak."""
    weight_decay: float = 0.05
    """Of AdamW."""
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
    num_workers: int = field(default=1, metadata=NOT_IN_OUTPUT)
    """Ray Train workers (ranks)."""
    cpus_per_worker: float = field(default=1.0, metadata=NOT_IN_OUTPUT)
    """CPUs reserved per worker; torch uses as many threads."""
    use_gpu: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """A GPU per worker (nccl); otherwise CPUs (gloo)."""
    report_every_steps: int = field(default=50, metadata=NOT_IN_OUTPUT)
    """Steps between points of the curves and printed lines."""
    judge_every_steps: int = field(default=500, metadata=NOT_IN_OUTPUT)
    """Drawings only: steps between zero-shot figures on validation drawings."""
    checkpoint_every_steps: int = field(default=200, metadata=NOT_IN_OUTPUT)
    """Steps between saved states, which an interrupted run goes on from."""
    max_rejected: float = 0.05
    """Largest share of pictures that cannot be read; above it the stage stops."""
    max_failures: int = field(default=0, metadata=NOT_IN_OUTPUT)
    """How often a failed group of workers starts again from the last state; preempted nodes do not count."""
    cache_dir: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder on every node for drawings and for copies of remote shards, shared by runs; None: below the system's
    temporary folder."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Start over where a run with other settings, or an unfinished one, is in the output folder."""

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
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
class ExplainBenchmarkConfig(Addressed):
    """Methods that explain to a table of what their maps are worth, on drawn scenes."""

    output: LocalPath = "explanations"
    """Folder of `explanations.csv` and `explanations.md`; text of `explanations-words.md` there opens the page."""
    model: ModelAddress = "ecor-demo"
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
    projection: StoreAddress | None = None
    """What the method `eclip` needs: what `ecor train --system eclip` made (a folder, or `models:/…`), or a safetensors
    file with a projection."""
    lexicon: str | None = "demo"
    """Of the method `convis`: `demo`, a JSON file, or `wordnet:<file of words>`; None: it is left out, for it takes
    dozens of passes per image."""
    convis_steps: int = 7
    """Of `convis`: steps between patches from one side of the picture to the other (its own default is 14)."""
    num_resamples: int = 2000
    """Of the bootstrap over images."""
    seed: int = 3100
    """Of the images: of no other experiment here."""
    num_threads: int = 2
    """Of torch."""
    quick: bool = False
    """24 images: shows in minutes that everything runs; its figures mean little."""
    only_page: bool = False
    """Make the page from the CSV that is there."""

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
        for name in ("num_cases", "num_checked", "rise_masks", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(Addressed):
    """Questions to a page of tables: the ablation study on drawn scenes."""

    world: WorldName = "demo"
    """Whose sets are tuned and judged on: `demo`, or `other`, the second look. No weights come with `other`: a CLIP is
    pretrained for each pretraining seed, 0 too."""
    output: LocalPath = "study"
    """Folder, one per world, of `results.csv`, `results.md` and its plots; text of `results-words.md` there opens the
    page."""
    work: LocalPath | None = None
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
        Addressed.__post_init__(self)
        for name in ("num_repetitions", "num_pretrainings", "pretraining_samples"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudiesConfig(Addressed):
    """Seeds to tables of what ECLIP and LICO are good for on drawn scenes."""

    output: LocalPath = "explain-studies"
    """Folder of `explain-studies.csv` and `explain-studies.md`; text of `explain-studies-words.md` there opens the
    page."""
    work: LocalPath | None = None
    """Folder of all that arms share: drawings, features; None: `work/` in the output."""
    studies: tuple[StudyName, ...] = ()
    """Some of `eclip` (poolings), `lico` (a classifier beside language), `prompts` (tuned with manifold matching);
    none: all."""
    num_seeds: int = 5
    """Each with drawings and a start of its own."""
    num_threads: int = 2
    """Of torch."""
    quick: bool = False
    """Two seeds, few drawings, two epochs: shows that everything runs, in minutes; its figures mean nothing."""
    only_page: bool = False
    """Make the page from the CSV that is there."""

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
        for name in ("num_seeds", "num_threads"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityConfig(Addressed):
    """Weights of the small CLIP to figures of what it knows of a drawn world."""

    world: WorldName = "demo"
    """Of familiar things (`demo`), or of invented ones in another style (`other`), with which no weights come."""
    weights: LocalPath | None = None
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
    """Of torch."""

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
        for name in ("num_train", "num_images"):
            require_at_least(name, getattr(self, name), 50)
        require_at_least("num_threads", self.num_threads, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig(Addressed):
    """Concepts of the drawn world's own lexicon to tables of how well they tell the unknown, and find things."""

    output: LocalPath = "concepts"
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
    """Of torch."""
    quick: bool = False
    """Few images and patches: shows that everything runs, in a minute; its figures mean nothing."""

    def __post_init__(self) -> None:
        Addressed.__post_init__(self)
        for name in ("num_train", "num_images", "num_found", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)
