"""A few blows at random moments to `ecor shard` and `ecor score` on two machines; many more are in `make soak`."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from ecor.config.model import BackboneConfig
from pipelines.__main__ import EXIT_DONE, EXIT_USER_ERROR
from pipelines.config.stages import ShardConfig
from pipelines.config.training import TrainConfig
from pipelines.stages import shard
from tests.support.in_process_training import finished, tuning_of
from tests.support.mlflow_databases import new_database
from tests.support.tiny_splits import write_world as write_shards
from tests.system.faults import (
    Job,
    Outcomes,
    Stage,
    TwoMachines,
    live,
    random_blow,
    score_stage,
    shard_stage,
    small_disk,
    write_world,
)

pytestmark = pytest.mark.timeout(1200)
ONE_OF_EACH = ("--num-scorers", "1", "--num-decoders", "1")
"""Where it does not matter how many actors there are: each takes seconds to start."""
PATIENCE_S = 500
"""Watchdog of each wait: a busy machine of two cores takes several times longer than a quiet one."""
SEED = random.SystemRandom().randrange(2**32)
"""Of the moments; told by each test that fails. Put it here to have the same again."""


@pytest.fixture(scope="module")
def machines():
    two = TwoMachines()
    yield two
    two.shutdown()


@pytest.fixture(scope="module")
def others():
    """Another cluster, whose head the last test that uses it kills."""
    two = TwoMachines(head_patience_s=5)
    yield two
    two.shutdown()


def on(machines: TwoMachines, words: list[str]) -> list[str]:
    """The same command on other machines."""
    return [*words, "--cluster.address", machines.address]


@pytest.fixture(scope="module")
def sharding(machines: TwoMachines, tmp_path_factory) -> Stage:
    """Its quiet run is in this process: what jobs on a cluster leave has the same bytes."""
    folder = tmp_path_factory.mktemp("shard")
    world, quiet = write_world(folder / "world"), folder / "quiet"
    shard.run(ShardConfig(input=str(world), output=str(quiet), max_rejected=0.1, samples_per_shard=4))
    assert json.loads((quiet / "summary.json").read_text())["in_process"]
    return shard_stage(world, address=machines.address, quiet=quiet)


@pytest.fixture(scope="module")
def scoring(machines: TwoMachines, sharding: Stage, tmp_path_factory) -> Stage:
    quiet = Path(sharding.words(Path())[2]).parent / "quiet"
    return score_stage(quiet, address=machines.address, folder=tmp_path_factory.mktemp("score"))


def check(stage: Stage, kinds: list[str], *, machines: TwoMachines, folder: Path) -> None:
    """Nothing lost, nothing twice, nothing undetected, nothing hung."""
    tally: dict[tuple[str, str], Outcomes] = {}
    draw = random.Random(f"{SEED}/{stage.name}")
    blows = [random_blow(kind, stage=stage, quiet_s=10.0, draw=draw) for kind in kinds]
    log = folder / "log"
    try:
        with small_disk(folder / "disk") as disk:
            live(stage, blows, output=disk.folder / "out", log=log, machines=machines, disk=disk, tally=tally)
    except PermissionError:
        blows = [blow for blow in blows if blow.kind != "full disk"]
        live(stage, blows, output=folder / "out", log=log, machines=machines, disk=None, tally=tally)
    assert sum(each.kills for each in tally.values()) >= len(blows) - 1, "a blow may find nobody to hit"
    told = f"seed {SEED}, {blows}: {tally}\n{log.read_text()[-6000:]}"
    assert [note for each in tally.values() for note in each.notes] == [], told
    assert all(each.lost == each.duplicated == each.undetected == each.hung == 0 for each in tally.values()), told


@pytest.mark.slow
def test_shards_are_those_of_a_quiet_run_after_a_worker_a_machine_a_full_disk_and_sigterm(machines, sharding, tmp_path):
    check(sharding, ["worker", "full disk", "node", "terminate"], machines=machines, folder=tmp_path)


@pytest.mark.slow
def test_rows_are_those_of_a_quiet_run_after_an_actor_and_ctrl_c(machines, scoring, tmp_path):
    check(scoring, ["actor", "ctrl-c"], machines=machines, folder=tmp_path)


@pytest.mark.slow
def test_a_cluster_that_never_gets_a_gpu_ends_in_an_error(machines, scoring, tmp_path):
    words = [*scoring.words(tmp_path / "out"), "--use-gpu", "--cluster.no-progress-timeout-s", "3"]
    job = Job(words, log=tmp_path / "log")
    assert job.ended(within_s=PATIENCE_S) == EXIT_USER_ERROR, job.log.read_text()
    assert "nothing moved for 3 s: the cluster has" in job.log.read_text()
    assert "0 of 0 GPUs free" in job.log.read_text()


@pytest.mark.slow
def test_training_that_loses_a_machine_goes_on_from_its_last_state_on_another(machines, tmp_path):
    """Its worker and whatever else was there; what is learned is what one worker learns that nothing happens to."""
    world, output = write_shards(tmp_path), tmp_path / "run"
    config = TrainConfig(
        shards=str(world / "shards"),
        output=str(output),
        backbone=BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"),
        num_epochs=4,
        patience=4,
        batch_size=4,
        checkpoint_every_steps=2,
        cache_dir=str(tmp_path / "cache"),
    )
    tracking = new_database(tmp_path)
    words = [
        *("train", "--shards", config.shards, "--output", config.output, "--backbone.name", config.backbone.name),
        *("--backbone.pretrained", "random", "--num-epochs", "4", "--patience", "4", "--batch-size", "4"),
        *("--checkpoint-every-steps", "2", "--num-workers", "2", "--max-failures", "1"),
        *("--cluster.address", machines.address, "--tracking.uri", str(tracking.uri)),
    ]
    job = Job(words, log=tmp_path / "log")
    until = time.monotonic() + PATIENCE_S
    while not list(output.glob("ray/*/checkpoint_*")):
        assert job.is_running and time.monotonic() < until, job.log.read_text()
        time.sleep(0.02)
    machines.lose_a_machine()
    assert job.ended(within_s=PATIENCE_S) == EXIT_DONE, job.log.read_text()
    expected = finished(tuning_of(config)).best_tokens
    saved = load_file(output / "checkpoint" / "tokens.safetensors")
    assert saved.keys() == expected.keys()
    for name, value in saved.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)
    run = MlflowClient(tracking.uri).get_run(json.loads((output / "summary.json").read_text())["run_id"])
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_of_two_jobs_on_one_output_one_stands_still_for_longer_than_its_lease_and_the_result_is_one(
    others, scoring, tmp_path
):
    """As when Kubernetes retries a RayJob, on a new cluster, whose driver is only out of sight and comes back."""
    words = [*scoring.words(tmp_path / "out"), *ONE_OF_EACH, "--cluster.lease-s", "3"]
    sleeper = Job(on(others, words), log=tmp_path / "sleeper")
    until = time.monotonic() + PATIENCE_S
    while not scoring.num_commits(tmp_path / "out"):
        assert sleeper.is_running and time.monotonic() < until, sleeper.log.read_text()
        time.sleep(0.02)
    assert sleeper.send(signal.SIGSTOP)
    retried = Job(words, log=tmp_path / "retried")
    code = retried.ended(within_s=PATIENCE_S)
    assert code == EXIT_DONE, retried.log.read_text()
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    assert not scoring.difference(tmp_path / "out")
    assert sleeper.send(signal.SIGCONT)
    assert sleeper.ended(within_s=PATIENCE_S) is not None, sleeper.log.read_text()
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest
    assert not scoring.difference(tmp_path / "out")


@pytest.mark.slow
def test_when_the_head_dies_the_job_ends_and_goes_on_on_another_cluster(others, scoring, tmp_path):
    """Ray ends a process that lost its head, and says so: no error of Python's reaches the job."""
    words = [*scoring.words(tmp_path / "out"), *ONE_OF_EACH]
    job = Job(on(others, words), log=tmp_path / "log")
    until = time.monotonic() + PATIENCE_S
    while not scoring.num_commits(tmp_path / "out"):
        assert job.is_running and time.monotonic() < until, job.log.read_text()
        time.sleep(0.02)
    others.lose_the_head()
    assert job.ended(within_s=100) not in (None, EXIT_DONE), job.log.read_text()
    assert "GCS may have been killed" in job.log.read_text()
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = Job(words, log=tmp_path / "again")
    assert again.ended(within_s=PATIENCE_S) == EXIT_DONE, again.log.read_text()
    assert "units: 0 kept" not in again.log.read_text()
    assert not scoring.difference(tmp_path / "out")


@pytest.mark.slow
def test_a_difference_would_be_seen(sharding, scoring, tmp_path):
    """Of the laws themselves: a tar or a row less, or one twice, is counted."""

    quiet = Path(sharding.words(Path())[2]).parent / "quiet"
    shutil.copytree(quiet, tmp_path / "shards")
    assert not sharding.difference(tmp_path / "shards")
    tar = sorted((tmp_path / "shards" / "train").glob("*.tar"))[0]
    shutil.copyfile(tar, tar.with_name("99.tar"))
    assert sharding.difference(tmp_path / "shards").num_duplicated == 4
    tar.with_name("99.tar").unlink()
    tar.unlink()
    difference = sharding.difference(tmp_path / "shards")
    assert difference.num_lost == 4 and difference.others == (f"train/{tar.name}",)
