"""Find the tables and archives that a folder of images consists of, and the split of each.

Looked at are names only: Hugging Face's saved datasets, its `metadata` files, Parquet files, and tars or zips.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ecor.data.sources.metadata_tables import METADATA_NAMES, is_metadata
from ecor.data.split_names import split_of, split_parts
from ecor.storage import filesystem
from ecor.storage.junk_names import is_junk
from ecor.storage.members.member_address import is_archive

_STATE, _SPLITS = "state.json", "dataset_dict.json"
"""Files that `save_to_disk` writes in a dataset, and in a dict of datasets."""
_DATA = "data"
_BESIDE_TABLES = (".json", ".md", ".txt", ".yaml", ".parquet", ".gitattributes", "license", "readme")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFile:
    """A table or archive of a dataset."""

    path: str
    """Below the dataset's folder."""
    split: str | None
    """By its folder or its name; None where neither names one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    folders: tuple[str, ...]
    files: tuple[str, ...]


def find_tables(root: str) -> tuple[SplitFile, ...]:
    """The tables that hold the images of a folder, or name them; none where the folder holds its images as files.

    Raises:
        ValueError: when `state.json` or `dataset_dict.json` of a saved dataset is damaged.
    """
    top = _look_into(root)
    if _SPLITS in top.files:
        return tuple(
            SplitFile(path=f"{name}/{file}", split=split_of(name) or name)
            for name in _read_splits(root)
            for file in _read_state(f"{root}/{name}")
        )
    if _STATE in top.files and "dataset_info.json" in top.files:
        return tuple(SplitFile(path=file, split=None) for file in _read_state(root))
    return _metadata_files(root, top) or _parquet_files(root, top)


def find_archives(root: str) -> tuple[SplitFile, ...]:
    """The tars and zips of a folder that holds nothing else, at its top or in folders of splits; else none."""
    top = _look_into(root)
    if not top.folders:
        return _split_by_name(_archives(top.files))
    return _in_split_folders(root, top, choose=_archives)


def _in_split_folders(root: str, top: _Level, *, choose: Callable[[Iterable[str]], list[str]]) -> tuple[SplitFile, ...]:
    """The files that are chosen of each split's folder; none unless all folders are splits and have such files."""
    if not all(map(split_of, top.folders)):
        return ()
    levels = {name: _look_into(f"{root}/{name}") for name in top.folders}
    found = {name: choose(level.files) for name, level in levels.items() if not level.folders}
    if len(found) < len(levels) or not all(found.values()):
        return ()
    return tuple(SplitFile(path=f"{name}/{file}", split=split_of(name)) for name in found for file in found[name])


def _archives(files: Iterable[str]) -> list[str]:
    """The archives, if all others are tables and texts beside them, as img2dataset writes them."""
    files = list(files)
    found = [name for name in files if is_archive(name)]
    return found if all(is_archive(name) or name.lower().endswith(_BESIDE_TABLES) for name in files) else []


def _metadata_files(root: str, top: _Level) -> tuple[SplitFile, ...]:
    places = {"": None} | {f"{name}/": split_of(name) for name in top.folders if split_of(name)}
    found = []
    for place, split in places.items():
        files = top.files if not place else _look_into(f"{root}/{place[:-1]}").files
        names = [name for name in files if name.lower() in METADATA_NAMES and is_metadata(f"{root}/{place}{name}")]
        if len(names) > 1:
            raise ValueError(f"{root}/{place} holds {' and '.join(names)}: keep one")
        found += [SplitFile(path=f"{place}{name}", split=split) for name in names]
        if found and not place:
            break
    return tuple(found)


def _parquet_files(root: str, top: _Level) -> tuple[SplitFile, ...]:
    if not top.folders:
        here = _parquet(top.files)
        return _split_by_name(here) if len(here) == sum(map(_is_data, top.files)) else ()
    if top.folders == (_DATA,) and (below := _parquet(_look_into(f"{root}/{_DATA}").files)):
        return _split_by_name([f"{_DATA}/{name}" for name in below])
    return _in_split_folders(root, top, choose=_parquet)


def _is_data(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(".parquet") or not lower.endswith(_BESIDE_TABLES)


def _parquet(files: Iterable[str]) -> list[str]:
    return [name for name in files if name.lower().endswith(".parquet")]


def _split_by_name(paths: list[str]) -> tuple[SplitFile, ...]:
    """By the split's word in each name (`train-00000-of-00002`), if each has one."""
    parts = [split_parts(path.rpartition("/")[2]) for path in paths]
    is_clear = bool(parts) and all(len(each) == 1 for each in parts)
    return tuple(
        SplitFile(path=path, split=next(iter(each)) if is_clear else None)
        for path, each in zip(paths, parts, strict=True)
    )


def _read_splits(root: str) -> list[str]:
    found = _read_json(f"{root}/{_SPLITS}").get("splits")
    if not isinstance(found, list) or not all(isinstance(name, str) and "/" not in name for name in found):
        raise ValueError(f"{root}/{_SPLITS} names no splits: save the dataset again with save_to_disk")
    return found


def _read_state(folder: str) -> list[str]:
    files = _read_json(f"{folder}/{_STATE}").get("_data_files")
    names = [each.get("filename") if isinstance(each, dict) else None for each in files or ()]
    if not names or not all(isinstance(name, str) and "/" not in name for name in names):
        raise ValueError(f"{folder}/{_STATE} names no data files: save the dataset again with save_to_disk")
    return [str(name) for name in names]


def _read_json(path: str) -> dict[str, Any]:
    try:
        found = json.loads(filesystem.read(path))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{path} is no JSON of `datasets`: save the dataset again with save_to_disk") from error
    return found if isinstance(found, dict) else {}


def _look_into(folder: str) -> _Level:
    found = [each for each in filesystem.list_folder(folder) if not is_junk(each.name)]
    folders, files = (tuple(each.name for each in found if each.is_folder is kind) for kind in (True, False))
    return _Level(folders=folders, files=files)
