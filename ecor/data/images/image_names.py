"""Names that image files have: the suffixes of the formats that are opened."""

from pathlib import PurePosixPath

from ecor.data.images.decoding import EXTENSIONS

IMAGE_SUFFIXES = frozenset(
    f".{name}" for name in (*EXTENSIONS.values(), "jpeg", "jpe", "jfif", "jpg_large", "mpo", "tiff", "pgm", "pnm")
)


def is_image_name(path: str) -> bool:
    """Whether a file is an image by its name; its content is not looked at."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES
