"""Settings of `ecor words` and `ecor learn`: names to begin with, what corrections teach, which images to ask for next.

Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from ecor.config.address_types import ModelAddress, StoreAddress
from ecor.config.checks import require, require_at_least
from ecor.config.drafting import DraftConfig, PruningConfig
from ecor.config.model import BackboneConfig
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT
from pipelines.config.stages import DeviceName

StrategyName = Literal["random", "margin", "disagreement", "wrong_reason", "coverage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConfig(CheckedSettings):
    """Which images to review next."""

    number: int = 100
    """Images on the list."""
    strategy: StrategyName = "random"
    """`random`; `margin`, the two best categories are nearly as probable; `disagreement`, other labels (`others`)
    differ; `wrong_reason`, the category is probably right and the reason wrong, as in earlier corrections of the same
    reason; `coverage`, pairs of category and rationale that were reviewed least."""
    others: tuple[StoreAddress, ...] = ()
    """For `disagreement`: folders of other labels of the same images."""
    seen: tuple[StoreAddress, ...] = ()
    """Decision sets about earlier labels of the same images: what was reviewed there is not asked for again."""
    seed: int = 0
    """Seed of `random`, and of the order of images that a strategy holds for equal."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require_at_least("number", self.number, 1)
        require(
            bool(self.others) == (self.strategy == "disagreement"),
            "others names the other labels for the strategy disagreement: "
            + ("leave it out" if self.others else "name at least one folder of labels"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig(CheckedSettings):
    """Settings of `ecor learn`."""

    labels: tyro.conf.Positional[StoreAddress] = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor score`."""
    corrections: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of decisions about these labels (a decision set). None: only the list of images to review is written."""
    output: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of shards, run, labels, evaluations and the list; None: beside the labels, with `-learned` at the end of
    its name."""
    reviewer: str | None = None
    """Take the decisions of this reviewer alone. None: of all, without the images on which they differ."""
    model: ModelAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Where the model of the labels is now (`models:/name/3`, or a checkpoint folder); None: as the labels say."""
    vocabulary: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Vocabulary that the labels were made with, if it is not the model's own."""
    source: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Where the split of shards that was labelled lies now; None: as the labels say."""
    held_out: float = 0.25
    """Share of the reviewed images (by the hash of their content) that only evaluates."""
    validation: float = 0.15
    """Share of the reviewed images that chooses the epoch and fits the temperatures."""
    num_epochs: int = 10
    """Largest number of passes over the reviewed images."""
    batch_size: int = 16
    """Images per step."""
    learning_rate: float = 1e-3
    """Peak learning rate, after a warm-up of 2 steps."""
    seed: int = 0
    """Seed of the order of images."""
    name: str | None = None
    """Registered name of the new model; None: that of the labels' model, or `ecor` if it is a plain checkpoint."""
    alias: str = "champion"
    """Alias that the new model gets, unless it is worse than the model that has it."""
    cpus_per_worker: float = field(default=1.0, metadata=NOT_IN_OUTPUT)
    """CPUs for tuning; torch uses as many threads."""
    use_gpu: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Tune and label on a GPU."""
    max_rejected: float = field(default=0.05, metadata=NOT_IN_OUTPUT)
    """Largest share of reviewed images that cannot be read; above it the command stops."""
    ask: AskConfig = field(default_factory=AskConfig, metadata=NOT_IN_OUTPUT)

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        for name in ("held_out", "validation"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} is a share between 0 and 1, both excluded, got {value}")
        require(
            self.held_out + self.validation < 1,
            f"held_out {self.held_out} and validation {self.validation} leave no image to learn from: give less",
        )
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        require(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        require_at_least("num_epochs", self.num_epochs, 1)
        require_at_least("batch_size", self.batch_size, 2)
        require(self.cpus_per_worker > 0, f"cpus_per_worker must be positive, got {self.cpus_per_worker}")
        require(self.reviewer is None or bool(self.reviewer.strip()), "reviewer needs a name, got an empty one")

    @property
    def folder(self) -> str:
        """Where the command's files go."""
        return self.output or f"{self.labels.rstrip('/')}-learned"

    @property
    def split_shares(self) -> dict[str, float]:
        """Shares of the splits of reviewed images; `test` only evaluates."""
        train = 1 - self.held_out - self.validation
        return {"train": train, "validation": self.validation, "test": self.held_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsConfig(CheckedSettings):
    """Settings of `ecor words`."""

    categories: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """A text file with the name of a category on each line, or `name: synset` (`crane: crane.n.04`) where WordNet knows
    several meanings."""
    output: StoreAddress = field(default="words", metadata=NOT_IN_OUTPUT)
    """Folder of the result: `vocabulary.json`, a table of all candidates, a page."""
    images: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Images that the rationales are measured on: as `--input` of `ecor score`. None: texts alone decide."""
    captions: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Sentences to draft from: a text file, one a line; a table (CSV, JSON Lines, Parquet); JSON, or COCO captions."""
    caption_column: str = "caption"
    """Column of the table, or key of the JSON objects, that holds the sentence."""
    descriptors: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Rationales to choose from: {category: [rationale, ...]} as JSON, or a vocabulary as CSV or Parquet."""
    wordnet: bool = True
    """Draft from WordNet's parts and definitions."""
    wordnet_folder: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of WordNet's database; None: $WNSEARCHDIR, $WNHOME/dict, or that of Debian's package wordnet-base."""
    model: ModelAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Model that measures the images: `models:/name@alias`, `models:/name/3`, or a checkpoint folder. None: `backbone`,
    not tuned."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig, metadata=NOT_IN_OUTPUT)
    """Without a model: the CLIP that measures the images. The default knows the drawn world only."""
    device: DeviceName = field(default="cpu", metadata=NOT_IN_OUTPUT)
    """Where the model runs."""
    batch_size: int = field(default=64, metadata=NOT_IN_OUTPUT)
    """Images per pass."""
    max_images: int = 5000
    """Most images that are measured, evenly spaced over all that are listed."""
    num_pictures: int = 10
    """Pictures for each rationale on the page, the most similar first."""
    max_pictures: int = 4000
    """Most pictures on the page; the table has all rationales."""
    thumbnail_px: int = 112
    """Longer side of a picture on the page, in pixels."""
    draft: DraftConfig = field(default_factory=DraftConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(
            self.wordnet or self.captions is not None or self.descriptors is not None,
            "there is nothing to draft from: give --captions or --descriptors, or leave --no-wordnet out",
        )
        require(
            self.model is None or self.backbone == BackboneConfig(),
            f"--model {self.model} and --backbone.name {self.backbone.name}: name one, a model has its own",
        )
        require(bool(self.caption_column.strip()), "caption_column needs a name, got an empty one")
        for name, least in (("batch_size", 1), ("max_images", 2), ("num_pictures", 0), ("max_pictures", 0)):
            require_at_least(name, getattr(self, name), least)
        require_at_least("thumbnail_px", self.thumbnail_px, 16)

    @property
    def model_name(self) -> str:
        """What the images are measured with."""
        return self.model or self.backbone.name
