"""HEIC, AVIF, JPEG XL and files of several pictures: the right pixels, or a line that names what is not installed."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, features

from ecor.data.images import formats
from ecor.data.images.decoding import ImageError, check_header, decode_file, decode_image

SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
PICTURE = Image.fromarray(np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], axis=-1))


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch):
    """As on a machine that has neither package."""
    for name in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("HEIF", "JXL"):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    formats.opened_formats.cache_clear()
    yield
    formats.opened_formats.cache_clear()


def encoded(kind: str, **settings) -> bytes:
    out = io.BytesIO()
    PICTURE.save(out, kind, **settings)
    return out.getvalue()


def assert_alike(data: bytes, *, extension: str) -> None:
    header = check_header(data)
    assert (header.extension, header.width, header.height) == (extension, 64, 48)
    difference = np.abs(np.asarray(decode_image(data), dtype=int) - np.asarray(PICTURE, dtype=int))
    assert difference.mean() < 4


def test_heic_is_read_where_its_package_is_installed():
    heif = pytest.importorskip("pillow_heif")
    formats.opened_formats.cache_clear()
    out = io.BytesIO()
    heif.from_pillow(PICTURE).save(out, quality=95)
    assert_alike(out.getvalue(), extension="heic")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read():
    assert_alike(encoded("AVIF", quality=95), extension="avif")


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"pip install 'ecor\[heif\]'"),
        (b"\xff\x0a\x00\x10", r"pip install 'ecor\[jxl\]'"),
    ],
)
def test_a_format_whose_package_is_missing_is_named(start: bytes, remedy: str, without_packages):
    with pytest.raises(ImageError, match=remedy) as caught:
        decode_image(start + bytes(100))
    assert caught.value.reason == "unsupported_format"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_pictures_the_first_is_taken(kind: str):
    first, second = (Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 0, 255)))
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    assert getattr(Image.open(io.BytesIO(out.getvalue())), "n_frames", 1) == 2
    assert decode_image(out.getvalue()).getpixel((4, 4)) == (255, 0, 0)
    assert check_header(out.getvalue()).is_multipicture and decode_file(out.getvalue()).is_multipicture


def test_other_files_of_several_pictures_are_known_too():
    heif = pytest.importorskip("pillow_heif")
    formats.opened_formats.cache_clear()
    several = heif.from_pillow(PICTURE)
    several.add_from_pillow(PICTURE.rotate(180))
    camera, heic = io.BytesIO(), io.BytesIO()
    several.save(heic)
    PICTURE.save(camera, "MPO", save_all=True, append_images=[PICTURE.rotate(180)])
    for data in (camera.getvalue(), heic.getvalue()):
        assert check_header(data).is_multipicture and decode_file(data).is_multipicture


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "JPEG", "BMP"])
def test_a_file_of_one_picture_is_none_of_several(kind: str):
    data = encoded(kind)
    assert not check_header(data).is_multipicture and not decode_file(data).is_multipicture
    animated = io.BytesIO()
    PICTURE.save(animated, "GIF", save_all=True, append_images=[PICTURE.rotate(180)])
    cut = animated.getvalue()[: len(animated.getvalue()) * 2 // 3]  # within the second picture
    assert decode_file(cut).picture.size == PICTURE.size
