"""Inspect listed images: split, names, content hash and format, or the reason for rejection.

Plain functions on tables, without a cluster; `pipelines/sharding/dataflow.py` runs them on workers.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from ecor.data.images.decoding import ImageError, ImageHeader, check_header, decode_image
from ecor.data.shards import ShardEntry, sample_key
from ecor.data.tar_members import sample_from_row
from ecor.data.vocabulary import Vocabulary, normalise_name, vocabulary_from_mapping
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256, json_digest
from pipelines.config.identity import output_settings
from pipelines.config.stages import ShardConfig
from pipelines.storage.image_bytes import UnreadableError, join_source, read_image_bytes

INSPECTED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("protected", pa.bool_()),  # of a test split that the input has
        pa.field("category", pa.string()),
        pa.field("rationales", pa.list_(pa.string())),
        pa.field("visible_rationales", pa.list_(pa.string())),
        pa.field("truth", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("extension", pa.string()),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("reason", pa.string()),  # why it is rejected
        pa.field("detail", pa.string()),
    ]
)
IMAGES_PER_READ = 32
_COLUMNS = tuple(INSPECTED_SCHEMA.names)
_HASH_DIGITS = 13
"""Hex digits that decide a split: the last ones, because the first ones decide the order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A way that images are labelled, and one image that is."""

    split: str | None
    category: str | None
    rationale: str | None
    is_visible: bool
    """Known to be seen, rather than labelled."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """What the bytes of the shards depend on, and where they go."""

    config: ShardConfig
    root: str
    """Address that sources are within."""
    vocabulary: Vocabulary
    given_splits: tuple[str, ...]
    """Splits that the input has; empty: shares decide."""
    from_vocabulary: bool
    """Images have no rationales of their own and get their category's."""
    parents: dict[str, str]
    """Digest of what the shards are made from, by name."""
    output: str
    """Address of the output folder; not relative, because workers stand elsewhere."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are written."""
        if not self.given_splits:
            return tuple(sorted(split for split, share in self.config.split_shares.items() if share > 0))
        return tuple(sorted({*self.given_splits, *(["validation"] if self.validation_share else [])}))

    @property
    def validation_share(self) -> float:
        """Share of a given train split that becomes validation, where there is none."""
        is_lacking = "train" in self.given_splits and "validation" not in self.given_splits
        return self.config.split_shares.get("validation", 0.0) if is_lacking else 0.0

    @property
    def config_digest(self) -> str:
        return digest_of(output_settings(self.config))

    @property
    def name(self) -> str:
        return digest_of([self.config_digest, self.parents, self.vocabulary.digest])[:16]


def digest_of(value: Any) -> str:
    """sha256, in hex, of JSON values."""
    return json_digest(value, ensure_ascii=False)


def labels_in(listing: pa.Table) -> list[Label]:
    """The distinct labels of listed images, each with its first source."""
    labels: dict[tuple[Any, ...], str] = {}
    for row in listing.to_pylist():
        if row["problem"] is not None or row["left_out"] is not None:
            continue
        rationales = [(rationale, False) for rationale in (*row["rationales"], None)]
        for rationale, is_visible in [*rationales, *((name, True) for name in row["visible_rationales"] or ())]:
            name = (row["split"], row["category"], rationale, is_visible)
            labels[name] = min(labels.get(name, row["source"]), row["source"])
    return [
        Label(split=split, category=category, rationale=rationale, is_visible=is_visible, source=source)
        for (split, category, rationale, is_visible), source in labels.items()
    ]


def vocabulary_of(labels: Sequence[Label]) -> Vocabulary:
    """All that images are labelled with, in the order of the names."""
    names: dict[str, set[str]] = {}
    for label in labels:
        if label.category is not None and not label.is_visible:
            rationales = names.setdefault(normalise_name(label.category), set())
            rationales.update([] if label.rationale is None else [normalise_name(label.rationale)])
    flat = {category: sorted(rationales) for category, rationales in sorted(names.items())}
    return vocabulary_from_mapping(flat, source="labels of the images")


def check_labels(labels: Sequence[Label], *, job: ShardJob) -> None:
    """Check that the vocabulary has every label, and that no two different names become one.

    Names are normalised (`normalise_name`), so `-1` and `1`, or `A-` and `a`, would become one category. Spellings such
    as `police_car` and `Police car` are allowed.

    Args:
        labels: the distinct labels of the images.
        job: the vocabulary.

    Raises:
        ValueError: naming an image with such a label.
    """
    for kind in ("category", "rationale"):
        _check_spellings([(getattr(label, kind), label.source) for label in labels], kind=kind)
    for label in labels:
        try:
            _match_names(label.category, [] if label.rationale is None else [label.rationale], job=job)
        except ValueError as error:
            raise ValueError(f"{label.source}: {error}: correct the label, or add it to the vocabulary") from error


def _check_spellings(names: Iterable[tuple[str | None, str]], *, kind: str) -> None:
    spelled: dict[str, str] = {}
    for name, source in names:
        if name is None:
            continue
        other = spelled.setdefault(normalise_name(name), name)
        if _words(other) != _words(name):
            raise ValueError(
                f"{source}: {kind} {name!r} and {kind} {other!r} would both be {normalise_name(name)!r}: rename one"
            )


def _words(name: str) -> str:
    """A name without what is between its words; what stands at its ends counts."""
    return re.sub(r"(?<=[^\W_])(?:[\s_-]+or[\s_-]+|\s*/\s*|[\s_-]+)(?=[^\W_])", " ", name.strip().casefold())


def inspect_images(listing: pa.Table, *, job: ShardJob) -> pa.Table:
    """Read, hash and validate images: a row of INSPECTED_SCHEMA for each image of LISTING_SCHEMA, in that order.

    A disk or a store that fails is an OSError, and no row.
    """
    rows = [row for row in listing.to_pylist() if row["left_out"] is None]
    contents = _contents([row["source"] for row in rows], root=job.root)
    split_ends = _split_ends(job)
    found = [_finding(row, data, job=job, split_ends=split_ends) for row, data in zip(rows, contents, strict=True)]
    return pa.Table.from_pylist(found, schema=INSPECTED_SCHEMA)


def entries(rows: pa.Table, *, job: ShardJob) -> Iterator[ShardEntry]:
    """Images that stay, in this order, as `write_shard` takes them; ValueError for one that cannot be read any more."""
    for batch in rows.to_batches(max_chunksize=IMAGES_PER_READ):
        listed = batch.to_pylist()
        contents = _contents([row["source"] for row in listed], root=job.root)
        for row, data in zip(listed, contents, strict=True):
            if isinstance(data, UnreadableError):
                raise ValueError(
                    f"{row['source']} was looked at, and cannot be read any more ({data}): put back what it was, or "
                    f"start over with --fresh"
                ) from data
            yield _entry(row, data)


def _match_names(category: str | None, rationales: Sequence[str], *, job: ShardJob) -> tuple[str | None, list[str]]:
    """Labels in the vocabulary's own words."""
    vocabulary = job.vocabulary
    ids = [number for text in rationales for number in _rationale_ids(text, vocabulary=vocabulary)]
    if category is None:
        return None, _distinct_names(ids, vocabulary=vocabulary)
    number = vocabulary.category_id(category)
    if job.from_vocabulary and not ids:  # weak labels (our choice): what speaks for the category may be seen
        ids = list(vocabulary.rationales_of[number])
    return vocabulary.categories[number], _distinct_names(ids, vocabulary=vocabulary)


def _distinct_names(ids: Sequence[int], *, vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.rationales[number] for number in dict.fromkeys(ids)]


def _rationale_ids(text: str, *, vocabulary: Vocabulary) -> list[int]:
    """The id of a rationale; or, where "/" is no "or" but a sub-rationale's folder (DROR level 2), those there are."""
    first, *below = text.split("/")
    if vocabulary.has_rationale(text) or not below or not vocabulary.has_rationale(first):
        return [vocabulary.rationale_id(text)]
    return [vocabulary.rationale_id(part) for part in (first, *below) if vocabulary.has_rationale(part)]


def _split_ends(job: ShardJob) -> list[tuple[str, float]]:
    """Where each split ends, on a scale from 0 to 1, for images whose split is not given."""
    if job.given_splits:
        return []
    return list(zip(job.splits, accumulate(job.config.split_shares[split] for split in job.splits), strict=True))


def _split_of(sha256: str, *, given: str | None, job: ShardJob, split_ends: Sequence[tuple[str, float]]) -> str:
    place = int(sha256[-_HASH_DIGITS:], 16) / 16**_HASH_DIGITS
    if given is not None:
        return "validation" if given == "train" and place < job.validation_share else given
    return next((split for split, end in split_ends if place < end), split_ends[-1][0])


def _finding(
    row: Mapping[str, Any], found: bytes | UnreadableError, *, job: ShardJob, split_ends: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    data = b"" if isinstance(found, UnreadableError) else found
    sha256 = bytes_sha256(data)
    finding = {name: row.get(name) for name in _COLUMNS} | {
        "key": sample_key(row["source"], sha256=sha256),
        "split": _split_of(sha256, given=row["split"], job=job, split_ends=split_ends),
        "protected": row["split"] == "test",
        "sha256": sha256,
    }
    try:
        if row["problem"] is not None:
            raise ImageError("misplaced", row["problem"])
        if isinstance(found, UnreadableError):
            raise ImageError("unreadable", str(found) or type(found).__name__)
        header = _validated(data, how=job.config.validate)
    except ImageError as error:
        return finding | {"reason": error.reason, "detail": error.detail}
    category, rationales = _match_names(row["category"], row["rationales"], job=job)
    visible = row["visible_rationales"]
    names = {
        "category": category,
        "rationales": rationales,
        "visible_rationales": None if visible is None else _match_names(None, visible, job=job)[1],
    }
    return finding | {"extension": header.extension, "width": header.width, "height": header.height} | names


def _validated(data: bytes, *, how: str) -> ImageHeader:
    header = check_header(data)
    if how == "decode":
        decode_image(data)
    return header


def _contents(sources: Sequence[str], *, root: str) -> list[bytes | UnreadableError]:
    """Bytes of some files, or why there are none; from a remote store many at once."""
    if filesystem.is_local(root):
        return [_content(join_source(source, root=root)) for source in sources]
    with ThreadPoolExecutor(IMAGES_PER_READ) as readers:
        return list(readers.map(_content, [join_source(source, root=root) for source in sources]))


def _content(url: str) -> bytes | UnreadableError:
    try:
        return read_image_bytes(url)
    except UnreadableError as error:
        return error


def _entry(row: Mapping[str, Any], image: bytes) -> ShardEntry:
    provenance = {name: row[name] for name in ("split", "width", "height")} | {"labels": json.loads(row["labels"])}
    if row["truth"] is not None:
        provenance["truth"] = json.loads(row["truth"])
    return ShardEntry(sample=sample_from_row(row, image=image), sha256=row["sha256"], provenance=provenance)
