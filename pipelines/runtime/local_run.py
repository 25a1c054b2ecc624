"""Run jobs in this process, where no cluster is named: which ones, on how many CPUs and torch threads."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.config.infrastructure import ClusterConfig

FEW_CPUS = 2
"""Where one process is as fast as a cluster; what was measured."""


def runs_in_process(config: ClusterConfig, *, num_images: int) -> bool:
    """Whether a job runs in this process: it has at most `local_images` images, and no cluster is named or joined.

    Starting actors takes longer than such a job (our choice of the default: about a minute of ViT-B/32 on two cores).
    """
    return num_images <= config.local_images and not _names_cluster(config)


def scores_in_process(config: ClusterConfig, *, num_images: int) -> bool:
    """Whether `ecor score` labels in this process: small jobs, and all jobs on a machine of few CPUs.

    There, one process labels as fast as Ray's actors or faster, in a third of the memory (`benchmarks/README.md`).
    """
    is_small_machine = config.local_images > 0 and num_local_cpus(config) <= FEW_CPUS
    return runs_in_process(config, num_images=0 if is_small_machine else num_images)


def num_local_cpus(config: ClusterConfig) -> int:
    """CPUs that a job in this process may use: `num_cpus`, or those that its affinity leaves it.

    A container's limit is no affinity: set `num_cpus` there.
    """
    if config.num_cpus is not None:
        return config.num_cpus
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def restore_torch_threads() -> Iterator[None]:
    """Set the caller's number of torch threads again: scorers and training workers set that of their process."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _names_cluster(config: ClusterConfig) -> bool:
    """By a setting, by the environment of a submitted job, or by a connection that the caller has opened."""
    if config.address is not None or os.environ.get("RAY_ADDRESS"):
        return True
    ray = sys.modules.get("ray")  # importing it takes a second
    if ray is None or not ray.is_initialized():
        return False
    from pipelines.runtime.cluster import is_own_cluster

    return not is_own_cluster()
