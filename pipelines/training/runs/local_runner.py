"""Run the only worker of a training run in this process, without Ray; it saves and resumes the same states."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecor.storage import filesystem
from pipelines.runtime.console import say
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
    with _torch_threads_kept(), run_here(states):
        work(dict(settings))
    with filesystem.local_folder(newest_state_folder(states)) as state:
        yield state


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """A worker sets the threads of its process; the caller's are set again afterwards."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
