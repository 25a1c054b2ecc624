"""Decide which jobs run in this process: small ones, where no cluster is named."""

import os
import sys

from pipelines.config.infrastructure import ClusterConfig


def runs_in_process(config: ClusterConfig, *, num_images: int) -> bool:
    """Whether a job runs in this process: it has at most `local_images` images, and no cluster is named or joined.

    Starting actors takes longer than such a job (our choice of the default: about a minute of ViT-B/32 on two cores).
    """
    return num_images <= config.local_images and not _names_cluster(config)


def num_local_cpus(config: ClusterConfig) -> int:
    """CPUs that a job in this process may use: `num_cpus`, or what affinity and a container's limit leave it."""
    import joblib

    return config.num_cpus or int(joblib.cpu_count())


def _names_cluster(config: ClusterConfig) -> bool:
    """By a setting, by the environment of a submitted job, or by a connection that the caller has opened."""
    if config.address is not None or os.environ.get("RAY_ADDRESS"):
        return True
    ray = sys.modules.get("ray")  # importing it takes a second
    if ray is None or not ray.is_initialized():
        return False
    from pipelines.runtime.cluster import is_own_cluster

    return not is_own_cluster()
