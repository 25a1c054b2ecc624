"""Settings of a training run that every worker gets, and the worker's place among all."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ecor.training.distributed import Rank
from pipelines.config.infrastructure import TrackingConfig


class WorkerPlacement(Protocol):
    """Settings that say how many workers a run has, and what they need."""

    @property
    def num_workers(self) -> int: ...
    @property
    def cpus_per_worker(self) -> float: ...
    @property
    def use_gpu(self) -> bool: ...
    @property
    def max_failures(self) -> int: ...


class Settings(WorkerPlacement, Protocol):
    """Settings of a stage that learns."""

    @property
    def output(self) -> str: ...
    @property
    def fresh(self) -> bool: ...


class Messages(Protocol):
    """Takes lines for the driver to print."""

    def put(self, line: str, /) -> Any: ...


Config = TypeVar("Config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Config]):
    """Settings of a run, the same for every worker."""

    config: Config
    parents: dict[str, str]
    tracking: TrackingConfig
    run_id: str
    states: str
    """Folder of the run's saved states."""
    messages: Messages
    """Lines for the driver to print."""


_STATES_HERE: ContextVar[str | None] = ContextVar("folder of the states of a run in this process", default=None)


@contextmanager
def run_here(states: str) -> Iterator[None]:
    """The block is the only worker of a run, in this process; its states are saved in `states`."""
    token = _STATES_HERE.set(states)
    try:
        yield
    finally:
        _STATES_HERE.reset(token)


def states_here() -> str | None:
    """Folder of the states of the run in this process; None on a worker of Ray Train."""
    return _STATES_HERE.get()


def own_rank() -> Rank:
    """Return the rank of this worker."""
    if states_here() is not None:
        return Rank()
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    return Rank(
        index=context.get_world_rank(),
        num_ranks=context.get_world_size(),
        local_index=context.get_local_rank(),
        num_local=context.get_local_world_size(),
        node=context.get_node_rank(),
        device=str(get_device()),
    )


def parallel_module(module: Any, *, rank: Rank) -> Any:
    """Wrap a module for data parallelism, where there are several ranks."""
    if rank.num_ranks == 1:
        return module
    from ray.train.torch import prepare_model

    return prepare_model(module)
