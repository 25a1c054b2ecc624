"""JPEG files decoded smaller than they are: as large as asked for, upright, and near to what the whole file gives."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ecor.config.model import Preprocess
from ecor.data.images.decoding import ImageError, decode_file, decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.images.reduced_jpeg import JPEG_MARGIN

_ROTATED = 6
"""EXIF orientation of a picture that lies on its side."""


def picture(width: int = 640, height: int = 400) -> Image.Image:
    """Smooth colours, with edges."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height)).filter(ImageFilter.SHARPEN)


def encoded(image: Image.Image, *, form: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("side", "expected"), [(None, (640, 400)), (400, (640, 400)), (200, (320, 200)), (64, (160, 100)), (1, (80, 50))]
)
def test_the_size_is_the_smallest_whose_sides_are_large_enough(side: int | None, expected: tuple[int, int]) -> None:
    assert decode_file(encoded(picture()), jpeg_side=side).picture.size == expected


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_mode_becomes_rgb_and_turns_are_applied(mode: str) -> None:
    exif = Image.Exif()
    exif[274] = _ROTATED
    data = encoded(picture().convert(mode), exif=exif)
    found, whole = decode_file(data, jpeg_side=100).picture, decode_image(data)
    assert (found.mode, found.size, whole.size) == ("RGB", (100, 160), (400, 640))
    difference = np.abs(np.asarray(found, dtype=float) - np.asarray(whole.resize(found.size, Image.Resampling.BOX)))
    assert difference.mean() < 4


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_formats_are_decoded_whole(form: str) -> None:
    assert decode_file(encoded(picture(), form=form), jpeg_side=1).picture.size == (640, 400)


def test_the_first_of_several_pictures_is_reduced_too() -> None:
    data = encoded(picture(), form="MPO", save_all=True, append_images=[picture(300, 300)])
    found = decode_file(data, jpeg_side=100)
    assert found.is_multipicture and found.picture.size == (160, 100)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_cut_off_file_is_refused_as_before(share: float) -> None:
    data = encoded(picture(), quality=95)
    with pytest.raises(ImageError, match="truncated"):
        decode_file(data[: int(share * len(data))], jpeg_side=64)


def test_the_pixels_of_a_tower_hardly_change() -> None:
    preprocess = Preprocess(
        image_size=(32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        resize_mode="shortest",
        fill_color=0,
    )
    data = encoded(picture())
    reduced = decode_file(data, jpeg_side=JPEG_MARGIN * 32).picture
    found, whole = (image_to_pixels(each, preprocess=preprocess) for each in (reduced, decode_image(data)))
    assert reduced.size == (160, 100)
    assert np.abs(found.astype(float) - whole).mean() < 1
