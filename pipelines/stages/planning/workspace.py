"""A temporary folder in which a plan tries the stages out; nothing else is written, and the folder always goes."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO

from pipelines.config.infrastructure import ClusterConfig, TrackingConfig

IN_PROCESS, ON_RAY = 10**9, 0
"""Values of `ClusterConfig.local_images`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Where the stages are tried out."""

    folder: str
    tracking: TrackingConfig
    """A database in the folder."""

    def path(self, name: str) -> str:
        """Address of a file or folder in the workspace."""
        return f"{self.folder}/{name}"


@contextmanager
def open_workspace() -> Iterator[Workspace]:
    """Make the folder, with caches of its own; no cluster is joined, and no server is named, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="ecor-plan-") as folder, _environment(ECOR_CACHE=f"{folder}/cache"):
        yield Workspace(folder=folder, tracking=TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"))


def local_cluster(config: ClusterConfig, *, on_ray: bool) -> ClusterConfig:
    """Settings for this machine: in this process, or on a Ray that is started here."""
    return ClusterConfig(
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        no_progress_timeout_s=config.no_progress_timeout_s,
        local_images=ON_RAY if on_ray else IN_PROCESS,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what the stages print: it is about the sample, not about the pipeline."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables, and hide those that name a cluster or a server."""
    hidden = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    before = {name: os.environ.get(name) for name in (*values, *hidden)}
    os.environ.update(values)
    for name in hidden:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
