"""Recognise the layout of a dataset: its splits and categories, DROR's numbered folders, or a table.

Only the first levels of folders are looked at, by the driver.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ecor.config.checks import name_some, require
from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.data.split_names import all_resemble_splits, split_of
from ecor.storage import filesystem
from ecor.storage.junk_names import is_junk, junk_kind
from pipelines.config.infrastructure import absolute_address
from pipelines.config.stages import Layout, ShardConfig
from pipelines.runtime.retries import retry_in_store
from pipelines.sharding.sources.listed_source import archive_root, find_listed_source
from pipelines.sharding.sources.source_places import Place, Source
from pipelines.storage.image_bytes import is_within

TRUTH_NAME = "truth.jsonl"
"""In a split's folder: what the layout's folders cannot say of its images, a JSON object per line with `file` (path
within the split) and, where known, `visible_rationales`; all else in it becomes provenance. Label maps may lie in
`<split>-masks` beside the split."""
_UNLABELLED = frozenset({"unlabeled", "unlabelled"})
_NAMED = 5  # names in a line, at most


def find_source(config: ShardConfig) -> Source:
    """Look at the first levels of the input.

    Raises:
        ValueError: saying what is there, when no layout fits, two folders are one split, or the output lies in the
            input.
    """
    root = absolute_address(config.input)
    require(filesystem.exists(root), f"there is no folder or table {config.input}")
    require(
        not is_within(absolute_address(config.output), folder=root),
        f"the output {config.output} lies in the input {config.input}, and the next run would list it: name a folder "
        "outside",
    )
    root = archive_root(root)
    return find_listed_source(config, root=root) or _folder_source(config, root=root)


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
    kinds |= {
        f"{place}/{name}".lstrip("/"): kind for place, each in seen.items() for name, kind in each.junk_folders.items()
    }
    source = Source(
        root=root,
        layout=layout,
        places=(),
        vocabulary=None,
        num_ignored=sum(len(level.files) for level in seen.values()),
        junk=sum((level.junk_files for level in seen.values()), start=Counter[str]()),
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
    junk_folders: Mapping[str, str]
    """Folders that are left out by their names, with the kind of each."""
    junk_files: Counter[str]
    """Files that are, by kind."""
    linked_folders: tuple[str, ...]
    """Links to folders."""


def _look_into(folder: str, *, follow_links: bool = False) -> _Level:
    found = retry_in_store(lambda: filesystem.list_folder(folder, follow_links=follow_links), place=folder)
    folders, files = ([each.name for each in found if each.is_folder is kind] for kind in (True, False))
    return _Level(
        folders=tuple(name for name in folders if not is_junk(name)),
        files=tuple(name for name in files if not is_junk(name) and name not in (VOCABULARY_NAME, TRUTH_NAME)),
        junk_folders={name: kind for name in folders if (kind := junk_kind(name)) is not None},
        junk_files=Counter(filter(None, map(junk_kind, files))),
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
