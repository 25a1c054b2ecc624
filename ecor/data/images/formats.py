"""Formats of pictures that are opened: those of Pillow, and HEIF and JPEG XL where their packages are installed."""

from contextlib import suppress
from functools import cache
from importlib.util import find_spec

from PIL import Image

from ecor.data.images.jxl_header import JXL_STARTS

EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "JPEG2000": "jp2",
    "AVIF": "avif",
    "HEIF": "heic",
    "JXL": "jxl",
}
"""Formats that are opened, and their file name extension. Others (EPS would start a program) are not images here."""
REMEDIES = {".heic": "pip install 'ecor[heif]'", ".jxl": "pip install 'ecor[jxl]'"}
REMEDIES |= dict.fromkeys((".heif", ".hif"), REMEDIES[".heic"])
"""How to take files that are left out where a package is not installed, by suffix."""
_PACKAGES = {".heic": "pillow_heif", ".heif": "pillow_heif", ".hif": "pillow_heif", ".jxl": "pillow_jxl"}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


@cache
def opened_formats() -> tuple[str, ...]:
    """Formats that can be opened on this machine."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401 - registers itself
    Image.init()
    names = (name for name in EXTENSIONS if name != "MPO")  # Pillow opens MPO as JPEG and then renames it
    return tuple(name for name in names if name in Image.OPEN)


def can_open(suffix: str) -> bool:
    """Whether the package that files of this suffix need is installed, if they need one."""
    return suffix not in _PACKAGES or find_spec(_PACKAGES[suffix]) is not None


def missing_format(data: bytes) -> str | None:
    """A sentence with the remedy, for a picture in a format that is not opened on this machine; None for others."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    formats = opened_formats()
    if brand in _HEIF_BRANDS and "HEIF" not in formats:
        return f"HEIC or HEIF, and pillow-heif is not installed: {REMEDIES['.heic']}"
    if brand in _AVIF_BRANDS and "AVIF" not in formats:
        return "AVIF, which this Pillow does not open: pip install 'pillow>=11.3'"
    if data.startswith(JXL_STARTS) and "JXL" not in formats:
        return f"JPEG XL, and pillow-jxl-plugin is not installed: {REMEDIES['.jxl']}"
    return None
