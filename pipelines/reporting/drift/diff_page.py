"""Draw the page of two sets of labels: figures, the most frequent changes, and pictures of them."""

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import ecor
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.records import ExplainablePrediction
from pipelines.config.reporting import DiffConfig
from pipelines.reporting.drift.label_join import LabelFolder
from pipelines.reporting.drift.record import DiffSide, LabelDiff, TopChange
from pipelines.reporting.gallery import GalleryItem, make_cards, outcome_codes
from pipelines.reporting.html_page import (
    Card,
    Column,
    Fact,
    MetricTable,
    MetricValue,
    OtherPrediction,
    Page,
    Row,
    render,
)
from pipelines.runtime.console import percent

NUM_SHOWN = 15
"""Changes in a table of the page."""
PICTURES_PER_CHANGE = 4
_MAX_GROUPS = 60
_ROWS_AT_ONCE = 16_384
_KINDS = {"only_before": "images only before", "only_after": "images only after"}
_READ = ["key", "change", "category_before", "rationale_before", "category_after", "rationale_after"]
ChangeKey = tuple[str, ...]


def draw_page(
    config: DiffConfig,
    diff: LabelDiff,
    *,
    before: LabelFolder,
    after: LabelFolder,
    changed: Path,
    words: Mapping[str, str],
) -> str:
    """The page as HTML; the same labels, pictures and settings give the same text.

    Args:
        config: size of the gallery and of its pictures.
        diff: the comparison.
        before: the labels that are compared.
        after: the labels that are compared.
        changed: Parquet file of the changed labels.
        words: name of each tested quantity for people.
    """
    cards = tuple(_cards(config, diff, before=before, after=after, changed=changed))
    return render(
        Page(
            title="What changed between two sets of labels",
            sentence=_sentence(diff),
            facts=tuple(_facts(diff)),
            lineage=(*_lineage("Before", diff.before), *_lineage("After", diff.after)),
            outcomes=(),
            outcome_words=(),
            tables=tuple(_tables(diff, words=words)),
            figure_words=tuple(_figure_words(diff)),
            plots=(),
            cards=cards,
            gallery_words=tuple(_gallery_words(cards)),
            colophon=f"Written by ecor {ecor.__version__}. This file loads nothing from anywhere.",
        )
    )


def _sentence(diff: LabelDiff) -> str:
    counts = diff.counts
    if not counts.common:
        return f"{counts.only_before:,} labels before and {counts.only_after:,} after, of different images."
    share = percent(counts.category_changed / counts.common, 1)
    return f"{counts.common:,} images were labelled twice; {share} of them have another category now."


def _facts(diff: LabelDiff) -> Iterator[Fact]:
    counts = diff.counts
    yield Fact(label="Before", value=diff.before.model, note=f"{diff.before.num_labels:,} labels")
    yield Fact(label="After", value=diff.after.model, note=f"{diff.after.num_labels:,} labels")
    for label, number in (
        ("Another category", counts.category_changed),
        ("Another rationale, same category", counts.rationale_changed),
        (f"Only confidence, by {diff.settings['confidence_step']:.6g} or more", counts.confidence_changed),
    ):
        yield Fact(label=label, value=f"{number:,}", note=f"of {counts.common:,} images in both")
    yield Fact(label="Images in one set only", value=f"{counts.only_before:,} before, {counts.only_after:,} after")
    drifted = [test.quantity for test in diff.tests if test.is_drift]
    yield Fact(
        label="Drift",
        value=f"{len(drifted)} of {len(diff.tests)} quantities" if drifted else "none",
        note=f"false alarms at most {100 * diff.settings['false_alarms']:.6g} %, effects from "
        f"{diff.settings['smallest_effect']:.6g}",
    )


def _lineage(name: str, side: DiffSide) -> Iterator[Fact]:
    yield Fact(label=f"{name}: labels", value=side.labels_digest, note=side.labels)
    yield Fact(label=f"{name}: images", value=side.input_digest, note=side.input)
    yield Fact(label=f"{name}: model", value=side.model_digest, note=side.model)
    yield Fact(label=f"{name}: vocabulary", value=side.vocabulary_digest)


def _figure_words(diff: LabelDiff) -> Iterator[str]:
    if diff.tests:
        compared = "image by image" if diff.paired else "as two samples, because the images differ"
        yield (
            f"Labels are compared {compared}. Effect: for confidence and OOD score, the largest difference between the "
            "shares of labels below a value; for names, the share of labels that would have to change. The p-values "
            "are corrected for the number of tests (Holm)."
        )
    for note in diff.notes:
        yield f"{note[0].upper()}{note[1:]}."


def _tables(diff: LabelDiff, *, words: Mapping[str, str]) -> Iterator[MetricTable]:
    if diff.tests:
        yield _drift_table(diff, words=words)
    columns = (Column(name="images"), Column(name="share", words="of the images in both sets"))
    for kind, title, subject in (
        ("category", "Most frequent changes of the category", "before → after"),
        ("rationale", "Same category, another rationale", "before → after"),
    ):
        rows = tuple(_change_row(each, diff) for each in diff.top_changes if each.change == kind)[:NUM_SHOWN]
        if rows:
            yield MetricTable(title=title, subject=subject, columns=columns, rows=rows)


