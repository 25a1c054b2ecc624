"""Names that image files have: the suffixes of the formats that are opened on this machine."""

from pathlib import PurePosixPath

from ecor.data.images.formats import EXTENSIONS, can_open

_OTHER_SUFFIXES = ("jpeg", "jpe", "jfif", "jpg_large", "mpo", "tiff", "pgm", "pnm", "heif", "hif")
IMAGE_SUFFIXES = frozenset(filter(can_open, (f".{name}" for name in (*EXTENSIONS.values(), *_OTHER_SUFFIXES))))


def is_image_name(path: str) -> bool:
    """Whether a file is an image by its name; its content is not looked at."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES
