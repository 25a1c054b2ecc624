"""A run with one worker in this process: its tokens, its states, and what an interrupt or an error leaves.

Covers: `pipelines.training.runs.job`, `pipelines.training.runs.runner`.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from ecor.config.model import BackboneConfig
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.training import TrainConfig
from pipelines.runtime import cluster
from pipelines.stages import train
from pipelines.training.runs import saved_states
from pipelines.training.runs.job import own_rank, run_here
from pipelines.training.runs.runner import open_runner
from tests.support.in_process_training import finished, tuning_of
from tests.support.mlflow_databases import new_database
from tests.support.tiny_splits import write_world

EPOCHS = 4


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray must not be asked for."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "connect", None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.fixture
def config(world: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        shards=str(world / "shards"),
        output=str(tmp_path / "run"),
        backbone=BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"),
        num_epochs=EPOCHS,
        patience=EPOCHS,
        batch_size=4,
        checkpoint_every_steps=2,
        cache_dir=str(tmp_path / "cache"),
    )


def run_states(config: TrainConfig) -> list[Path]:
    return sorted(Path(config.output).glob("ray/*/checkpoint_*"))


def check_tokens(config: TrainConfig) -> None:
    """Those of a run that nothing happens to."""
    saved = load_file(f"{config.output}/checkpoint/tokens.safetensors")
    expected = finished(tuning_of(config)).best_tokens
    assert saved.keys() == expected.keys()
    for name, value in saved.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_one_worker_learns_here_what_it_would_learn_on_a_cluster(config, tracking, capsys):
    before = torch.get_num_threads()
    record = train.run(config, tracking=tracking)
    assert torch.get_num_threads() == before
    check_tokens(config)
    told = capsys.readouterr().err
    assert f"epoch {EPOCHS}/{EPOCHS}" in told and "train: " in told
    assert not (Path(config.output) / "ray").exists()
    run = MlflowClient(tracking.uri).get_run(record.run_id)
    assert run.info.status == "FINISHED"
    assert train.run(config, tracking=tracking) == record
    assert "finished before, nothing to do" in capsys.readouterr().err


def test_after_an_interrupt_the_same_command_goes_on_from_the_last_state(config, tracking, capsys, monkeypatch):
    """The list of states that an earlier run on a cluster has left is outdated by then."""
    add = saved_states._add_state
    seen = []

    def interrupted(files, *, states):
        add(files, states=states)
        seen.append(len(run_states(config)))
        if len(seen) == 4:
            raise KeyboardInterrupt
        (Path(states) / saved_states.SNAPSHOT).write_text("{}")

    with monkeypatch.context() as patch:
        patch.setattr(saved_states, "_add_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tracking=tracking)
    assert max(seen) == saved_states.NUM_KEPT
    assert not list(Path(config.output).glob(f"ray/*/{saved_states.SNAPSHOT}"))
    run_id = json.loads((Path(config.output) / "run.json").read_text())["run_id"]
    assert MlflowClient(tracking.uri).get_run(run_id).info.status == "KILLED"
    capsys.readouterr()
    record = train.run(config, tracking=tracking)
    assert "resumed at step 8 of " in capsys.readouterr().err
    assert record.run_id == run_id
    check_tokens(config)


def test_states_are_in_order_also_where_the_clock_is_put_back(tmp_path, monkeypatch):
    states = tmp_path / "states"
    late = states / "checkpoint_2999-01-01_00-00-00.999999"
    late.mkdir(parents=True)
    torch.save({"step": 1}, late / "state.pt")
    with run_here(str(states)):
        for step in (2, 3, 4):
            saved_states.save_state({"step": step}, step=step, rank=own_rank())
            assert saved_states.load_state(str(states)) == {"step": step}
    assert len(list(states.iterdir())) == saved_states.NUM_KEPT
    assert saved_states.newest_state_folder(str(states)).endswith("checkpoint_2999-01-01_00-00-01.000002")


def test_a_state_that_the_disk_has_lost_is_passed_over(tmp_path):
    with run_here(str(tmp_path)):
        for step in (1, 2):
            saved_states.save_state({"step": step}, step=step, rank=own_rank())
        newest = Path(saved_states.newest_state_folder(str(tmp_path))) / "state.pt"
        newest.write_bytes(bytes(newest.stat().st_size))
        assert saved_states.load_state(str(tmp_path)) == {"step": 1}


def test_a_users_mistake_leaves_the_folder_to_the_mended_command(config, tracking):
    with pytest.raises(ValueError, match="nosuch"):
        train.run(replace(config, backbone=replace(config.backbone, name="nosuch")), tracking=tracking)
    assert train.run(config, tracking=tracking)


@pytest.mark.parametrize(
    "changes",
    [{"num_workers": 2, "batch_size": 8}, {"use_gpu": True}, {"max_failures": 1}],
    ids=str,
)
def test_more_workers_gpus_and_restarts_are_rays(config, changes, monkeypatch):
    class AskedError(Exception):
        pass

    def connect(*args, **kwargs):
        raise AskedError

    monkeypatch.setattr(cluster, "connect", connect)
    with (
        pytest.raises(AskedError),
        open_runner(replace(config, **changes), name="train", run="r", cluster=ClusterConfig()),
    ):
        pass
    with pytest.raises(AskedError), open_runner(config, name="x", run="r", cluster=ClusterConfig(), is_short=False):
        pass
    never = ClusterConfig(local_images=0)
    with pytest.raises(AskedError), open_runner(config, name="train", run="r", cluster=never):
        pass
