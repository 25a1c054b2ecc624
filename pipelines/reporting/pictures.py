"""Find the pictures of labels again: by offset in their shard, or in the file that was labelled, checked by digest."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ecor.data.predictions import PredictionParents
from ecor.data.shard_manifest import ShardInfo, read_shard_manifest
from ecor.data.shards import read_index, sample_key
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.reporting.html_page import EmbeddedImage

PICTURE_QUALITY = 82
"""WebP quality of the thumbnails (our choice: about 6 kB at 192 pixels)."""
HASH_LENGTH = 12
"""Hexadecimal digits of the content's hash at the start of a key (`ecor.data.shards.sample_key`)."""
MOST_INDICES = 64
"""Indices of shards that are kept in memory, the last used ones (about 100 bytes per image)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePlace:
    """Where the picture of a label lies: columns of `ecor.data.prediction_schema.ORIGIN_SCHEMA`."""

    key: str
    source: str
    shard: str | None
    member_offset: int | None
    member_num_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureBytes:
    """An encoded picture that was checked."""

    data: bytes
    sha256: str


class PictureSource:
    """Reads the pictures of one folder of labels; safe for several threads, and each index is read once at a time."""

    def __init__(self, parents: PredictionParents, *, read_file: Callable[[str], bytes] | None = None) -> None:
        """
        Args:
            parents: inputs of the labels; pictures are read from there.
            read_file: reads an image file that lies in no shard; None: `filesystem.read`.
        """
        self._parents = parents
        self._read_file = read_file or filesystem.read
        self._lock = threading.Lock()
        self._shards: dict[str, ShardInfo] | str | None = None
        self._indices: OrderedDict[str, pa.Table | str] = OrderedDict()
        self._readers: dict[str, threading.Lock] = {}

    def read(self, place: PicturePlace) -> PictureBytes:
        """Read the image's file, or its range of the shard, and check it.

        Raises:
            ValueError: when it is not what was labelled any more, or its shards cannot be read.
            OSError: when it cannot be read.
        """
        return self._read_source(place) if place.shard is None else self._read_member(place, shard=place.shard)

    def _read_source(self, place: PicturePlace) -> PictureBytes:
        data = self._read_file(place.source)
        sha256 = bytes_sha256(data)
        expected = sample_key(place.source, sha256=sha256)
        # a key made from this path begins with the hash of the content
        if place.key[HASH_LENGTH:] == expected[HASH_LENGTH:] and place.key != expected:
            raise ValueError(f"{place.source} has changed since it was labelled")
        return PictureBytes(data=data, sha256=sha256)

    def _read_member(self, place: PicturePlace, *, shard: str) -> PictureBytes:
        index = self._index(shard)
        if isinstance(index, str):
            raise ValueError(index)
        if place.member_offset is None or place.member_num_bytes is None:
            raise ValueError(f"its place in {shard} is not known")
        end = place.member_offset + place.member_num_bytes
        data = filesystem.read(filesystem.join(self._parents.input, shard), start=place.member_offset, end=end)
        sha256, row = bytes_sha256(data), pc.index(index["key"], place.key).as_py()
        if row < 0 or index["sha256"][row].as_py() != sha256:
            raise ValueError(f"{shard} no longer holds it at byte {place.member_offset}")
        return PictureBytes(data=data, sha256=sha256)

    def _index(self, shard: str) -> pa.Table | str:
        """The index of a shard, or the reason why it is not known."""
        with self._lock:
            reader = self._readers.setdefault(shard, threading.Lock())
        with reader:
            with self._lock:
                found = self._indices.get(shard)
                if found is not None:
                    self._indices.move_to_end(shard)
                    return found
                shards = self._known_shards()
            found = shards if isinstance(shards, str) else self._read_index(shards.get(shard), name=shard)
            with self._lock:
                self._indices[shard] = found
                while len(self._indices) > MOST_INDICES:
                    self._indices.popitem(last=False)
            return found

    def _known_shards(self) -> dict[str, ShardInfo] | str:
        if self._shards is None:
            self._shards = self._read_manifest()
        return self._shards

    def _read_manifest(self) -> dict[str, ShardInfo] | str:
        folder = self._parents.input
        try:
            manifest = read_shard_manifest(folder)
        except (OSError, ValueError, ImportError) as error:
            return str(error)
        if manifest.digest != self._parents.input_digest:
            return f"the shards in {folder} were written anew since"
        return {shard.name: shard for shard in manifest.shards}

    def _read_index(self, shard: ShardInfo | None, *, name: str) -> pa.Table | str:
        if shard is None:
            return f"no shard {name} in {self._parents.input}"
        try:
            return read_index(self._parents.input, shard).select(["key", "sha256"])
        except (OSError, ValueError) as error:
            return str(error)


def make_thumbnail(image: Image.Image, *, size_px: int) -> EmbeddedImage:
    """Encode a copy of the image with a longer side of at most `size_px` pixels as WebP."""
    small = image.copy()
    small.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    small.save(sink, "WEBP", quality=PICTURE_QUALITY, method=4)
    return EmbeddedImage(data=sink.getvalue(), kind="image/webp", width=small.width, height=small.height)
