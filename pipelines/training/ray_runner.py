"""A worker's function in, its last saved state out: Ray Train as the stages that learn use it, recorded in MLflow.

The output folder of such a run holds `summary.json`, which is written last, beside what was made; while the run goes on
also `run.json` (what is being made, and its MLflow run) and `ray/` (the states that the same command goes on from).
"""

import json
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from typing import Any, Generic, Literal, Protocol, TypeVar

import ray
import ray.train
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.exceptions import RayActorError, RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ecor
from ecor.config import require
from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, located
from pipelines.runtime.cluster import connected, stalled
from pipelines.runtime.console import say
from pipelines.storage.work_ledger import Ledger
from pipelines.tracking import model_registry
from pipelines.training.data_loader import Rank

SUMMARY, RUN, STATES = "summary.json", "run.json", "ray"
_STATE = "state.pt"
_LEDGER, _RUN = "_ledger", "run"
_POLL_INTERVAL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"  # Ray takes one report of a worker per poll: default 2 s
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_START_S = 60.0


class Placement(Protocol):
    """Settings that say where a run's workers are."""

    @property
    def num_workers(self) -> int: ...
    @property
    def cpus_per_worker(self) -> float: ...
    @property
    def use_gpu(self) -> bool: ...
    @property
    def max_failures(self) -> int: ...


class Settings(Placement, Protocol):
    """Settings of a stage that learns."""

    @property
    def output(self) -> str: ...
    @property
    def fresh(self) -> bool: ...


