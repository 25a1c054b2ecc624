"""Sample predictions for the gallery, equally from all outcomes, and make their cards."""

import hashlib
import heapq
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ecor.data.images.decoding import ImageError, decode_image
from ecor.data.prediction_schema import ExplainablePrediction
from ecor.data.predictions import PredictionParents, PredictionSet, read_part
from ecor.data.shard_manifest import ShardInfo, read_shard_manifest
from ecor.data.shards import read_index, sample_key
from ecor.evaluation.correctness import read_labels, strict_rule
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.reporting.comparison import ComparedPredictions, other_predictions
from pipelines.reporting.html_page import Card, EmbeddedImage, OtherPrediction, Overlay
from pipelines.reporting.overlays import draw_overlays

PICTURE_QUALITY = 82
"""WebP quality of the thumbnails (our choice: about 6 kB at 192 pixels)."""
NUM_READERS = 8
HASH_LENGTH = 12
"""Hexadecimal digits of the content's hash at the start of a key (`ecor.data.shards.sample_key`)."""
IS_RIGHT = {"r": True, "w": False, "?": None}
Indices = Mapping[str, Mapping[str, str] | str]
"""Expected hashes of the images of each shard by key, or the reason why they are unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """A prediction of the gallery with its outcome."""

    row: ExplainablePrediction
    outcome: str
    """Code of the outcome, see `outcome_codes`."""
    others: tuple[OtherPrediction, ...] = ()
    """Other predictions of the same image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GallerySample:
    """Result of one pass over the predictions: counts per outcome, and the sample for the gallery."""

    labels: tuple[GalleryItem, ...]
    num_of: Mapping[str, int]
    """Number of rows by code of the outcome, see `outcome_codes`."""
    num_calibrated: int
    num_exact: int

    @property
    def num_rows(self) -> int:
        return sum(self.num_of.values())


def outcome_codes(table: pa.Table) -> list[str]:
    """Code the outcome of each image by the strict rule: a letter for the category, then one for the rationale.

    The letters are `r` right, `w` wrong and `?` unknown.
    """
    labels = read_labels(table)
    verdicts = strict_rule(labels.answers, labels.truth)
    known = labels.truth.categories >= 0, (labels.truth.rationales >= 0).any(axis=1)
    letters = (
        np.where(is_known, np.where(is_right, "r", "w"), "?")
        for is_known, is_right in zip(known, (verdicts.category, verdicts.rationale), strict=True)
    )
    return ["".join(pair) for pair in zip(*letters, strict=True)]


def sample_gallery(
    folder: str, predictions: PredictionSet, *, num_rows: int, seed: int, beside: Sequence[ComparedPredictions] = ()
) -> GallerySample:
    """Sample at most `num_rows` predictions, equally from all outcomes; outcomes with fewer leave more to the others.

    Within an outcome, the rows with the lowest keyed hash are taken: a uniform sample in one pass that depends on the
    seed and the keys alone, not on the order of rows or files. Memory holds one part and the rows sampled so far.

    Args:
        folder: folder of the predictions.
        predictions: its manifest.
        num_rows: largest size of the sample.
        seed: seed of the sample.
        beside: other predictions of the same images. They divide each outcome into images on which a prediction differs
            and other images.

    Raises:
        ValueError: when a part of the predictions is missing or altered.
    """
    lowest: dict[str, list[tuple[bytes, GalleryItem]]] = {}
    num_of: Counter[str] = Counter()
    num_kinds: Counter[str] = Counter()
    num_calibrated = num_exact = 0
    for part in predictions.parts:
        table = read_part(folder, part)
        num_calibrated += pc.sum(table["calibrated"]).as_py() or 0
        num_exact += pc.sum(table["pairs_exact"]).as_py() or 0
        outcomes, answers = outcome_codes(table), [each.rows_of(table["key"]) for each in beside]
        num_of.update(outcomes)
        for kind, ranks in _ranks(table, kinds=_kinds(table, outcomes=outcomes, answers=answers), seed=seed).items():
            num_kinds[kind] += len(ranks)
            chosen = heapq.nsmallest(num_rows, ranks)
            others = other_predictions([each.name for each in beside], answers, rows=[index for _, index in chosen])
            found = _gallery_items(table, chosen, outcomes=outcomes, others=others)
            lowest[kind] = _lowest(num_rows, [*lowest.get(kind, []), *found])
    shares = equal_shares(num_kinds, total=num_rows)
    queues = [[judged for _, judged in lowest[kind][: shares[kind]]] for kind in sorted(lowest)]
    return GallerySample(
        labels=tuple(_interleave(queues)), num_of=dict(num_of), num_calibrated=num_calibrated, num_exact=num_exact
    )


