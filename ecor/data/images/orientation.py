"""Read how a picture must be turned to be upright: from its EXIF, or from its XMP where the EXIF is damaged."""

import struct
from contextlib import suppress

from PIL import Image

_ORIENTATION = 0x0112
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")
"""Where Pillow keeps the XMP of a picture: of most formats, and of PNG."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error)
"""What Pillow raises for metadata that it cannot read."""
_SIDEWAYS = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))


def find_turn(image: Image.Image, *, is_metadata_read: bool = False) -> Image.Transpose | None:
    """The transpose that makes a picture upright; None if there is none, or the metadata is damaged.

    Pillow reads XMP only where there is EXIF without an orientation; here also where the EXIF is damaged.

    Args:
        image: opened by Pillow. A TIFF that is loaded was turned by Pillow itself.
        is_metadata_read: whether no metadata stands behind the pixels. Pillow decodes a PNG to look for it there.
    """
    try:
        exif = Image.Image.getexif(image) if is_metadata_read else image.getexif()
        return _UPRIGHT.get(exif.get(_ORIENTATION, 1))
    except _DAMAGED:
        orientation = _orientation_of_xmp(image)
        with suppress(*_DAMAGED):  # also the pixels of a PNG may be damaged, which Pillow reads to look for EXIF
            image.getexif()[_ORIENTATION] = orientation  # Pillow gives a half-read EXIF when it is asked once more
        return _UPRIGHT.get(orientation)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture before it is turned: Pillow swaps those of a TIFF when it opens it."""
    is_swapped = image.format == "TIFF" and is_sideways(find_turn(image))
    return (image.height, image.width) if is_swapped else image.size


def is_sideways(turn: Image.Transpose | None) -> bool:
    """Whether a turn swaps width and height."""
    return turn in _SIDEWAYS


def _orientation_of_xmp(image: Image.Image) -> int:
    """By Pillow's own reader, of a picture that has nothing but the XMP of this one."""
    bare = Image.new("1", (1, 1))
    bare.info = {key: image.info[key] for key in _XMP_KEYS if key in image.info}
    orientation = bare.getexif().get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1
