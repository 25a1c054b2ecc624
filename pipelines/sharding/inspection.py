"""Inspect listed images: split, names, content hash and format, or the reason for rejection.

Plain functions on tables; `pipelines/sharding/flows/` runs them on the workers of a cluster or in this process.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.images.decoding import ImageError, ImageHeader, check_header, decode_image
from ecor.data.samples import sample_key
from ecor.data.shards import ShardEntry
from ecor.data.tar_members import sample_from_row
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.sharding.label_names import match_names
from pipelines.sharding.shard_job import ShardJob
from pipelines.storage.image_bytes import UnreadableError, join_source, read_image_bytes

INSPECTED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("protected", pa.bool_()),  # of a test split that the input has
        pa.field("category", pa.string()),
        pa.field("rationales", pa.list_(pa.string())),
        pa.field("visible_rationales", pa.list_(pa.string())),
        pa.field("truth", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("extension", pa.string()),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("reason", pa.string()),  # why it is rejected
        pa.field("detail", pa.string()),
    ]
)
IMAGES_PER_READ = 32
_COLUMNS = tuple(INSPECTED_SCHEMA.names)
_HASH_DIGITS = 13
"""Hex digits that decide a split: the last ones, because the first ones decide the order."""


def inspect_images(listing: pa.Table, *, job: ShardJob) -> pa.Table:
    """Read, hash and validate images: a row of INSPECTED_SCHEMA for each image of LISTING_SCHEMA, in that order.

    A disk or a store that fails is an OSError, and no row.
    """
    rows = [row for row in listing.to_pylist() if row["left_out"] is None]
    contents = _contents([row["source"] for row in rows], root=job.root)
    split_ends = _split_ends(job)
    found = [_finding(row, data, job=job, split_ends=split_ends) for row, data in zip(rows, contents, strict=True)]
    return pa.Table.from_pylist(found, schema=INSPECTED_SCHEMA)


def read_inspected_part(address: str) -> pa.Table:
    """Read a Parquet file of rows of INSPECTED_SCHEMA."""
    with filesystem.open_file(address) as file:
        return pq.ParquetFile(file).read(use_threads=False).cast(INSPECTED_SCHEMA)


def entries(rows: pa.Table, *, job: ShardJob) -> Iterator[ShardEntry]:
    """Images that stay, in this order, as `write_shard` takes them; ValueError for one that cannot be read any more."""
    for batch in rows.to_batches(max_chunksize=IMAGES_PER_READ):
        listed = batch.to_pylist()
        contents = _contents([row["source"] for row in listed], root=job.root)
        for row, data in zip(listed, contents, strict=True):
            if isinstance(data, UnreadableError):
                raise ValueError(
                    f"{row['source']} was looked at, and cannot be read any more ({data}): put back what it was, or "
                    f"start over with --fresh"
                ) from data
            yield _entry(row, data)


def _split_ends(job: ShardJob) -> list[tuple[str, float]]:
    """Where each split ends, on a scale from 0 to 1, for images whose split is not given."""
    if job.given_splits:
        return []
    return list(zip(job.splits, accumulate(job.config.split_shares[split] for split in job.splits), strict=True))


def _split_of(sha256: str, *, given: str | None, job: ShardJob, split_ends: Sequence[tuple[str, float]]) -> str:
    place = int(sha256[-_HASH_DIGITS:], 16) / 16**_HASH_DIGITS
    if given is not None:
        return "validation" if given == "train" and place < job.validation_share else given
    return next((split for split, end in split_ends if place < end), split_ends[-1][0])


def _finding(
    row: Mapping[str, Any], found: bytes | UnreadableError, *, job: ShardJob, split_ends: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    data = b"" if isinstance(found, UnreadableError) else found
    sha256 = bytes_sha256(data)
    finding = {name: row.get(name) for name in _COLUMNS} | {
        "key": sample_key(row["source"], sha256=sha256),
        "split": _split_of(sha256, given=row["split"], job=job, split_ends=split_ends),
        "protected": row["split"] == "test",
        "sha256": sha256,
    }
    try:
        if row["problem"] is not None:
            raise ImageError("misplaced", row["problem"])
        if isinstance(found, UnreadableError):
            raise ImageError("unreadable", str(found) or type(found).__name__)
        header = _validated(data, how=job.config.validate)
    except ImageError as error:
        return finding | {"reason": error.reason, "detail": error.detail}
    category, rationales = match_names(row["category"], row["rationales"], job=job)
    visible = row["visible_rationales"]
    names = {
        "category": category,
        "rationales": rationales,
        "visible_rationales": None if visible is None else match_names(None, visible, job=job)[1],
    }
    return finding | {"extension": header.extension, "width": header.width, "height": header.height} | names


def _validated(data: bytes, *, how: str) -> ImageHeader:
    header = check_header(data)
    if how == "decode":
        decode_image(data)
    return header


def _contents(sources: Sequence[str], *, root: str) -> list[bytes | UnreadableError]:
    """Bytes of some files, or why there are none; from a remote store many at once."""
    if filesystem.is_local(root):
        return [_content(join_source(source, root=root)) for source in sources]
    with ThreadPoolExecutor(IMAGES_PER_READ) as readers:
        return list(readers.map(_content, [join_source(source, root=root) for source in sources]))


def _content(url: str) -> bytes | UnreadableError:
    try:
        return read_image_bytes(url)
    except UnreadableError as error:
        return error


def _entry(row: Mapping[str, Any], image: bytes) -> ShardEntry:
    provenance = {name: row[name] for name in ("split", "width", "height")} | {"labels": json.loads(row["labels"])}
    if row["truth"] is not None:
        provenance["truth"] = json.loads(row["truth"])
    return ShardEntry(sample=sample_from_row(row, image=image), sha256=row["sha256"], provenance=provenance)
