"""Choose where the units of a job are labelled: on a cluster, or in this process."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.runtime.actor_resources import Reservation, reserve_resources
from pipelines.runtime.local_run import num_local_cpus, scores_in_process
from pipelines.runtime.prometheus import time_stage
from pipelines.scoring.incremental.reused_units import ReusedUnit, copy_units
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.unit_writer import PartReport
from pipelines.scoring.work_units import Unit
from pipelines.storage.attempt import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Where the units of a job are labelled."""

    stream: Callable[..., Iterator[PartReport]]
    """`stream_units` or `stream_local_units`."""
    reservation: Reservation
    is_local: bool
    """In this process, without a cluster."""


@contextmanager
def open_flow(job: ScoreJob) -> Iterator[Flow]:
    """Connect to a cluster, or start one, or label in this process; that not where a GPU or actors are asked for.

    Raises:
        ValueError: when the cluster cannot be reached, or lacks what the job asks for.
        TimeoutError: when a cluster that may grow does not.
    """
    config = job.config
    is_placed = config.use_gpu or config.num_scorers is not None or config.num_decoders is not None
    if not is_placed and scores_in_process(job.cluster, num_images=_num_encoded(job)):
        from pipelines.scoring.flows.local_flow import stream_local_units

        reservation = reserve_resources(config, machines=[{"CPU": float(num_local_cpus(job.cluster))}])
        with time_stage("score"):
            yield Flow(stream=_copy_first(stream_local_units), reservation=reservation, is_local=True)
        return
    # Ray Data takes seconds to import, and finished and small jobs do without
    from pipelines.runtime.cluster import cluster_machines, connect
    from pipelines.scoring.flows.cluster_flow import stream_units

    with connect(job.cluster, stage="score"):
        reservation = reserve_resources(config, machines=cluster_machines(job.cluster, use_gpu=config.use_gpu))
        yield Flow(stream=_copy_first(stream_units), reservation=reservation, is_local=False)


def _copy_first(stream: Callable[..., Iterator[PartReport]]) -> Callable[..., Iterator[PartReport]]:
    """A flow that copies the reused units in this process, before the others are labelled."""

    def stream_all(
        job: ScoreJob,
        units: Sequence[Unit],
        *,
        folder: PredictionsFolder,
        attempts: Mapping[str, Attempt],
        reservation: Reservation,
    ) -> Iterator[PartReport]:
        reused = [unit for unit in units if isinstance(unit, ReusedUnit)]
        if job.since is not None and reused:
            yield from copy_units(reused, earlier=job.since, folder=folder, attempts=attempts, parents=job.digests)
        others = [unit for unit in units if not isinstance(unit, ReusedUnit)]
        if others:
            yield from stream(job, others, folder=folder, attempts=attempts, reservation=reservation)

    return stream_all


def _num_encoded(job: ScoreJob) -> int:
    """Images to encode; a hundred kept features count as one image, which is what they cost at most."""
    if job.kept is not None:
        return math.ceil(job.input.num_images / 100)
    return sum(unit.num_images for unit in job.input.units if not isinstance(unit, ReusedUnit))