def equal_shares(num_of: Mapping[str, int], *, total: int) -> dict[str, int]:
    """Divide a sample equally among kinds; a kind with too few rows leaves the rest to the others.

    Args:
        num_of: number of rows of each kind.
        total: size of the sample; with fewer rows, all are taken.
    """
    parts: dict[str, int] = {}
    for position, (name, available) in enumerate(sorted(num_of.items(), key=lambda item: (item[1], item[0]))):
        left = total - sum(parts.values())
        parts[name] = min(available, -(-left // (len(num_of) - position)))
    return parts


def _kinds(table: pa.Table, *, outcomes: Sequence[str], answers: Sequence[pa.Table]) -> list[str]:
    """Divide the outcomes by whether another prediction names a different pair."""
    disputed = np.zeros(len(outcomes), dtype=bool)
    for answer in answers:
        for name in ("category", "rationale"):
            differs = pc.fill_null(pc.not_equal(answer[name], table[name]), False)
            disputed |= differs.to_numpy(zero_copy_only=False)
    return [f"{outcome}, disputed" if is_so else outcome for outcome, is_so in zip(outcomes, disputed, strict=True)]


def _ranks(table: pa.Table, *, kinds: Sequence[str], seed: int) -> dict[str, list[tuple[bytes, int]]]:
    ranks: dict[str, list[tuple[bytes, int]]] = {}
    for index, (key, kind) in enumerate(zip(table["key"].to_pylist(), kinds, strict=True)):
        rank = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
        ranks.setdefault(kind, []).append((rank, index))
    return ranks


def _gallery_items(
    table: pa.Table,
    ranks: Sequence[tuple[bytes, int]],
    *,
    outcomes: Sequence[str],
    others: Sequence[tuple[OtherPrediction, ...]],
) -> Iterator[tuple[bytes, GalleryItem]]:
    records = table.take([index for _, index in ranks]).to_pylist()
    for (rank, index), record, said in zip(ranks, records, others, strict=True):
        yield rank, GalleryItem(row=ExplainablePrediction.from_row(record), outcome=outcomes[index], others=said)


def _lowest(number: int, ranked: Iterable[tuple[bytes, GalleryItem]]) -> list[tuple[bytes, GalleryItem]]:
    return heapq.nsmallest(number, ranked, key=lambda item: item[0])


def _interleave(queues: Sequence[Sequence[GalleryItem]]) -> Iterator[GalleryItem]:
    for position in range(max(map(len, queues), default=0)):
        yield from (queue[position] for queue in queues if position < len(queue))


def make_cards(labels: Sequence[GalleryItem], *, parents: PredictionParents, size_px: int) -> Iterator[Card]:
    """Read the pictures of a sample in parallel, and yield a card for each, in order.

    A picture that cannot be read gives a card with the reason.

    Args:
        labels: the sample.
        parents: inputs of the predictions; pictures are read from there.
        size_px: longer side of a thumbnail.
    """
    with ThreadPoolExecutor(NUM_READERS) as readers:
        indices = _read_indices([label.row for label in labels], parents=parents, readers=readers)
        yield from readers.map(
            lambda label: _make_card(label, indices=indices, folder=parents.input, size_px=size_px), labels
        )


def _make_card(label: GalleryItem, *, indices: Indices, folder: str, size_px: int) -> Card:
    row, picture, missing, overlays = label.row, None, "", tuple[Overlay, ...]()
    try:
        image = decode_image(_read_image_bytes(row, indices=indices, folder=folder))
        picture = make_thumbnail(image, size_px=size_px)
        overlays = () if row.evidence is None else draw_overlays(image, row.evidence)
    except ImageError as error:
        missing = f"{error.reason}: {error.detail}"
    except FileNotFoundError:
        missing = f"not found: {row.source if row.shard is None else row.shard}"
    except (OSError, ValueError, ImportError) as error:  # ImportError: no client for this kind of address
        missing = str(error)
    category_right, rationale_right = (IS_RIGHT[letter] for letter in label.outcome)
    return Card(
        prediction=row,
        picture=picture,
        missing=missing,
        category_right=category_right,
        rationale_right=rationale_right,
        others=label.others,
        overlays=overlays,
        explained_by="" if row.evidence is None else row.evidence.method,
    )


def _read_indices(
    rows: Sequence[ExplainablePrediction], *, parents: PredictionParents, readers: ThreadPoolExecutor
) -> Indices:
    names = sorted({row.shard for row in rows if row.shard is not None})
    if not names:
        return {}
    try:
        manifest = read_shard_manifest(parents.input)
    except (OSError, ValueError, ImportError) as error:
        return dict.fromkeys(names, str(error))
    if manifest.digest != parents.input_digest:
        return dict.fromkeys(names, f"the shards in {parents.input} were written anew since")
    shards = {shard.name: shard for shard in manifest.shards}
    found = readers.map(lambda name: _read_index(shards.get(name), name=name, folder=parents.input), names)
    return dict(zip(names, found, strict=True))


def _read_index(shard: ShardInfo | None, *, name: str, folder: str) -> dict[str, str] | str:
    if shard is None:
        return f"no shard {name} in {folder}"
    try:
        index = read_index(folder, shard)
    except (OSError, ValueError) as error:
        return str(error)
    return dict(zip(index["key"].to_pylist(), index["sha256"].to_pylist(), strict=True))


def _read_image_bytes(row: ExplainablePrediction, *, indices: Indices, folder: str) -> bytes:
    """Read the image's file, or its range of the shard, and check it against the hash in the shard's index."""
    if row.shard is None:
        data = filesystem.read(row.source)
        expected = sample_key(row.source, sha256=bytes_sha256(data))
        # a key made from this path begins with the hash of the content
        if row.key[HASH_LENGTH:] == expected[HASH_LENGTH:] and row.key != expected:
            raise ValueError(f"{row.source} has changed since it was labelled")
        return data
    index = indices[row.shard]
    if isinstance(index, str):
        raise ValueError(index)
    if row.member_offset is None or row.member_num_bytes is None:
        raise ValueError(f"its place in {row.shard} is not known")
    end = row.member_offset + row.member_num_bytes
    data = filesystem.read(filesystem.join(folder, row.shard), start=row.member_offset, end=end)
    if bytes_sha256(data) != index.get(row.key):
        raise ValueError(f"{row.shard} no longer holds it at byte {row.member_offset}")
    return data


def make_thumbnail(image: Image.Image, *, size_px: int) -> EmbeddedImage:
    """Encode a copy of the image with a longer side of at most `size_px` pixels as WebP."""
    small = image.copy()
    small.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    small.save(sink, "WEBP", quality=PICTURE_QUALITY, method=4)
    return EmbeddedImage(data=sink.getvalue(), kind="image/webp", width=small.width, height=small.height)
