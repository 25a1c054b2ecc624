"""Recognise the layout of a dataset: its splits and categories, DROR's numbered folders, or a table.

Only the first levels of folders are looked at, by the driver.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ecor.config.checks import name_some, require
from ecor.data.name_parsing import group_spellings
from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.data.split_names import all_resemble_splits, split_of
from ecor.data.tables import TABLE_SUFFIXES
from ecor.storage import filesystem
from pipelines.config.infrastructure import absolute_address
from pipelines.config.stages import Layout, ShardConfig
from pipelines.runtime.retries import retry_in_store
from pipelines.storage.image_bytes import is_junk, is_within

TRUTH_NAME = "truth.jsonl"
"""In a split's folder: what the layout's folders cannot say of its images, a JSON object per line with `file` (path
within the split) and, where known, `visible_rationales`; all else in it becomes provenance. Label maps may lie in
`<split>-masks` beside the split."""
_UNLABELLED = frozenset({"unlabeled", "unlabelled"})
_NAMED = 5  # names in a line, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A piece of the input that one worker lists."""

    root: str
    """Address of the input's folder, or of the table's."""
    layout: Layout
    path: str
    """Within `root`: a category's folder, or the table."""
    split: str | None = None
    split_folder: str = ""
    """Within `root`."""
    follow_links: bool = False
    """Go into links to folders."""
    left_out: str | None = None
    """Why all its files are left out; None for a place of images."""


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
    num_hidden: int = 0
    """Hidden files, and files of operating systems, above the level of categories."""
    ignored_folders: tuple[str, ...] = ()
    """Folders beside the splits that hold no labelled images."""
    linked_folders: tuple[str, ...] = ()
    """Links to folders that are not followed, at the level of categories."""
    left_out_places: tuple[Place, ...] = ()
    """Folders that are listed only to count their files."""

    @property
    def left_out(self) -> dict[str, int]:
        """Files that the driver has seen, and no worker lists, by kind."""
        return {"beside_folders": self.num_ignored, "hidden": self.num_hidden}

    def describe(self) -> str:
        """One line: the layout that was recognised, what is left out, and the settings that overrule it."""
        if self.layout == "table":
            return f"layout table: {self.places[0].path}"
        splits = list(dict.fromkeys(place.split for place in self.places if place.split is not None))
        categories = group_spellings(place.path.removeprefix(f"{place.split_folder}/") for place in self.places)
        said = f"splits {', '.join(splits)}" if splits else "no splits"
        found = f"layout {self.layout}: {len(categories)} categories, {said}"
        left_out = [f"{self.num_ignored} files beside the folders"] if self.num_ignored else []
        left_out += [f"the folder {name}" for name in self.ignored_folders]
        if links := self.linked_folders:
            left_out += [f"links to the folders {name_some(links, most=_NAMED)} (--follow-links takes them)"]
        ends = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{found}{ends} (--layout and --no-split-folders overrule this)"


def find_source(config: ShardConfig) -> Source:
    """Look at the first levels of the input.

    Raises:
        ValueError: saying what is there, when no layout fits, two folders are one split, or the output lies in the
            input.
    """
    root = absolute_address(config.input)
    require(filesystem.exists(root), f"there is no folder or table {config.input}")
    is_file = filesystem.is_file(root)
    if config.layout == "table" or (config.layout == "auto" and is_file):
        if PurePosixPath(root).suffix.lower() not in TABLE_SUFFIXES or not is_file:
            raise ValueError(f"a table is a .csv, .parquet or .jsonl file, got {config.input}: name one, or a folder")
        folder, _, name = root.rpartition("/")
        return _source(Source(root=folder, layout="table", places=(), vocabulary=None), [_place(folder, name, "table")])
    require(
        not is_within(absolute_address(config.output), folder=root),
        f"the output {config.output} lies in the input {config.input}, and the next run would list it: name a folder "
        "outside",
    )
    return _folder_source(config, root=root)


def _folder_source(config: ShardConfig, *, root: str) -> Source:
    follows = config.follow_links
    top = _look_into(root, follow_links=follows)
    masks = [name for name in top.folders if name.removesuffix("-masks") in set(top.folders) - {name}]
    folders = [name for name in top.folders if name not in masks]
    splits = _split_folders(folders, config=config, root=root) if config.split_folders else {}
    levels = {name: _look_into(f"{root}/{name}", follow_links=follows) for name in splits} or {
        "": replace(top, folders=tuple(folders))
    }
    places = [
        replace(
            _place(root, f"{split_folder}/{name}".lstrip("/"), "folders"),
            split=splits.get(split_folder),
            split_folder=split_folder,
            follow_links=follows,
        )
        for split_folder, level in levels.items()
        for name in level.folders
    ]
    if not places:
        raise ValueError(
            f"{config.input} holds no folder of images: expected a folder per category (links to folders only with "
            "--follow-links), or a table file"
        )
    below = {place.path: _look_into(f"{root}/{place.path}", follow_links=follows) for place in places}
    if config.split_folders:
        _check_no_split_below(below, levels=levels, place=config.input)
    layout = config.layout
    if layout == "auto":
        layout = "dror" if _are_numbered(below, root=root, follow_links=follows) else "folders"
    ignored = tuple(name for name in folders if splits and name not in splits)
    seen = {"": top, **levels}
    kinds = dict.fromkeys(masks, "masks") | dict.fromkeys(ignored, "unlabelled_folder")
    kinds |= {f"{place}/{name}".lstrip("/"): "hidden" for place, each in seen.items() for name in each.hidden_folders}
    source = Source(
        root=root,
        layout=layout,
        places=(),
        vocabulary=None,
        num_ignored=sum(len(level.files) for level in seen.values()),
        num_hidden=sum(level.num_hidden for level in seen.values()),
        ignored_folders=ignored,
        left_out_places=tuple(replace(_place(root, name, layout), left_out=kind) for name, kind in kinds.items()),
    )
    if not follows:
        linked = (f"{place}/{name}".lstrip("/") for place, each in seen.items() for name in each.linked_folders)
        source = replace(source, linked_folders=tuple(linked))
    return _source(source, [replace(place, layout=layout) for place in places])


