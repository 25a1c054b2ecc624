"""Sample predictions for the gallery, equally from all outcomes, and make their cards."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecor.data.images.decoding import decode_image
from ecor.data.predictions.manifest import PredictionParents, PredictionSet
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.records import ExplainablePrediction
from ecor.evaluation.correctness import strict_rule
from ecor.evaluation.label_columns import read_labels
from pipelines.reporting.comparison import ComparedPredictions, other_predictions
from pipelines.reporting.embedded_image import MissingPictureError, explain_missing, make_thumbnail
from pipelines.reporting.html_page import Card, OtherPrediction, Overlay
from pipelines.reporting.overlays import draw_overlays
from pipelines.storage.image_source import ImagePlace, ImageSource

NUM_READERS = 8
IS_RIGHT = {"r": True, "w": False, "?": None}


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
    images = ImageSource(parents)
    with ThreadPoolExecutor(NUM_READERS) as readers:
        yield from readers.map(lambda label: _make_card(label, images=images, size_px=size_px), labels)


def _make_card(label: GalleryItem, *, images: ImageSource, size_px: int) -> Card:
    row, picture, missing, overlays = label.row, None, "", tuple[Overlay, ...]()
    try:
        place = ImagePlace.of(row)
        with explain_missing(place):
            image = decode_image(images.read(place).data)
        picture = make_thumbnail(image, size_px=size_px)
        overlays = () if row.evidence is None else draw_overlays(image, row.evidence)
    except MissingPictureError as error:
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
