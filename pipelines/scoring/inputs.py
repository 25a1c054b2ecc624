"""List the input of `ecor score` and `ecor explain` as units: a split of shards, a folder of images, or a table."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from ecor.data.images.decoding import EXTENSIONS
from ecor.data.name_parsing import read_label
from ecor.data.shard_manifest import MANIFEST_NAME, read_shard_manifest
from ecor.data.table_row import TableRow
from ecor.data.tables import TABLE_SUFFIXES, read_rows
from ecor.storage import filesystem
from ecor.storage.digests import text_sha256
from ecor.storage.filesystem import FileFacts
from pipelines.config.infrastructure import absolute_address
from pipelines.runtime.balance import Balance
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.file_states import FileStates
from pipelines.scoring.work_units import ImageUnit, Listed, ListingUnit, Rejection, ShardUnit, Unit, split_runs
from pipelines.storage.image_bytes import is_junk, join_source, path_within

EXPLAIN_SUMMARY_NAME = "explain.summary.json"
"""Beside the overlays of `ecor explain`, which are no photos."""
IMAGE_SUFFIXES = frozenset(
    f".{name}" for name in (*EXTENSIONS.values(), "jpeg", "jpe", "jfif", "jpg_large", "mpo", "tiff", "pgm", "pnm")
)
_LABELS = ("category", "rationales", "visible_rationales")
_KINDS_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Input:
    """Everything that a job scores."""

    digest: str
    """Of the shard manifest; of a listing, of its relative paths, labels and (for a folder) file sizes."""
    units: tuple[Unit, ...]
    once_mended: str
    """What to do when pictures of it were mended: the digest may be another one then."""
    num_listed: int
    """Samples of the manifest, rows of the table, or files of the folder, left-out ones included."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of a folder that are no images by their names, by suffix (in lower case; empty for none)."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Other files of a folder that are left out: `hidden` ones, those in the `output` folder, and links to folders that
    are not followed (`linked_folder`)."""

    unread_columns: str | None = None
    """A line that names the columns of a table that are not read, if there are any."""

    def describe_left_out(self) -> str | None:
        """One line on the files that are left out, or on columns that are not read; None where there are none."""
        if not self.left_out:
            return self.unread_columns
        kinds = sorted(self.left_out.items(), key=lambda kind: (-kind[1], kind[0]))
        named = ", ".join(f"{number} {suffix or 'without a suffix'}" for suffix, number in kinds[:_KINDS_NAMED])
        named += f" and {len(kinds) - _KINDS_NAMED} kinds more" if len(kinds) > _KINDS_NAMED else ""
        total = sum(self.left_out.values())
        return f"left out {total} {'file' if total == 1 else 'files'} that are no images by their names: {named}"

    @cached_property
    def num_images(self) -> int:
        return sum(unit.num_images for unit in self.units)

    def balance(self, stage: str, *, num_taken: int, rejected: Iterable[Rejection]) -> Balance:
        """What became of all that is listed here."""
        by_suffix = {suffix or "no_suffix": number for suffix, number in self.left_out.items()}
        return Balance(
            stage=stage,
            num_listed=self.num_listed,
            num_taken=num_taken,
            rejected=Counter(each.reason for each in rejected),
            left_out={**by_suffix, **self.passed_over},
        )


@dataclass(frozen=True, kw_only=True)
class ImageInput(Input):
    """An input whose images are read."""

    units: tuple[ImageUnit, ...]
    states: FileStates | None = None
    """Sizes and times of the images of a folder, in order."""

    @property
    def is_split(self) -> bool:
        """Whether the images are in shards."""
        return any(isinstance(unit, ShardUnit) for unit in self.units)


def read_input(location: str, *, unit_size: int, without: str | None = None, follow_links: bool = False) -> ImageInput:
    """Divide an input into units of work: a split of shards, a table of images, or a folder of images.

    Args:
        location: path or address of the input.
        unit_size: images per unit of a folder (sorted by path) or a table (in its order); a split has a unit per shard.
        without: a folder whose files are not listed: the output may lie inside the input.
        follow_links: whether links to folders in a folder are followed.

    Raises:
        ValueError: for a place that is none of these, holds no image or has several splits, and for a table with
            errors.
        OSError: when a disk or a store fails.
    """
    root = absolute_address(location)
    if root.lower().endswith(TABLE_SUFFIXES):
        return _input_of_table(root, unit_size=unit_size)
    if filesystem.exists(filesystem.join(root, MANIFEST_NAME)):
        return _split(root)
    if not filesystem.is_folder(root):
        raise ValueError(
            f"{location} is neither a folder nor a table: name a split written by `ecor shard`, a folder of images, or "
            f"a file that ends in {', '.join(TABLE_SUFFIXES)}"
        )
    splits = [
        entry.name
        for entry in filesystem.list_folder(root)
        if entry.is_folder and filesystem.exists(f"{root}/{entry.name}/{MANIFEST_NAME}")
    ]
    if splits:
        raise ValueError(f"{location} holds the splits {', '.join(splits)}: name one, as {location}/{splits[0]}")
    return _input_of_folder(root, unit_size=unit_size, without=without, follow_links=follow_links)


def _split(folder: str) -> ImageInput:
    manifest = read_shard_manifest(folder)
    units = tuple(ShardUnit(folder=folder, info=shard) for shard in manifest.shards)
    return ImageInput(
        digest=manifest.digest,
        units=units,
        once_mended="shard them and run again, both with --fresh",
        num_listed=manifest.num_samples,
    )


@dataclass(slots=True)
class _Folder:
    """The files of a folder, at any depth."""

    num_files: int
    images: list[dict[str, Any]] = field(default_factory=list)
    """Relative path and size of each."""
    facts: list[FileFacts] = field(default_factory=list)
    """Of each image."""
    left_out: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Both as `Input` has them."""


