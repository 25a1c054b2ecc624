"""List the input of `ecor score` and `ecor explain` as units: a split of shards, a folder, tables or archives."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ecor.data.images.formats import REMEDIES
from ecor.data.shard_manifest import MANIFEST_NAME, read_shard_manifest
from ecor.data.sources.discovery import SplitFile, find_archives, find_tables
from ecor.data.sources.image_tables import IMAGE_TABLE_SUFFIXES
from ecor.storage import filesystem
from ecor.storage.digests import text_sha256
from ecor.storage.members.member_address import ARCHIVE_SUFFIXES, MARK, is_archive
from pipelines.config.infrastructure import absolute_address
from pipelines.runtime.balance import Balance
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.file_states import FileStates
from pipelines.scoring.sources.listed_folder import list_folder_images, rows_of
from pipelines.scoring.sources.listed_tables import labelled_files, list_tables
from pipelines.scoring.work_units import ImageUnit, Listed, ListingUnit, Rejection, ShardUnit, Unit, split_runs

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
    """Other files of a folder that are left out: by name (`ecor.storage.junk_names`), those in the `output` folder, and
    links to folders that are not followed (`linked_folder`)."""

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
        remedies = dict.fromkeys(REMEDIES[suffix] for suffix in self.left_out if suffix in REMEDIES)
        taken = f"; to take these: {', '.join(remedies)}" if remedies else ""
        files = (
            "1 file that is no image by its name" if total == 1 else f"{total} files that are no images by their names"
        )
        return f"left out {files}: {named}{taken}"

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


def read_input(
    location: str,
    *,
    unit_size: int,
    without: str | None = None,
    follow_links: bool = False,
    allow_http: tuple[str, ...] = (),
) -> ImageInput:
    """Divide an input into units of work: a split of shards, images in tables, archives or a folder.

    Args:
        location: path or address of the input.
        unit_size: images per unit of a folder (sorted by path) or a table (in its order); a split has a unit per shard.
        without: a folder whose files are not listed: the output may lie inside the input.
        follow_links: whether links to folders in a folder are followed.
        allow_http: hosts on the web from which images of a table are read.

    Raises:
        ValueError: for a place that is none of these, holds no image or has several splits, and for a table with
            errors.
        OSError: when a disk or a store fails.
    """
    root = absolute_address(location)
    if root.lower().endswith(IMAGE_TABLE_SUFFIXES):
        folder, _, name = root.rpartition("/")
        return _input_of_tables(folder, (SplitFile(path=name, split=None),), unit_size=unit_size, allow_http=allow_http)
    if filesystem.exists(filesystem.join(root, MANIFEST_NAME)):
        return _split(root)
    root = f"{root}{MARK}" if is_archive(root) and filesystem.is_file(root) else root
    if not filesystem.is_folder(root):
        raise ValueError(
            f"{location} is neither a folder nor a table nor an archive: name a split written by `ecor shard`, a "
            f"folder of images, or a file that ends in {', '.join((*IMAGE_TABLE_SUFFIXES, *ARCHIVE_SUFFIXES))}"
        )
    splits = [
        entry.name
        for entry in filesystem.list_folder(root)
        if entry.is_folder and filesystem.exists(f"{root}/{entry.name}/{MANIFEST_NAME}")
    ]
    if splits:
        raise ValueError(f"{location} holds the splits {', '.join(splits)}: name one, as {location}/{splits[0]}")
    if tables := retry_in_store(lambda: find_tables(root), place=root):
        return _input_of_tables(root, tables, unit_size=unit_size, allow_http=allow_http)
    archives = retry_in_store(lambda: find_archives(root), place=root)
    return _input_of_folder(root, archives=archives, unit_size=unit_size, without=without, follow_links=follow_links)


def _split(folder: str) -> ImageInput:
    manifest = read_shard_manifest(folder)
    units = tuple(ShardUnit(folder=folder, info=shard) for shard in manifest.shards)
    return ImageInput(
        digest=manifest.digest,
        units=units,
        once_mended="shard them and run again, both with --fresh",
        num_listed=manifest.num_samples,
    )


def _input_of_tables(
    root: str, tables: Sequence[SplitFile], *, unit_size: int, allow_http: tuple[str, ...]
) -> ImageInput:
    rows = list_tables(root, tables, allow_http=allow_http)
    listed = _input_of_files(
        rows.files,
        described=rows.described,
        unit_size=unit_size,
        once_mended="run the same command again",
        allow_http=allow_http,
    )
    return replace(listed, unread_columns=rows.unread_columns)


def _input_of_folder(
    root: str, *, archives: Sequence[SplitFile], unit_size: int, without: str | None, follow_links: bool
) -> ImageInput:
    listed_ns = time.time_ns()
    folder = list_folder_images(root, archives=archives, without=without, follow_links=follow_links)
    found = _input_of_files(
        tuple(labelled_files(rows_of(folder, root=root), base=root, spelled=({}, {}))),
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
    files: Sequence[Listed],
    *,
    described: Sequence[Mapping[str, Any]],
    unit_size: int,
    once_mended: str,
    allow_http: tuple[str, ...] = (),
) -> ImageInput:
    """`described` are the JSON values that the digest is of, one per file."""
    units = tuple(
        ListingUnit(name=f"{number:06d}", files=tuple(run), allow_http=allow_http)
        for number, run in enumerate(split_runs(files, size=unit_size))
    )
    digest = text_sha256("\n".join(json.dumps(row, sort_keys=True) for row in described))
    return ImageInput(digest=digest, units=units, once_mended=once_mended, num_listed=len(described))