Config = TypeVar("Config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[Config]):
    """What every worker is told."""

    config: Config
    parents: dict[str, str]
    tracking: TrackingConfig
    run_id: str
    messages: Queue
    """Lines for whoever started the run."""


# On the driver


def made_once(
    config: Settings,
    *,
    name: str,
    parents: dict[str, str],
    made_of: str,
    products: Sequence[str],
    work: Callable[[dict[str, Any]], None],
    publish: Callable[[Path, str], None],
    cluster: ClusterConfig | None,
    tracking: TrackingConfig,
) -> None:
    """Fill the output of a stage that learns, unless a run with the same parents has filled it.

    Run again after an end of any kind, it goes on from the last saved state, in the same MLflow run. One that another
    job works on is waited for.

    Args:
        config: of the stage, a dataclass.
        name: of the stage, and of the MLflow run.
        parents: digests of what the run is made from; `config` is the digest of the settings and of all the others.
        made_of: what that digest is of, for people.
        products: files and folders in the output that the run makes.
        work: what a worker does; its settings are the fields of a `Job`.
        publish: puts the products of a folder of the last state in their places; it is told the MLflow run too. It
            writes the summary last.
        cluster: where.
        tracking: where the run is recorded.

    Raises:
        ValueError: when the output holds another run (naming both digests), and as `fitted`.
        OSError: when another job has taken the run over meanwhile, or a worker died.
    """
    output, digest = located(config.output), parents["config"]
    if not config.fresh and is_finished(output, digest=digest, made_of=made_of):
        say(f"{name}: finished before, nothing to do: {config.output}")
        return
    cluster = cluster or ClusterConfig()
    with alone(output, lease_s=cluster.lease_s) as fence:
        if config.fresh:
            clear(output, products=products)
        if is_finished(output, digest=digest, made_of=made_of):
            say(f"{name}: finished by another job, nothing to do: {config.output}")
            return
        params: dict[str, Any] = asdict(config)  # type: ignore[call-overload]
        record = recorded(
            output, name=name, digest=digest, params=params, parents=parents, tracking=tracking, products=products
        )
        with connected(cluster, stage=name), record as run_id:
            messages = _queue_here()
            job = Job(config=config, parents=parents, tracking=tracking, run_id=run_id, messages=messages)
            last_state = fitted(
                work,
                {each.name: getattr(job, each.name) for each in fields(job)},
                placement=config,
                output=output,
                name=digest[:16],
                messages=messages,
                patience_s=cluster.no_progress_timeout_s,
            )
            with last_state.as_directory() as state:
                fence()
                publish(Path(state), run_id)
            filesystem.remove(filesystem.inside(output, STATES))


def fitted(
    work: Callable[[dict[str, Any]], None],
    settings: Mapping[str, Any],
    *,
    placement: Placement,
    output: str,
    name: str,
    messages: Queue,
    patience_s: float,
) -> ray.train.Checkpoint:
    """Run `work` on every worker, from the last state of a run of this name in `output`, if any, to its end.

    Args:
        work: what a worker does; its last `save_state` is what is returned.
        settings: what it is told. As plain values: Ray's controller unpickles them too, and need not import what the
            workers do.
        placement: how many workers, where.
        output: folder of the run.
        name: of what is made; Ray goes on with any run of the same name there.
        messages: lines for whoever started the run.
        patience_s: how long to wait for the CPUs and GPUs of all workers.

    Raises:
        ValueError: a worker's own, which says what to do.
        TimeoutError: when the cluster does not give what the workers need.
        OSError: a worker's own (a store or MLflow's server that is gone), or when workers died more often than
            `max_failures`.
    """
    start_s = min(patience_s, _START_S)
    file_system, path = filesystem.store_of(filesystem.inside(output, STATES))
    trainer = _Trainer(
        work,
        train_loop_config=dict(settings),
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker={"CPU": placement.cpus_per_worker} | ({"GPU": 1} if placement.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=None if filesystem.is_local(output) else PyFileSystem(FSSpecHandler(file_system)),
            failure_config=FailureConfig(  # by default Ray asks for the workers' resources for ever
                max_failures=placement.max_failures, controller_failure_limit=int(patience_s / start_s) - 1
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    settings_of_ray = {_POLL_INTERVAL: os.environ.get(_POLL_INTERVAL, "0.2"), _START_TIMEOUT: f"{start_s}"}
    with _told(messages), _environment_with(settings_of_ray):
        try:
            return trainer.fit().checkpoint
        except TrainingFailedError as error:
            raise _cause(error, patience_s=patience_s) from error
        except KeyboardInterrupt:
            trainer.stop()
            raise


@contextmanager
def recorded(
    output: str,
    *,
    name: str,
    digest: str,
    params: Mapping[str, Any],
    parents: Mapping[str, str],
    tracking: TrackingConfig,
    products: Sequence[str],
) -> Iterator[str]:
    """The MLflow run, reattached to after an end of any kind; closed with the outcome."""
    path = filesystem.inside(output, RUN)
    run_id = json.loads(filesystem.read(path))["run_id"] if filesystem.exists(path) else None
    run_id = model_registry.start_training_run(
        tracking, name=name, params=params, tags={**_environment(), **parents}, run_id=run_id
    )
    filesystem.write_json(path, {"digest": digest, "run_id": run_id})
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
        filesystem.remove(path)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except ValueError:
        if not _has_state(output):
            clear(output, products=products)  # nothing was learned: the mended command may have the folder
        raise
    finally:
        model_registry.finish_run(tracking, run_id=run_id, status=status)


@contextmanager
def alone(output: str, *, lease_s: float) -> Iterator[Callable[[], None]]:
    """Wait until no other job works on this output; nobody else begins to before this ends.

    What it gives is called before anything is published: OSError when this job showed no sign of life for `lease_s`,
    and another one goes on from its last saved state.
    """
    ledger = Ledger(filesystem.inside(output, _LEDGER), lease_s=lease_s)
    with ledger.working():
        while (attempt := ledger.claim(_RUN)) is None:
            ledger.wait([_RUN], tell=say)

        def fence() -> None:
            if ledger.claim(_RUN) != attempt:
                raise OSError(f"{output}: another job has gone on with this run meanwhile, and will publish it")

        yield fence
    if filesystem.exists(filesystem.inside(output, SUMMARY)):
        ledger.clear()  # who waits for this run finds it finished


def _has_state(output: str) -> bool:
    runs = filesystem.inside(output, STATES)
    names = (name for run in filesystem.names_in(runs) for name in filesystem.names_in(filesystem.inside(runs, run)))
    return any(name.startswith("checkpoint_") for name in names)


def clear(output: str, *, products: Sequence[str]) -> None:
    """Remove what a run wrote: its records, states and products (files or folders in `output`)."""
    for name in (SUMMARY, RUN, STATES, *products):
        filesystem.remove(filesystem.inside(output, name))


def is_finished(output: str, *, digest: str, made_of: str) -> bool:
    """Whether the run of this digest is finished here; ValueError when the output is of another run.

    `made_of` names, in the error, what the digest is of.
    """
    for name in (SUMMARY, RUN):
        if filesystem.exists(filesystem.inside(output, name)):
            found = json.loads(filesystem.read(filesystem.inside(output, name)))["digest"]
            require(
                found == digest,
                f"{output} holds run {found}, the {made_of} given make run {digest}: "
                f"choose another output, or start over with --fresh",
            )
    return filesystem.exists(filesystem.inside(output, SUMMARY))


def _environment() -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "open_clip_torch", "ray")}
    return {"ecor": ecor.__version__, "python": platform.python_version(), "platform": platform.platform(), **versions}


def _queue_here() -> Queue:
    """On the driver's own machine: workers tell their lines there, and any other machine may go."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


@contextmanager
def _told(messages: Queue) -> Iterator[None]:
    """Print the workers' lines as they come."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.is_set() or not messages.empty():
            try:
                say(messages.get(timeout=1))
            except Empty:
                continue
            except RayError:
                return  # the queue went with the cluster

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)
        messages.shutdown()


@contextmanager
def _environment_with(settings: Mapping[str, str]) -> Iterator[None]:
    """Ray Train reads these where its controller starts."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's own Ctrl-C handler would stay in place, swallow the interrupt and end the process; this one has none."""

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def stop(self) -> None:
        """End the run's workers; their last saved state stays."""
        with suppress(RayError, AttributeError):
            ray.get(self._controller.abort.remote(), timeout=30)


def _cause(error: TrainingFailedError, *, patience_s: float) -> Exception:
    """What a person can act on: a worker's own ValueError or OSError, an empty cluster, a dead worker; else `error`."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", None) or getattr(failure, "health_check_failure", None) or failure
        for kind in (ValueError, OSError):
            if isinstance(cause, kind):
                return kind(str(cause))
        if isinstance(cause, RayActorError | WorkerHealthCheckTimeoutError):
            return OSError(
                "a training worker died: killed, out of memory, or its node is gone. Run the same command again to go "
                "on from the last saved state; --max-failures has it done at once"
            )
    if isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
        return stalled(patience_s)
    return error


# On every worker


def own_rank() -> Rank:
    """Which worker this is."""
    context = ray.train.get_context()
    return Rank(
        index=context.get_world_rank(),
        num_ranks=context.get_world_size(),
        local_index=context.get_local_rank(),
        num_local=context.get_local_world_size(),
        node=context.get_node_rank(),
        device=str(get_device()),
    )


def saved_state() -> dict[str, Any] | None:
    """What the run saved last, if it was interrupted."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / _STATE, weights_only=True, map_location="cpu")
        return state


def save_state(state: Mapping[str, Any], *, step: int, rank: Rank, folder: Path | None = None) -> None:
    """Hand the state to Ray; all ranks meet here. What `folder` holds already goes with it."""
    checkpoint = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        if rank.index == 0:
            torch.save(dict(state), folder / _STATE)
            checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({"step": step}, checkpoint=checkpoint)
