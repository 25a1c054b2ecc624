"""A small dataset is sharded in this process: the bytes and records of a cluster, errors of threads, an interrupt.

`tests/pipelines/stages/test_shard.py` compares with a cluster, and resumes here what a cluster began.

Covers: `pipelines.sharding.flows.open_flow`.
"""

import dataclasses
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.__main__ import EXIT_INTERRUPTED
from pipelines.config.infrastructure import ClusterConfig
from pipelines.sharding.flows import local_flow as flow
from pipelines.sharding.folder_layout import find_source
from pipelines.stages import shard
from tests.pipelines.stages.test_shard import config_for, data_files, dror_world, put, summary_of
from tests.support.image_forms import as_tar, pictures
from tests.support.processes import ROOT, hear_ctrl_c

TWO = ClusterConfig(num_cpus=2)


pytestmark = pytest.mark.usefixtures("no_cluster")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dror_world(tmp_path_factory.mktemp("world"))


def published(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in data_files(output).items() if not name.startswith("_ledger/")}


def test_the_number_of_threads_changes_no_byte_and_every_image_is_somewhere(world, tmp_path):
    manifests = shard.run(config_for(world, tmp_path / "one"), cluster=ClusterConfig(num_cpus=1))
    assert shard.run(config_for(world, tmp_path / "three"), cluster=ClusterConfig(num_cpus=3)) == manifests
    assert published(tmp_path / "one") == published(tmp_path / "three")
    summary = summary_of(tmp_path / "one")
    assert summary["in_process"]
    assert (summary["num_samples"], summary["num_duplicates"], summary["num_rejected"]) == (26, 2, 2)
    assert not (tmp_path / "one" / "_work").exists()


def test_a_listing_is_left_to_a_cluster_when_it_has_more_images_or_too_many_files(world, tmp_path):
    here, source = flow.local_flow(TWO), find_source(config_for(world, tmp_path / "out"))
    listing = flow.list_few(source, flow=here, most=30)
    assert listing is not None
    assert (listing.count(), listing.table["left_out"].null_count) == (31, 30)
    assert flow.list_few(source, flow=here, most=29) is None
    for number in range(60):
        put(tmp_path / "masks" / "train" / "cat" / "whiskers" / "0" / f".{number}", b"")
    put(tmp_path / "masks" / "train" / "cat" / "whiskers" / "0" / "a.png", b"")
    hidden = find_source(config_for(tmp_path / "masks", tmp_path / "out"))
    assert flow.list_few(hidden, flow=here, most=7) is not None
    assert flow.list_few(hidden, flow=here, most=6) is None


@pytest.mark.parametrize("local_images", [2, 3])
def test_ten_images_to_shard_count_as_one(world, tmp_path, local_images):
    config = config_for(world, tmp_path / "out")
    if local_images == 3:
        assert shard.run(config, cluster=ClusterConfig(local_images=3))
        return
    with pytest.raises(TypeError, match="NoneType"):  # the cluster is asked for
        shard.run(config, cluster=ClusterConfig(local_images=local_images))


def test_what_is_finished_is_kept_and_what_is_damaged_redone(world, tmp_path):
    output = tmp_path / "shards"
    manifests = shard.run(config_for(world, output), cluster=TWO)
    before = published(output)
    written = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    assert shard.run(config_for(world, output), cluster=TWO) == manifests
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")} == written
    damaged = output / "train/1.tar"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    (output / "train/manifest.json").unlink()
    (output / "train/.2.tar.left.tmp").write_bytes(b"half")
    assert shard.run(config_for(world, output), cluster=TWO) == manifests
    assert summary_of(output)["num_shards_written"] == 1
    assert published(output) == before


def strike(output: Path, *, world: Path, blow: signal.Signals, at_shard: int) -> int:
    """Run the command in a process that is hit while it writes its nth shard; its exit code."""
    words = ["shard", "--input", str(world), "--output", str(output), "--max-rejected", "0.1"]
    words += ["--samples-per-shard", "1", "--cluster.num-cpus", "1"]
    code = f"""
import os, sys
from pipelines.__main__ import main
from pipelines.sharding import shard_writer
write_shard, calls = shard_writer.write_shard, []
def struck(*given, **named):
    calls.append(given)
    if len(calls) == {at_shard}:
        os.kill(os.getpid(), {blow.value})
    return write_shard(*given, **named)
shard_writer.write_shard = struck
sys.exit(main({words}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, preexec_fn=hear_ctrl_c, timeout=200
    )
    assert not (output / "summary.json").exists(), done.stderr
    return done.returncode


def test_after_ctrl_c_and_a_kill_the_same_command_ends_with_the_same_bytes(world, tmp_path):
    settings = {"samples_per_shard": 1}
    shard.run(config_for(world, tmp_path / "unharmed", **settings), cluster=TWO)
    output = tmp_path / "shards"
    assert strike(output, world=world, blow=signal.SIGINT, at_shard=3) == EXIT_INTERRUPTED
    num_kept = len(list(output.glob("*/*.tar")))
    assert num_kept >= 2
    assert strike(output, world=world, blow=signal.SIGKILL, at_shard=5) == -signal.SIGKILL
    assert len(list(output.glob("*/*.tar"))) == num_kept + 4
    shard.run(config_for(world, output, **settings), cluster=TWO)
    assert summary_of(output)["num_shards_kept"] == num_kept + 4
    assert summary_of(output)["num_shards_taken_over"] == 1
    assert published(output) == published(tmp_path / "unharmed")


def test_a_kill_between_the_images_of_a_tar_changes_no_byte(tmp_path):
    tar = as_tar(pictures(), tmp_path)
    shard.run(config_for(tar, tmp_path / "unharmed", samples_per_shard=1), cluster=TWO)
    output = tmp_path / "shards"
    assert strike(output, world=tar, blow=signal.SIGKILL, at_shard=5) == -signal.SIGKILL
    assert len(list(output.glob("*/*.tar"))) == 4
    shard.run(config_for(tar, output, samples_per_shard=1), cluster=TWO)
    assert summary_of(output)["num_shards_kept"] == 4
    assert published(output) == published(tmp_path / "unharmed")


def test_an_error_of_a_thread_ends_the_job_and_the_next_run_goes_on(world, tmp_path, monkeypatch):
    def fail(*given: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(flow, "make_shard", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            shard.run(config_for(world, tmp_path / "shards"), cluster=TWO)
    (inspected,) = (tmp_path / "shards" / "_work").glob("*/*.parquet")
    written = inspected.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(flow, "inspect_images", None)  # not again
        patch.setattr("pipelines.stages.shard.publish_shards", lambda *given: None)
        shard.run(config_for(world, tmp_path / "shards"), cluster=TWO)
    assert inspected.stat().st_mtime_ns == written
    shard.run(config_for(world, tmp_path / "shards"), cluster=TWO)
    shard.run(config_for(world, tmp_path / "unharmed"), cluster=TWO)
    assert published(tmp_path / "shards") == published(tmp_path / "unharmed")


def test_a_disk_that_does_not_answer_ends_the_job_with_the_remedy(world, tmp_path, monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(flow, "inspect_images", lambda *given, **named: answered.wait(20))
    monkeypatch.setattr("pipelines.runtime.local_threads._LAST_ITEMS_S", 0.1)
    with pytest.raises(TimeoutError, match=r"nothing was read or written for 0\.3 s.*no-progress-timeout-s"):
        shard.run(config_for(world, tmp_path / "shards"), cluster=dataclasses.replace(TWO, no_progress_timeout_s=0.3))
    answered.set()