def _read_folder(root: str, *, without: str | None, follow_links: bool) -> _Folder:
    files = retry_in_store(
        lambda: filesystem.file_facts_below(root, may_fail=is_junk, follow_links=follow_links), place=root
    )
    found, is_disk = _Folder(num_files=len(files)), filesystem.is_local(root)
    output = path_within(without, folder=root) if without else None
    explained = {path.rpartition("/")[0] for path in files if path.rpartition("/")[2] == EXPLAIN_SUMMARY_NAME}
    for path, facts in files.items():
        suffix = PurePosixPath(path).suffix.lower()
        if any(map(is_junk, path.split("/"))):
            found.passed_over["hidden"] += 1
        elif output is not None and f"{path}/".startswith(f"{output}/" if output else ""):
            found.passed_over["output"] += 1
        elif suffix == ".png" and path.rpartition("/")[0] in explained:
            found.passed_over["overlays"] += 1
        elif suffix in IMAGE_SUFFIXES:
            found.images.append({"path": path, "size": facts.num_bytes})
            found.facts.append(facts)
        elif not follow_links and is_disk and filesystem.is_folder(f"{root}/{path}"):
            found.passed_over["linked_folder"] += 1
        else:
            found.left_out[suffix] += 1
    if not found.images:
        raise ValueError(f"{root} holds no image: files that end in {', '.join(sorted(IMAGE_SUFFIXES))} are looked for")
    return found


def _read_table(path: str) -> tuple[list[TableRow], str | None]:
    """All rows, each of an image of its own, and a line on the columns that are not read."""
    rows = read_rows(path, required=("path",), optional=_LABELS)
    found = list(rows)
    if not found:
        raise ValueError(f"{path} has no row")
    first: dict[str, str] = {}
    for row in found:
        image = row.path("path")
        place = image if "://" in image else str(PurePosixPath(image))  # without "./"
        if first.setdefault(place, row.where) != row.where:
            raise ValueError(
                f"{row.where}: {first[place].removeprefix(path).lstrip(': ')} lists {image} too: keep one row per "
                "image, with all its rationales in one cell"
            )
    return found, rows.describe_unread()


def _input_of_table(path: str, *, unit_size: int) -> ImageInput:
    rows, unread = _read_table(path)
    base = path.rpartition("/")[0]
    categories: dict[str, str] = {}
    rationales: dict[str, str] = {}
    files = [
        Listed(
            path=join_source(row.path("path"), root=base),
            category=next(iter(read_label(row, "category", spelled=categories)), None),
            rationales=read_label(row, "rationales", spelled=rationales) or None,
            visible_rationales=read_label(row, "visible_rationales", spelled=rationales) or None,
        )
        for row in rows
    ]
    columns = [name for name in ("path", *_LABELS) if any(name in row.cells for row in rows)]
    described = [{name: row.cells.get(name) for name in columns} for row in rows]
    listed = _input_of_files(files, described=described, unit_size=unit_size, once_mended="run the same command again")
    return replace(listed, unread_columns=unread)


def _input_of_folder(root: str, *, unit_size: int, without: str | None, follow_links: bool) -> ImageInput:
    listed_ns = time.time_ns()
    folder = _read_folder(root, without=without, follow_links=follow_links)
    found = _input_of_files(
        [Listed(path=join_source(row["path"], root=root)) for row in folder.images],
        described=folder.images,
        unit_size=unit_size,
        once_mended="run again, with --fresh where a name or a size has changed",
    )
    return replace(
        found,
        num_listed=folder.num_files,
        left_out=folder.left_out,
        passed_over=folder.passed_over,
        states=FileStates.of(folder.facts, listed_ns=listed_ns),
    )


def _input_of_files(
    files: Sequence[Listed], *, described: Sequence[Mapping[str, Any]], unit_size: int, once_mended: str
) -> ImageInput:
    """`described` are the JSON values that the digest is of, one per file."""
    units = tuple(
        ListingUnit(name=f"{number:06d}", files=tuple(run))
        for number, run in enumerate(split_runs(files, size=unit_size))
    )
    digest = text_sha256("\n".join(json.dumps(row, sort_keys=True) for row in described))
    return ImageInput(digest=digest, units=units, once_mended=once_mended, num_listed=len(described))
