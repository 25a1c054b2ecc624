"""Collect the labels of listed images, and match them with the vocabulary's names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ecor.data.name_parsing import check_spelling, checked_name
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from pipelines.sharding.shard_job import ShardJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A way that images are labelled, and one image that is."""

    split: str | None
    category: str | None
    rationale: str | None
    is_visible: bool
    """Known to be seen, rather than labelled."""
    source: str


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
    """All that images are labelled with, in the order of the names. Raises ValueError for a name without a letter."""
    names: dict[str, set[str]] = {}
    for label in labels:
        if label.category is not None and not label.is_visible:
            category = checked_name(label.category, where=f"{label.source}: the category")
            rationales = names.setdefault(category, set())
            if label.rationale is not None:
                rationales.add(checked_name(label.rationale, where=f"{label.source}: a rationale"))
    if not names:
        raise ValueError("no image has a category: add images to the folders of the categories, or rows to the table")
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
        spelled: dict[str, str] = {}
        for label in labels:
            if (name := getattr(label, kind)) is not None:
                check_spelling(name, spelled=spelled, where=label.source, kind=kind)
    for label in labels:
        try:
            match_names(label.category, [] if label.rationale is None else [label.rationale], job=job)
        except ValueError as error:
            raise ValueError(f"{label.source}: {error}: correct the label, or add it to the vocabulary") from error


def match_names(category: str | None, rationales: Sequence[str], *, job: ShardJob) -> tuple[str | None, list[str]]:
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
