"""Units of work whose rows an earlier job has made: they are copied by the driver, and committed like all others."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from ecor.clip.image_features import FeaturePart
from ecor.data.predictions.manifest import PredictionPart
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.schema import ORIGIN_SCHEMA, origins_table
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.earlier_labels import EarlierLabels
from pipelines.scoring.incremental.reuse_plan import ReusePlan
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scored_part import EncodedRows, KeptRows, StepTimings
from pipelines.scoring.unit_writer import PartReport, SavedUnit
from pipelines.scoring.work_units import Listed, ListingUnit, Unit, split_runs
from pipelines.storage.attempt import Attempt
from pipelines.storage.kept_features import read_unit_features

_NUM_COPIERS = 4
_PLAIN = frozenset(ORIGIN_SCHEMA.names) - {"key", "source"}
"""Columns that are null for an image of a folder."""
_UNITS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusedRows:
    """Rows of a part of the earlier labels that stay."""

    labels: PredictionPart
    features: FeaturePart | None
    """Features of the part; None where they are not needed."""
    rows: Int[np.ndarray, " N"]
    """Of the part, in ascending order."""
    files: tuple[Listed, ...]
    """The N images as they are listed now; the labels of a table may have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReusedUnit:
    """A unit whose rows are copied."""

    name: str
    pieces: tuple[ReusedRows, ...]

    @property
    def num_images(self) -> int:
        return sum(len(piece.files) for piece in self.pieces)


def divide(
    plan: ReusePlan,
    files: Sequence[Listed],
    *,
    earlier: EarlierLabels,
    unit_size: int,
    allow_http: tuple[str, ...] = (),
) -> tuple[Unit, ...]:
    """The units of a job: rows that stay, then images to label.

    What stays of consecutive units of the earlier job is one unit, up to `unit_size` images, so that units do not
    become ever smaller from job to job.

    Args:
        plan: which rows stay.
        files: all images, in the order of the plan.
        earlier: the labels that rows are reused of.
        unit_size: images per unit, at most; a larger unit of the earlier job stays as it is.
        allow_http: hosts on the web from which images are read.
    """
    packed: list[list[ReusedRows]] = []
    size = 0
    for piece in _pieces(plan, files, earlier=earlier):
        size += len(piece.files)
        if not packed or size > unit_size:
            packed.append([])
            size = len(piece.files)
        packed[-1].append(piece)
    reused = [ReusedUnit(name=f"reused-{number:06d}", pieces=tuple(each)) for number, each in enumerate(packed)]
    others = [files[index] for index in np.flatnonzero(~plan.is_reused).tolist()]
    labelled = [
        ListingUnit(name=f"new-{number:06d}", files=tuple(run), allow_http=allow_http)
        for number, run in enumerate(split_runs(others, size=unit_size))
    ]
    return (*reused, *labelled)


def _pieces(plan: ReusePlan, files: Sequence[Listed], *, earlier: EarlierLabels) -> Iterator[ReusedRows]:
    """What stays of each part of the earlier labels, in the order of the parts."""
    features = {} if earlier.features is None else {part.unit: part for part in earlier.features.parts}
    reused = np.flatnonzero(plan.is_reused)
    reused = reused[np.lexsort((plan.row[reused], plan.part[reused]))]
    numbers, starts = np.unique(plan.part[reused], return_index=True)
    for number, positions in zip(numbers.tolist(), np.split(reused, starts[1:]), strict=False):
        part = earlier.labels.parts[number]
        yield ReusedRows(
            labels=part,
            features=features.get(part.unit),
            rows=plan.row[positions],
            files=tuple(files[index] for index in positions.tolist()),
        )


