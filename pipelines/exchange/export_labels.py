"""Write labels in the format of another tool (`ecor export`). The labels never change.

The export is written to a temporary folder and appears as a whole. Its folder holds the files of the format and

export.json          labels, settings and counts, written last
quarantine.parquet   images that could not be read, if there are any
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.heatmap_codec import EVIDENCE_COLUMN
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set
from ecor.data.predictions.parts import read_part
from ecor.storage import filesystem
from pipelines.config.exchange import ExportConfig, ImageMode
from pipelines.exchange.export_folder import (
    EXPORT_NAME,
    ExportedFolder,
    export_settings,
    find_finished,
    unfinished_folder,
)
from pipelines.exchange.exported_label import ExportedLabel, PlacedImage
from pipelines.exchange.formats.registry import EXPORT_FORMATS
from pipelines.exchange.formats.writer import ExportContext, ExportFormatSpec
from pipelines.exchange.image_placement import ImagePlacement, NotPlacedError
from pipelines.exchange.known_names import read_known_names
from pipelines.exchange.label_rows import LabelRow, iterate_label_rows, open_reviews
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import progress_bar, say
from pipelines.scoring.predictions_folder import QUARANTINE_NAME
from pipelines.scoring.work_units import QUARANTINE_SCHEMA, Rejection

_ROWS_AT_ONCE = 256
"""Labels that a writer gets at a time; their images are in memory where the format holds them."""
_NO_IMAGE = PlacedImage(address="")


def run(config: ExportConfig) -> ExportedFolder:
    """Export labels; a finished export with the same settings is returned as it is.

    Raises:
        ValueError: for labels, decisions or settings that do not fit, an output of something else, and more unreadable
            images than `max_rejected`.
    """
    predictions = read_prediction_set(config.labels)
    spec = EXPORT_FORMATS[config.to]
    mode = _image_mode(config, predictions, spec=spec)
    settings = export_settings(config, predictions, mode=mode)
    finished = find_finished(config, settings)
    if finished is not None:
        say_balance(finished.balance)
        say(f"{config.output} is finished: nothing to do", to_stdout=True)
        return finished
    with unfinished_folder(config.output) as folder, tempfile.TemporaryDirectory() as scratch:
        balance = _write(config, predictions, spec=spec, mode=mode, folder=folder, scratch=Path(scratch))
        record = {**settings, "labels": config.labels, "balance": balance.to_record()}
        (folder / EXPORT_NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    say_balance(balance)
    say(f"{balance.num_taken:,} labels for {config.to}: {config.output}", to_stdout=True)
    return ExportedFolder(folder=config.output, balance=balance)


def _image_mode(config: ExportConfig, predictions: PredictionSet, *, spec: ExportFormatSpec) -> ImageMode:
    if config.images is not None:
        require(
            config.images in spec.modes,
            f"--images {config.images} does not fit --to {config.to}, which takes {' or '.join(spec.modes)}",
        )
        mode = config.images
    else:
        must_copy = spec.opens_images and config.image_root is None and _are_in_shards(config.labels, predictions)
        mode = "copy" if spec.copies or must_copy else "path"
    require(
        mode != "link" or filesystem.is_local(config.output),
        f"{config.output} is in a store, which has no links: use --images copy or path",
    )
    return mode


def _are_in_shards(labels: str, predictions: PredictionSet) -> bool:
    part = next((each for each in predictions.parts if each.num_rows), None)
    return part is not None and read_part(labels, part, columns=["shard"])["shard"].null_count < part.num_rows


def _write(
    config: ExportConfig,
    predictions: PredictionSet,
    *,
    spec: ExportFormatSpec,
    mode: ImageMode,
    folder: Path,
    scratch: Path,
) -> Balance:
    """Write all files of the export but its record."""
    context = _context(config, predictions, spec=spec, folder=folder)
    placement = _placement(config, predictions, spec=spec, mode=mode, context=context)
    counts = _Counts()
    writer = spec.write(context)
    with open_reviews(config.reviewed, predictions, scratch=scratch) as reviews:
        rows = iterate_label_rows(config.labels, predictions, audit=config.audit, reviews=reviews)
        labels = _place_labels(
            rows, config=config, spec=spec, placement=placement, counts=counts, num_labels=predictions.num_rows
        )
        while batch := list(islice(labels, _ROWS_AT_ONCE)):
            writer.add(batch)
            counts.num_taken += len(batch)
        writer.finish()
    if counts.rejected:
        table = pa.Table.from_pylist([asdict(each) for each in counts.rejected], schema=QUARANTINE_SCHEMA)
        pq.write_table(table, folder / QUARANTINE_NAME, compression="zstd")
    return Balance(
        stage="export",
        num_listed=predictions.num_rows,
        num_taken=counts.num_taken,
        rejected=Counter(each.reason for each in counts.rejected),
        left_out=counts.left_out,
    )


def _context(
    config: ExportConfig, predictions: PredictionSet, *, spec: ExportFormatSpec, folder: Path
) -> ExportContext:
    return ExportContext(
        folder=folder,
        address=_absolute(config.output),
        names=read_known_names(config.labels, predictions, vocabulary=config.vocabulary),
        num_labels=predictions.num_rows,
        labels_digest=predictions.digest,
        with_maps=config.maps and spec.holds_maps and _have_maps(config.labels, predictions),
    )


def _placement(
    config: ExportConfig,
    predictions: PredictionSet,
    *,
    spec: ExportFormatSpec,
    mode: ImageMode,
    context: ExportContext,
) -> ImagePlacement:
    return ImagePlacement(
        predictions.parents,
        mode=mode,
        needs=replace(spec.needs, size=spec.needs.size or (context.with_maps and spec.sizes_for_maps)),
        folder=context.folder,
        folder_of=spec.folder_of,
        must_open=spec.opens_images,
        image_root=config.image_root,
    )


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What became of the labels so far."""

    num_taken: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejection] = field(default_factory=list)


