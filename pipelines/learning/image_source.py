"""Read the images that labels are about: from shards by offset, or from their files; each is checked by its hash."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

from ecor.config.checks import require
from ecor.data.images.decoding import ImageError
from ecor.data.predictions import PredictionParents
from ecor.data.shard_manifest import ShardManifest, read_shard_manifest
from ecor.data.shards import read_index, sample_key
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.runtime.retries import retry_in_store
from pipelines.storage.image_bytes import MissingError, UnreadableError, read_image_bytes

_HASH_LENGTH = 12
"""Hex digits of the content's hash at the beginning of a key that `sample_key` made."""


class ImageSource:
    """Images of one set of labels; safe for several threads."""

    def __init__(self, parents: PredictionParents, *, source: str | None = None) -> None:
        """Nothing is opened yet.

        Args:
            parents: of the labels.
            source: where the split of shards lies now; None: where it was labelled.
        """
        self._parents = parents
        self._folder = source or parents.input
        self._hashes = lru_cache(maxsize=2)(self._read_hashes)

    def read(self, row: Mapping[str, Any]) -> bytes:
        """Read an image.

        Args:
            row: its columns `key`, `source`, `shard`, `member_offset` and `member_num_bytes`.

        Raises:
            ImageError: when this image is missing, unreadable, or not what was labelled.
            ValueError: when the shards are not those that were labelled.
            OSError: when a disk or a store fails.
        """
        return self._read_file(row) if row["shard"] is None else self._read_member(row)

    def _read_file(self, row: Mapping[str, Any]) -> bytes:
        try:
            data = read_image_bytes(row["source"])
        except UnreadableError as error:
            reason = "missing" if isinstance(error, MissingError) else "unreadable"
            raise ImageError(reason, str(error)) from error
        expected = sample_key(row["source"], sha256=bytes_sha256(data))
        if row["key"][_HASH_LENGTH:] == expected[_HASH_LENGTH:] and row["key"] != expected:
            raise ImageError("changed", f"{row['source']} has changed since it was labelled")
        return data

    def _read_member(self, row: Mapping[str, Any]) -> bytes:
        start, num_bytes = row["member_offset"], row["member_num_bytes"]
        place = filesystem.join(self._folder, row["shard"])
        expected = self._hashes(row["shard"]).get(row["key"])
        if expected is None or start is None or num_bytes is None:
            raise ImageError("missing", f"{row['shard']} has no image {row['key']}")
        try:
            data = retry_in_store(lambda: filesystem.read(place, start=start, end=start + num_bytes), place=place)
        except FileNotFoundError as error:
            raise ImageError("missing", f"there is no {place}") from error
        if bytes_sha256(data) != expected:
            raise ImageError("changed", f"{place} no longer holds {row['key']} at byte {start}")
        return data

    def _read_hashes(self, shard: str) -> dict[str, str]:
        """sha256 of each image of a shard, by key."""
        info = next((each for each in self._manifest.shards if each.name == shard), None)
        require(info is not None, f"{self._folder} has no shard {shard}, which the labels name")
        assert info is not None
        index = read_index(self._folder, info)
        return dict(zip(index["key"].to_pylist(), index["sha256"].to_pylist(), strict=True))

    @cached_property
    def _manifest(self) -> ShardManifest:
        manifest = read_shard_manifest(self._folder)
        require(
            manifest.digest == self._parents.input_digest,
            f"the shards in {self._folder} ({manifest.digest[:12]}…) are not those that were labelled "
            f"({self._parents.input_digest[:12]}…): name their place with --source",
        )
        return manifest
