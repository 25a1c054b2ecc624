"""Choose what runs the workers of a training run: Ray Train on a cluster, or this process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ecor.storage import filesystem
from pipelines.config.infrastructure import ClusterConfig, absolute_address
from pipelines.runtime.local_run import runs_in_process
from pipelines.runtime.prometheus import time_stage
from pipelines.training.runs.job import Messages, Settings
from pipelines.training.runs.local_runner import LocalMessages, fit_here
from pipelines.training.runs.saved_states import newest_state_folder, states_folder

Work = Callable[[dict[str, Any]], None]
"""Function of a worker; takes the fields of a `Job`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """What runs the workers of a run."""

    states: str
    """Folder of the saved states."""
    messages: Messages
    """Takes lines of the workers."""
    fit: Callable[[Work, Mapping[str, Any]], AbstractContextManager[Path]]
    """Runs a worker function with its settings to the end; gives a local folder with the last state."""


@contextmanager
def open_runner(
    config: Settings, *, name: str, run: str, cluster: ClusterConfig, is_short: bool = True
) -> Iterator[Runner]:
    """Use a cluster; a single worker on the CPU runs in this process if the stage is short and no cluster is named.

    Args:
        config: settings of the stage.
        name: of the stage.
        run: name of the run; its states are found by this name.
        cluster: where the workers run.
        is_short: whether starting Ray is a large part of a usual run.

    Raises:
        ValueError: when the cluster cannot be reached.
    """
    output = absolute_address(config.output)
    states = states_folder(output, name=run)
    is_single = config.num_workers == 1 and not config.use_gpu and config.max_failures == 0
    if is_short and is_single and runs_in_process(cluster, num_images=1):
        with time_stage(name):
            yield Runner(states=states, messages=LocalMessages(), fit=partial(fit_here, states=states))
        return
    # Ray Train takes seconds to import
    from pipelines.runtime.cluster import connect
    from pipelines.training.runs.ray_runner import fit_on_workers, queue_here

    with connect(cluster, stage=name):
        messages = queue_here()

        @contextmanager
        def fit(work: Work, settings: Mapping[str, Any]) -> Iterator[Path]:
            last_state = fit_on_workers(
                work,
                settings,
                placement=config,
                output=output,
                name=run,
                messages=messages,
                patience_s=cluster.no_progress_timeout_s,
            )
            if last_state is None:  # all was learned before, in one process, and only not published
                with filesystem.local_folder(newest_state_folder(states)) as state:
                    yield state
                return
            with last_state.as_directory() as folder:
                yield Path(folder)

        yield Runner(states=states, messages=messages, fit=fit)
