"""Encode the images that rationales are measured on, with their categories where they have any; read some again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from ecor.clip.feature_types import ImageFeatures
from ecor.config.checks import require
from ecor.data.images.decoding import ImageError, decode_image
from ecor.data.name_parsing import normalise_name
from ecor.model import NOT_FINITE, Recognizer
from ecor.storage.members.member_address import MARK
from pipelines.reporting.embedded_image import EmbeddedImage, make_thumbnail
from pipelines.runtime.console import progress_bar
from pipelines.scoring.inputs import ImageInput
from pipelines.scoring.sources.decoded_images import DecodedImage, decode_item
from pipelines.scoring.work_units import ImageItem, ImageUnit, ListingUnit, Rejection

_NUM_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """Where an image lies, and its category."""

    unit: int
    """Its unit of work among those that were read."""
    key: str
    source: str
    category: str | None
    """Normalised; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImages:
    """N images with their features."""

    images: tuple[EncodedImage, ...]
    features: ImageFeatures
    """On the CPU."""
    rejected: tuple[Rejection, ...]
    units: tuple[ImageUnit, ...]
    """That were read."""

    @property
    def has_labels(self) -> bool:
        return any(image.category is not None for image in self.images)

    def category_ids(self, categories: Sequence[str]) -> Int[np.ndarray, " N"]:
        """Place of each image's category on a list; -1 for one that is not on it, and for an unknown one."""
        places = {name: place for place, name in enumerate(categories)}
        return np.array([places.get(image.category or "", -1) for image in self.images], dtype=np.int64)


