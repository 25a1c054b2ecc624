"""Save the state of a training run through Ray Train, and load the last one to resume from.

Ray lists the states in a snapshot file that it does not write atomically: a controller that is killed while it writes
leaves an empty file, and no later run would start. Here such a file is removed, and the newest state that can be read
takes the place of the list.
"""

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as SNAPSHOT

from ecor.storage import filesystem
from ecor.training.distributed import Rank

STATES = "ray"
"""Folder of the states, in the output folder of a run."""
_STATE = "state.pt"
_PREFIX = "checkpoint_"


def states_folder(output: str, *, name: str) -> str:
    """The address of a run's states; `name` is the one that Ray Train knows the run by."""
    return filesystem.join(filesystem.join(output, STATES), name)


def has_states(output: str) -> bool:
    """Whether any run has saved a state in this output folder."""
    runs = filesystem.join(output, STATES)
    return any(_state_names(filesystem.join(runs, run)) for run in filesystem.names_in(runs))


def remove_unusable_snapshot(folder: str) -> bool:
    """Remove Ray's list of the states where this Ray cannot read it; True when there was such a list.

    It cannot read one that is cut off, nor (so Ray demands) one that another version of Ray wrote.
    """
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
    """Hand the state to Ray; all ranks meet here. What `folder` holds already goes with it."""
    checkpoint = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        if rank.index == 0:
            torch.save(dict(state), folder / _STATE)
            checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({"step": step}, checkpoint=checkpoint)


def load_state(folder: str) -> dict[str, Any] | None:
    """The last saved state of the run whose states are in `folder`; None when it has saved none."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return _newest_state(folder)
    with checkpoint.as_directory() as path:
        state: dict[str, Any] = torch.load(Path(path) / _STATE, weights_only=True, map_location="cpu")
        return state


def _newest_state(folder: str) -> dict[str, Any] | None:
    for name in reversed(_state_names(folder)):
        try:
            data = filesystem.read(filesystem.join(filesystem.join(folder, name), _STATE))
            state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except (FileNotFoundError, RuntimeError, EOFError):
            continue  # its upload was cut off
        return state
    return None


def _state_names(folder: str) -> list[str]:
    """Names of the states in the order of time, which Ray writes into them."""
    return sorted(name for name in filesystem.names_in(folder) if name.startswith(_PREFIX))
