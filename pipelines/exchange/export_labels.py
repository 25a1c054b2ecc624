"""Write labels in the format of another tool (`ecor export`). The labels never change.

The export is written to a temporary folder and appears as a whole. Its folder holds the files of the format and

export.json          labels, settings and counts, written last
quarantine.parquet   images that could not be read, if there are any
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.heatmap_codec import EVIDENCE_COLUMN
from ecor.data.predictions import PredictionSet, read_part, read_prediction_set
from ecor.storage import filesystem
from ecor.storage.atomic_write import write_folder
from ecor.storage.digests import json_digest
from pipelines.config.exchange import ExportConfig, ImageMode
from pipelines.config.identity import output_settings
from pipelines.exchange.exported_label import ExportedLabel, PlacedImage
from pipelines.exchange.formats.registry import EXPORT_FORMATS
from pipelines.exchange.formats.writer import ExportContext, ExportFormatSpec
from pipelines.exchange.image_placement import ImagePlacement, NotPlacedError
from pipelines.exchange.known_names import read_known_names
from pipelines.exchange.label_rows import LabelRow, audit_digest, iterate_label_rows, open_reviews
from pipelines.review.decision_set import read_decision_set
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import progress_bar, say
from pipelines.scoring.predictions_folder import QUARANTINE_NAME, QUARANTINE_SCHEMA
from pipelines.scoring.work_units import Rejection

RECORD_NAME = "export.json"
ROWS_AT_ONCE = 256
"""Labels that a writer gets at a time; their images are in memory where the format holds them."""
_NO_IMAGE = PlacedImage(address="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A finished export."""

    folder: str
    balance: Balance


def run(config: ExportConfig) -> Export:
    """Export labels; a finished export with the same settings is returned as it is.

    Raises:
        ValueError: for labels, decisions or settings that do not fit, an output of something else, and more unreadable
            images than `max_rejected`.
    """
    predictions = read_prediction_set(config.labels)
    spec = EXPORT_FORMATS[config.to]
    mode = _image_mode(config, predictions, spec=spec)
    settings = _settings(config, predictions, mode=mode)
    finished = _find_finished(config, settings)
    if finished is not None:
        say(f"{config.output} is finished: nothing to do", to_stdout=True)
        return finished
    with _unfinished_folder(config.output) as folder, tempfile.TemporaryDirectory() as scratch:
        balance = _write(config, predictions, spec=spec, mode=mode, folder=folder, scratch=Path(scratch))
        record = {**settings, "labels": config.labels, "balance": balance.to_record()}
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    say_balance(balance)
    say(f"{balance.num_taken:,} labels for {config.to}: {config.output}", to_stdout=True)
    return Export(folder=config.output, balance=balance)


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


def _settings(config: ExportConfig, predictions: PredictionSet, *, mode: ImageMode) -> dict[str, Any]:
    """What the bytes of an export follow from."""
    reviewed = None
    if config.reviewed is not None:
        logs = filesystem.list_folder(read_decision_set(config.reviewed).log_folder)
        reviewed = json_digest([(each.name, each.num_bytes) for each in logs])
    return {
        **output_settings(config),
        "images": mode,
        "labels_digest": predictions.digest,
        "audit_digest": None if config.audit is None else audit_digest(config.audit, predictions),
        "reviewed_digest": reviewed,
    }


def _find_finished(config: ExportConfig, settings: Mapping[str, Any]) -> Export | None:
    """The finished export of these settings, or None; ValueError where something else is in the folder."""
    path = filesystem.join(config.output, RECORD_NAME)
    if not filesystem.is_file(path):
        require(
            not filesystem.names_in(config.output) and not filesystem.is_file(config.output),
            f"{config.output} exists and is no export: name another --output",
        )
        return None
    try:
        record = json.loads(filesystem.read(path))
        found = {name: record.get(name) for name in settings}
        balance = Balance.from_record(record["balance"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of an export ({error}): name another --output") from error
    differing = [name for name in settings if found[name] != settings[name]]
    if not differing:
        return Export(folder=config.output, balance=balance)
    changes = "; ".join(f"{name} was {found[name]}, is {settings[name]}" for name in differing)
    require(config.fresh, f"{config.output} holds another export: {changes}. Name another --output, or add --fresh")
    return None


@contextmanager
def _unfinished_folder(output: str) -> Iterator[Path]:
    """Yield a local folder that becomes `output` when the block ends without an error."""
    if filesystem.is_local(output):
        with write_folder(filesystem.local_path(output)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        yield folder
        filesystem.replace_folder(folder, output, last=RECORD_NAME)


def _write(
    config: ExportConfig,
    predictions: PredictionSet,
    *,
    spec: ExportFormatSpec,
    mode: ImageMode,
    folder: Path,
    scratch: Path,
) -> Balance:
    with_maps = config.maps and spec.holds_maps and _have_maps(config.labels, predictions)
    needs = replace(spec.needs, size=spec.needs.size or (with_maps and spec.sizes_for_maps))
    placement = ImagePlacement(
        predictions.parents,
        mode=mode,
        needs=needs,
        folder=folder,
        folder_of=spec.folder_of,
        must_open=spec.opens_images,
        image_root=config.image_root,
    )
    context = ExportContext(
        folder=folder,
        address=_absolute(config.output),
        names=read_known_names(config.labels, predictions, vocabulary=config.vocabulary),
        num_labels=predictions.num_rows,
        labels_digest=predictions.digest,
        with_maps=with_maps,
    )
    writer = spec.write(context)
    num_taken, left_out, rejected = 0, Counter[str](), list[Rejection]()
    with (
        open_reviews(config.reviewed, predictions, scratch=scratch) as reviews,
        progress_bar("export", total=predictions.num_rows, unit="labels", say_every=100_000) as advance,
    ):
        batch: list[ExportedLabel] = []
        for row in iterate_label_rows(config.labels, predictions, audit=config.audit, reviews=reviews):
            advance()
            label = ExportedLabel(
                prediction=row.prediction, image=_NO_IMAGE, decision=row.decision, reviews=row.reviews
            )
            kind = _kind_left_out(row, label, config=config, spec=spec)
            if kind is not None:
                left_out[kind] += 1
                continue
            try:
                batch.append(replace(label, image=placement.place(label)))
            except NotPlacedError as error:
                rejected.append(error.rejection)
                _check_share(config, rejected, num_labels=predictions.num_rows)
            if len(batch) == ROWS_AT_ONCE:
                writer.add(batch)
                num_taken, batch = num_taken + len(batch), []
        writer.add(batch)
        writer.finish()
    if rejected:
        table = pa.Table.from_pylist([asdict(each) for each in rejected], schema=QUARANTINE_SCHEMA)
        pq.write_table(table, folder / QUARANTINE_NAME, compression="zstd")
    return Balance(
        stage="export",
        num_listed=predictions.num_rows,
        num_taken=num_taken + len(batch),
        rejected=Counter(each.reason for each in rejected),
        left_out=left_out,
    )


def _kind_left_out(row: LabelRow, label: ExportedLabel, *, config: ExportConfig, spec: ExportFormatSpec) -> str | None:
    """Why a label is not exported; None where it is."""
    if config.only is not None and row.decision != config.only:
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
