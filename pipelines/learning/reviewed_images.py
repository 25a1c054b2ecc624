"""Write the reviewed images as a table for `ecor shard`: path, category and rationales of each.

reviewed.jsonl   a line per image that is learned from or evaluated
images/          images that lay in tars; image files stay where they are
reviewed.json    how many were left out or rejected, written last
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ecor.config.checks import name_some, parse_record, require
from ecor.data.images.decoding import ImageError, check_header
from ecor.data.predictions.parts import iterate_parts
from ecor.storage import filesystem
from ecor.storage.digests import text_sha256
from pipelines.learning.corrections import TAKEN, count_left_out
from pipelines.runtime.console import progress_bar
from pipelines.storage.image_source import PLACE_COLUMNS, ImagePlace, ImageSource

REVIEWED_NAME, IMAGE_FOLDER, COUNTS_NAME = "reviewed.jsonl", "images", "reviewed.json"
PRODUCTS = (COUNTS_NAME, REVIEWED_NAME, IMAGE_FOLDER)
"""Names of all that is written; the counts, which say that it is complete, first."""
_IMAGES_AT_ONCE = 32
_NAMED = 3
_HASH_DIGITS = 13
"""Hex digits of a hash that decide a split: as many as a float holds exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedImages:
    """What became of the reviewed images before they are sharded."""

    num_reviewed: int
    num_given: int
    """Lines of the table."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By kind."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason."""


def write_reviewed_images(
    reviewed: pa.Table,
    *,
    labels: str,
    source: ImageSource,
    folder: str,
    split_shares: Mapping[str, float],
    max_rejected: float,
) -> ReviewedImages:
    """Read every reviewed image once, check it, and write the table; a finished table is kept.

    A hash of an image's content decides its split, now and in later runs. It is not the hash by which `ecor shard`
    divides images: labels of one of its splits would all fall into one of ours.

    Args:
        reviewed: rows of `REVIEWED_SCHEMA`, sorted by key.
        labels: folder of the labels.
        source: of the images.
        folder: that gets table, images and counts.
        split_shares: share of each split, from 0 to 1.
        max_rejected: largest share of images that may be missing, unreadable or changed.

    Raises:
        ValueError: for decisions about images or labels that the folder does not have, shards that are not those that
            were labelled, and too many rejected images.
        OSError: when a disk or a store fails.
    """
    finished = _read_counts(folder)
    if finished is not None:
        return finished
    num_given, rejections = _write_table(
        reviewed, labels=labels, source=source, folder=folder, split_shares=split_shares, most=max_rejected
    )
    found = ReviewedImages(
        num_reviewed=reviewed.num_rows,
        num_given=num_given,
        left_out=count_left_out(reviewed),
        rejected=dict(sorted(Counter(each.reason for each in rejections).items())),
    )
    filesystem.write_json(filesystem.join(folder, COUNTS_NAME), asdict(found))
    return found


def _write_table(
    reviewed: pa.Table,
    *,
    labels: str,
    source: ImageSource,
    folder: str,
    split_shares: Mapping[str, float],
    most: float,
) -> tuple[int, list[ImageError]]:
    """The number of lines, and what was rejected; with too many rejections nothing is published."""
    rejections: list[ImageError] = []
    num_given = num_found = 0
    num_taken = pc.sum(pc.equal(reviewed["use"], TAKEN)).as_py() or 0
    with (
        filesystem.write_atomically(folder, REVIEWED_NAME) as path,
        path.open("w", encoding="utf-8") as table,
        progress_bar("reading", total=num_taken, unit="images") as advance,
    ):
        for rows in _labelled_rows(reviewed, labels=labels):
            num_found += len(rows)
            for place, row in zip(_places(rows, source=source, folder=folder), rows, strict=True):
                advance()
                if isinstance(place, ImageError):
                    rejections.append(place)
                    continue
                said = {"category": row["category_said"], "rationales": row["rationales_said"]}
                split = assign_split(place.sha256, shares=split_shares)
                table.write(json.dumps({"path": place.path, **said, "split": split}, ensure_ascii=False) + "\n")
                num_given += 1
        require(num_found == num_taken, f"{num_taken - num_found} decisions are about images that {labels} lacks")
        _check_rejected(rejections, num_taken=num_taken, max_rejected=most)
    return num_given, rejections


