"""A picture gives the same pixels, or the same refusal, as a path, as bytes and as a PIL image.

Covers: `ecor.data.images.orientation`.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, TiffImagePlugin

from ecor.data.images.decoding import ImageError, check_header, decode_image, decode_picture
from ecor.model import Recognizer

GREY_16 = np.arange(96, dtype=np.uint16).reshape(8, 12) * 682
RGB = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


def with_chunk(png: bytes, added: bytes, *, last: bool = False) -> bytes:
    place = png.rindex(b"IEND") - 4 if last else 33  # behind the header chunk
    return png[:place] + added + png[place:]


def tiff(*, bits: tuple[int, ...], photometric: int, data: bytes, float_pixels: bool = False) -> bytes:
    """An uncompressed TIFF of 12 x 8 pixels, with tags as they are given."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    tags[256], tags[257], tags[258], tags[259], tags[262] = 12, 8, bits, 1, photometric
    tags[277], tags[278], tags[279] = len(bits), 8, len(data)
    if float_pixels:
        tags[339] = (3,) * len(bits)
    tags[273] = 0  # Pillow adds where the tags end
    return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + data


WHITE_IS_ZERO = tiff(bits=(16,), photometric=0, data=(65535 - GREY_16).tobytes())
GREY_12 = np.arange(96).reshape(8, 12) * 43
PACKED_12 = b"".join(struct.pack(">I", int(a) << 12 | int(b))[1:] for a, b in GREY_12.reshape(-1, 2))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
XMP_CHUNK = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
UPPER = np.repeat((GREY_16 >> 8).astype(np.uint8)[..., None], 3, axis=2)
TAKEN = {
    "8 bits": (encoded(Image.fromarray(RGB)), RGB),
    "16 bits": (encoded(Image.fromarray(GREY_16)), UPPER),
    "16 bits, turned": (encoded(Image.fromarray(GREY_16), exif=TURNED), np.rot90(UPPER, -1)),
    "8 bits, turned": (encoded(Image.fromarray(RGB), exif=TURNED), np.rot90(RGB, -1)),
    "16-bit TIFF": (encoded(Image.fromarray(GREY_16), "tiff"), UPPER),
    "WhiteIsZero": (WHITE_IS_ZERO, UPPER),
    "12-bit TIFF": (
        tiff(bits=(12,), photometric=1, data=PACKED_12),
        np.repeat((GREY_12 >> 4).astype(np.uint8)[..., None], 3, axis=2),
    ),
    "turned TIFF": (encoded(Image.fromarray(RGB), "tiff", exif=TURNED), np.rot90(RGB, -1)),
    "XMP alone in PNG": (with_chunk(encoded(Image.fromarray(RGB)), XMP_CHUNK), np.rot90(RGB, -1)),
    "XMP beside damaged EXIF in PNG": (
        with_chunk(encoded(Image.fromarray(RGB)), chunk(b"eXIf", b"no EXIF") + XMP_CHUNK),
        np.rot90(RGB, -1),
    ),
    "XMP beside damaged EXIF in WebP": (
        encoded(Image.fromarray(RGB), "webp", lossless=True, exif=b"Exif\0\0no EXIF", xmp=XMP),
        np.rot90(RGB, -1),
    ),
    "damaged EXIF in PNG": (with_chunk(encoded(Image.fromarray(RGB)), chunk(b"eXIf", b"no EXIF")), RGB),
    "EXIF that ends early in PNG": (with_chunk(encoded(Image.fromarray(RGB)), chunk(b"eXIf", b"II*\0\x08")), RGB),
    "damaged EXIF in WebP": (encoded(Image.fromarray(RGB), "webp", lossless=True, exif=b"Exif\0\0no EXIF"), RGB),
}
BROKEN_METADATA = {
    "large profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 * 1024**2))),
    "large text": chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2 * 1024**2))),
    "wrong check sum of a text": chunk(b"tEXt", b"Title\0none", sound=False),
    "wrong check sum of an offset": chunk(b"oFFs", bytes(9), sound=False),
    "wrong check sum of a time": chunk(b"tIME", b"\x07\xea\x01\x01\0\0\0", sound=False),
}


def forms(data: bytes, folder: Path) -> list:
    path = folder / "picture"
    path.write_bytes(data)
    return [path, str(path), data, Image.open(io.BytesIO(data))]


@pytest.mark.parametrize("name", TAKEN)
def test_every_form_gives_the_same_pixels(name, tmp_path):
    data, expected = TAKEN[name]
    for form in [*forms(data, tmp_path), expected]:
        assert np.array_equal(np.asarray(decode_picture(form)), expected), type(form)
    assert decode_picture(Image.open(io.BytesIO(data))).mode == "RGB"


def test_a_damaged_exif_is_read_alike_a_second_time():
    """Pillow raises once, and then gives what it has read of it."""
    image = Image.open(io.BytesIO(TAKEN["XMP beside damaged EXIF in PNG"][0]))
    assert np.array_equal(np.asarray(decode_picture(image)), np.asarray(decode_picture(image)))


@pytest.mark.parametrize("form", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_tells_the_size_as_stored_and_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), form, exif=exif)
    header = check_header(data)
    assert (header.width, header.height) == (12, 8)
    assert header.upright_size == decode_image(data).size


