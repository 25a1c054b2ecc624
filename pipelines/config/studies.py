"""Settings of the studies on drawn scenes: one frozen dataclass per command.

Like `pipelines.config.stages`, this module imports nothing heavy.
"""

from dataclasses import dataclass, field
from typing import Literal

from ecor.config.address_types import LocalPath, ModelAddress, StoreAddress
from ecor.config.checks import require, require_at_least
from ecor.config.choices import WorldName
from ecor.config.model import BackboneConfig
from pipelines.config.addresses import CheckedSettings
from pipelines.config.infrastructure import ClusterConfig

StudyName = Literal["eclip", "lico", "prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainBenchmarkConfig(CheckedSettings):
    """Settings of `ecor explain-benchmark`."""

    output: LocalPath = "explanations"
    """Folder of `explanations.csv` and `explanations.md`; the text of `explanations-words.md` is its introduction."""
    model: ModelAddress = "ecor-demo"
    """Model URI, checkpoint folder, or the model that comes with the package."""
    set_name: str = "demo-main"
    """Set of the drawn world, whose names the model chooses from."""
    methods: tuple[str, ...] = ()
    """Methods to measure; none: all. A method whose requirement is missing is skipped, with a message."""
    num_cases: int = 150
    """Images for rationales, and the same number for categories."""
    num_checked: int = 20
    """Images used for the checks that recompute all maps (random weights, mirrored pictures)."""
    rise_masks: int = 400
    """Masks per image of the method `rise`."""
    projection: StoreAddress | None = None
    """Projection for the method `eclip`: output of `ecor train --system eclip` (a folder, or `models:/…`), or a
    safetensors file."""
    lexicon: str | None = "demo"
    """Lexicon of the method `convis`: `demo`, a JSON file, or `wordnet:<file of words>`; None: skip the method, which
    takes dozens of passes per image."""
    convis_steps: int = 7
    """Steps of `convis` from one side of the picture to the other (default of the method: 14)."""
    num_resamples: int = 2000
    """Resamples of the bootstrap over images."""
    seed: int = 3100
    """Seed of the images; no other experiment uses it."""
    num_threads: int = 2
    """Threads of torch."""
    quick: bool = False
    """24 images: a test run of some minutes; its figures mean little."""
    only_page: bool = False
    """Make the page from the existing CSV."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_cases", "num_checked", "rise_masks", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(CheckedSettings):
    """Settings of `ecor ablate`."""

    world: WorldName = "demo"
    """World whose sets are used: `demo`, or `other`, in another style. The package has no weights for `other`: a CLIP
    is pretrained for each pretraining seed, also for 0."""
    output: LocalPath = "study"
    """Folder, one per world, of `results.csv`, `results.md` and its plots; the text of `results-words.md` is its
    introduction. For the question `shipped`: `shipped.csv`, `shipped.md`, `shipped-words.md`."""
    work: LocalPath | None = None
    """Folder of all that cells share: drawings, tuned tokens, other CLIPs; None: `work/` in the output."""
    questions: tuple[str, ...] = ()
    """Questions to answer: methods, crossed, tokens, negatives, wording, sets, transfer, growth, objects, why, pooled,
    shipped; none: all but the last two. `pooled` is not the paper's; `shipped` asks every method, also `pooled`, with
    the shipped visual tokens, and has a grid and page of its own. It is asked alone or with crossed, transfer,
    growth and objects, which are then asked of its tokens."""
    roles: tuple[str, ...] = ()
    """Roles of the sets to tune on, as `small`; none: small and main for `shipped`, else all sets."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to choose from on validation images, per method; none: the grid of the question. With one, every
    method has it, and nothing is chosen."""
    num_repetitions: int = 6
    """Repetitions, each with its own images, initial tokens and training order."""
    num_pretrainings: int = 3
    """Pretraining seeds, which the repetitions use in turn; seed 0 of the world `demo` is the embedded model."""
    pretraining_samples: int = 96_000
    """Images seen in the pretraining of the other seeds: half of those of the embedded model."""
    pretraining_images: int = 100_000
    """Drawings that are made for it, and repeated."""
    pretraining_precision: Literal["bf16", "fp32"] = "bf16"
    """Of its towers. fp32 is many times faster on processors without bf16 instructions."""
    quick: bool = False
    """Two small sets, two repetitions, two epochs: a test run of some minutes; its figures mean nothing."""
    only_page: bool = False
    """Make the page from the existing CSV."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_repetitions", "num_pretrainings", "pretraining_samples", "pretraining_images"):
            require_at_least(name, getattr(self, name), 1)
        for rate in self.learning_rates:
            require(rate > 0, f"learning_rates must be positive, got {rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudiesConfig(CheckedSettings):
    """Settings of `ecor explain-studies`."""

    output: LocalPath = "explain-studies"
    """Folder of `explain-studies.csv` and `explain-studies.md`; the text of `explain-studies-words.md` is its
    introduction."""
    work: LocalPath | None = None
    """Folder shared by all arms, for drawings and features; None: `work/` in the output."""
    studies: tuple[StudyName, ...] = ()
    """Studies to run: `eclip` (poolings), `lico` (a classifier with language supervision), `prompts` (tuned with
    manifold matching); none: all."""
    num_seeds: int = 5
    """Seeds, each with its own drawings and initial weights."""
    num_threads: int = 2
    """Threads of torch."""
    quick: bool = False
    """Two seeds, few drawings, two epochs: a test run of some minutes; its figures mean nothing."""
    only_page: bool = False
    """Make the page from the existing CSV."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_seeds", "num_threads"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityConfig(CheckedSettings):
    """Settings of `ecor validity`."""

    world: WorldName = "demo"
    """Familiar things (`demo`), or invented ones in another style (`other`), for which the package has no weights."""
    weights: LocalPath | None = None
    """Safetensors of the model `ecor-demo`; None: the embedded weights."""
    sets: tuple[str, ...] = ()
    """Sets of the world; none: all."""
    num_train: int = 1500
    """Images for the linear probe."""
    num_images: int = 600
    """Images to choose templates and penalties on, and the same number to evaluate on."""
    seed: int = 1900
    """Seed of the images; no other experiment uses it."""
    num_threads: int = 2
    """Threads of torch."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_train", "num_images"):
            require_at_least(name, getattr(self, name), 50)
        require_at_least("num_threads", self.num_threads, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig(CheckedSettings):
    """Settings of `ecor concepts`."""

    output: LocalPath = "concepts"
    """Folder of `concepts.csv` and `concepts.md`; the text of `concepts-words.md` is its introduction."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Model whose image features are compared with definitions, without any tuning."""
    num_train: int = 400
    """Images of known categories per pair of concepts, to train the linear probe; a quarter of this number selects its
    penalty."""
    num_images: int = 300
    """Test images of known categories per pair, and the same number of unknown ones."""
    num_found: int = 60
    """Images to locate categories that pretraining named, and the same number for those that it never named."""
    box_rule: Literal["wsol", "convis"] = "wsol"
    """Rule for boxes from maps: as in the benchmark of arXiv:2007.04178, or as in ConVis."""
    num_resamples: int = 2000
    """Resamples of the bootstrap over images."""
    seed: int = 1960
    """Seed of the images; no other experiment uses it."""
    num_threads: int = 2
    """Threads of torch."""
    quick: bool = False
    """Few images and patches: a test run of a minute; its figures mean nothing."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_train", "num_images", "num_found", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(CheckedSettings):
    """Settings of `ecor demo`."""

    output: LocalPath = "demo-run"
    """Folder of all output of the demo, with MLflow's database."""
    num_train: int = 1200
    """Images drawn for training."""
    num_validation: int = 400
    """Images drawn for validation: they choose templates, epochs and temperatures."""
    num_test: int = 1000
    """Images drawn to be labelled and compared: they choose nothing."""
    seed: int = 0
    """Seed of the drawings and of training."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("num_train", "num_validation", "num_test"):
            require_at_least(name, getattr(self, name), 50)