def assign_split(sha256: str, *, shares: Mapping[str, float]) -> str:
    """The split of an image by a hash of its content's hash, so that the same content is always in the same split."""
    place = int(text_sha256(f"ecor learn {sha256}")[:_HASH_DIGITS], 16) / 16**_HASH_DIGITS
    ends = zip(shares, accumulate(shares.values()), strict=True)
    return next((split for split, end in ends if place < end), list(shares)[-1])


def _read_counts(folder: str) -> ReviewedImages | None:
    path = filesystem.join(folder, COUNTS_NAME)
    try:
        return parse_record(ReviewedImages, json.loads(filesystem.read(path)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and run the same command again") from error


def _labelled_rows(reviewed: pa.Table, *, labels: str) -> Iterator[list[dict[str, Any]]]:
    """Rows of the labels that are taken, with what reviewers say of them; a few at once.

    Raises ValueError for a decision about another label than the folder has.
    """
    taken = reviewed.filter(pc.equal(reviewed["use"], TAKEN))
    place_of = pd.Index(taken["key"].to_pylist())
    for part in iterate_parts(labels, columns=[*PLACE_COLUMNS, "category", "rationale"]):
        places = place_of.get_indexer(part["key"].to_pylist())
        rows = part.filter(pa.array(places >= 0))
        said = taken.take(pa.array(places[places >= 0]))
        for name in ("category", "rationales", "category_before", "rationale_before", "image_sha256"):
            rows = rows.append_column(f"{name}_said", said[name])
        for batch in rows.to_batches(max_chunksize=_IMAGES_AT_ONCE):
            found = batch.to_pylist()
            for row in found:
                require(
                    (row["category_before_said"], row["rationale_before_said"]) == (row["category"], row["rationale"]),
                    f"a decision on {row['key']} is about the label {row['category_before_said']}, "
                    f"{row['rationale_before_said']}, but {labels} says {row['category']}, {row['rationale']}",
                )
            yield found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where an image is for the table, and the hash of its content."""

    path: str
    sha256: str


def _places(rows: Sequence[Mapping[str, Any]], *, source: ImageSource, folder: str) -> list[_Place | ImageError]:
    with ThreadPoolExecutor(8) as readers:
        return list(readers.map(partial(_place, source=source, folder=folder), rows))


def _place(row: Mapping[str, Any], *, source: ImageSource, folder: str) -> _Place | ImageError:
    """Path of an image for the table; one of a tar is written into the folder. The error if it cannot be used."""
    try:
        found = source.read(ImagePlace(**{name: row[name] for name in PLACE_COLUMNS}))
        sha256 = found.sha256
        if row["image_sha256_said"] not in (None, sha256):
            return ImageError("changed", f"{row['key']} is not the image that was reviewed")
        if row["shard"] is None:
            return _Place(path=str(row["source"]), sha256=sha256)
        name = f"{IMAGE_FOLDER}/{sha256}.{check_header(found.data).extension}"
        place = filesystem.join(folder, name)
        if not filesystem.is_file(place):
            filesystem.write(place, found.data)
        return _Place(path=name, sha256=sha256)
    except ImageError as error:
        return error


def _check_rejected(rejections: Sequence[ImageError], *, num_taken: int, max_rejected: float) -> None:
    if len(rejections) > max_rejected * num_taken:
        named = name_some([str(each) for each in rejections], most=_NAMED)
        raise ValueError(
            f"{len(rejections)} of {num_taken} reviewed images cannot be used ({named}): put them back, name their "
            f"shards with --source, or allow more with --max-rejected"
        )
