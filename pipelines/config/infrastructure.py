"""Where a stage runs, where it is recorded and what it is pointed at in, checked settings and addresses out.

Every stage's settings are made of these. Nothing heavy is imported here.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from ecor.config import BackboneConfig, require
from pipelines.config.addresses import check_address

_PLACES = (
    *(
        "input",
        "output",
        "model",
        "vocabulary",
        "shards",
        "checkpoint",
        "evaluation",
        "champion_evaluation",
        "cache_dir",
        "work",
    ),
    *("weights", "predictions", "compare", "beside", "projection", "explain_projection"),
)
"""Settings that are paths or addresses of stores; `model` may also be one of the registry."""


class Addressed:
    """Settings whose addresses are checked when they are made (`pipelines.config.addresses.check_address`)."""

    __slots__ = ()
    here_only: ClassVar[tuple[str, ...]] = ()
    """Places that can only be on this machine's disks."""

    def __post_init__(self) -> None:
        for name in _PLACES:
            value = getattr(self, name, None)
            for each in (value,) if isinstance(value, str) else value or ():
                if name == "model" and each.startswith("models:"):
                    continue  # MLflow's, which `pipelines.tracking.model_registry.resolve` judges
                check_address(each, name=name)
                is_here = name not in self.here_only or "://" not in each
                require(is_here, f"{name} of this command must be on a disk of this machine, got {each}")
        backbone: BackboneConfig | None = getattr(self, "backbone", None)
        if backbone is not None:
            check_address(backbone.name, name="backbone.name")
            check_address(backbone.pretrained or "", name="backbone.pretrained")


def absolute_address(place: str) -> str:
    """A local path made absolute, for workers run in folders of their own; a URI without a slash at its end."""
    return (
        place.rstrip("/")
        if "://" in place and not place.startswith("file://")
        else str(Path(place.removeprefix("file://")).expanduser().absolute())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where the work runs."""

    address: str | None = None
    """A Ray cluster's address (`auto`, `ray://host:10001`); None joins the cluster of a submitted job, or starts one
    on this machine."""
    num_cpus: int | None = None
    """CPUs of a cluster started here; None: all of this machine's."""
    num_gpus: int | None = None
    """GPUs of a cluster started here; None: what Ray finds."""
    no_progress_timeout_s: float = 1800.0
    """A stage that moves nothing for this long, or waits this long for the cluster's CPUs or GPUs, ends in an
    error."""
    lease_s: float = 60.0
    """Units of work of a job that shows no sign of life for this long are taken over by another job on the same
    output."""

    def __post_init__(self) -> None:
        require(self.lease_s > 0, f"lease_s must be positive, got {self.lease_s}")
        require(self.num_cpus is None or self.num_cpus >= 1, f"num_cpus must be at least 1, got {self.num_cpus}")
        require(self.no_progress_timeout_s > 0, f"no_progress_timeout_s must be positive: {self.no_progress_timeout_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """The MLflow server, or file, that runs and models are recorded in."""

    uri: str | None = field(default=None, repr=False)
    """Tracking and registry URI; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current folder. User and
    password are better given by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: command lines are seen."""
    experiment: str = "ecor"
    """Name of the experiment that runs are filed under."""


def resolve_tracking(tracking: TrackingConfig) -> TrackingConfig:
    """The same settings with the URI written out and absolute, fit to be sent to workers with another folder or
    environment.

    None becomes MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current folder.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    prefix = "sqlite:///"
    if uri.startswith(prefix):
        uri = prefix + str(Path(uri.removeprefix(prefix)).absolute())
    return replace(tracking, uri=uri)


def uri_of(tracking: TrackingConfig) -> str:
    """The URI of `resolved(tracking)`."""
    uri = resolve_tracking(tracking).uri
    assert uri is not None  # resolved() never leaves it open
    return uri
