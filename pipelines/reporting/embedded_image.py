"""Pictures inside a page: thumbnails as WebP, plots as they are, and the reason why one cannot be shown."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from ecor.data.images.decoding import ImageError
from pipelines.storage.image_source import ImagePlace

PICTURE_QUALITY = 82
"""WebP quality of thumbnails (our choice: about 6 kB at 192 pixels)."""
_SMALL_PX = 48
"""Images up to this size are enlarged without smoothing (our choice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedImage:
    """An image inside the page."""

    data: bytes
    """The encoded image."""
    kind: str
    """MIME type."""
    width: int
    """Pixels."""
    height: int

    @property
    def uri(self) -> str:
        return f"data:{self.kind};base64,{base64.b64encode(self.data).decode()}"

    @property
    def small(self) -> bool:
        return max(self.width, self.height) <= _SMALL_PX


class MissingPictureError(Exception):
    """A picture cannot be shown; the text says why."""


@contextmanager
def explain_missing(place: ImagePlace) -> Iterator[None]:
    """Replace the errors of reading and decoding a picture.

    Raises:
        MissingPictureError: in place of any of them.
    """
    try:
        yield
    except ImageError as error:
        is_missing = error.reason == "missing"
        where = place.source if place.shard is None else place.shard
        raise MissingPictureError(f"not found: {where}" if is_missing else str(error)) from error
    except (OSError, ValueError, ImportError) as error:  # ImportError: no client for this kind of address
        raise MissingPictureError(str(error)) from error


def make_thumbnail(image: Image.Image, *, size_px: int) -> EmbeddedImage:
    """Encode a copy of the image with a longer side of at most `size_px` pixels as WebP."""
    small = image.copy()
    small.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    return encode_webp(small, quality=PICTURE_QUALITY)


def encode_webp(image: Image.Image, *, quality: int) -> EmbeddedImage:
    """Encode an image in its size, with a quality from 0 to 100."""
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=quality, method=4)
    return EmbeddedImage(data=sink.getvalue(), kind="image/webp", width=image.width, height=image.height)


def read_png(data: bytes) -> EmbeddedImage:
    """Take an encoded plot as it is."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return EmbeddedImage(data=data, kind="image/png", width=image.width, height=image.height)
