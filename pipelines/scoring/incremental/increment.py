"""Record the listing of a scoring job; with `--since`, plan which rows of earlier labels it reuses."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionPart
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.schema import PREDICTION_SCHEMA
from ecor.storage import filesystem
from pipelines.runtime.console import say
from pipelines.runtime.retries import retry_in_store
from pipelines.scoring.incremental.earlier_labels import EarlierLabels
from pipelines.scoring.incremental.file_states import read_states
from pipelines.scoring.incremental.listing_record import create_listing, has_listing, listing_table, read_listing
from pipelines.scoring.incremental.reuse_plan import ReusePlan, plan_reuse, vanished_rows
from pipelines.scoring.incremental.reused_units import divide
from pipelines.scoring.inputs import ImageInput, Input
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.predictions_folder import VANISHED_NAME, PredictionsFolder
from pipelines.scoring.work_units import Listed, ListingUnit

_VANISHED_COLUMNS = ("key", "source", "category", "rationale", "confidence")


def prepare_listing(job: ScoreJob, *, folder: PredictionsFolder) -> ScoreJob:
    """Record the listing of a job before any image is read; with `since`, the job's units are those of its plan.

    The first job on a folder records; others, and restarts, follow that record. There is none for a split of shards,
    for kept features, and for a folder in which an older version of ecor has begun.

    Args:
        job: as planned.
        folder: its output, claimed by it.

    Raises:
        ValueError: when the record or the earlier labels are damaged.
        OSError: when a disk or a store fails.
    """
    files = listed_files(job.input)
    if files is None:
        return job
    place = folder.units.folder
    if not has_listing(place):
        if folder.units.read_commits():  # before another job can have recorded
            require(
                job.since is None or has_listing(place),
                f"{place} has lost its record of the listing: run again with --fresh",
            )
        else:
            create_listing(place, _record_of(job, files))
    if job.since is None:
        return job
    found = read_listing(place)
    assert found is not None, "recorded above"
    return _with_reuse(job, files, earlier=job.since, plan=ReusePlan.from_listing(found))


def listed_files(found: Input) -> tuple[Listed, ...] | None:
    """All images of a folder or a table, in order; None for a split of shards, or for features."""
    units = [unit for unit in found.units if isinstance(unit, ListingUnit)]
    if len(units) < len(found.units):
        return None
    return tuple(file for unit in units for file in unit.files)


def _record_of(job: ScoreJob, files: Sequence[Listed]) -> pa.Table:
    states = job.input.states if isinstance(job.input, ImageInput) else None
    listing = listing_table(files, states=states or read_states([file.path for file in files]))
    if job.since is None:
        return listing
    if job.since.read_listing() is None:
        say(
            f"{job.since.folder} has no record of sizes and times of its images (made from a split, from features, or "
            "by an older version): all contents are compared"
        )
    plan = plan_reuse(listing, job.since, check=job.config.since_check, allow_http=job.config.allow_http)
    return plan.add_to(listing)


def _with_reuse(job: ScoreJob, files: Sequence[Listed], *, earlier: EarlierLabels, plan: ReusePlan) -> ScoreJob:
    """The job with the units of its plan, and a warning where nothing can be reused."""
    if plan.counts.num_vanished == plan.counts.num_before > 0:
        say(
            f"no image of {earlier.folder} is in {job.input_address}: images are known by their address, which is "
            "another one where a folder was moved or renamed"
        )
    units = divide(plan, files, earlier=earlier, unit_size=job.config.unit_size, allow_http=job.config.allow_http)
    found = job.input
    images = Input(
        digest=found.digest,
        units=units,
        once_mended=found.once_mended,
        num_listed=found.num_listed,
        left_out=found.left_out,
        passed_over=found.passed_over,
    )
    return replace(job, input=images, reuse=plan)


def describe_reuse(job: ScoreJob) -> dict[str, Any]:
    """Of a job's summary: which labels were reused, and how many."""
    if job.since is None or job.reuse is None:
        return {}
    facts = {"labels": job.since.folder, "digest": job.since.digest, "check": job.config.since_check}
    return {"since": {**facts, **asdict(job.reuse.counts)}}


def say_reuse(job: ScoreJob) -> None:
    """Print how many images and earlier labels there are of each kind."""
    if job.since is not None and job.reuse is not None:
        say(f"since {job.config.since}: {job.reuse.counts.line()}")


def write_vanished(job: ScoreJob, *, folder: PredictionsFolder) -> None:
    """Write the table of earlier labels whose image is not listed any more; empty where there are none."""
    if job.since is None or job.reuse is None:
        return
    earlier, schema = job.since, pa.schema([PREDICTION_SCHEMA.field(name) for name in _VANISHED_COLUMNS])
    with (
        filesystem.write_atomically(folder.folder, VANISHED_NAME) as staged,
        pq.ParquetWriter(staged, schema, compression="zstd") as writer,
    ):
        for part, rows in zip(earlier.labels.parts, vanished_rows(job.reuse, earlier.labels.parts), strict=True):
            if len(rows):
                writer.write_table(_read_vanished(earlier, part, rows=rows).cast(schema))


def _read_vanished(earlier: EarlierLabels, part: PredictionPart, *, rows: np.ndarray) -> pa.Table:
    def read() -> pa.Table:
        return read_part(earlier.folder, part, columns=_VANISHED_COLUMNS)

    return retry_in_store(read, place=earlier.folder).take(pa.array(rows))
