"""Decode images with Pillow, upright and as RGB.

Torch is not imported here: it would take most of the start of a decoder process.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ecor.data.images.formats import EXTENSIONS, opened_formats
from ecor.data.images.image_error import ImageError as ImageError
from ecor.data.images.jxl_header import JXL_STARTS, jxl_size
from ecor.data.images.orientation import find_turn, is_sideways, stored_size
from ecor.data.images.png_chunks import ends_after_pixels, png_pixels
from ecor.data.images.reduced_jpeg import reduce_jpeg
from ecor.data.images.unidentified import unidentified_error

Picture = Image.Image | NDArray[np.generic] | str | Path | bytes
"""A PIL image, an array [H W 3] of 8-bit RGB, a path, or the bytes of an image file."""
_T = TypeVar("_T")
MAX_PIXELS = 89_478_485
"""Width times height that is decoded by default: Pillow's own warning limit, 0.27 GB as RGB."""
_TOO_MANY = "more than the limit of {} (MAX_PIXELS in ecor.data.images.decoding): make it smaller"
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""Tags of a TIFF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Format and size from an image's header."""

    extension: str
    width: int
    """Pixels as stored, before EXIF orientation is applied."""
    height: int
    is_sideways: bool
    """Whether the EXIF orientation swaps width and height."""
    is_multipicture: bool
    """Whether the file holds more pictures than the first, which is taken."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as tools show the picture."""
        return (self.height, self.width) if self.is_sideways else (self.width, self.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedFile:
    """The first picture of a file."""

    picture: Image.Image
    """Upright, RGB."""
    is_multipicture: bool
    """Whether the file holds more."""


def check_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read format and size of an image, without decoding a pixel.

    Args:
        data: bytes of an image file.
        max_pixels: most pixels that are accepted, width times height.

    Raises:
        ImageError: with the reason `empty`, `not_an_image`, `unsupported_mode`, `too_large`, `truncated` or `corrupt`.
    """

    def header(data: bytes) -> ImageHeader:
        with _open_image(data, max_pixels=max_pixels) as image:
            width, height = stored_size(image)
            turned = is_sideways(find_turn(image, is_metadata_read=ends_after_pixels(data)))
            return ImageHeader(
                extension=EXTENSIONS[str(image.format)],
                width=width,
                height=height,
                is_sideways=turned,
                is_multipicture=_is_multipicture(image),
            )

    return _retry_without_metadata(header, data)


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB and apply its EXIF orientation; of several pictures, the first (`decode_file`).

    Transparency is dropped, not blended (as open_clip does); 16-bit grey keeps its upper 8 bits, as does 12-bit grey of
    a TIFF that says so. Of 12 bits in 16 no file tells.

    Args:
        data: bytes of an image file.
        max_pixels: most pixels that are accepted, width times height.

    Raises:
        ImageError: with the reason `empty`, `not_an_image`, `too_large` (read from the header, before memory is used),
            `truncated`, `corrupt` or `unsupported_mode`.
    """
    return decode_file(data, max_pixels=max_pixels).picture


def decode_file(data: bytes, *, max_pixels: int = MAX_PIXELS, jpeg_side: int | None = None) -> DecodedFile:
    """Decode as `decode_image`, and tell whether the file holds more pictures.

    Args:
        data: bytes of an image file.
        max_pixels: most pixels that are accepted, width times height.
        jpeg_side: a JPEG is decoded at a half, a quarter or an eighth of its size where no side gets smaller than this.
            None: at its size, as all other formats.

    Raises:
        ImageError: as `decode_image`.
    """

    def decoded(data: bytes) -> DecodedFile:
        with _open_image(data, max_pixels=max_pixels) as image:
            is_multipicture = _is_multipicture(image)
            if jpeg_side is not None:
                reduce_jpeg(image, smallest_side=jpeg_side)
            return DecodedFile(picture=to_upright_rgb(image, max_pixels=max_pixels), is_multipicture=is_multipicture)

    return _retry_without_metadata(decoded, data)


def decode_picture(picture: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image given in any accepted form; all forms give the same pixels as `decode_image`.

    Args:
        picture: a PIL image, an array [H W 3] of 8-bit RGB, a path, or the bytes of an image file.
        max_pixels: most pixels that are accepted, width times height.

    Raises:
        ImageError: as `decode_image`; with the reason `not_an_image` also for an array of another shape or type.
        OSError: when a path cannot be read.
    """
    if isinstance(picture, str | Path | bytes):
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        return decode_image(data, max_pixels=max_pixels)
    if isinstance(picture, Image.Image):
        return to_upright_rgb(picture, max_pixels=max_pixels)
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ImageError("not_an_image", f"an array must be 8-bit [H W 3], got {array.dtype} {list(array.shape)}")
    return to_upright_rgb(Image.fromarray(array), max_pixels=max_pixels)


def to_upright_rgb(image: Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Convert an opened picture to what `decode_image` gives.

    Args:
        image: opened by Pillow; it need not be loaded.
        max_pixels: most pixels that are accepted, width times height.

    Raises:
        ImageError: as `decode_image`.
    """
    _check_size(image.width, image.height, max_pixels=max_pixels)
    try:
        image.load()
        turn = find_turn(image)  # of the picture as it was opened: an array made of it has no EXIF
        rgb = _to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise any type on hostile bytes; all of them become an ImageError
        raise _decoding_error(error) from error


def _open_image(data: bytes, *, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("empty", "0 bytes")
    if data.startswith(JXL_STARTS):  # its plugin decodes it when it opens it
        _check_size(*jxl_size(data), max_pixels=max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=opened_formats())
    except UnidentifiedImageError as error:
        raise unidentified_error(data) from error
    except Image.DecompressionBombError as error:
        num_pixels = next(iter(re.findall(r"\d+", str(error))), "too many")
        raise ImageError("too_large", f"{num_pixels} pixels, {_TOO_MANY.format(max_pixels)}") from error
    except MemoryError:
        raise
    except Exception as error:  # as in upright_rgb
        raise _decoding_error(error) from error
    _check_size(image.width, image.height, max_pixels=max_pixels)
    return image


def _is_multipicture(image: Image.Image) -> bool:
    """Of an opened file; Pillow looks for a second picture at most."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - what comes after the first picture may be damaged
        return False


def _check_size(width: int, height: int, *, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels, {_TOO_MANY.format(max_pixels)}")


def _retry_without_metadata(read: Callable[[bytes], _T], data: bytes) -> _T:
    """Call `read`; for a PNG that it rejects, call it again without metadata chunks (colour profiles, texts)."""
    try:
        return read(data)
    except ImageError as error:
        pixels = png_pixels(data) if error.reason in ("corrupt", "not_an_image", "truncated") else data
        if pixels == data:
            raise
        return read(pixels)


def _decoding_error(error: Exception) -> ImageError:
    detail = str(error) or type(error).__name__
    ends_early = isinstance(error, EOFError) or any(word in detail.lower() for word in ("truncated", "not enough"))
    return ImageError("truncated" if ends_early else "corrupt", detail)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip at 255
        grey_HW = np.asarray(image).astype(np.int64)
        low, high = (int(grey_HW.min()), int(grey_HW.max())) if grey_HW.size else (0, 0)
        if image.mode == "I" and image.format in (None, "TIFF") and 0 <= low <= high < 2**8:
            return Image.fromarray(grey_HW.astype(np.uint8)).convert("RGB")  # 8 bits in an array of 32
        if not 0 <= low <= high < 2**16:
            raise ImageError("unsupported_mode", f"{image.mode} with values outside 0..65535")
        tags = getattr(image, "tag_v2", {})
        num_bits = 12 if tags.get(_BITS_PER_SAMPLE) == (12,) and high < 2**12 else 16  # 12: Pillow leaves them unscaled
        if tags.get(_PHOTOMETRIC) == 0:  # WhiteIsZero: Pillow turns 8 bits, but not 16
            grey_HW = 2**num_bits - 1 - grey_HW
        return Image.fromarray((grey_HW >> num_bits - 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("unsupported_mode", "floating point pixels have no agreed range")
    return image.convert("RGB")
