"""Save the state of a training run, through Ray Train or in this process, and load the last one to resume from.

Ray lists the states in a snapshot file, and does not write this file atomically: a controller that is killed at that
moment leaves an empty file, and no later run would start. This module removes such a file, and takes the newest
readable state instead.
"""

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ecor.storage import filesystem
from ecor.training.distributed import Rank
from pipelines.training.runs.job import states_here

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray's list of the states of a run (`CHECKPOINT_MANAGER_SNAPSHOT_FILENAME` in Ray Train)."""
STATES = "ray"
"""Folder of the states, in the output folder of a run."""
_STATE = "state.pt"
_PREFIX = "checkpoint_"
_NAME = f"{_PREFIX}%Y-%m-%d_%H-%M-%S.%f"
"""As Ray Train names states: by the time of this machine."""
NUM_KEPT = 2
"""States that a run keeps."""


def states_folder(output: str, *, name: str) -> str:
    """Return the address of a run's states; `name` is the run's name in Ray Train."""
    return filesystem.join(filesystem.join(output, STATES), name)


def has_states(output: str) -> bool:
    """Whether any run has saved a state in this output folder."""
    runs = filesystem.join(output, STATES)
    return any(_state_names(filesystem.join(runs, run)) for run in filesystem.names_in(runs))


def remove_unusable_snapshot(folder: str) -> bool:
    """Remove Ray's list of the states if this Ray cannot read it; returns whether it was removed.

    Ray cannot read a truncated list, and refuses the list of another version of Ray.
    """
    import ray

    path = filesystem.join(folder, SNAPSHOT)
    if not filesystem.exists(path):
        return False
    try:
        is_usable = json.loads(filesystem.read(path))["ray_version"] == ray.__version__
    except (ValueError, KeyError, TypeError):
        is_usable = False
    if not is_usable:
        filesystem.remove(path)
    return not is_usable


def save_state(state: Mapping[str, Any], *, step: int, rank: Rank, folder: Path | None = None) -> None:
    """Save the state of a run, and keep the last two; every rank must call.

    Args:
        state: the state; only that of rank 0 is saved.
        step: number of updates done.
        rank: this worker.
        folder: rank 0 also saves the files in this folder; None: the state alone.
    """
    here = states_here()
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        if rank.index == 0:
            torch.save(dict(state), folder / _STATE)
        if here is None:
            _report_to_ray(folder if rank.index == 0 else None, step=step)
        else:
            _add_state(folder, states=here)


def _report_to_ray(folder: Path | None, *, step: int) -> None:
    import ray.train

    checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(str(folder))
    ray.train.report({"step": step}, checkpoint=checkpoint)


def _add_state(files: Path, *, states: str) -> None:
    """Add a state of a run in this process. Ray's list does not have it: without the list, Ray takes the newest too."""
    filesystem.remove(filesystem.join(states, SNAPSHOT))
    before = _state_names(states)
    filesystem.replace_folder(files, filesystem.join(states, _next_name(before)), last=_STATE)
    for old in before[: -(NUM_KEPT - 1)]:
        filesystem.remove(filesystem.join(states, old))


def _next_name(before: Sequence[str]) -> str:
    """Name a state by the time; after all others, also where the clock was put back."""
    name = datetime.now().astimezone().strftime(_NAME)
    if not before or name > before[-1]:
        return name
    try:
        last = datetime.strptime(before[-1], _NAME)
    except ValueError:
        return f"{before[-1]}~"
    return (last + timedelta(microseconds=1)).strftime(_NAME)


def load_state(folder: str) -> dict[str, Any] | None:
    """Load the last saved state of the run whose states are in `folder`; None if there is none."""
    checkpoint = None
    if states_here() is None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return _newest_state(folder)
    with checkpoint.as_directory() as path:
        state: dict[str, Any] = torch.load(Path(path) / _STATE, weights_only=True, map_location="cpu")
        return state


def newest_state_folder(folder: str) -> str:
    """Return the address of the newest state of a run; IndexError where there is none."""
    return filesystem.join(folder, _state_names(folder)[-1])


def _newest_state(folder: str) -> dict[str, Any] | None:
    for name in reversed(_state_names(folder)):
        try:
            data = filesystem.read(filesystem.join(filesystem.join(folder, name), _STATE))
            state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except (FileNotFoundError, RuntimeError, EOFError, UnpicklingError):
            continue  # its upload was interrupted, or the disk lost it
        return state
    return None


def _state_names(folder: str) -> list[str]:
    """Names of the states in the order of time: Ray writes the time into the names."""
    return sorted(name for name in filesystem.names_in(folder) if name.startswith(_PREFIX))
