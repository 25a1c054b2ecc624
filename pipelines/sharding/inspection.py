"""Inspect listed images: split, names, content hash and format, or the reason for rejection.

Plain functions on tables; `pipelines/sharding/flows/` runs them on the workers of a cluster or in this process.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.data.images.decoding import ImageError, check_header, decode_image
from ecor.data.samples import sample_key
from ecor.data.shards import ShardEntry
from ecor.data.tar_members import sample_from_row
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.runtime.retries import retry_in_store
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
        pa.field("is_multipicture", pa.bool_()),  # its file holds more pictures
        pa.field("state", pa.string()),  # size and time of the last write when it was listed
        pa.field("reason", pa.string()),  # why it is rejected
        pa.field("detail", pa.string()),
    ]
)
KNOWN_SCHEMA = pa.schema(
    [
        pa.field("known_sha256", pa.string()),
        pa.field("known_extension", pa.string()),
        pa.field("known_width", pa.int64()),
        pa.field("known_height", pa.int64()),
        pa.field("known_is_multipicture", pa.bool_()),
        pa.field("is_known", pa.bool_()),  # the content is certainly this one, so the image is not read
    ]
)
"""Columns that a listing may have too: the content that was valid when the images were sharded before."""
PLACE_SCHEMA = pa.schema(
    [
        pa.field("tar", pa.string()),  # address
        pa.field("member_offset", pa.int64()),
        pa.field("member_num_bytes", pa.int64()),
    ]
)
"""Columns that rows of images to be written may have too: where an earlier tar holds the image."""
CONTENT_FACTS = ("extension", "width", "height", "is_multipicture")
"""Columns that a file's content decides, and that its header tells."""
IMAGES_PER_READ = 32
_COLUMNS = tuple(INSPECTED_SCHEMA.names)
_HASH_DIGITS = 13
"""Hex digits that decide a split: the last ones, because the first ones decide the order."""


def inspect_images(listing: pa.Table, *, job: ShardJob) -> pa.Table:
    """Read, hash and validate images: a row of INSPECTED_SCHEMA for each image of LISTING_SCHEMA, in that order.

    With columns of KNOWN_SCHEMA, an image whose content is known is not read, and one that has the content that was
    valid before is not decoded. A disk or a store that fails is an OSError, and no row.
    """
    rows = [row for row in listing.to_pylist() if row["left_out"] is None]
    unread = [row for row in rows if not row.get("is_known")]
    contents = iter(_contents([join_source(row["source"], root=job.root) for row in unread], job=job))
    split_ends = _split_ends(job)
    found = [
        _finding(row, None if row.get("is_known") else next(contents), job=job, split_ends=split_ends) for row in rows
    ]
    return pa.Table.from_pylist(found, schema=INSPECTED_SCHEMA)


def read_inspected_part(address: str) -> pa.Table:
    """Read a Parquet file of rows of INSPECTED_SCHEMA."""
    with filesystem.open_file(address) as file:
        return with_columns(pq.ParquetFile(file).read(use_threads=False), INSPECTED_SCHEMA)


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with all columns of a schema; null where an older version has not written them."""
    for name in set(schema.names) - set(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(schema.names).cast(schema)


def entries(rows: pa.Table, *, job: ShardJob) -> Iterator[ShardEntry]:
    """Images that stay, in this order, as `write_shard` takes them; ValueError for one that cannot be read any more.

    Rows with columns of PLACE_SCHEMA are read from tars where these name one.
    """
    for batch in rows.to_batches(max_chunksize=IMAGES_PER_READ):
        listed = batch.to_pylist()
        unplaced = [row for row in listed if row.get("tar") is None]
        contents = iter(_contents([join_source(row["source"], root=job.root) for row in unplaced], job=job))
        for row in listed:
            data = next(contents) if row.get("tar") is None else _member(row)
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
    row: Mapping[str, Any],
    found: bytes | UnreadableError | None,
    *,
    job: ShardJob,
    split_ends: Sequence[tuple[str, float]],
) -> dict[str, Any]:
    data = found if isinstance(found, bytes) else b""
    sha256 = row["known_sha256"] if found is None else bytes_sha256(data)
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
        facts = _known_facts(row) if sha256 == row.get("known_sha256") else _facts(data, how=job.config.validate)
    except ImageError as error:
        return finding | {"reason": error.reason, "detail": error.detail}
    category, rationales = match_names(row["category"], row["rationales"], job=job)
    visible = row["visible_rationales"]
    names = {
        "category": category,
        "rationales": rationales,
        "visible_rationales": None if visible is None else match_names(None, visible, job=job)[1],
    }
    return finding | facts | names


def _facts(data: bytes, *, how: str) -> dict[str, Any]:
    header = check_header(data)
    if how == "decode":
        decode_image(data)
    return {name: getattr(header, name) for name in CONTENT_FACTS}


def _known_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[f"known_{name}"] for name in CONTENT_FACTS}


def _contents(urls: Sequence[str], *, job: ShardJob) -> list[bytes | UnreadableError]:
    """Bytes of some files, or why there are none; from a remote store or the web many at once."""
    content = partial(_content, allow_http=job.config.allow_http)
    if not any("://" in url for url in urls):
        return [content(url) for url in urls]
    with ThreadPoolExecutor(IMAGES_PER_READ) as readers:
        return list(readers.map(content, urls))


def _content(url: str, *, allow_http: tuple[str, ...]) -> bytes | UnreadableError:
    try:
        return read_image_bytes(url, allow_http=allow_http)
    except UnreadableError as error:
        return error


def _member(row: Mapping[str, Any]) -> bytes:
    """An image from the tar that holds it; the range of a file."""
    tar, start = row["tar"], row["member_offset"]
    data = retry_in_store(lambda: filesystem.read(tar, start=start, end=start + row["member_num_bytes"]), place=tar)
    if bytes_sha256(data) != row["sha256"]:
        raise ValueError(f"{tar} no longer holds {row['key']} at byte {start}: shard all images, without --since")
    return data


def _entry(row: Mapping[str, Any], image: bytes) -> ShardEntry:
    provenance = {name: row[name] for name in ("split", "width", "height")} | {"labels": json.loads(row["labels"])}
    if row["truth"] is not None:
        provenance["truth"] = json.loads(row["truth"])
    return ShardEntry(sample=sample_from_row(row, image=image), sha256=row["sha256"], provenance=provenance)
