"""Choose where a sharding job runs: on a cluster, or in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime.local_run import runs_in_process
from pipelines.runtime.prometheus import time_stage
from pipelines.sharding.flows.flow import Flow, Rows
from pipelines.sharding.flows.local_flow import list_few, local_flow
from pipelines.sharding.sources.source_places import Source

IMAGES_PER_LABEL = 10
"""Images to shard that count as one image of a small job: each costs less than a tenth of one to label (our choice)."""


@contextmanager
def open_flow(source: Source, *, cluster: ClusterConfig) -> Iterator[tuple[Flow, Rows]]:
    """List the input in this process, or, if it is large or a cluster is named, on a cluster; yields the listing too.

    Raises:
        ValueError: when the cluster cannot be reached, or a table or sidecar of the input is not what it must be.
        OSError: when a disk or a store fails.
        TimeoutError: when nothing is listed within the no-progress timeout.
    """
    if runs_in_process(cluster, num_images=1):
        with time_stage("shard"):
            flow = local_flow(cluster)
            listing = list_few(source, flow=flow, most=IMAGES_PER_LABEL * cluster.local_images)
            if listing is not None:
                yield flow, listing
                return
    # Ray Data takes seconds to import
    from pipelines.runtime.cluster import connect
    from pipelines.runtime.ray_data import raise_causes, ray_data_settings
    from pipelines.sharding.flows.cluster_flow import ClusterFlow, list_all

    with connect(cluster, stage="shard"), ray_data_settings(cluster, bars=True), raise_causes():
        yield ClusterFlow(), list_all(source)
