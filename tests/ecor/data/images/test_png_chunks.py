"""What stands before and behind the pixels of a PNG: the header tells the turn without decoding, where it can."""

import io
from zlib import crc32

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from ecor.data.images.decoding import check_header, decode_image
from ecor.data.images.png_chunks import ends_after_pixels

WIDTH, HEIGHT, TURNED_RIGHT = 12, 8, 6
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + crc32(kind + body).to_bytes(4, "big")


def png(**options: object) -> bytes:
    out = io.BytesIO()
    NOISE.save(out, "png", **options)
    return out.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = TURNED_RIGHT
    return found


def profile(*, first_is_text: bool) -> PngInfo:
    """ImageMagick's form of EXIF, as a compressed text."""
    body = exif().tobytes().hex()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(body) // 2:8d}\n{body}", zip=not first_is_text)
    return info


def behind_pixels(data: bytes, added: bytes) -> bytes:
    end = data.rindex(b"IEND") - 4
    return data[:end] + added + data[end:]


PLAIN = png()
TURNED = {
    "before the pixels": png(exif=exif()),
    "as a profile": png(pnginfo=profile(first_is_text=True)),
    "as a compressed profile": png(pnginfo=profile(first_is_text=False)),
    "behind the pixels": behind_pixels(PLAIN, chunk(b"eXIf", exif().tobytes().removeprefix(b"Exif\0\0"))),
}


@pytest.mark.parametrize("where", TURNED)
def test_header_and_pixels_agree_on_the_turn_wherever_it_is_told(where: str) -> None:
    header = check_header(TURNED[where])
    assert header.is_sideways and (header.width, header.height) == (WIDTH, HEIGHT)
    assert decode_image(TURNED[where]).size == header.upright_size == (HEIGHT, WIDTH)
    assert ends_after_pixels(TURNED[where]) == (where != "behind the pixels")


def test_no_pixel_is_decoded_for_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ImageFile.ImageFile) -> None:
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert not check_header(PLAIN).is_sideways and check_header(TURNED["before the pixels"]).is_sideways
    with pytest.raises(AssertionError, match="pixels are decoded"):
        check_header(TURNED["behind the pixels"])


@pytest.mark.parametrize("num_bytes", [0, 8, 20, len(PLAIN) // 2, len(PLAIN) - 13, len(PLAIN) - 1])
def test_a_png_that_is_cut_short_is_not_said_to_end(num_bytes: int) -> None:
    assert ends_after_pixels(PLAIN) and not ends_after_pixels(PLAIN[:num_bytes])
    jpeg = io.BytesIO()
    NOISE.save(jpeg, "jpeg")
    assert not ends_after_pixels(jpeg.getvalue())
