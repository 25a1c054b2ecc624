"""Why Pillow does not open a file."""

import io

from PIL import TiffImagePlugin

from ecor.data.images.formats import missing_format
from ecor.data.images.image_error import ImageError

_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 256, 257, 258, 277, 339
"""Tags of a TIFF."""
_TIFF_STARTS = (b"II*\0", b"MM\0*")


def unidentified_error(data: bytes) -> ImageError:
    """A TIFF of pixels that Pillow has no mode for, a format whose package is not installed, or no image."""
    if (missing := missing_format(data)) is not None:
        return ImageError("unsupported_format", missing)
    if data[:4] in _TIFF_STARTS:
        try:
            tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
            file = io.BytesIO(data)
            file.seek(tags.next)
            tags.load(file)
            bands, bits = tags.get(_SAMPLES_PER_PIXEL, 1), tags.get(_BITS_PER_SAMPLE, (1,))
            if _WIDTH in tags and _HEIGHT in tags:
                kind = "floating point" if 3 in tags.get(_SAMPLE_FORMAT, ()) else "integers"
                what = f"a TIFF of {bands} bands of {bits[0]}-bit {kind}"
                return ImageError("unsupported_mode", f"{what}: save 8-bit RGB")
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - hostile bytes: Pillow raises many types
            return ImageError("not_an_image", f"a TIFF whose tags cannot be read: {error or type(error).__name__}")
    return ImageError("not_an_image", f"{len(data)} bytes that start with {data[:8]!r}")
