"""The input of `ecor shard` as its driver knows it: the places that workers list, and what is left out of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ecor.config.checks import name_some
from ecor.data.name_parsing import group_spellings
from pipelines.config.stages import Layout

LISTED: tuple[Layout, ...] = ("table", "webdataset")
"""Layouts in which a place is a file that lists its images."""
_NAMED = 5  # names in a line, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A piece of the input that one worker lists."""

    root: str
    """Address of the input's folder, or of the table's or archive's."""
    layout: Layout
    path: str
    """Within `root`: a category's folder, a table, or an archive."""
    split: str | None = None
    split_folder: str = ""
    """Within `root`."""
    follow_links: bool = False
    """Go into links to folders."""
    allow_http: tuple[str, ...] = ()
    """Hosts on the web from which images of a table are read."""
    left_out: str | None = None
    """Why all its files are left out; None for a place of images."""

    @property
    def folder(self) -> str:
        """The folder within `root` that `path` lies in; empty for `root`."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The input, as far as a driver needs to know it."""

    root: str
    layout: Layout
    places: tuple[Place, ...]
    vocabulary: str | None
    """Address of the `vocabulary.json` that lies in the input."""
    num_ignored: int = 0
    """Files above the level of categories."""
    junk: Mapping[str, int] = field(default_factory=dict)
    """Files above the level of categories that are left out by their names, by kind (`ecor.storage.junk_names`)."""
    ignored_folders: tuple[str, ...] = ()
    """Folders beside the splits that hold no labelled images."""
    linked_folders: tuple[str, ...] = ()
    """Links to folders that are not followed, at the level of categories."""
    left_out_places: tuple[Place, ...] = ()
    """Folders that are listed only to count their files."""

    @property
    def left_out(self) -> dict[str, int]:
        """Files that the driver has seen, and no worker lists, by kind."""
        return {"beside_folders": self.num_ignored, **self.junk}

    def describe(self) -> str:
        """One line: the layout that was recognised, what is left out, and the settings that overrule it."""
        splits = list(dict.fromkeys(place.split for place in self.places if place.split is not None))
        if self.layout in LISTED:
            first, more = self.places[0].path, len(self.places) - 1
            told = f", splits {', '.join(splits)}" if splits else ""
            return f"layout {self.layout}: {first}{f' and {more} more' if more else ''}{told}"
        categories = group_spellings(place.path.removeprefix(f"{place.split_folder}/") for place in self.places)
        said = f"splits {', '.join(splits)}" if splits else "no splits"
        found = f"layout {self.layout}: {len(categories)} categories, {said}"
        left_out = [f"{self.num_ignored} files beside the folders"] if self.num_ignored else []
        left_out += [f"the folder {name}" for name in self.ignored_folders]
        if links := self.linked_folders:
            left_out += [f"links to the folders {name_some(links, most=_NAMED)} (--follow-links takes them)"]
        ends = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{found}{ends} (--layout and --no-split-folders overrule this)"