def _split_folders(folders: Iterable[str], *, config: ShardConfig, root: str) -> dict[str, str]:
    """The split of each folder; none where the folders are categories. Raises ValueError where that is not clear."""
    splits = {name: split for name in folders if (split := split_of(name)) is not None}
    others = [name for name in folders if name not in splits and name.casefold() not in _UNLABELLED]
    if others and len(set(splits.values())) < 2:  # a category may be called train; then it holds no folders
        levels = (_look_into(f"{root}/{name}", follow_links=config.follow_links) for name in splits)
        if not any(level.folders for level in levels) and not all_resemble_splits([*splits, *others]):
            return {}
    if others:
        named = f"the splits {', '.join(splits)}, and beside them " if splits else "what may be splits: "
        raise ValueError(
            f"{config.input} holds {named}{name_some(others, most=_NAMED)}: move what is no split away and call splits "
            "train, validation and test, or pass --no-split-folders if all are categories"
        )
    for twice in (split for split, number in Counter(splits.values()).items() if number > 1):
        named = ", ".join(name for name, split in splits.items() if split == twice)
        raise ValueError(f"{config.input}: the folders {named} are all the split {twice}: merge them, or rename one")
    return splits


def _check_no_split_below(below: Mapping[str, "_Level"], *, levels: Mapping[str, "_Level"], place: str) -> None:
    """Raise ValueError where splits lie in folders of categories, and would be learned from together."""
    for path, level in below.items():
        splits = [name for name in level.folders if split_of(name)]
        require(
            len(set(map(split_of, splits))) < 2,
            f"{place}: its folder {path} holds the splits {name_some(splits, most=_NAMED)}: pass {path} alone, or move "
            "the splits to the top, or pass --no-split-folders if they are none",
        )
    for split, level in levels.items():
        require(
            not split or not level.folders or not all(map(split_of, level.folders)),
            f"{place}: the split {split} holds {name_some(level.folders, most=_NAMED)} in place of categories: move "
            "their folders one level up, or pass --no-split-folders if they are no splits",
        )


def _place(root: str, path: str, layout: Layout) -> Place:
    return Place(root=root, layout=layout, path=path)


def _source(source: Source, places: Iterable[Place]) -> Source:
    vocabulary = f"{source.root}/{VOCABULARY_NAME}"
    return replace(source, places=tuple(places), vocabulary=vocabulary if filesystem.exists(vocabulary) else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """Names in a folder."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    """Those that may be images."""
    hidden_folders: tuple[str, ...]
    num_hidden: int
    """Hidden files."""
    linked_folders: tuple[str, ...]
    """Links to folders."""


def _look_into(folder: str, *, follow_links: bool = False) -> _Level:
    found = retry_in_store(lambda: filesystem.list_folder(folder, follow_links=follow_links), place=folder)
    folders, files = ([each.name for each in found if each.is_folder is kind] for kind in (True, False))
    return _Level(
        folders=tuple(name for name in folders if not is_junk(name)),
        files=tuple(name for name in files if not is_junk(name) and name not in (VOCABULARY_NAME, TRUTH_NAME)),
        hidden_folders=tuple(filter(is_junk, folders)),
        num_hidden=sum(map(is_junk, files)),
        linked_folders=tuple(each.name for each in found if each.is_linked_folder and not is_junk(each.name)),
    )


def _has_numbered_folder(folder: str, level: _Level, *, follow_links: bool) -> bool:
    """Whether the first folders below a category lead to `<rationale>/<digits>`; `<category>/2021` is none."""
    below = next((name for name in level.folders if not name.isdigit()), None)
    while below is not None:
        folder = f"{folder}/{below}"
        folders = _look_into(folder, follow_links=follow_links).folders
        if any(map(str.isdigit, folders)):
            return True
        below = next(iter(folders), None)
    return False


def _are_numbered(below: Mapping[str, _Level], *, root: str, follow_links: bool) -> bool:
    """Whether at least half of the categories that hold anything have DROR's numbered folders."""
    filled = [path for path, level in below.items() if level.folders or level.files]
    numbered = (_has_numbered_folder(f"{root}/{path}", below[path], follow_links=follow_links) for path in filled)
    return bool(filled) and 2 * sum(numbered) >= len(filled)
