"""Write and read WebDataset shards: tar files with a Parquet index each, and one manifest per split.

`ecor/data/tar_members.py` describes the members of a sample. The bytes of a tar are a function of its entries, the
vocabulary and the templates. The index `<n>.index.parquet` gives the byte offset of each image in `<n>.tar`.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.model import TemplateConfig
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardInfo
from ecor.data.tar_members import HashingWriter, read_samples, sample_from_row, write_sample
from ecor.data.vocabulary import Vocabulary
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256, file_sha256
from ecor.storage.retries import with_retries

SCHEMA_VERSION = "1"
_BUFFER = 2**20
_NO_PAUSE = (0.0,)

INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("member_offset", pa.int64(), nullable=False),  # bytes from the tar's start to the image's first byte
        pa.field("member_num_bytes", pa.int64(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("rationales", pa.list_(pa.string()), nullable=False),
        pa.field("visible_rationales", pa.list_(pa.string())),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the image's bytes
    ],
    metadata={"ecor.schema": "shard_index", "ecor.schema_version": SCHEMA_VERSION},
)
"""A row per sample of a shard, in the tar's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A sample to be written to a tar."""

    sample: Sample
    sha256: str | None = None
    """Expected digest of the image's bytes, where it is known already."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """More JSON values for the sample's `.json`."""


def write_shard(
    entries: Iterable[ShardEntry],
    *,
    folder: str | Path,
    name: str,
    vocabulary: Vocabulary,
    templates: TemplateConfig | None = None,
) -> ShardInfo:
    """Write `<folder>/<name>` and its index; neither is seen under its name before it is whole.

    Args:
        entries: in the order of their keys; one is held at a time.
        folder: any address fsspec writes.
        name: of the tar, which ends in `.tar`.
        vocabulary: gives the ids of the categories.
        templates: of the captions; None: the default.

    Raises:
        ValueError: when keys are unsorted, repeated, dotted or too long for a tar, the vocabulary lacks a category, an
            image does not hash to its entry's `sha256`, or the name does not end in `.tar`.
    """
    if not name.endswith(".tar"):
        raise ValueError(f"a shard's name ends in .tar, got {name!r}")
    templates = templates or TemplateConfig()
    rows: list[dict[str, Any]] = []
    with filesystem.write_atomically(folder, name) as path, path.open("wb", buffering=_BUFFER) as file:
        out = HashingWriter(file)
        for entry in entries:
            rows.append(_write_entry(entry, out=out, vocabulary=vocabulary, templates=templates))
            if len(rows) > 1 and rows[-2]["key"] >= rows[-1]["key"]:
                raise ValueError(f"{name}: key {rows[-1]['key']!r} comes after {rows[-2]['key']!r}: sort the entries")
        out.end()
    index_name = name.removesuffix(".tar") + ".index.parquet"
    with filesystem.write_atomically(folder, index_name) as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), path, compression="zstd")
        index_sha256 = file_sha256(path)
    return ShardInfo(
        name=name,
        num_samples=len(rows),
        num_bytes=out.num_bytes,
        sha256=out.hash.hexdigest(),
        index=index_name,
        index_sha256=index_sha256,
    )


def verify_shard(folder: str | Path, info: ShardInfo) -> None:
    """Read the tar and its index, and compare both with their record.

    Args:
        folder: of the split.
        info: the shard's record in the manifest.

    Raises:
        ValueError: naming the shard and what was expected, when a file is missing or not as written.
    """
    expected = {info.name: info.sha256, info.index: info.index_sha256}
    for name, sha256 in expected.items():
        try:
            with filesystem.open_file(filesystem.join(folder, name)) as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
                num_bytes = file.tell()
        except FileNotFoundError as error:
            raise ValueError(f"shard {folder}/{name} is missing") from error
        if name == info.name and num_bytes != info.num_bytes:
            raise ValueError(f"shard {folder}/{name} has {num_bytes} bytes, its manifest says {info.num_bytes}")
        if got != sha256:
            raise ValueError(f"shard {folder}/{name} has sha256 {got}, its manifest says {sha256}")


