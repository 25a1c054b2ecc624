"""Groups of near copies: which images are the same bytes, which splits they are in, and their tables."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ecor.data.samples import sample_key
from ecor.data.split_names import split_of
from pipelines.config.infrastructure import absolute_address
from pipelines.reporting.search.feature_folders import FeatureFolders, LabelledImage, without_feature
from pipelines.reporting.search.neighbours import Neighbours
from pipelines.storage.image_source import HASH_LENGTH

KINDS = {"same_bytes": "same bytes", "near_copy": "near copy"}
_IMAGE_FIELDS = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("labels", pa.string(), nullable=False),
    pa.field("category", pa.string(), nullable=False),
    pa.field("rationale", pa.string(), nullable=False),
    pa.field("confidence", pa.float32(), nullable=False),
]
COPIES_SCHEMA = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("nearest_key", pa.string(), nullable=False),
        pa.field("nearest_labels", pa.string(), nullable=False),
        *_IMAGE_FIELDS,
    ],
    metadata={"ecor.schema": "copies", "ecor.schema_version": "1"},
)
"""One row per image that has a near copy; `similarity` is its cosine with the nearest image. `kind` is same_bytes where
another image of the group has the same content."""
OUTLIERS_SCHEMA = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("mean_distance", pa.float32(), nullable=False),
        *_IMAGE_FIELDS,
    ],
    metadata={"ecor.schema": "outliers", "ecor.schema_version": "1"},
)
"""One row per outlier; `mean_distance` is the mean of 1 less the cosine over the nearest images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyMember:
    """An image that has a near copy."""

    image: LabelledImage
    split: str | None
    """Split of the image; None where it is not known."""
    kind: str
    """`same_bytes` or `near_copy`."""
    similarity: float
    """Cosine with the nearest image."""
    nearest_key: str
    nearest_labels: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyGroup:
    """Images that are connected by pairs of near copies; two of them can be less similar than a pair is."""

    number: int
    """From 1, the largest group first."""
    members: tuple[CopyMember, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The known splits of its images, sorted."""
        return tuple(sorted({each.split for each in self.members if each.split is not None}))

    @property
    def crosses_splits(self) -> bool:
        return len(self.splits) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCounts:
    """Numbers of images, groups and pairs."""

    num_images: int
    num_pairs: int
    """Pairs of images whose cosine is at least the limit."""
    num_groups: int
    num_members: int
    """Images that have a near copy."""
    num_same_bytes: int
    """Of these, images whose content another one of the group has."""
    num_across_labels: int
    """Groups with images of two folders of labels."""
    leaked: dict[str, int]
    """By split other than `train`: images in a group with a training image."""

    @classmethod
    def of(cls, groups: Sequence[CopyGroup], *, num_images: int, num_pairs: int) -> "CopyCounts":
        """Count the groups of some images."""
        members = [each for group in groups for each in group.members]
        leaked = Counter(
            each.split
            for group in groups
            if "train" in group.splits
            for each in group.members
            if each.split not in (None, "train")
        )
        return cls(
            num_images=num_images,
            num_pairs=num_pairs,
            num_groups=len(groups),
            num_members=len(members),
            num_same_bytes=sum(each.kind == "same_bytes" for each in members),
            num_across_labels=sum(len({each.image.folder for each in group.members}) > 1 for group in groups),
            leaked={str(split): number for split, number in sorted(leaked.items(), key=str)},
        )


def make_groups(nearest: Neighbours, among: FeatureFolders) -> tuple[CopyGroup, ...]:
    """The groups of near copies, the largest first; labels are read for their images alone.

    Args:
        nearest: of all images.
        among: their labels.
    """
    groups = nearest.groups()
    numbers = [number for group in groups for number in group]
    images = dict(zip(numbers, among.read_images(numbers), strict=True))
    return tuple(
        CopyGroup(number=index, members=tuple(_members(group, images, nearest=nearest, among=among)))
        for index, group in enumerate(groups, start=1)
    )


def image_split(image: LabelledImage, *, parent: str) -> str | None:
    """The split of an image: that of the folder directly below the input that it lies in, or of the input itself.

    Args:
        image: of the labels.
        parent: address of the input: a folder of images, a table, or a split of shards.
    """
    inside = absolute_address(image.source).removeprefix(absolute_address(parent) + "/")
    first, separator, _ = inside.partition("/")
    below = split_of(first) if separator and image.shard is None and first else None
    return below or split_of(parent.rstrip("/").rpartition("/")[2])


def content_hash(image: LabelledImage) -> str | None:
    """The first hexadecimal digits of the sha256 of an image's bytes, if its key holds them."""
    found = image.key[:HASH_LENGTH]
    return found if image.key == sample_key(image.source, sha256=found) else None


def copies_table(groups: Sequence[CopyGroup]) -> pa.Table:
    """All images that have a near copy, with `COPIES_SCHEMA`."""
    return pa.Table.from_pylist([row for group in groups for row in _rows(group)], schema=COPIES_SCHEMA)


def outliers_table(outliers: Sequence[tuple[float, LabelledImage]]) -> pa.Table:
    """Outliers with `OUTLIERS_SCHEMA`, in the given order."""
    rows = [
        {"rank": rank, "mean_distance": distance, **_image_row(image)}
        for rank, (distance, image) in enumerate(outliers, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=OUTLIERS_SCHEMA)


def describe_counts(counts: CopyCounts, *, similarity: float, num_rejected: int) -> list[str]:
    """The counts in lines; a line that begins with `warning` where training images have copies in another split."""
    lines = [
        f"{counts.num_images:,} images compared{without_feature(num_rejected)}",
        f"{counts.num_members:,} images in {counts.num_groups:,} groups of near copies (cosine {similarity:.6g} or "
        f"more, {counts.num_pairs:,} pairs); {counts.num_same_bytes:,} of them have the same bytes as another one",
    ]
    if counts.num_across_labels:
        lines.append(f"{counts.num_across_labels:,} groups have images of more than one folder of labels")
    for split, number in counts.leaked.items():
        words = "image is a near copy" if number == 1 else "images are near copies"
        lines.append(f"warning: {number:,} {split} {words} of training images: figures on {split} are too good")
    return lines


def _members(
    group: Sequence[int], images: dict[int, LabelledImage], *, nearest: Neighbours, among: FeatureFolders
) -> Iterator[CopyMember]:
    hashes = Counter(content_hash(images[number]) for number in group)
    for number in group:
        image, near = images[number], images[int(nearest.nearest[number])]
        content = content_hash(image)
        yield CopyMember(
            image=image,
            split=image_split(image, parent=among.kept[image.folder].labels.parents.input),
            kind="same_bytes" if content is not None and hashes[content] > 1 else "near_copy",
            similarity=float(nearest.nearest_similarity[number]),
            nearest_key=near.key,
            nearest_labels=near.labels,
        )


def _rows(group: CopyGroup) -> Iterator[dict[str, object]]:
    for each in group.members:
        own = {name: getattr(each, name) for name in ("kind", "split", "similarity", "nearest_key", "nearest_labels")}
        yield {"group": group.number, **own, **_image_row(each.image)}


def _image_row(image: LabelledImage) -> dict[str, object]:
    return {field.name: getattr(image, field.name) for field in _IMAGE_FIELDS}
