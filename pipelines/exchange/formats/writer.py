"""What every export format is made of: the facts that it gets, and the writer that it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipelines.config.exchange import ImageMode
from pipelines.exchange.exported_label import ExportedLabel
from pipelines.exchange.image_placement import FolderOf, ImageNeeds, spread_folder
from pipelines.exchange.known_names import KnownNames


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """What a writer knows before the first label."""

    folder: Path
    """Local folder of the unfinished export."""
    address: str
    """Where the finished export will lie: an absolute path, or an address in a store."""
    names: KnownNames
    num_labels: int
    """Of the job; the export may hold fewer."""
    labels_digest: str
    with_maps: bool
    """Write heat maps, if the format can hold them and a label has them."""


class LabelWriter(Protocol):
    """Writes the files of one export; few labels are in memory at a time."""

    def add(self, labels: Sequence[ExportedLabel]) -> None:
        """Append some labels."""

    def finish(self) -> None:
        """Complete and close all files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormatSpec:
    """A format of `ecor export`."""

    write: Callable[[ExportContext], LabelWriter]
    modes: tuple[ImageMode, ...] = ("path", "link", "copy")
    """Ways of placing images that it can hold."""
    copies: bool = False
    """Whether images are copied unless settings say otherwise."""
    opens_images: bool = True
    """Whether a tool opens the images by the address in the export, so that those in shards must be copied."""
    needs: ImageNeeds = field(default_factory=ImageNeeds)
    folder_of: FolderOf = spread_folder
    """Folder of a linked or copied image."""
    holds_maps: bool = False
    sizes_for_maps: bool = False
    """Whether maps can only be written for images whose size is known."""
    needs_final_category: bool = False
    """Whether labels without a category after the reviews are left out."""
