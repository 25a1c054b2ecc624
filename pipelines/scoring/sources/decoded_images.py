"""Decode the images of a part, by several threads on request: Pillow leaves the interpreter to others as it decodes."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from ecor.config.model import Preprocess
from ecor.data.images.decoding import ImageError, decode_file
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.images.reduced_jpeg import JPEG_MARGIN
from ecor.data.predictions.schema import ORIGIN_SCHEMA, origins_table
from pipelines.scoring.work_units import ImageItem, Rejection

_ENCODED_PER_THREAD = 4
"""Encoded images that are held at a time: those of phones take 5 MB each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImages:
    """The images of a part that can be used, in order, and the others."""

    pixels: UInt8[np.ndarray, "B 3 H W"]
    origins: pa.Table
    """B rows with `ecor.data.predictions.schema.ORIGIN_SCHEMA`."""
    rejected: tuple[Rejection, ...]
    num_multipicture: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImage:
    """One image that can be used."""

    values: UInt8[np.ndarray, "3 H W"]
    is_multipicture: bool


def decode_images(
    found: Iterator[ImageItem | Rejection],
    *,
    num_images: int,
    preprocess: Preprocess,
    fast_jpeg: bool = False,
    num_threads: int = 1,
) -> DecodedImages:
    """Read and decode images; the encoded ones are let go as soon as they are decoded.

    Args:
        found: images, and those that could not be read.
        num_images: taken from `found`, unreadable ones included.
        preprocess: the model's transform.
        fast_jpeg: decode JPEG files smaller than they are, where the tower takes far fewer pixels.
        num_threads: threads that decode.
    """
    jpeg_side = JPEG_MARGIN * max(preprocess.image_size) if fast_jpeg else None
    decode = partial(decode_item, preprocess=preprocess, jpeg_side=jpeg_side)
    pixels_B3HW = np.empty((num_images, 3, *preprocess.image_size), dtype=np.uint8)
    origins: dict[str, list[Any]] = {name: [] for name in ORIGIN_SCHEMA.names}
    rejected, num_decoded, num_multipicture = [], 0, 0
    taken = islice(found, num_images)
    with _mapping_by(num_threads) as run:
        while chunk := list(islice(taken, _ENCODED_PER_THREAD * num_threads)):
            for item, made in zip(chunk, run(decode, chunk), strict=True):
                if isinstance(made, Rejection):
                    rejected.append(made)
                    continue
                pixels_B3HW[num_decoded] = made.values
                num_decoded += 1
                num_multipicture += made.is_multipicture
                for name, values in origins.items():
                    values.append(getattr(item, name))
    return DecodedImages(
        pixels=pixels_B3HW[:num_decoded],
        origins=origins_table(origins.pop("key"), **origins),
        rejected=tuple(rejected),
        num_multipicture=num_multipicture,
    )


def decode_item(
    item: ImageItem | Rejection, *, preprocess: Preprocess, jpeg_side: int | None = None
) -> DecodedImage | Rejection:
    """Decode an image that was read; one that could not be read stays a rejection.

    Args:
        item: an encoded image.
        preprocess: the model's transform.
        jpeg_side: as of `ecor.data.images.decoding.decode_file`.
    """
    if isinstance(item, Rejection):
        return item
    try:
        decoded = decode_file(item.data, jpeg_side=jpeg_side)
        values = image_to_pixels(decoded.picture, preprocess=preprocess)
    except ImageError as error:
        return Rejection(source=item.source, stage="decode", reason=error.reason, detail=error.detail)
    return DecodedImage(values=values, is_multipicture=decoded.is_multipicture)


@contextmanager
def _mapping_by(num_threads: int) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]]:
    """`map` by some threads; by one, it is the builtin, which also raises what a debugger or a test puts in its way."""
    if num_threads == 1:
        yield map
        return
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        yield pool.map