def sample_units(units: Sequence[ImageUnit], *, max_images: int) -> tuple[ImageUnit, ...]:
    """Units with at most so many images, evenly spaced: of listed files single ones, of shards whole ones.

    The same units give the same sample. One shard is read in any case.
    """
    total = sum(unit.num_images for unit in units)
    if total <= max_images:
        return tuple(units)
    listed = [unit for unit in units if isinstance(unit, ListingUnit)]
    if len(listed) < len(units):
        number = max(1, len(units) * max_images // total)
        return tuple(units[place] for place in _spaced(len(units), number=number))
    chosen, start, sampled = set(_spaced(total, number=max_images)), 0, list[ListingUnit]()
    for unit in listed:
        files = tuple(file for place, file in enumerate(unit.files, start=start) if place in chosen)
        sampled += [replace(unit, files=files)] if files else []
        start += len(unit.files)
    return tuple(sampled)


def encode_images(
    model: Recognizer, images: ImageInput, *, root: str, categories: Sequence[str], batch_size: int
) -> EncodedImages:
    """Encode all images of an input; what cannot be read, decoded or encoded is rejected.

    An image's category is that of its labels, else the first folder of its path below `root` that is called as a
    category of the list.

    Args:
        model: whose image tower encodes.
        images: of `pipelines.scoring.inputs.read_input`, or a part of them.
        root: address of the input.
        categories: the list, normalised.
        batch_size: images per pass.

    Raises:
        ValueError: when no image can be encoded.
        OSError: when a disk or a store fails.
    """
    known = frozenset(categories)
    batches = list[_Batch]()
    with (
        progress_bar("measure", total=images.num_images, unit="images") as advance,
        ThreadPoolExecutor(_NUM_READERS) as readers,
    ):
        for items in _read_batches(images, size=batch_size):
            batches.append(_encode_batch(model, items, readers=readers))
            advance(len(items))
    kept = [each for batch in batches for each in batch.items]
    rejected = [each for batch in batches for each in batch.rejected]
    why = f"{rejected[0].source}: {rejected[0].reason}, {rejected[0].detail}" if rejected else "there is none"
    require(bool(kept), f"none of the {images.num_images} images of {root} can be read and encoded ({why})")
    features = [batch.features for batch in batches if batch.features is not None]
    return EncodedImages(
        images=tuple(_described(item, unit=unit, root=root, known=known) for unit, item in kept),
        features=ImageFeatures(
            rationale=torch.cat([each.rationale for each in features]),
            category=torch.cat([each.category for each in features]),
        ),
        rejected=tuple(rejected),
        units=tuple(images.units),
    )


def read_thumbnails(encoded: EncodedImages, numbers: Sequence[int], *, size_px: int) -> Mapping[int, EmbeddedImage]:
    """Read some of the images again, and make them small.

    Args:
        encoded: the images.
        numbers: places of those to read.
        size_px: longer side of a picture.

    Returns:
        By number; one that can no longer be read is missing.
    """
    wanted: dict[int, dict[str, int]] = defaultdict(dict)
    for number in numbers:
        wanted[encoded.images[number].unit][encoded.images[number].key] = number
    found: dict[int, EmbeddedImage] = {}
    with progress_bar("pictures", total=len(numbers), unit="images") as advance:
        for unit, keys in sorted(wanted.items()):
            sources = {encoded.images[number].source for number in keys.values()}
            for item in _narrowed(encoded.units[unit], sources=sources).read():
                if isinstance(item, ImageItem) and item.key in keys:
                    with suppress(ImageError):  # it was readable before
                        found[keys[item.key]] = make_thumbnail(decode_image(item.data), size_px=size_px)
                    advance()
    return found


def _spaced(total: int, *, number: int) -> list[int]:
    return np.linspace(0, total - 1, number).round().astype(int).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Some images of units, encoded."""

    items: tuple[tuple[int, ImageItem], ...]
    """Each with the place of its unit, without its bytes."""
    features: ImageFeatures | None
    """None where no image is left."""
    rejected: tuple[Rejection, ...]


def _read_batches(images: ImageInput, *, size: int) -> Iterator[list[tuple[int, ImageItem | Rejection]]]:
    batch: list[tuple[int, ImageItem | Rejection]] = []
    for number, unit in enumerate(images.units):
        for each in unit.read():
            batch.append((number, each))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _encode_batch(
    model: Recognizer, batch: Sequence[tuple[int, ImageItem | Rejection]], *, readers: ThreadPoolExecutor
) -> _Batch:
    decode = partial(decode_item, preprocess=model.backbone.preprocess)
    decoded = list(readers.map(decode, (each for _, each in batch)))
    rejected = [each for each in decoded if isinstance(each, Rejection)]
    pixels = [each.values for each in decoded if isinstance(each, DecodedImage)]
    items = [
        (unit, item)
        for (unit, item), each in zip(batch, decoded, strict=True)
        if isinstance(item, ImageItem) and isinstance(each, DecodedImage)
    ]
    if not pixels:
        return _Batch(items=(), features=None, rejected=tuple(rejected))
    found = model.image_features(torch.from_numpy(np.stack(pixels)))
    on_cpu = ImageFeatures(rationale=found.rationale.cpu(), category=found.category.cpu())
    finite = on_cpu.is_finite
    rejected += [
        Rejection(source=item.source, stage="encode", reason="not_finite", detail=f"it {NOT_FINITE}")
        for (_, item), is_finite in zip(items, finite.tolist(), strict=True)
        if not is_finite
    ]
    kept = tuple(
        (unit, replace(item, data=b""))
        for (unit, item), is_finite in zip(items, finite.tolist(), strict=True)
        if is_finite
    )
    features = on_cpu.select(finite.nonzero().squeeze(1)) if kept else None
    return _Batch(items=kept, features=features, rejected=tuple(rejected))


def _described(item: ImageItem, *, unit: int, root: str, known: frozenset[str]) -> EncodedImage:
    below = item.source.removeprefix(root).replace(MARK, "/").split("/")[:-1] if item.source.startswith(root) else []
    by_folder = next((name for name in map(normalise_name, below) if name in known), None)
    labelled = normalise_name(item.category_true) if item.category_true else by_folder
    return EncodedImage(unit=unit, key=item.key, source=item.source, category=labelled)


def _narrowed(unit: ImageUnit, *, sources: set[str]) -> ImageUnit:
    """The unit with the files of these sources only; a shard as it is."""
    if not isinstance(unit, ListingUnit):
        return unit
    return replace(unit, files=tuple(file for file in unit.files if file.path in sources))