def test_a_16_bit_image_made_of_an_array_is_its_file(tmp_path):
    image = Image.fromarray(GREY_16)
    assert np.array_equal(np.asarray(decode_picture(image)), np.asarray(decode_image(encoded(image))))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_broken_metadata_of_a_png_leaves_its_pixels(name, last):
    data = with_chunk(encoded(Image.fromarray(RGB)), BROKEN_METADATA[name], last=last)
    assert np.array_equal(np.asarray(decode_image(data)), RGB)
    assert (check_header(data).width, check_header(data).height) == (12, 8)


def test_broken_pixels_of_a_png_are_still_refused():
    data = bytearray(encoded(Image.fromarray(RGB)))
    data[data.index(b"IDAT") + 4] ^= 255
    with pytest.raises(ImageError, match=r"corrupt|truncated"):
        decode_image(bytes(data))
    ends_early = with_chunk(encoded(Image.fromarray(RGB)), BROKEN_METADATA["large text"])
    with pytest.raises(ImageError, match="truncated"):
        decode_image(ends_early[: ends_early.index(b"IDAT") + 20])


def test_a_large_profile_does_not_hide_exif():
    data = with_chunk(encoded(Image.fromarray(RGB), exif=TURNED), BROKEN_METADATA["large profile"])
    assert np.array_equal(np.asarray(decode_image(data)), np.rot90(RGB, -1))


@pytest.mark.parametrize("form", ["array", "tiff"])
def test_8_bits_in_an_array_of_32_are_8_bits(form):
    image = Image.fromarray(RGB[..., 0].astype(np.int32))
    decoded = decode_picture(image) if form == "array" else decode_image(encoded(image, "tiff"))
    assert np.array_equal(np.asarray(decoded)[..., 1], RGB[..., 0])


FLOATS = np.linspace(0, 1, 96, dtype=np.float32)
REFUSED = {
    "float": encoded(Image.fromarray(FLOATS.reshape(8, 12)), "tiff"),
    "beyond 16 bits": encoded(Image.fromarray(np.full((8, 12), 2**20, dtype=np.int32)), "tiff"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_form_is_refused_alike(name, tmp_path):
    for form in forms(REFUSED[name], tmp_path):
        with pytest.raises(ImageError, match="unsupported_mode"):
            decode_picture(form)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiff(bits=(32,) * 3, photometric=2, data=bytes(1152), float_pixels=True), "3 bands of 32-bit floating point"),
        (tiff(bits=(8,) * 5, photometric=2, data=bytes(480)), "5 bands of 8-bit integers"),
        (tiff(bits=(64,), photometric=1, data=bytes(768), float_pixels=True), "1 bands of 64-bit floating point"),
    ],
)
def test_tiffs_of_pixels_without_a_mode_are_unsupported_not_corrupt(data, said):
    for read in (decode_image, check_header):
        with pytest.raises(ImageError, match=f"^unsupported_mode: a TIFF of {said}: save 8-bit RGB"):
            read(data)
    with pytest.raises(ImageError, match="not_an_image"):
        decode_image(data[:9])


def test_the_limit_of_pixels_is_one_for_every_form_and_is_said(tmp_path):
    for form in [*forms(TAKEN["8 bits"][0], tmp_path), RGB]:
        with pytest.raises(ImageError, match=r"too_large: 12 x 8 pixels, more than the limit of 95 \(MAX_PIXELS"):
            decode_picture(form, max_pixels=95)
        assert decode_picture(form, max_pixels=96).size == (12, 8)


@pytest.fixture(scope="module")
def model() -> Recognizer:
    return Recognizer.zero_shot({"cat": ["whiskers"], "dog": ["a tail"], "fox": ["pointed ears"]})


def test_rows_are_those_of_the_file_in_every_form(model, tmp_path):
    data, _ = TAKEN["16 bits, turned"]
    rows = model.predict(forms(data, tmp_path)).to_pandas()
    assert rows["confidence"].nunique() == 1


def test_a_series_is_read_by_position_whatever_its_index(model):
    pictures = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 120, 255)]
    expected = model.predict(pictures).to_pandas()
    for index in ([2, 0, 1], ["a", "b", "c"], [5, 5, 5]):
        assert model.predict(pd.Series(pictures, index=index)).to_pandas().equals(expected)
    assert model.predict(tuple(pictures)).to_pandas().equals(expected)
    assert model.predict(np.stack(pictures)).to_pandas().equals(expected)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"a": RGB}, "a dict"),
        ((each for each in [RGB]), "a generator"),
        ({b"x"}, "a set"),
        (iter([RGB]), "a list_iterator"),
    ],
)
def test_what_has_no_positions_is_refused_with_the_remedy(model, images, said):
    with pytest.raises(ValueError, match=rf"predict takes a list of pictures, got {said}: pass list\("):
        model.predict(images)


def test_a_table_is_refused_with_its_columns_and_a_batch_has_pictures(model):
    with pytest.raises(ValueError, match=r"got a DataFrame: pass one column, of \['path', 'split'\]"):
        model.predict(pd.DataFrame({"path": ["a.png"], "split": ["test"]}))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got -1"):
        model.predict([RGB], batch_size=-1)
