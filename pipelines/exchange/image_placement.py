"""Place the images of an export: name where they lie, link to them, or copy their bytes."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ecor.config.checks import require
from ecor.data.images.decoding import ImageError, ImageHeader, check_header
from ecor.data.predictions.manifest import PredictionParents
from ecor.data.predictions.records import ExplainablePrediction
from ecor.storage import filesystem
from ecor.storage.digests import text_sha256
from pipelines.config.exchange import ImageMode
from pipelines.exchange.exported_label import ExportedLabel, PlacedImage
from pipelines.scoring.work_units import Rejection
from pipelines.storage.image_bytes import MissingError, UnreadableError, join_source, read_image_bytes
from pipelines.storage.image_source import ImagePlace, ImageSource

STAGE = "export"
_SAFE_NAME = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}-[A-Za-z0-9_-]{1,60}|[a-z0-9][a-z0-9_-]{0,99}")
"""Keys of `ecor.data.samples.sample_key`, and others without capitals."""
FolderOf = Callable[[ExportedLabel], str]
"""Folder of an image within the export, by its label."""


class NotPlacedError(Exception):
    """An image that cannot be read; `rejection` says why."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.detail)
        self.rejection = rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNeeds:
    """What a format needs of an image."""

    bytes_inside: bool = False
    """The format's own files hold the bytes of copied images."""
    size: bool = False
    """Height and width."""


class ImagePlacement:
    """Places one image after the other; holds one in memory."""

    def __init__(
        self,
        parents: PredictionParents,
        *,
        mode: ImageMode,
        needs: ImageNeeds,
        folder: Path,
        folder_of: FolderOf,
        must_open: bool,
        image_root: str | None = None,
    ) -> None:
        """
        Args:
            parents: inputs of the labels.
            mode: see `ExportConfig.images`.
            needs: of the format.
            folder: of the unfinished export.
            folder_of: folder within the export, for links and copies.
            must_open: whether a tool opens images by their address; else one in a shard is named by its source.
            image_root: folder of relative sources.
        """
        self._images = ImageSource(parents)
        self._mode, self._needs, self._folder, self._folder_of = mode, needs, folder, folder_of
        self._must_open, self._image_root = must_open, image_root

    def place(self, label: ExportedLabel) -> PlacedImage:
        """Place the image of a label, whose own `image` is not known yet.

        Raises:
            NotPlacedError: when it is needed and cannot be read.
            ValueError: for an image without a file of its own, if it is not copied.
        """
        row = label.prediction
        if self._mode == "copy":
            return self._copy(label)
        if self._image_root is None and row.shard is not None and self._mode == "path" and not self._must_open:
            return PlacedImage(address=row.source)
        address = self._address(row)
        header = _header(row, self._read(row, address=address)) if self._needs.size else None
        if self._mode == "link":
            return self._link(label, address=address, header=header)
        return _placed(address, header=header)

    def _copy(self, label: ExportedLabel) -> PlacedImage:
        row = label.prediction
        data = self._read(row, address=None)
        header = _header(row, data)
        name = f"{self._folder_of(label)}/{file_stem(label.key)}.{header.extension}"
        if not self._needs.bytes_inside:
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        placed = _placed(name, header=header, is_within=True)
        return replace(placed, data=data) if self._needs.bytes_inside else placed

    def _link(self, label: ExportedLabel, *, address: str, header: ImageHeader | None) -> PlacedImage:
        require(
            filesystem.is_local(address), f"{address} is in a store, where no link leads: use --images copy or path"
        )
        local = filesystem.local_path(address)
        if not local.is_file():
            raise _not_placed(label.prediction, reason="missing", detail=f"no such file: {address}")
        suffix = header.extension if header else local.suffix.lstrip(".").lower()
        name = f"{self._folder_of(label)}/{file_stem(label.key)}.{suffix or 'bin'}"
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(local)
        return _placed(name, header=header, is_within=True)

    def _address(self, row: ExplainablePrediction) -> str:
        """Absolute path or URI of the image's own file."""
        if self._image_root is not None:
            return _absolute(join_source(row.source, root=self._image_root.rstrip("/")))
        require(
            row.shard is None,
            f"the image {row.key} lies in a shard ({row.shard}) and has no file of its own: use --images copy, or name "
            f"the folder that the shards were made from (--image-root)",
        )
        return _absolute(row.source)

    def _read(self, row: ExplainablePrediction, *, address: str | None) -> bytes:
        try:
            return self._images.read(ImagePlace.of(row)).data if address is None else read_image_bytes(address)
        except ImageError as error:
            reason = "missing" if error.reason == "missing" else "unreadable"
            raise _not_placed(row, reason=reason, detail=error.detail) from error
        except MissingError as error:
            raise _not_placed(row, reason="missing", detail=str(error)) from error
        except (UnreadableError, ValueError) as error:
            raise _not_placed(row, reason="unreadable", detail=str(error)) from error


def file_stem(key: str) -> str:
    """A file name without suffix that leads back to the key: the key itself, unless it is no safe file name.

    Two keys never share a name, also where a file system does not tell upper from lower case: keys of `ecor shard` and
    `ecor score` begin with a digest, and others get one.
    """
    if _SAFE_NAME.fullmatch(key):
        return key
    digest = text_sha256(key)[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', key)[:60].lstrip('_-') or 'key'}-{digest}"


def spread_folder(label: ExportedLabel) -> str:
    """One of 256 folders, so that no folder holds all images."""
    return f"images/{text_sha256(label.key)[:2]}"


def _header(row: ExplainablePrediction, data: bytes) -> ImageHeader:
    try:
        return check_header(data)
    except ImageError as error:
        raise _not_placed(row, reason=error.reason, detail=error.detail) from error


def _placed(address: str, *, header: ImageHeader | None, is_within: bool = False) -> PlacedImage:
    if header is None:
        return PlacedImage(address=address, is_within=is_within)
    width, height = header.upright_size
    return PlacedImage(address=address, is_within=is_within, extension=header.extension, height=height, width=width)


def _absolute(address: str) -> str:
    return address if "://" in address else str(Path(address).absolute())


def _not_placed(row: ExplainablePrediction, *, reason: str, detail: str) -> NotPlacedError:
    return NotPlacedError(Rejection(source=row.source, stage=STAGE, reason=reason, detail=detail))
