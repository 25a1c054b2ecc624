"""Settings of the stages that train: prompts and other systems, and pretraining of a small CLIP."""

from dataclasses import dataclass, field
from typing import Literal

from ecor.config.address_types import ModelAddress, StoreAddress
from ecor.config.checks import require, require_at_least
from ecor.config.choices import SystemName, WorldName
from ecor.config.model import BackboneConfig, PromptConfig, TemplateConfig, TextConfig
from ecor.config.systems import EclipConfig, LicoConfig
from ecor.config.training import FitConfig, ObjectiveConfig
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT, shapes_output_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(CheckedSettings):
    """Settings of `ecor train`."""

    shards: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor shard` (holds `train/manifest.json`, `validation/manifest.json`)."""
    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder of the run: `checkpoint/`, `summary.json`."""
    system: SystemName = field(default="ecor", metadata=shapes_output_of("eclip", "lico"))
    """What to train: `ecor`, prompt tokens for labels with reasons; `eclip`, a projection of patches for heat maps;
    `lico`, an image classifier with language supervision."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig, metadata=shapes_output_of("ecor"))
    templates: TemplateConfig = field(default_factory=TemplateConfig, metadata=shapes_output_of("ecor", "eclip"))
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig, metadata=shapes_output_of("ecor"))
    fit: FitConfig = field(default_factory=FitConfig, metadata=shapes_output_of("ecor"))
    """Optimizer and schedule of `ecor`, like `prompts`, `objective`, `preset` and `calibrate`; `eclip` and `lico` have
    their own."""
    eclip: EclipConfig = field(default_factory=EclipConfig, metadata=shapes_output_of("eclip"))
    lico: LicoConfig = field(default_factory=LicoConfig, metadata=shapes_output_of("lico"))
    text: TextConfig = field(default_factory=TextConfig, metadata=NOT_IN_OUTPUT)
    preset: Literal["none", "dror"] = field(default="none", metadata=shapes_output_of("ecor"))
    """`dror` replaces `fit` and `objective` by DROR's recipe (SGD, one softmax over pairs)."""
    init_from: ModelAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """`ecor` only: a model (`models:/name@alias`, `models:/name/3`, or a checkpoint folder) whose prompt tokens are the
    first ones. It needs the same backbone, and the same numbers of tokens. None: random tokens."""
    num_epochs: int = 10
    """Largest number of passes over the training images; see `patience`."""
    batch_size: int = 64
    """Images per step, over all workers."""
    num_workers: int = field(default=1, metadata=NOT_IN_OUTPUT)
    """Ray Train workers (ranks)."""
    cpus_per_worker: float = field(default=1.0, metadata=NOT_IN_OUTPUT)
    """CPUs reserved per worker; torch uses as many threads."""
    use_gpu: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """A GPU per worker (nccl); otherwise CPUs (gloo)."""
    seed: int = 0
    """Seed of the initial tokens, the order of images and the sampled negatives."""
    validation_split: str = "validation"
    """Split of the shards on which the best epoch is chosen and temperatures are fitted."""
    patience: int = 5
    """Epochs without a better validation loss before stopping."""
    checkpoint_every_steps: int = field(default=200, metadata=NOT_IN_OUTPUT)
    """Steps between saved states, from which an interrupted run resumes."""
    calibrate: bool = field(default=True, metadata=shapes_output_of("ecor"))
    """Fit one temperature per factor on validation images after training."""
    max_rejected: float = 0.05
    """Largest share of unreadable images; above it the stage fails."""
    max_failures: int = field(default=0, metadata=NOT_IN_OUTPUT)
    """Restarts of a failed group of workers from the last saved state; preempted nodes do not count."""
    cache_dir: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder on every node for copies of remote shards and for image features, shared by runs; None: below the
    system's temporary folder."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Start over, also if the output folder holds an unfinished run or one of other settings."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
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

        require(
            self.init_from is None or self.system == "ecor",
            f"init_from gives prompt tokens, which {self.system} does not learn: leave it out",
        )

    @property
    def own_fit(self) -> FitConfig:
        """Optimizer and schedule of the selected system."""
        return {"ecor": self.fit, "eclip": self.eclip.fit, "lico": self.lico.fit}[self.system]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(CheckedSettings):
    """Settings of `ecor pretrain`."""

    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder of the run: `model.json`, `weights.safetensors` (both open_clip's formats), `summary.json`."""
    shards: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor shard` with captions (`.txt`); None: drawings, as for the embedded model."""
    split: str = "train"
    """Split of the shards."""
    world: WorldName = field(default="demo", metadata=NOT_IN_OUTPUT)
    """Drawings only: familiar things (`demo`), or invented ones in another style (`other`)."""
    model: StoreAddress = field(default="ecor-demo", metadata=NOT_IN_OUTPUT)
    """Architecture: an open_clip model name, the path or address of an open_clip model config (JSON), or `ecor-demo`.
    The text tower must be CLIP's own."""
    seed: int = 0
    """Seed of the drawings, the initial weights, the order of batches and the dropped tokens."""
    num_samples: int = 260_000
    """Images of the whole schedule; an image counts each time it is seen."""
    stop_after_samples: int | None = None
    """Stop before the end of the schedule: the embedded weights stopped after 192,000."""
    batch_size: int = 128
    """Images per step, over all workers: each is a negative for the others' captions."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    warmup: float = 0.04
    """Share of the steps with linear warmup of the learning rate; a cosine decay follows."""
    patch_dropout: float = 0.5
    """Share of image tokens dropped in the first part of the schedule (arXiv:2212.00794); must be 0 for towers other
    than ViT."""
    whole_images: float = 0.3
    """Share of the schedule, at its end, without dropped tokens."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the towers: bf16 is faster on processors with bf16 instructions, slower on others."""
    attribute_weight: float = 0.2
    """Drawings only: weight of the auxiliary loss that names categories and parts in view."""
    caption_noise: float = 0.02
    """Drawings only: share of captions that describe another image."""
    num_images: int = 100_000
    """Drawings only: number of drawings; they are repeated, mirrored and shifted at random."""
    num_workers: int = field(default=1, metadata=NOT_IN_OUTPUT)
    """Ray Train workers (ranks)."""
    cpus_per_worker: float = field(default=1.0, metadata=NOT_IN_OUTPUT)
    """CPUs reserved per worker; torch uses as many threads."""
    use_gpu: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """A GPU per worker (nccl); otherwise CPUs (gloo)."""
    report_every_steps: int = field(default=50, metadata=NOT_IN_OUTPUT)
    """Steps between points of the curves and printed lines."""
    judge_every_steps: int = field(default=500, metadata=NOT_IN_OUTPUT)
    """Drawings only: steps between zero-shot evaluations on validation drawings."""
    checkpoint_every_steps: int = field(default=200, metadata=NOT_IN_OUTPUT)
    """Steps between saved states, from which an interrupted run resumes."""
    max_rejected: float = 0.05
    """Largest share of unreadable images; above it the stage fails."""
    max_failures: int = field(default=0, metadata=NOT_IN_OUTPUT)
    """Restarts of a failed group of workers from the last saved state; preempted nodes do not count."""
    cache_dir: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder on every node for drawings and for copies of remote shards, shared by runs; None: below the system's
    temporary folder."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Start over, also if the output folder holds an unfinished run or one of other settings."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
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
        """Steps of the whole schedule."""
        return self.num_samples // self.batch_size

    @property
    def last_step(self) -> int:
        """Last step of the run."""
        stop = self.num_samples if self.stop_after_samples is None else self.stop_after_samples
        return min(self.num_samples, stop) // self.batch_size