def _place_labels(
    rows: Iterable[LabelRow],
    *,
    config: ExportConfig,
    spec: ExportFormatSpec,
    placement: ImagePlacement,
    counts: _Counts,
    num_labels: int,
) -> Iterator[ExportedLabel]:
    """The labels to export, with their images; counts those that are left out or rejected."""
    with progress_bar("export", total=num_labels, unit="labels", say_every=100_000) as advance:
        for number, row in enumerate(rows, start=1):
            if number % _ROWS_AT_ONCE == 0 or number == num_labels:
                advance((number - 1) % _ROWS_AT_ONCE + 1)
            label = ExportedLabel(
                prediction=row.prediction, image=_NO_IMAGE, decision=row.decision, reviews=row.reviews
            )
            kind = _kind_left_out(label, config=config, spec=spec)
            if kind is not None:
                counts.left_out[kind] += 1
                continue
            try:
                yield replace(label, image=placement.place(label))
            except NotPlacedError as error:
                counts.rejected.append(error.rejection)
                _check_share(config, counts.rejected, num_labels=num_labels)


def _kind_left_out(label: ExportedLabel, *, config: ExportConfig, spec: ExportFormatSpec) -> str | None:
    """Why a label is not exported; None where it is."""
    if config.only is not None and label.decision != config.only:
        return f"not_{config.only}"
    return "no_category_after_review" if spec.needs_final_category and label.final[0] is None else None


def _check_share(config: ExportConfig, rejected: list[Rejection], *, num_labels: int) -> None:
    first = rejected[0]
    require(
        len(rejected) <= config.max_rejected * num_labels,
        f"more than max_rejected ({config.max_rejected}) of {num_labels:,} images cannot be read; the first is "
        f"{first.source} ({first.reason}: {first.detail}): restore them, or raise --max-rejected",
    )


def _have_maps(labels: str, predictions: PredictionSet) -> bool:
    """Whether the labels were made with `--explain`; asks the first part that has rows."""
    part = next((each for each in predictions.parts if each.num_rows), None)
    if part is None:
        return False
    with filesystem.open_file(filesystem.join(labels, part.name)) as file:
        return EVIDENCE_COLUMN.name in pq.ParquetFile(file).schema_arrow.names


def _absolute(address: str) -> str:
    return str(filesystem.local_path(address).absolute()) if filesystem.is_local(address) else address.rstrip("/")
