"""Read the images of labels again: from shards by offset, or from the labelled files; each is checked by its digest."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from ecor.data.images.decoding import ImageError
from ecor.data.predictions.manifest import PredictionParents
from ecor.data.predictions.records import ExplainablePrediction
from ecor.data.samples import sample_key
from ecor.data.shard_manifest import ShardInfo, read_shard_manifest
from ecor.data.shards import read_index
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.runtime.retries import retry_in_store
from pipelines.storage.image_bytes import MissingError, UnreadableError, read_image_bytes

HASH_LENGTH = 12
"""Hexadecimal digits of the content's hash at the start of a key (`ecor.data.samples.sample_key`)."""
MOST_INDICES = 64
"""Indices of shards that are kept in memory, the last used ones (about 100 bytes per image)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlace:
    """Where the image of a label lies: columns of `ecor.data.predictions.schema.ORIGIN_SCHEMA`."""

    key: str
    source: str
    shard: str | None
    member_offset: int | None
    member_num_bytes: int | None

    @classmethod
    def of(cls, row: ExplainablePrediction) -> "ImagePlace":
        """The place of a label's image."""
        return cls(**{name: getattr(row, name) for name in PLACE_COLUMNS})


PLACE_COLUMNS = tuple(each.name for each in fields(ImagePlace))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBytes:
    """An encoded image that was checked."""

    data: bytes
    sha256: str


class _PassingReason(str):
    """Why something cannot be read now; the next image tries again."""

    __slots__ = ()


class ImageSource:
    """Reads the images of one folder of labels; safe for several threads, and each index is read once at a time."""

    def __init__(self, parents: PredictionParents, *, folder: str | None = None, option: str | None = None) -> None:
        """Nothing is opened yet.

        Args:
            parents: inputs of the labels; images are read from there.
            folder: where the split of shards lies now; None: where it was labelled.
            option: option of the command that names this folder; errors mention it.
        """
        self._parents = parents
        self._folder = folder or parents.input
        self._remedy = f": name their place with {option}" if option else ""
        self._lock = threading.Lock()
        self._shards: dict[str, ShardInfo] | str | None = None
        self._indices: OrderedDict[str, pa.Table | str] = OrderedDict()
        self._readers: dict[str, threading.Lock] = {}

    def read(self, place: ImagePlace) -> ImageBytes:
        """Read the image's file, or its range of the shard, and check it.

        Raises:
            ImageError: when this image is missing, unreadable, or not what was labelled.
            ValueError: when the shards are not those that were labelled, or cannot be read.
            OSError: when a disk or a store fails.
        """
        return _read_file(place) if place.shard is None else self._read_member(place, shard=place.shard)

    def _read_member(self, place: ImagePlace, *, shard: str) -> ImageBytes:
        index = self._index(shard)
        if isinstance(index, str):
            raise ValueError(index)
        start, num_bytes, row = place.member_offset, place.member_num_bytes, pc.index(index["key"], place.key).as_py()
        if row < 0 or start is None or num_bytes is None:
            raise ImageError("missing", f"{shard} has no image {place.key}")
        tar = filesystem.join(self._folder, shard)
        try:
            data = retry_in_store(lambda: filesystem.read(tar, start=start, end=start + num_bytes), place=tar)
        except FileNotFoundError as error:
            raise ImageError("missing", f"there is no {tar}") from error
        sha256 = bytes_sha256(data)
        if index["sha256"][row].as_py() != sha256:
            raise ImageError("changed", f"{tar} no longer holds {place.key} at byte {start}")
        return ImageBytes(data=data, sha256=sha256)

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
            if isinstance(found, _PassingReason):
                return found
            with self._lock:
                self._indices[shard] = found
                while len(self._indices) > MOST_INDICES:
                    self._indices.popitem(last=False)
            return found

    def _known_shards(self) -> dict[str, ShardInfo] | str:
        if self._shards is not None:
            return self._shards
        found = self._read_manifest()
        if not isinstance(found, _PassingReason):
            self._shards = found
        return found

    def _read_manifest(self) -> dict[str, ShardInfo] | str:
        try:
            manifest = retry_in_store(lambda: read_shard_manifest(self._folder), place=self._folder)
        except OSError as error:
            return _PassingReason(error)
        except (ValueError, ImportError) as error:
            return str(error)
        if manifest.digest != self._parents.input_digest:
            return (
                f"the shards in {self._folder} ({manifest.digest[:12]}…) are not those that were labelled "
                f"({self._parents.input_digest[:12]}…){self._remedy}"
            )
        return {shard.name: shard for shard in manifest.shards}

    def _read_index(self, shard: ShardInfo | None, *, name: str) -> pa.Table | str:
        if shard is None:
            return f"{self._folder} has no shard {name}, which the labels name"
        try:
            index = retry_in_store(lambda: read_index(self._folder, shard), place=self._folder)
            return index.select(["key", "sha256"])
        except OSError as error:
            return _PassingReason(error)
        except ValueError as error:
            return str(error)


def _read_file(place: ImagePlace) -> ImageBytes:
    try:
        data = read_image_bytes(place.source)
    except UnreadableError as error:
        raise ImageError("missing" if isinstance(error, MissingError) else "unreadable", str(error)) from error
    sha256 = bytes_sha256(data)
    expected = sample_key(place.source, sha256=sha256)
    # a key made from this path begins with the hash of the content
    if place.key[HASH_LENGTH:] == expected[HASH_LENGTH:] and place.key != expected:
        raise ImageError("changed", f"{place.source} has changed since it was labelled")
    return ImageBytes(data=data, sha256=sha256)