def copy_units(
    units: Sequence[ReusedUnit],
    *,
    earlier: EarlierLabels,
    folder: PredictionsFolder,
    attempts: Mapping[str, Attempt],
    parents: Mapping[str, Any],
) -> Iterator[PartReport]:
    """Copy the rows of units, and commit each unit under its attempt; yields a report of each, in order.

    Args:
        units: the units; a few of them are in memory at a time.
        earlier: the labels that they are of.
        folder: output folder.
        attempts: claimed attempt of each unit, by the unit's name.
        parents: digests that go into commit records.

    Raises:
        ValueError: when a file of the earlier labels is missing or altered.
        OSError: when a disk or a store fails.
    """

    def copy(unit: ReusedUnit) -> PartReport:
        return _copy_unit(unit, earlier=earlier, folder=folder, attempt=attempts[unit.name], parents=parents)

    with ThreadPoolExecutor(_NUM_COPIERS) as pool:
        for run in split_runs(units, size=_UNITS_AT_ONCE):
            yield from pool.map(copy, run)


def _copy_unit(
    unit: ReusedUnit,
    *,
    earlier: EarlierLabels,
    folder: PredictionsFolder,
    attempt: Attempt,
    parents: Mapping[str, Any],
) -> PartReport:
    began = time.perf_counter()
    rows: pa.Table | EncodedRows | None = _read_whole(unit, earlier=earlier) if earlier.features is None else None
    features = None
    if rows is None:
        found = [_read_rows(piece, earlier=earlier) for piece in unit.pieces]
        rows = pa.concat_tables([table for table, _ in found])
        if earlier.features is not None:
            kept = pa.concat_tables([table for _, table in found if table is not None])
            features = KeptRows(table=kept, image_side=earlier.features.image_side)
    committed = folder.save(attempt, rows=rows, rejected=(), parents=parents, features=features)
    seconds = StepTimings(write=time.perf_counter() - began)
    return PartReport(unit=unit.name, seconds=seconds, num_cut=0, saved=SavedUnit(attempt=attempt, committed=committed))


def _read_whole(unit: ReusedUnit, *, earlier: EarlierLabels) -> EncodedRows | None:
    """The file of a part that stays as it is; None where its rows must be read, or where it is damaged.

    That is the case unless all rows stay, and no image has labels or a shard, neither then nor now.
    """
    piece = unit.pieces[0]
    is_labelled = any(file.category or file.rationales or file.visible_rationales for file in piece.files)
    if len(unit.pieces) > 1 or len(piece.rows) < piece.labels.num_rows or is_labelled:
        return None
    path = filesystem.join(earlier.folder, piece.labels.name)
    try:
        data = retry_in_store(lambda: filesystem.read(path), place=earlier.folder)
    except FileNotFoundError:
        return None
    if bytes_sha256(data) != piece.labels.sha256 or not _has_plain_origins(data):
        return None
    return EncodedRows(part=piece.labels, data=data)


def _has_plain_origins(data: bytes) -> bool:
    """Whether the columns of an image's origin are null, but for key and source; by the statistics of the file."""
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            name, counts = column.path_in_schema.partition(".")[0], column.statistics
            if name in _PLAIN and (counts is None or counts.null_count != column.num_values):
                return False
    return True


def _read_rows(piece: ReusedRows, *, earlier: EarlierLabels) -> tuple[pa.Table, pa.Table | None]:
    """Labels and features of the rows that stay, with the images' origins as they are listed now."""
    features = None
    if piece.features is None:
        labels = retry_in_store(lambda: read_part(earlier.folder, piece.labels), place=earlier.folder)
    else:
        found = read_unit_features(earlier.folder, labels=piece.labels, features=piece.features, columns=None)
        labels, features = found.labels, found.features.replace_schema_metadata(None)
    if len(piece.rows) < labels.num_rows:
        labels = labels.take(pa.array(piece.rows))
        features = None if features is None else features.take(pa.array(piece.rows))
    given = {
        name: [getattr(file, name) for file in piece.files] for name in ("category", "rationales", "visible_rationales")
    }
    origins = origins_table(
        labels["key"].to_pylist(),
        source=labels["source"],
        category_true=given["category"],
        rationales_true=given["rationales"],
        visible_rationales=given["visible_rationales"],
    )
    others = labels.drop_columns(ORIGIN_SCHEMA.names)
    for name in reversed(ORIGIN_SCHEMA.names):
        others = others.add_column(0, ORIGIN_SCHEMA.field(name), origins[name])
    return others, features
