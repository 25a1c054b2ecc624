"""Compare two sets of labels: what changed, and whether their distributions have drifted (`ecor diff`).

The output folder is published whole; the record is written last:

diff.json               counts, the most frequent changes, and the tests
summary.json            what became of all images of both sets
changes.parquet         every change of category or rationale with its count, the most frequent first
changed_labels.parquet  every changed label, and images that are in one set only
diff.html               the page
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import MANIFEST_NAME, read_prediction_set
from ecor.data.predictions.schema import OOD_COLUMN, PARQUET_OPTIONS
from ecor.storage import filesystem
from pipelines.config.identity import describe_changes, output_settings
from pipelines.config.reporting import DiffConfig
from pipelines.reporting.drift.changes import CHANGED_SCHEMA, JoinedLabels, LabelCollector, changed_rows, count_changes
from pipelines.reporting.drift.diff_page import draw_page
from pipelines.reporting.drift.drift_tests import DriftLimits, DriftTest, Quantity, compare, describe_drift
from pipelines.reporting.drift.label_join import LabelFolder, join_labels
from pipelines.reporting.drift.record import DIFF_NAME, ChangeCounts, DiffSide, LabelDiff, TopChange, find_diff
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import progress_bar, say

CHANGES_NAME, CHANGED_NAME, PAGE_NAME = "changes.parquet", "changed_labels.parquet", "diff.html"
SUMMARY_NAME = "summary.json"
NUM_TOP_CHANGES = 100
_NUM_PRINTED = 10
WORDS = {
    "confidence": "confidence",
    OOD_COLUMN.name: "OOD score",
    "category": "shares of categories",
    "rationale": "shares of rationales",
}


def run(config: DiffConfig) -> LabelDiff:
    """Write the comparison of two sets of labels, and print it; a finished one is returned as it is.

    Raises:
        ValueError: for a folder without finished labels, an altered part, a key that occurs twice in a set, two empty
            sets, and an output folder that holds something else.
    """
    before, after = (
        LabelFolder(address=address, predictions=read_prediction_set(address))
        for address in (config.before, config.after)
    )
    for labels in (before, after):
        require(labels.predictions.num_rows > 0, f"{labels.address} has no labels: there is nothing to compare")
    sides = tuple(DiffSide.of(each.predictions, address=each.address) for each in (before, after))
    found = _find_finished(config, before=sides[0], after=sides[1])
    if found is None:
        found = _compare(config, before, after)
    for line in describe_diff(found):
        say(line, to_stdout=True)
    say_balance(balance_sides(found, before, after))
    say(f"page: {filesystem.join(config.folder, PAGE_NAME)}")
    return found


def describe_diff(diff: LabelDiff) -> list[str]:
    """The comparison in lines for the terminal."""
    counts = diff.counts
    lines = [
        f"{counts.common:,} images in both, {counts.only_before:,} only before, {counts.only_after:,} only after",
        f"category changed: {_of(counts.category_changed, counts.common)}; rationale alone: "
        f"{_of(counts.rationale_changed, counts.common)}; confidence alone, by "
        f"{diff.settings['confidence_step']:.6g} or more: {_of(counts.confidence_changed, counts.common)}",
        *(f"  {each.describe()}" for each in diff.top_changes[:_NUM_PRINTED]),
        *diff.notes,
    ]
    limits = DriftLimits(**{name: diff.settings[name] for name in ("false_alarms", "smallest_effect")})
    return [*lines, describe_drift(diff.tests, limits=limits, words=WORDS)]


def balance_sides(diff: LabelDiff, before: LabelFolder, after: LabelFolder) -> Balance:
    """The images that the two manifests name, and those whose two labels were compared."""
    sides = [each.predictions for each in (before, after)]
    return Balance(
        stage="diff",
        num_listed=sum(each.num_rows + each.num_rejected for each in sides),
        num_taken=2 * diff.counts.common,
        rejected={"unreadable": sum(each.num_rejected for each in sides)},
        left_out={"only_before": diff.counts.only_before, "only_after": diff.counts.only_after},
    )


def _of(number: int, total: int) -> str:
    return f"{number:,} of {total:,}" + (f" ({100 * number / total:.1f} %)" if total else "")


def _find_finished(config: DiffConfig, *, before: DiffSide, after: DiffSide) -> LabelDiff | None:
    """A finished comparison of the same labels and settings; ValueError where the folder holds anything else."""
    folder = config.folder
    found = find_diff(folder)
    if found is None:
        require(
            not any(not name.startswith(".") for name in filesystem.names_in(folder)),
            f"{folder} holds other files{_labels_in(folder)}: name another --output",
        )
        return None
    changes = describe_changes(
        {"before": found.before.labels_digest, "after": found.after.labels_digest, **found.settings},
        {"before": before.labels_digest, "after": after.labels_digest, **output_settings(config)},
    )
    require(not changes, f"{folder} holds another comparison ({changes}): name another --output")
    return found


def _labels_in(folder: str) -> str:
    return " (labels)" if filesystem.exists(filesystem.join(folder, MANIFEST_NAME)) else ""


def _compare(config: DiffConfig, before: LabelFolder, after: LabelFolder) -> LabelDiff:
    with tempfile.TemporaryDirectory() as scratch:
        folder, divisions = Path(scratch) / "diff", Path(scratch) / "divisions"
        folder.mkdir()
        divisions.mkdir()
        labels, num_confident = _join(config, before, after, scratch=divisions, path=folder / CHANGED_NAME)
        changes = count_changes(labels)
        pq.write_table(changes, folder / CHANGES_NAME, **PARQUET_OPTIONS)
        diff = _record(config, before, after, labels=labels, changes=changes, num_confident=num_confident)
        page = draw_page(config, diff, before=before, after=after, changed=folder / CHANGED_NAME, words=WORDS)
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
        summary = {"stage": "diff", "balance": balance_sides(diff, before, after).to_record()}
        (folder / SUMMARY_NAME).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        (folder / DIFF_NAME).write_text(diff.to_json(), encoding="utf-8")
        filesystem.replace_folder(folder, config.folder, last=DIFF_NAME)
    return diff


def _join(
    config: DiffConfig, before: LabelFolder, after: LabelFolder, *, scratch: Path, path: Path
) -> tuple[JoinedLabels, int]:
    """All labels as arrays, and the number whose confidence alone changed; writes the changed labels."""
    collector, num_confident = LabelCollector(), 0
    total = before.predictions.num_rows + after.predictions.num_rows
    with (
        progress_bar("read", total=total, unit="labels") as advance,
        pq.ParquetWriter(path, CHANGED_SCHEMA, **PARQUET_OPTIONS) as writer,
    ):
        for division in join_labels(before, after, scratch=scratch, advance=advance):
            collector.add(division)
            rows = changed_rows(division, confidence_step=config.confidence_step)
            num_confident += rows["change"].to_pylist().count("confidence")
            writer.write_table(rows)
    return collector.labels(), num_confident


def _record(
    config: DiffConfig,
    before: LabelFolder,
    after: LabelFolder,
    *,
    labels: JoinedLabels,
    changes: pa.Table,
    num_confident: int,
) -> LabelDiff:
    paired = 2 * labels.num_common >= max(len(labels.before), len(labels.after))
    num_apart = len(labels.before) + len(labels.after) - 2 * labels.num_common
    limits = DriftLimits(false_alarms=config.false_alarms, smallest_effect=config.smallest_effect)
    first, second = (DiffSide.of(each.predictions, address=each.address) for each in (before, after))
    tests = compare(_quantities(labels, paired=paired), paired=paired, limits=limits)
    return LabelDiff(
        before=first,
        after=second,
        settings=output_settings(config),
        counts=_counts(labels, changes=changes, num_confident=num_confident),
        top_changes=tuple(TopChange(**row) for row in changes.slice(0, NUM_TOP_CHANGES).to_pylist()),
        paired=paired,
        tests=tests,
        notes=(
            *_notes(before=first, after=second, tests=tests),
            *_compared_images(paired=paired, num_common=labels.num_common, num_apart=num_apart),
        ),
    )


def _counts(labels: JoinedLabels, *, changes: pa.Table, num_confident: int) -> ChangeCounts:
    num = labels.num_common
    count = {
        kind: sum(each["count"] for each in changes.select(["change", "count"]).to_pylist() if each["change"] == kind)
        for kind in ("category", "rationale")
    }
    means = [
        round(float(side.confidence[:num].mean(dtype=np.float64)), 6) if num else None
        for side in (labels.before, labels.after)
    ]
    return ChangeCounts(
        common=num,
        only_before=len(labels.before) - num,
        only_after=len(labels.after) - num,
        category_changed=count["category"],
        rationale_changed=count["rationale"],
        confidence_changed=num_confident,
        confidence_mean_before=means[0],
        confidence_mean_after=means[1],
    )


def _quantities(labels: JoinedLabels, *, paired: bool) -> Iterator[Quantity]:
    before, after = (side.first(labels.num_common) if paired else side for side in (labels.before, labels.after))
    has_ood = not any(np.isnan(side.ood_score).any() for side in (before, after))
    for name in ("confidence", *([OOD_COLUMN.name] if has_ood else []), "category", "rationale"):
        is_name = name in ("category", "rationale")
        yield Quantity(name=name, before=getattr(before, name), after=getattr(after, name), is_name=is_name)


def _notes(*, before: DiffSide, after: DiffSide, tests: tuple[DriftTest, ...]) -> Iterator[str]:
    if before.model_digest != after.model_digest:
        yield f"the model differs: {before.model}, {after.model}"
    if before.vocabulary_digest != after.vocabulary_digest:
        yield "the vocabulary differs: confidences and shares differ for that reason too"
    if not any(test.quantity == OOD_COLUMN.name for test in tests):
        yield "the OOD score is not compared: not all labels of both sets have one"


def _compared_images(*, paired: bool, num_common: int, num_apart: int) -> Iterator[str]:
    """What the tests leave out, or why they are not image by image."""
    if paired and num_apart:
        yield f"{num_apart:,} labels of images that are in one set only have no part in the tests"
    if not paired and num_common:
        yield (
            f"less than half of the images of the larger set are in both ({num_common:,}): all labels are compared as "
            f"two samples"
        )
