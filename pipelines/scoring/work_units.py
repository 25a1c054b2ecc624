"""Units of work of `ecor score`: small, sent to the machine that decodes them, and able to read their images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ecor.clip.image_features import FeaturePart
from ecor.data.predictions.manifest import PredictionPart
from ecor.data.samples import sample_key
from ecor.data.shard_manifest import ShardInfo
from ecor.data.shards import fetch_shard, read_index
from ecor.data.tar_members import read_members
from ecor.storage.digests import bytes_sha256
from pipelines.storage.image_bytes import MissingError, UnreadableError, escape_name, is_utf8, read_image_bytes

_PICTURES_PER_READ = 64
_FILES_AT_ONCE = 8
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageItem:
    """An encoded image and where it is from; named as the columns of `ecor.data.predictions.schema.ORIGIN_SCHEMA`."""

    data: bytes
    key: str
    source: str
    shard: str | None = None
    member_offset: int | None = None
    member_num_bytes: int | None = None
    category_true: str | None = None
    rationales_true: tuple[str, ...] | None = None
    visible_rationales: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An image that gets no label, and why: a row of the quarantine table."""

    source: str
    stage: str
    """Where it failed: `read` or `decode`."""
    reason: str
    """A short code to count by."""
    detail: str


class Unit(Protocol):
    """A piece of the input that is scored, written and committed as one."""

    @property
    def name(self) -> str:
        """Names its Parquet file; unique within the job, a function of the input and of where it was cut."""

    @property
    def num_images(self) -> int:
        """Pictures in it, readable or not."""


class ImageUnit(Unit, Protocol):
    """A unit whose images are read."""

    def read(self) -> Iterator[ImageItem | Rejection]:
        """Its pictures in order, a few in memory at a time.

        Raises ValueError when its container is not as recorded, OSError when a disk or a store fails.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One tar of a split."""

    folder: str
    info: ShardInfo

    @property
    def name(self) -> str:
        return self.info.name.removesuffix(".tar")

    @property
    def num_images(self) -> int:
        return self.info.num_samples

    def read(self) -> Iterator[ImageItem | Rejection]:
        index = read_index(self.folder, self.info)
        path = fetch_shard(self.folder, self.info)
        for rows in split_runs(range(index.num_rows), size=_PICTURES_PER_READ):
            members = index.take(list(rows)).select(["member_offset", "member_num_bytes"]).to_pylist()
            for sample, member in zip(read_members(path, index, rows=rows), members, strict=True):
                yield ImageItem(
                    data=sample.image,
                    key=sample.key,
                    source=sample.source,
                    shard=self.info.name,
                    category_true=sample.category,
                    rationales_true=sample.rationales or None,
                    visible_rationales=sample.visible_rationales,
                    **member,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file of a plain listing, with its labels where a table has them."""

    path: str
    """Any address fsspec opens."""
    category: str | None = None
    rationales: tuple[str, ...] | None = None
    visible_rationales: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingUnit:
    """A run of files of a plain listing."""

    name: str
    files: tuple[Listed, ...]
    allow_http: tuple[str, ...] = ()
    """Hosts on the web that are read."""

    @property
    def num_images(self) -> int:
        return len(self.files)

    def read(self) -> Iterator[ImageItem | Rejection]:
        with ThreadPoolExecutor(max_workers=_FILES_AT_ONCE) as pool:
            for files in split_runs(self.files, size=_PICTURES_PER_READ):
                yield from pool.map(partial(_read_file, allow_http=self.allow_http), files)


def unit_to_json(unit: Unit) -> str:
    """A unit as it travels to the machine that decodes it: plain values, no pickle."""
    assert is_dataclass(unit) and not isinstance(unit, type)
    return json.dumps({"kind": type(unit).__name__, **asdict(unit)})


def unit_from_json(text: str) -> ImageUnit:
    """The unit of images that `unit_to_json` was given."""
    fields = json.loads(text)
    if fields.pop("kind") == ShardUnit.__name__:
        return ShardUnit(folder=fields["folder"], info=ShardInfo(**fields["info"]))
    files = tuple(_listed_from(each) for each in fields["files"])
    return ListingUnit(name=fields["name"], files=files, allow_http=tuple(fields.get("allow_http", ())))


def _listed_from(fields: Mapping[str, Any]) -> Listed:
    names = {name: tuple(fields[name]) if fields[name] else None for name in ("rationales", "visible_rationales")}
    return Listed(path=fields["path"], category=fields["category"], **names)


def _read_file(file: Listed, *, allow_http: tuple[str, ...]) -> ImageItem | Rejection:
    if not is_utf8(file.path):
        return Rejection(source=escape_name(file.path), stage="read", reason="bad_name", detail="its name is not UTF-8")
    try:
        data = read_image_bytes(file.path, allow_http=allow_http)
    except UnreadableError as error:
        reason = "missing" if isinstance(error, MissingError) else "unreadable"
        detail = " ".join(str(error).split()) or type(error).__name__
        return Rejection(source=file.path, stage="read", reason=reason, detail=detail)
    return ImageItem(
        data=data,
        key=sample_key(file.path, sha256=bytes_sha256(data)),
        source=file.path,
        category_true=file.category,
        rationales_true=file.rationales,
        visible_rationales=file.visible_rationales,
    )


def split_runs(items: Sequence[_T], *, size: int) -> Iterator[Sequence[_T]]:
    """Consecutive pieces of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


QUARANTINE_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in Rejection.__slots__])
"""A row per rejected picture; see `pipelines.scoring.work_units.Rejection`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedUnit:
    """A unit that is done."""

    part: PredictionPart
    rejected: tuple[Rejection, ...]
    features: FeaturePart | None = None
    """File of its images' features, if they were kept."""
    num_multipicture: int = 0
    """Images whose files hold more pictures, of which the first was taken."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "CommittedUnit":
        """Read a commit record, or the output of `dataclasses.asdict`."""
        rejected = tuple(Rejection(**each) for each in record["rejected"])
        kept = record.get("features")
        features = None if kept is None else FeaturePart(**kept)
        return cls(
            part=PredictionPart(**record["part"]),
            rejected=rejected,
            features=features,
            num_multipicture=record.get("num_multipicture", 0),
        )