def _drift_table(diff: LabelDiff, *, words: Mapping[str, str]) -> MetricTable:
    rows = tuple(
        Row(
            name=words.get(test.quantity, test.quantity),
            cells=(f"{test.effect:.3f}", f"{test.adjusted_p_value:.2g}", "yes" if test.is_drift else "no", test.method),
            marked=test.is_drift,
        )
        for test in diff.tests
    )
    columns = (
        Column(name="effect", words="between 0 and 1"),
        Column(name="p"),
        Column(name="drift"),
        Column(name="test"),
    )
    return MetricTable(title="Drift without truth", subject="quantity", columns=columns, rows=rows)


def _change_row(change: TopChange, diff: LabelDiff) -> Row:
    if change.change == "category":
        name, note = f"{change.category_before} → {change.category_after}", f"because of {change.rationale_after}"
        searched = f"{change.category_before} {change.rationale_after}"
    else:
        name, note = f"{change.rationale_before} → {change.rationale_after}", change.category_after
        searched = f"{change.rationale_before} {change.rationale_after}"
    share = MetricValue(value=change.count / diff.counts.common)
    link = urlencode({"name": change.category_after, "q": searched})
    return Row(name=name, note=note, cells=(f"{change.count:,}", share), href=f"#{link}")


def _gallery_words(cards: tuple[Card, ...]) -> Iterator[str]:
    if cards:
        yield (
            f"{len(cards):,} pictures: up to {PICTURES_PER_CHANGE} of each of the most frequent changes, in their "
            "order, then images that are in one set only. Frequent changes are as visible here as rare ones."
        )
    else:
        yield "No label has changed, and no image is in one set only."
    missing = sum(card.picture is None for card in cards)
    if missing:
        yield f"{missing:,} of these {len(cards):,} could not be found again: in place of the picture stands why."


def _cards(
    config: DiffConfig, diff: LabelDiff, *, before: LabelFolder, after: LabelFolder, changed: Path
) -> Iterator[Card]:
    """Cards of the sample; each shows the label after, and the one before beside it."""
    sample = _sample(diff, changed=changed, num_images=config.max_images)
    for side, other in ((after, before), (before, after)):
        is_before = side is before
        keys = [key for key, kind in sample if (kind == "only_before") == is_before]
        rows = _items_of(side, keys)
        others = _items_of(other, keys) if not is_before else {}
        items = [replace(rows[key], others=_said(others.get(key))) for key in keys]
        yield from make_cards(items, parents=side.predictions.parents, size_px=config.thumbnail_px)


def _said(item: GalleryItem | None) -> tuple[OtherPrediction, ...]:
    if item is None:
        return ()
    values = {name: getattr(item.row, name) for name in ("category", "rationale", "confidence")}
    return (OtherPrediction(name="before", **values),)


def _sample(diff: LabelDiff, *, changed: Path, num_images: int) -> list[tuple[str, str]]:
    """Keys and kinds of the images to show: some of each of the most frequent changes, then of those in one set only.

    Of each group, those with the lowest hash of their key are taken: at random, but always the same.
    """
    groups: dict[ChangeKey, list[tuple[bytes, str]]] = {_group(each): [] for each in diff.top_changes[:_MAX_GROUPS]}
    groups |= {(kind,): [] for kind in _KINDS}
    for batch in pq.ParquetFile(changed).iter_batches(batch_size=_ROWS_AT_ONCE, columns=_READ):
        for row in batch.to_pylist():
            chosen = groups.get((row["change"],) if row["change"] in _KINDS else _row_group(row))
            if chosen is not None:
                chosen.append((hashlib.blake2b(row["key"].encode(), digest_size=8).digest(), row["key"]))
        groups = {name: heapq.nsmallest(PICTURES_PER_CHANGE, chosen) for name, chosen in groups.items()}
    return [(key, name[0]) for name, chosen in groups.items() for _, key in chosen][:num_images]


def _group(change: TopChange) -> ChangeKey:
    middle = change.rationale_before if change.change == "rationale" else ""
    return change.change, change.category_before, middle or "", change.category_after, change.rationale_after


def _row_group(row: Mapping[str, str]) -> ChangeKey:
    middle = row["rationale_before"] if row["change"] == "rationale" else ""
    return row["change"], row["category_before"], middle, row["category_after"], row["rationale_after"]


def _items_of(labels: LabelFolder, keys: list[str]) -> dict[str, GalleryItem]:
    """The whole labels of some keys with their outcomes; parts are read until all are found."""
    found: dict[str, GalleryItem] = {}
    wanted = pa.array(keys, pa.string())
    for part in labels.predictions.parts:
        if len(found) == len(keys):
            break
        table = read_part(labels.address, part)
        table = table.filter(pc.is_in(table["key"], value_set=wanted))
        for row, outcome in zip(table.to_pylist(), outcome_codes(table), strict=True) if len(table) else ():
            found[row["key"]] = GalleryItem(row=ExplainablePrediction.from_row(row), outcome=outcome)
    return found
