"""Settings of the Ray cluster and of MLflow tracking, shared by all stages; what a plan counts with.

This module imports nothing heavy.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from ecor.config.address_types import StoreAddress
from ecor.config.checks import require
from ecor.config.model import expand_home
from pipelines.config.addresses import check_address


def absolute_address(place: str) -> str:
    """Make a local path absolute, because workers run in other folders; a URI only loses its trailing slash."""
    return (
        place.rstrip("/")
        if "://" in place and not place.startswith("file://")
        else str(expand_home(place.removeprefix("file://")).absolute())
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
    """Seconds without progress, or of waiting for the cluster's CPUs or GPUs, after which a stage fails."""
    lease_s: float = 60.0
    """Seconds after which the units of a job that does not renew its lease may be taken over by another job on the
    same output."""
    local_images: int = 1000
    """Images up to which `ecor score` and `ecor shard` run in one process, without Ray, where no cluster is named (100
    kept features, and 10 images to shard, count as one); on 2 CPUs `ecor score` always does. 0: never, and no training
    with a single worker either."""

    def __post_init__(self) -> None:
        require(self.local_images >= 0, f"local_images must not be negative, got {self.local_images}")
        require(self.lease_s > 0, f"lease_s must be positive, got {self.lease_s}")
        require(self.num_cpus is None or self.num_cpus >= 1, f"num_cpus must be at least 1, got {self.num_cpus}")
        require(self.no_progress_timeout_s > 0, f"no_progress_timeout_s must be positive: {self.no_progress_timeout_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """The MLflow server or database that records runs and models."""

    uri: str | None = field(default=None, repr=False)
    """Tracking and registry URI; None: MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current folder. Give user
    and password by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: other users can read command lines."""
    experiment: str = "ecor"
    """Name of the MLflow experiment."""


_PRICE = re.compile(r"(?P<amount>\d+(?:\.\d+)?|\.\d+)/(?P<unit>[cg]pu)-hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What an hour of a CPU and of a GPU costs, in any currency."""

    cpu_hour: float = 0.0
    gpu_hour: float = 0.0


def parse_prices(texts: Sequence[str]) -> Prices | None:
    """Read prices such as `2.10/gpu-hour` and `0.05/cpu-hour`; None where there are none.

    Raises:
        ValueError: for another form, and for two prices of the same unit.
    """
    found: dict[str, float] = {}
    for text in texts:
        match = _PRICE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"price must be a number and /gpu-hour or /cpu-hour, as 2.10/gpu-hour, got {text!r}")
        require(match["unit"] not in found, f"two prices per {match['unit']}-hour, give one: {', '.join(texts)}")
        found[match["unit"]] = float(match["amount"])
    return Prices(cpu_hour=found.get("cpu", 0.0), gpu_hour=found.get("gpu", 0.0)) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """Settings of `ecor plan`."""

    output: StoreAddress | None = None
    """JSON file that gets the plan; None: it is only printed."""
    num_probes: int = 200
    """Images of the sample."""
    seed: int = 0
    """Seed of the sample."""
    num_nodes: int = 1
    """Nodes to plan for, each like this machine; more than one: all stages run on Ray."""
    probe_s: float = 15.0
    """Seconds of each repeated measurement, about."""

    def __post_init__(self) -> None:
        require(self.num_probes >= 16, f"num_probes must be at least 16, got {self.num_probes}")
        require(self.num_nodes >= 1, f"num_nodes must be at least 1, got {self.num_nodes}")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        require(self.probe_s > 0, f"probe_s must be positive, got {self.probe_s}")
        if self.output is not None:
            check_address(self.output, name="output")


_SQLITE = ("sqlite:///", "sqlite+pysqlite:///")


def sqlite_uri(path: str | Path) -> str:
    """The URI of a SQLite database on this machine; `?` and `%` of its path are escaped, as SQLAlchemy reads them.

    Such a URI names the driver too: without it, MLflow makes a folder of the escaped name.
    """
    text = str(Path(path).absolute())
    escaped = text.replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE[0] if escaped == text else _SQLITE[1]}{escaped}"


def sqlite_path(uri: str) -> Path | None:
    """The path of a SQLite database; None for another URI."""
    prefix = next((each for each in _SQLITE if uri.startswith(each)), None)
    return None if prefix is None else Path(unquote(uri.removeprefix(prefix).partition("?")[0]))


def resolve_tracking(tracking: TrackingConfig) -> TrackingConfig:
    """Return the settings with an absolute URI, which workers with another folder or environment can use.

    None becomes MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the current folder.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "").strip() or "sqlite:///mlflow.db"
    scheme, marker, rest = uri.partition("://")
    uri = f"{scheme.lower()}{marker}{rest}" if marker else uri
    is_bare = "://" not in uri and uri.endswith((".db", ".sqlite"))
    require(
        not is_bare and (not uri.startswith("sqlite:") or uri.startswith(_SQLITE[0])),
        f"tracking.uri {uri} is no address of a database: write sqlite:///{uri.removeprefix('sqlite:').lstrip('/')} "
        "(three slashes, four before an absolute path)",
    )
    path = sqlite_path(uri)
    if path is not None and not path.is_absolute():
        _, marker, query = uri.partition("?")
        uri = f"{sqlite_uri(path)}{marker}{query}"
    return replace(tracking, uri=uri)


def tracking_uri(tracking: TrackingConfig) -> str:
    """Return the URI of `resolve_tracking(tracking)`."""
    uri = resolve_tracking(tracking).uri
    assert uri is not None, "resolve_tracking always sets the URI"
    return uri
