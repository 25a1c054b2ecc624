"""A run resumes from the newest state that can be read, whatever Ray's own list of states looks like."""

import json
from pathlib import Path

import pytest
import ray
import ray.train
import torch
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from pipelines.training.runs.saved_states import (
    SNAPSHOT,
    has_states,
    load_state,
    remove_unusable_snapshot,
    states_folder,
)


def write_state(folder: Path, *, name: str, step: int) -> Path:
    path = folder / f"checkpoint_{name}" / "state.pt"
    path.parent.mkdir(parents=True)
    torch.save({"step": step}, path)
    return path


@pytest.mark.parametrize(
    ("content", "is_removed"),
    [
        ("", True),
        ('{"ray_version": "2.', True),
        ("null", True),
        ("{}", True),
        (json.dumps({"ray_version": "1.0.0"}), True),
        (json.dumps({"ray_version": ray.__version__}), False),
    ],
)
def test_a_list_of_states_that_ray_cannot_read_is_removed(tmp_path: Path, content: str, is_removed: bool):
    (tmp_path / SNAPSHOT).write_text(content)
    assert remove_unusable_snapshot(str(tmp_path)) == is_removed
    assert (tmp_path / SNAPSHOT).exists() != is_removed


def test_the_list_has_the_name_that_ray_gives_it():
    assert SNAPSHOT == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


def test_without_a_list_there_is_nothing_to_remove(tmp_path: Path):
    assert not remove_unusable_snapshot(str(tmp_path / "nothing"))


def test_without_a_list_the_newest_whole_state_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    assert load_state(str(tmp_path)) is None
    write_state(tmp_path, name="2026-01-01_10-00-00.000001", step=2)
    write_state(tmp_path, name="2026-01-01_10-00-00.000002", step=4)
    cut_off = write_state(tmp_path, name="2026-01-01_10-00-00.000003", step=6)
    cut_off.write_bytes(cut_off.read_bytes()[:100])
    (tmp_path / "checkpoint_2026-01-01_10-00-00.000004").mkdir()
    assert load_state(str(tmp_path)) == {"step": 4}


def test_states_are_found_in_the_output_of_a_run(tmp_path: Path):
    folder = Path(states_folder(str(tmp_path), name="run"))
    assert not has_states(str(tmp_path))
    write_state(folder, name="2026-01-01_10-00-00.000001", step=2)
    assert has_states(str(tmp_path))
