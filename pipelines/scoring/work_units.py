"""What `ecor score` is given (a split of shards, a folder of images, a table) in, its units of work out.

A unit knows how to read its pictures; it is small, and travels to the machine that decodes it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from ecor.data.image_decoding import EXTENSIONS
from ecor.data.shards import MANIFEST_NAME, ShardInfo, fetch_shard, read_index, read_manifest, read_members, sample_key
from ecor.data.vocabulary import normalise_name
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256, text_sha256
from pipelines.config.infrastructure import absolute_address
from pipelines.runtime.retries import retry_in_store
from pipelines.storage.image_bytes import MissingError, UnreadableError, escape_name, is_utf8, read_image_bytes

IMAGE_SUFFIXES = frozenset(f".{name}" for name in (*EXTENSIONS.values(), "jpeg", "jpe", "tiff", "pgm", "pnm"))
TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")
_PICTURES_PER_READ = 64
_FILES_AT_ONCE = 8
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageItem:
    """An encoded image and where it is from; named as the columns of `ecor.data.predictions.ORIGIN_SCHEMA`."""

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
        for rows in _runs(range(index.num_rows), size=_PICTURES_PER_READ):
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

    @property
    def num_images(self) -> int:
        return len(self.files)

    def read(self) -> Iterator[ImageItem | Rejection]:
        with ThreadPoolExecutor(max_workers=_FILES_AT_ONCE) as pool:
            for files in _runs(self.files, size=_PICTURES_PER_READ):
                yield from pool.map(_read_file, files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Everything that a job scores."""

    digest: str
    """Of the shard manifest; of a listing, of its relative paths, labels and (for a folder) file sizes."""
    units: tuple[Unit, ...]
    once_mended: str
    """What to do when pictures of it were mended: the digest may be another one then."""

    @property
    def num_images(self) -> int:
        return sum(unit.num_images for unit in self.units)


def unit_to_json(unit: Unit) -> str:
    """A unit as it travels to the machine that decodes it: plain values, no pickle."""
    assert isinstance(unit, ShardUnit | ListingUnit)
    return json.dumps({"kind": type(unit).__name__, **asdict(unit)})


def unit_from_json(text: str) -> Unit:
    """The unit that `unit_to_json` was given."""
    fields = json.loads(text)
    if fields.pop("kind") == ShardUnit.__name__:
        return ShardUnit(folder=fields["folder"], info=ShardInfo(**fields["info"]))
    return ListingUnit(name=fields["name"], files=tuple(_listed_from(each) for each in fields["files"]))


def _listed_from(fields: Mapping[str, Any]) -> Listed:
    names = {name: tuple(fields[name]) if fields[name] else None for name in ("rationales", "visible_rationales")}
    return Listed(path=fields["path"], category=fields["category"], **names)


def read_input(location: str, *, unit_size: int) -> Input:
    """Units of work of a split of shards, or of a table or a folder of images (runs of `unit_size`, sorted by path).

    Raises ValueError, with what would do, for a place that is none of these or holds no image.
    """
    root = absolute_address(location)
    if root.lower().endswith(TABLE_SUFFIXES):
        again = "run the same command again"
        return _listing(_read_table(root), unit_size=unit_size, base=root.rpartition("/")[0], once_mended=again)
    if filesystem.exists(filesystem.join(root, MANIFEST_NAME)):
        return _split(root)
    if not filesystem.is_folder(root):
        raise ValueError(
            f"{location} is neither a folder nor a table: name a split written by `ecor shard`, a folder of images, or "
            f"a file that ends in {', '.join(TABLE_SUFFIXES)}"
        )
    splits = [
        entry.name
        for entry in filesystem.entries(root)
        if entry.is_folder and filesystem.exists(f"{root}/{entry.name}/{MANIFEST_NAME}")
    ]
    if splits:
        raise ValueError(f"{location} holds the splits {', '.join(splits)}: name one, as {location}/{splits[0]}")
    again = "run again, with --fresh where a name or a size has changed"
    return _listing(_read_folder(root), unit_size=unit_size, base=root, once_mended=again)


