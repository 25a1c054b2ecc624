"""ClusterConfig in, a connection to Ray out: the only place that calls `ray.init`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data import DataContext

from pipelines.config import ClusterConfig


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """Connect to the cluster that `config` names, or start one here; a connection that was there before is kept.

    A cluster started here ends with the block; one that was joined goes on.
    """
    if ray.is_initialized():
        yield
        return
    started_here = config.address is None
    ray.init(
        address=config.address,
        num_cpus=config.num_cpus if started_here else None,
        num_gpus=config.num_gpus if started_here else None,
        include_dashboard=True if started_here else None,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        DataContext.get_current().execution_options.verbose_progress = False
        yield
    finally:
        ray.shutdown()
