"""Run a function on Ray Train's workers, from the last saved state of a run to its end."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.exceptions import RayActorError, RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ecor.storage import filesystem
from pipelines.runtime.cluster import is_own_cluster, stall_error
from pipelines.runtime.console import say
from pipelines.training.runs.job import WorkerPlacement
from pipelines.training.runs.saved_states import STATES, remove_unusable_snapshot, states_folder

_POLL_INTERVAL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"  # Ray takes one report of a worker per poll: default 2 s
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_START_S = 60.0
_WATCH_PREEMPTION = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def fit_on_workers(
    work: Callable[[dict[str, Any]], None],
    settings: Mapping[str, Any],
    *,
    placement: WorkerPlacement,
    output: str,
    name: str,
    messages: Queue,
    patience_s: float,
) -> ray.train.Checkpoint | None:
    """Run `work` on every worker to its end; a run of the same name in `output` resumes from its last state.

    Returns the last state that a worker saved; None where none saved any.

    Args:
        work: function that each worker runs; the state that it saves last (`saved_states.save_state`) is returned.
        settings: settings of each worker, as plain values: Ray's controller unpickles them too, without the workers'
            imports.
        placement: number of workers, and their resources.
        output: folder of the run.
        name: name of the run; Ray resumes any run of this name there.
        messages: lines for the driver to print.
        patience_s: how long to wait for the CPUs and GPUs of all workers.

    Raises:
        ValueError: raised by a worker.
        TimeoutError: when the cluster does not have what the workers need.
        OSError: raised by a worker (a store or MLflow's server does not answer), or when workers died more often than
            `max_failures`.
    """
    start_s = min(patience_s, _START_S)
    remove_unusable_snapshot(states_folder(output, name=name))
    file_system, path = filesystem.store_of(filesystem.join(output, STATES))
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
            failure_config=FailureConfig(  # by default Ray waits for the workers' resources for ever
                max_failures=placement.max_failures, controller_failure_limit=int(patience_s / start_s) - 1
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    settings_of_ray = {_POLL_INTERVAL: os.environ.get(_POLL_INTERVAL, "0.2"), _START_TIMEOUT: f"{start_s}"}
    if is_own_cluster():  # nobody takes its one machine away
        settings_of_ray[_WATCH_PREEMPTION] = os.environ.get(_WATCH_PREEMPTION, "0")
    with _print_messages(messages), _environment_with(settings_of_ray):
        try:
            return trainer.fit().checkpoint
        except TrainingFailedError as error:
            raise _cause(error, patience_s=patience_s) from error
        except KeyboardInterrupt:
            trainer.stop()
            raise


def queue_here() -> Queue:
    """Make a queue for the workers' lines on the driver's machine: any other machine may leave the cluster."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


@contextmanager
def _print_messages(messages: Queue) -> Iterator[None]:
    """Print the workers' lines as they come."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.is_set() or not messages.empty():
            try:
                say(messages.get(timeout=1))
            except Empty:
                continue
            except RayError:
                return  # the queue ended with the cluster

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
    """Set environment variables that Ray Train reads where its controller starts."""
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
    """A TorchTrainer without Ray's Ctrl-C handler, which would remain, hide the interrupt and end the process.

    Nor does it start actors that have nothing to do here, three to five CPU seconds each: no Ray dataset is read, and
    the placement group of a cluster that ends with this process needs nobody to remove it. That actor alone asks Ray's
    state API, which needs the dashboard.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, PlacementGroupCleanerCallback) if is_own_cluster() else (DatasetsCallback,)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, idle)]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def stop(self) -> None:
        """End the run's workers; their last saved state is kept."""
        with suppress(RayError, AttributeError):
            ray.get(self._controller.abort.remote(), timeout=30)


def _cause(error: TrainingFailedError, *, patience_s: float) -> Exception:
    """Find the cause that a user can act on: an error of a worker, missing resources, a dead worker; else `error`."""
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
        return stall_error(patience_s)
    return error
