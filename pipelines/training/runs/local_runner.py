"""Run the only worker of a training run in this process, without Ray; it saves and resumes the same states."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecor.storage import filesystem
from pipelines.runtime.console import say
from pipelines.runtime.local_run import restore_torch_threads
from pipelines.training.runs.job import run_here
from pipelines.training.runs.saved_states import newest_state_folder


class LocalMessages:
    """Prints lines at once."""

    def put(self, line: str, /) -> None:
        """Print a line."""
        say(line)


@contextmanager
def fit_here(work: Callable[[dict[str, Any]], None], settings: Mapping[str, Any], *, states: str) -> Iterator[Path]:
    """Run `work` to its end, from the last saved state of the run; yields a local folder with the last state.

    Args:
        work: function of a worker.
        settings: its settings.
        states: folder of the run's states.

    Raises:
        ValueError: raised by the worker.
        OSError: raised by the worker (a store or MLflow's server does not answer).
    """
    with restore_torch_threads(), run_here(states):
        work(dict(settings))
    with filesystem.local_folder(newest_state_folder(states)) as state:
        yield state