def _split(folder: str) -> Input:
    manifest = read_manifest(folder)
    units = tuple(ShardUnit(folder=folder, info=shard) for shard in manifest.shards)
    return Input(digest=manifest.digest, units=units, once_mended="shard them and run again, both with --fresh")


def _read_folder(root: str) -> list[dict[str, Any]]:
    """Relative path and size of every image file, at any depth, hidden files and folders left out."""
    rows = []
    for path, num_bytes in retry_in_store(lambda: filesystem.files_below(root), place=root).items():
        hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
        if not hidden and PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            rows.append({"path": path, "size": num_bytes})
    if not rows:
        raise ValueError(f"{root} holds no image: files that end in {', '.join(sorted(IMAGE_SUFFIXES))} are looked for")
    return rows


def _read_table(path: str) -> list[dict[str, Any]]:
    """Rows with `path` and, where the table has them, `category`, `rationales`, `visible_rationales`."""
    readers = {".csv": _csv_table, ".jsonl": pa_json.read_json, ".parquet": _parquet_table}
    try:
        with filesystem.opened(path) as file:
            table = readers[PurePosixPath(path).suffix.lower()](file)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such table") from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    if "path" not in table.column_names:
        raise ValueError(f"{path} needs a column `path`, it has {', '.join(table.column_names)}")
    known = [name for name in ("path", "category", "rationales", "visible_rationales") if name in table.column_names]
    rows = table.select(known).to_pylist()
    if not rows:
        raise ValueError(f"{path} has no row")
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if not row["path"]:
            raise ValueError(f"{path}: row {number} has no path")
        if first.setdefault(row["path"], number) != number:
            raise ValueError(
                f"{path}: rows {first[row['path']]} and {number} both list {row['path']}: keep one row per image, with "
                f"all its rationales in one cell"
            )
    return rows


def _csv_table(file: Any) -> pa.Table:
    """Every cell as text: a category named 7 stays a name."""
    names = pa_csv.read_csv(file).column_names
    file.seek(0)
    types = dict.fromkeys(names, pa.string())
    return pa_csv.read_csv(file, convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True))


def _parquet_table(file: Any) -> pa.Table:
    return pq.ParquetFile(file).read(use_threads=False)


def _listing(rows: list[dict[str, Any]], *, unit_size: int, base: str, once_mended: str) -> Input:
    digest = text_sha256("\n".join(json.dumps(row, sort_keys=True) for row in rows))
    files = tuple(_listed(row, base=base) for row in rows)
    units = tuple(
        ListingUnit(name=f"{number:06d}", files=tuple(run)) for number, run in enumerate(_runs(files, size=unit_size))
    )
    return Input(digest=digest, units=units, once_mended=once_mended)


def _listed(row: Mapping[str, Any], *, base: str) -> Listed:
    path = row["path"] if "://" in row["path"] or row["path"].startswith("/") else f"{base}/{row['path']}"
    category = row.get("category")
    return Listed(
        path=path,
        category=normalise_name(category) if category else None,
        rationales=_names(row.get("rationales")),
        visible_rationales=_names(row.get("visible_rationales")),
    )


def _names(cell: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of a list, or of a text that is a JSON list or has "|" between names; None for an empty cell."""
    if not cell:
        return None
    if isinstance(cell, str):
        cell = json.loads(cell) if cell.startswith("[") else cell.split("|")
    return tuple(dict.fromkeys(filter(None, map(normalise_name, cell)))) or None


def _read_file(file: Listed) -> ImageItem | Rejection:
    if not is_utf8(file.path):
        return Rejection(source=escape_name(file.path), stage="read", reason="bad_name", detail="its name is not UTF-8")
    try:
        data = read_image_bytes(file.path)
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


def _runs(items: Sequence[_T], *, size: int) -> Iterator[Sequence[_T]]:
    """Consecutive pieces of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