def fetch_shard(
    folder: str | Path, info: ShardInfo, *, cache_dir: str | Path | None = None, num_attempts: int = 3
) -> Path:
    """Return the local path of a verified tar: its own, or for a remote `folder` that of a copy, kept by digest.

    Every attempt reads from the beginning.

    Args:
        folder: of the split.
        info: the shard's record in the manifest.
        cache_dir: local folder of the copies; None: one in the system's temporary folder.
        num_attempts: most attempts to read from a store.

    Raises:
        ValueError: when a local tar or its index is missing or not as written.
        OSError: when the store fails, or gives other bytes, in every attempt.
    """
    if filesystem.is_local(folder):
        verify_shard(folder, info)
        return filesystem.local_path(folder) / info.name
    cache = Path(cache_dir) if cache_dir is not None else Path(tempfile.gettempdir()) / "ecor-shards"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"{info.sha256}.tar"
    if kept.exists() and kept.stat().st_size == info.num_bytes and file_sha256(kept) == info.sha256:
        return kept
    with filesystem.write_atomically(cache, kept.name) as path:
        with_retries(
            lambda: _download(filesystem.join(folder, info.name), path=path, info=info),
            pauses_s=_NO_PAUSE * (num_attempts - 1),
        )
    return kept


def read_shard(folder: str | Path, info: ShardInfo, *, cache_dir: str | Path | None = None) -> Iterator[Sample]:
    """Yield all samples of a shard in the tar's order, after the whole tar was verified (see `fetch_shard`).

    A tar that another program made, with a manifest that fits, must keep the format too.

    Args:
        folder: of the split.
        info: the shard's record in the manifest.
        cache_dir: as for `fetch_shard`.

    Raises:
        ValueError: naming the member, when keys are unsorted, repeated or hold a slash, a member is no plain file, a
            sample lacks its one image or its `.json`, or a sample differs from the shard's index; as `fetch_shard`.
        OSError: as `fetch_shard`.
    """
    path, num_samples, where = fetch_shard(folder, info, cache_dir=cache_dir), 0, f"shard {folder}/{info.name}"
    rows = {row["key"]: row for row in read_index(folder, info).to_pylist()}
    for sample in read_samples(path, where=where):
        row = rows.pop(sample.key, None)
        if row is not None and sample != sample_from_row(row, image=sample.image):
            raise ValueError(f"{where}: sample {sample.key!r} is not as {info.index} says, which is to be of this tar")
        num_samples += 1
        yield sample
    if num_samples != info.num_samples:
        raise ValueError(f"{where} holds {num_samples} samples, expected {info.num_samples}")
    if rows:
        raise ValueError(f"{where} lacks {sorted(rows)[:3]}, which {info.index} says it holds")


def read_index(folder: str | Path, info: ShardInfo, *, num_attempts: int = 3) -> pa.Table:
    """Read the index of a shard (`INDEX_SCHEMA`), and verify its digest and count.

    Args:
        folder: of the split.
        info: the shard's record in the manifest.
        num_attempts: most attempts to read the file.

    Raises:
        ValueError: when it is not as written.
        OSError: when it cannot be read.
    """
    data = with_retries(
        lambda: filesystem.read(filesystem.join(folder, info.index)), pauses_s=_NO_PAUSE * (num_attempts - 1)
    )
    got = bytes_sha256(data)
    if got != info.index_sha256:
        raise ValueError(f"index {folder}/{info.index} has sha256 {got}, its manifest says {info.index_sha256}")
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    if table.num_rows != info.num_samples:
        raise ValueError(f"index {folder}/{info.index} has {table.num_rows} rows, expected {info.num_samples}")
    return table


def _write_entry(
    entry: ShardEntry, *, out: HashingWriter, vocabulary: Vocabulary, templates: TemplateConfig
) -> dict[str, Any]:
    """Write a sample, and return its row of the index."""
    sample, sha256 = entry.sample, bytes_sha256(entry.sample.image)
    if entry.sha256 not in (None, sha256):
        raise ValueError(
            f"{sample.source} changed while it was sharded: sha256 {sha256}, was {entry.sha256}: put back what it was, "
            f"or start over with --fresh"
        )
    offset = write_sample(
        sample, out=out, sha256=sha256, provenance=entry.provenance, vocabulary=vocabulary, templates=templates
    )
    return {
        "key": sample.key,
        "member_offset": offset,
        "member_num_bytes": len(sample.image),
        "extension": sample.extension,
        "category": sample.category,
        "rationales": list(sample.rationales),
        "visible_rationales": None if sample.visible_rationales is None else list(sample.visible_rationales),
        "source": sample.source,
        "sha256": sha256,
    }


def _download(url: str, *, path: Path, info: ShardInfo) -> None:
    filesystem.download(url, path)
    got = file_sha256(path)
    if got != info.sha256:
        raise OSError(
            f"shard {url}: read {path.stat().st_size} bytes with sha256 {got}, "
            f"its manifest says {info.num_bytes} with {info.sha256}"
        )
