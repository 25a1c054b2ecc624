"""The size of a JPEG XL picture is read before it is decoded, and a picture that is too large is not."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecor.data.images import formats
from ecor.data.images.decoding import ImageError, check_header, decode_file
from ecor.data.images.jxl_header import jxl_size

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"


def header_of(width: int, height: int, *, ratio: int = 0) -> bytes:
    """A codestream's first bytes, of any size up to 2**30."""
    number, place = 0, 0

    def put(value: int, num_bits: int) -> None:
        nonlocal number, place
        number |= value << place
        place += num_bits

    put(0, 1)
    for side in (height, None if ratio else width):
        if side is not None:
            choice = next(index for index, length in enumerate((9, 13, 18, 30)) if side - 1 < 1 << length)
            put(choice, 2)
            put(side - 1, (9, 13, 18, 30)[choice])
        if side is height and place < 40:
            put(ratio, 3)
    return b"\xff\x0a" + number.to_bytes(14, "little")


@given(width=st.integers(1, 2**30), height=st.integers(1, 2**30))
def test_any_size_is_read(width: int, height: int):
    assert jxl_size(header_of(width, height)) == (width, height)
    part = (0).to_bytes(4, "big") + header_of(width, height)
    boxes = CONTAINER + b"\0\0\0\x0cftyp" + bytes(4) + (len(part) + 8).to_bytes(4, "big") + b"jxlp" + part
    assert jxl_size(boxes) == (width, height)


def test_sizes_of_a_file_of_libjxl_and_of_a_ratio():
    assert jxl_size(bytes.fromhex("ff0acb06001388020004c02b5"[:24])) == (64, 48)
    assert jxl_size(header_of(0, 900, ratio=5)) == (1600, 900)


@given(st.binary(max_size=64))
def test_other_bytes_have_no_size_or_a_positive_one(data: bytes):
    for start in (b"", b"\xff\x0a", CONTAINER, CONTAINER + b"\0\0\0\0jxlc", CONTAINER + b"\0\0\0\1abcd" + bytes(8)):
        try:
            assert min(jxl_size(start + data)) > 0
        except ImageError as error:
            assert error.reason == "corrupt"


def test_a_picture_that_is_too_large_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "open", None)
    for read in (check_header, decode_file):
        with pytest.raises(ImageError, match="40000 x 30000 pixels") as caught:
            read(header_of(40000, 30000))
        assert caught.value.reason == "too_large"


def test_a_picture_is_read_where_the_plugin_is_installed():
    pytest.importorskip("pillow_jxl")
    formats.opened_formats.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 65, 3), dtype=np.uint8)
    for settings in ({}, {"use_container": True}):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JXL", lossless=True, **settings)
        header, found = check_header(out.getvalue()), decode_file(out.getvalue())
        assert (header.extension, header.width, header.height) == ("jxl", 65, 48) == ("jxl", *jxl_size(out.getvalue()))
        assert np.array_equal(np.asarray(found.picture), pixels) and not found.is_multipicture
        for end in (4, 30, len(out.getvalue()) // 2):
            with pytest.raises(ImageError):
                decode_file(out.getvalue()[:end])
