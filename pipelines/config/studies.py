"""Settings of the studies on drawn scenes: one frozen dataclass per command.

As in `pipelines.config.stages`, nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Literal

from ecor.config import BackboneConfig, LocalPath, ModelAddress, StoreAddress, WorldName, require_at_least
from pipelines.config.addresses import CheckedSettings

StudyName = Literal["eclip", "lico", "prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainBenchmarkConfig(CheckedSettings):
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
        CheckedSettings.__post_init__(self)
        for name in ("num_cases", "num_checked", "rise_masks", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig(CheckedSettings):
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
        CheckedSettings.__post_init__(self)
        for name in ("num_repetitions", "num_pretrainings", "pretraining_samples"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudiesConfig(CheckedSettings):
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
        CheckedSettings.__post_init__(self)
        for name in ("num_seeds", "num_threads"):
            require_at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityConfig(CheckedSettings):
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
        CheckedSettings.__post_init__(self)
        for name in ("num_train", "num_images"):
            require_at_least(name, getattr(self, name), 50)
        require_at_least("num_threads", self.num_threads, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig(CheckedSettings):
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
        CheckedSettings.__post_init__(self)
        for name in ("num_train", "num_images", "num_found", "num_threads"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("num_resamples", self.num_resamples, 100)
