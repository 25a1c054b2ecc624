"""List the images of a folder, or of the tars and zips that a folder consists of, by the names of its files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ecor.data.images.image_names import IMAGE_SUFFIXES
from ecor.data.sources.discovery import SplitFile
from ecor.data.sources.sidecars import read_labelled_members
from ecor.data.table_row import TableRow
from ecor.storage import filesystem
from ecor.storage.filesystem import FileFacts
from ecor.storage.junk_names import is_junk, path_junk_kind
from ecor.storage.members.member_address import MARK
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.sources.listed_tables import LABELS
from pipelines.storage.image_bytes import is_utf8, path_within

EXPLAIN_SUMMARY_NAME = "explain.summary.json"
"""Beside the overlays of `ecor explain`, which are no photos."""


@dataclass(slots=True)
class FolderListing:
    """The files of a folder, at any depth."""

    num_files: int
    images: list[dict[str, Any]] = field(default_factory=list)
    """Relative path and size of each, and the labels beside it in an archive."""
    facts: list[FileFacts] = field(default_factory=list)
    """Of each image."""
    left_out: Counter[str] = field(default_factory=Counter)
    """By suffix, as `Input` has them."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """By kind, as `Input` has them."""


def list_folder_images(
    root: str, *, archives: Sequence[SplitFile] = (), without: str | None = None, follow_links: bool = False
) -> FolderListing:
    """List the images of a folder, sorted by path.

    Args:
        root: address of the folder, or of an archive's members.
        archives: read in place of the folder's own files.
        without: a folder whose files are not listed.
        follow_links: whether links to folders are followed.

    Raises:
        ValueError: when no file is an image by its name, or labels in an archive are damaged.
        OSError: when a disk or a store fails.
    """
    if archives:
        files = {
            f"{archive.path}{MARK}/{path}": facts
            for archive in archives
            for path, facts in _facts_below(f"{root}/{archive.path}{MARK}", follow_links=False).items()
        }
    else:
        files = _facts_below(root, follow_links=follow_links)
    found = _sorted_by_kind(root, files, without=without, follow_links=follow_links)
    if not found.images:
        raise ValueError(f"{root} holds no image: files that end in {', '.join(sorted(IMAGE_SUFFIXES))} are looked for")
    if archives or root.endswith(MARK):
        _add_labels(root, files, found=found)
    return found


def _facts_below(root: str, *, follow_links: bool) -> dict[str, FileFacts]:
    return retry_in_store(
        lambda: filesystem.file_facts_below(root, may_fail=is_junk, follow_links=follow_links), place=root
    )


def _sorted_by_kind(
    root: str, files: Mapping[str, FileFacts], *, without: str | None, follow_links: bool
) -> FolderListing:
    found, is_disk = FolderListing(num_files=len(files)), filesystem.is_local(root)
    output = path_within(without, folder=root) if without else None
    explained = {path.rpartition("/")[0] for path in files if path.rpartition("/")[2] == EXPLAIN_SUMMARY_NAME}
    for path, facts in files.items():
        suffix = PurePosixPath(path).suffix.lower()
        if (kind := path_junk_kind(path)) is not None:
            found.passed_over[kind] += 1
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
    return found


def _add_labels(root: str, files: Mapping[str, FileFacts], *, found: FolderListing) -> None:
    """Add the labels of the files beside the images of archives."""
    rows = read_labelled_members(root, filter(is_utf8, files))
    labels = {row.path("path"): {name: row.cells[name] for name in LABELS if name in row.cells} for row, _ in rows}
    for image in found.images:
        image |= labels.get(image["path"], {})


def rows_of(listing: FolderListing, *, root: str) -> list[TableRow]:
    """The images with their labels, as rows."""
    return [TableRow(where=f"{root}/{image['path']}", cells=image) for image in listing.images]
