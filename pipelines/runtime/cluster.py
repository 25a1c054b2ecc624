"""Connect to a Ray cluster or start one here; the only module that calls `ray.init`."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
import ray.data
from ray.data import DataContext

from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.secrets import mask_secrets
from pipelines.runtime.console import say
from pipelines.runtime.prometheus import time_stage
from pipelines.runtime.ray_folder import ray_folder
from pipelines.runtime.shared_cluster import keep_open

_STARTED_LATE = "timed out during startup"
"""In the text of the exception that Ray raises where its processes do not answer in 30 s."""
_USAGE_REPORTS = "RAY_USAGE_STATS_ENABLED"
"""Ray reports to its makers how it is used, and starts an actor for that, unless this is 0."""
_OWN_CLUSTER = threading.Event()
"""Set while a cluster runs that this process has started."""
# Ray Data has its own loggers, which the level given to ray.init does not reach; their errors are still shown
_NOISY_LOGGERS = ("_internal.progress", "_internal.execution.streaming_executor", "dataset")


@contextmanager
def connect(config: ClusterConfig, *, stage: str | None = None) -> Iterator[None]:
    """Connect to the cluster of `config`, or start one on this machine; an open connection is reused.

    Without an address, a submitted job joins the cluster it runs on (RAY_ADDRESS). A cluster started here is stopped
    at the end of the block (`share_cluster` keeps it longer), and has no dashboard: that is eleven processes more.
    Such a cluster reports no usage to Ray's makers, unless RAY_USAGE_STATS_ENABLED is 1.

    Args:
        config: address and resources.
        stage: if given, the duration of the block is recorded under this name.

    Raises:
        ValueError: when the cluster cannot be reached.
    """
    session = nullcontext() if ray.is_initialized() else keep_open(_start_or_join(config))
    with session, time_stage(stage) if stage else nullcontext():
        yield


@contextmanager
def _start_or_join(config: ClusterConfig) -> Iterator[None]:
    if _joins_cluster(config):
        _init(config.address, options={})
    else:
        os.environ.setdefault(_USAGE_REPORTS, "0")
        # "local", not None: Ray would join any cluster on this machine
        _init("local", options=_local_options(config))
        _OWN_CLUSTER.set()
    try:
        _configure_ray_data(DataContext.get_current(), config=config)
        yield
    finally:
        ray.shutdown()
        _OWN_CLUSTER.clear()


def is_own_cluster() -> bool:
    """Whether the cluster was started by this process, and ends with it."""
    return _OWN_CLUSTER.is_set()


def cluster_machines(config: ClusterConfig, *, use_gpu: bool = False) -> list[dict[str, float]]:
    """List the resources of each machine of the cluster: amount by name of the resource.

    A joined cluster without such resources may grow on demand: a task asks for a CPU (or a GPU) and waits.

    Args:
        config: the cluster.
        use_gpu: wait for a GPU instead of a CPU.

    Raises:
        TimeoutError: when there is none within `no_progress_timeout_s`.
    """
    name = "GPU" if use_gpu else "CPU"
    if _joins_cluster(config) and not any(machine.get(name) for machine in _live_machines()):
        task = ray.remote(num_cpus=0 if use_gpu else 1, num_gpus=int(use_gpu))(_do_nothing).remote()
        ended, _ = ray.wait([task], timeout=config.no_progress_timeout_s)
        if not ended:
            ray.cancel(task)
            raise stall_error(config.no_progress_timeout_s)
    return _live_machines()


def stall_error(timeout_s: float) -> TimeoutError:
    """Make the error of a stage without progress; it names the free resources of the cluster."""
    total, free = ray.cluster_resources(), ray.available_resources()
    resources = ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}s free" for name in ("CPU", "GPU"))
    return TimeoutError(
        f"nothing moved for {timeout_s:g} s: the cluster has {resources}. Add resources, look in Ray's logs for "
        f"workers that die, or wait longer with --cluster.no-progress-timeout-s; the same command resumes from here"
    )


def _joins_cluster(config: ClusterConfig) -> bool:
    return config.address is not None or bool(os.environ.get("RAY_ADDRESS"))


def _live_machines() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _do_nothing() -> bool:
    return True


def _init(address: str | None, *, options: dict[str, Any]) -> None:
    """Start or join a cluster. A machine that is too busy to start one in time gets a second chance."""
    joined = address or os.environ.get("RAY_ADDRESS", "")
    if joined.lower().startswith(("http://", "https://")):
        raise ValueError(
            f"{'--cluster.address' if address else 'RAY_ADDRESS'} is {mask_secrets(joined)}, the address of Ray's "
            "dashboard, at which `ray job submit` hands in jobs: set it to the head's own address, as head:6379, or "
            "leave it unset to run on this machine"
        )
    try:
        _try_init(address, options=options)
    except TimeoutError:
        say("Ray did not start within its 30 seconds: trying once more")
        _try_init(address, options=options)


def _try_init(address: str | None, *, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise ValueError(
            f"no Ray cluster answers at {address or os.environ.get('RAY_ADDRESS')}, or it needs a token that is not "
            "set: start one (`ray start --head`), omit the address to run on this machine, or set "
            "RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN"
        ) from error
    except Exception as error:  # of no type of its own
        if _STARTED_LATE not in str(error):
            raise
        raise TimeoutError(
            "Ray could not start a cluster on this machine within 30 seconds: the machine is busy, or out of memory. "
            "Try again when it is quiet, or join a running cluster with --cluster.address"
        ) from error


def _local_options(config: ClusterConfig) -> dict[str, Any]:
    """Options of a cluster started here."""
    folder = ray_folder()
    place = {} if folder is None else {"_temp_dir": folder}
    return {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "include_dashboard": False, **place}


def _configure_ray_data(context: DataContext, *, config: ClusterConfig) -> None:
    context.print_on_execution_start = False
    context.enable_progress_bars = False  # stages show their own progress, in images
    context.execution_no_progress_timeout_s = config.no_progress_timeout_s
    for name in _NOISY_LOGGERS:
        logging.getLogger(f"ray.data.{name}").setLevel(logging.ERROR)
