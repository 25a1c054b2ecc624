"""Pixels are open_clip's, pictures stand upright, and what is no picture is told apart without crashing.

Covers: `ecor.data.images.collate`, `ecor.data.images.image_error`,
`ecor.data.images.preprocessing`, `ecor.data.images.unidentified`.
"""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from ecor.config.model import Preprocess
from ecor.data.images.collate import collate
from ecor.data.images.decoding import ImageError, check_header, decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.samples import Sample
from ecor.data.vocabulary import vocabulary_from_mapping

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VOCABULARY = vocabulary_from_mapping({"cat": ["whiskers", "a tail"], "dog": ["a wet nose"]})


def noise(width: int, height: int, *, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def preprocess(size=(32, 32), **changes) -> Preprocess:
    return Preprocess(image_size=size, mean=MEAN, std=STD, **changes)


def sample(key: str = "a", **changes) -> Sample:
    fields = {
        "key": key,
        "image": encoded(noise(40, 30)),
        "extension": "png",
        "category": "cat",
        "rationales": ("whiskers", "a tail"),
        "visible_rationales": None,
        "source": f"{key}.png",
    }
    return Sample(**(fields | changes))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("picture", [(32, 32), (33, 15), (15, 33), (100, 51), (7, 9), (167, 24), (1, 25)])
def test_pixels_are_open_clips(mode, interpolation, size, picture):
    image = noise(*picture)
    options = {"resize_mode": mode, "interpolation": interpolation, "fill_color": 17}
    pixels = torch.from_numpy(image_to_pixels(image, preprocess=preprocess(size, **options)))
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    expected = image_transform(size, is_train=False, **options)(image)
    assert torch.equal((pixels.float() / 255 - mean) / std, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(12, 8), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    image = noise(12, 8, mode=mode)
    data = encoded(image, "tiff" if mode == "CMYK" else "png")
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_upper_bits():
    grey = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(grey))))[0, :, 1].tolist() == [0, 0, 1, 255]


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="unsupported_mode"):
        decode_image(encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "tiff"))


@pytest.mark.parametrize(("form", "extension"), [("jpeg", "jpg"), ("png", "png"), ("webp", "webp"), ("gif", "gif")])
def test_headers_tell_format_and_size(form, extension):
    header = check_header(encoded(noise(12, 8), form))
    assert (header.extension, header.width, header.height) == (extension, 12, 8)


def reason(data: bytes, *, read=decode_image, **options) -> str:
    with pytest.raises(ImageError) as caught:
        read(data, **options)
    return caught.value.reason


def test_what_is_no_picture():
    assert reason(b"") == "empty"
    assert reason(b"plain text, not a picture") == "not_an_image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not_an_image"
    assert reason(b"plain text", read=check_header) == "not_an_image"


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "gif"])
def test_shortened_pictures_are_refused_wherever_they_end(form):
    data = encoded(noise(64, 48), form)
    for share in (0.2, 0.5, 0.9):
        assert reason(data[: int(len(data) * share)]) in {"truncated", "corrupt", "not_an_image"}
    assert decode_image(data).size == (64, 48)


def test_bombs_are_refused_by_their_header():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    assert reason(bomb) == reason(bomb, read=check_header) == "too_large"
    assert reason(encoded(noise(12, 8)), max_pixels=95) == "too_large"
    assert decode_image(encoded(noise(12, 8)), max_pixels=96).size == (12, 8)


def test_a_strip_is_not_blown_up():
    with pytest.raises(ImageError, match="too_elongated"):
        image_to_pixels(noise(1, 5000), preprocess=preprocess(), max_pixels=1_000_000)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged TIFF tags
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_as_anything_else(data):
    picture = bytearray(encoded(noise(16, 16), data.draw(st.sampled_from(["jpeg", "png", "webp", "gif", "tiff"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_image(bytes(picture)).mode == "RGB"
    except ImageError as error:
        assert error.reason and error.detail


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("truncated", "ends early")))
    assert (error.reason, error.detail) == ("truncated", "ends early")


def test_a_batch_holds_pixels_and_ids():
    samples = [sample("a"), sample("b", category=None, rationales=()), sample("c", category="Dog", rationales=())]
    batch = collate(samples, vocabulary=VOCABULARY, preprocess=preprocess())
    assert batch.keys == ("a", "b", "c")
    assert batch.images.shape == (3, 3, 32, 32) and batch.images.dtype == torch.uint8
    assert batch.categories.tolist() == [0, -1, 1]
    assert batch.rationales[0] in (0, 1) and batch.rationales[1:].tolist() == [-1, -1]
    assert collate([], vocabulary=VOCABULARY, preprocess=preprocess()).images.shape == (0, 3, 32, 32)


def test_photos_decode(shared_data):
    for path in sorted((shared_data / "photos" / "clothing" / "hat").glob("*.jpg"))[:3]:
        data = path.read_bytes()
        header = check_header(data)
        assert sorted(decode_image(data).size) == sorted((header.width, header.height))
