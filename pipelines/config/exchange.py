"""Settings of the commands that hand labels to other tools and take corrections back: `ecor export`, `ecor import`.

Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ecor.config.address_types import StoreAddress
from ecor.config.checks import require
from pipelines.config.addresses import CheckedSettings
from pipelines.config.identity import NOT_IN_OUTPUT

ExportFormat = Literal[
    "label-studio", "fiftyone", "coco", "cvat", "imagefolder", "huggingface", "webdataset", "csv", "jsonl"
]
ImportFormat = Literal["label-studio", "fiftyone", "coco", "cvat", "csv", "jsonl", "parquet"]
ImageMode = Literal["path", "link", "copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig(CheckedSettings):
    """Settings of `ecor export`."""

    labels: tyro.conf.Positional[StoreAddress] = field(metadata=NOT_IN_OUTPUT)
    """Folder written by `ecor score`."""
    to: ExportFormat
    """Format of the tool that gets the labels."""
    output: StoreAddress = field(metadata=NOT_IN_OUTPUT)
    """Folder for the export."""
    images: ImageMode | None = None
    """`path`: the export names where the images lie. `link`: it holds links to them (local files only). `copy`: it
    holds their bytes. None: `copy` for cvat, imagefolder and webdataset, and for images that lie in shards (csv and
    jsonl aside); else `path`."""
    image_root: StoreAddress | None = None
    """Folder that relative sources of images are in, for `path` and `link`. None: as the labels name them."""
    audit: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of `ecor audit`: the export gets its decision on each label (accept, review or reject)."""
    reviewed: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Folder of decisions of reviewers: the export gets them."""
    only: Literal["accept", "review", "reject"] | None = None
    """Export only the labels with this decision of the audit. None: all."""
    vocabulary: StoreAddress | None = field(default=None, metadata=NOT_IN_OUTPUT)
    """Vocabulary of the labels: its names are what people can choose from. None: the one beside the shards; where
    there is none, the names in the labels."""
    maps: bool = True
    """Export heat maps, where the labels have them and the format can hold them."""
    max_rejected: float = field(default=0.05, metadata=NOT_IN_OUTPUT)
    """Largest share (0 to 1) of images that cannot be read; above it the export stops."""
    fresh: bool = field(default=False, metadata=NOT_IN_OUTPUT)
    """Replace a finished export with other settings or of other labels."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(0 <= self.max_rejected <= 1, f"max_rejected is a share between 0 and 1, got {self.max_rejected}")
        require(self.only is None or self.audit is not None, f"only {self.only} needs the decisions of an --audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig(CheckedSettings):
    """Settings of `ecor import`."""

    labels: tyro.conf.Positional[StoreAddress]
    """Folder of the labels that people judged, written by `ecor score`."""
    source: Annotated[ImportFormat, tyro.conf.arg(name="from")]
    """Format of the tool that they come from."""
    input: StoreAddress
    """What the tool exported: a file (of cvat and coco also a zip archive), or for fiftyone a folder."""
    output: StoreAddress | None = None
    """Folder of decisions, on a local disk. None: beside the labels, with `-reviewed` at the end of its name."""
    reviewer: str | None = None
    """Name of the person, where the tool's export names none."""
    unchanged: Literal["ignore", "accept"] = "ignore"
    """What a label means that came back unchanged and without a verdict, from a tool that does not say whether a
    person has seen it (all but label-studio): `ignore`: nothing; `accept`: a person has accepted it."""
    vocabulary: StoreAddress | None = None
    """Vocabulary of the labels: names that it does not have are marked as new. None: the one beside the shards; where
    there is none, the names in the labels."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        require(self.reviewer is None or bool(self.reviewer.strip()), "reviewer must be a name, got an empty one")

    @property
    def folder(self) -> str:
        """Where the decisions go."""
        return self.output or f"{self.labels.rstrip('/')}-reviewed"
