"""Choose where the units of a job are labelled: on a cluster, or in this process."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.runtime.actor_resources import Reservation, reserve_resources
from pipelines.runtime.local_run import num_local_cpus, runs_in_process
from pipelines.runtime.prometheus import time_stage
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.unit_writer import PartReport


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
    """Connect to a cluster, or start one; a small job runs in this process, unless it asks for a GPU or for actors.

    Raises:
        ValueError: when the cluster cannot be reached, or lacks what the job asks for.
        TimeoutError: when a cluster that may grow does not.
    """
    config = job.config
    is_placed = config.use_gpu or config.num_scorers is not None or config.num_decoders is not None
    if not is_placed and runs_in_process(job.cluster, num_images=_num_encoded(job)):
        from pipelines.scoring.flows.local_flow import stream_local_units

        reservation = reserve_resources(config, machines=[{"CPU": float(num_local_cpus(job.cluster))}])
        with time_stage("score"):
            yield Flow(stream=stream_local_units, reservation=reservation, is_local=True)
        return
    # Ray Data takes seconds to import, and finished and small jobs do without
    from pipelines.runtime.cluster import cluster_machines, connect
    from pipelines.scoring.flows.cluster_flow import stream_units

    with connect(job.cluster, stage="score"):
        reservation = reserve_resources(config, machines=cluster_machines(job.cluster, use_gpu=config.use_gpu))
        yield Flow(stream=stream_units, reservation=reservation, is_local=False)


def _num_encoded(job: ScoreJob) -> int:
    """Images to encode; a hundred kept features count as one image, which is what they cost at most."""
    return job.input.num_images if job.kept is None else math.ceil(job.input.num_images / 100)
