"""Order, resuming and ranks: whatever happens to a run, its tokens are those of a run that nothing happened to.

Covers: `pipelines.config.infrastructure`, `pipelines.training.runs.ray_runner`,
`pipelines.training.runs.run_folder`, `pipelines.training.shard_files`, `pipelines.training.unreadable`.
"""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

import ecor
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.training import FitConfig, ObjectiveConfig
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.samples import label_ids
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.training.distributed import Rank
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.training import TrainConfig
from pipelines.runtime.balance import Balance
from pipelines.runtime.cluster import connect
from pipelines.stages import train
from pipelines.stages.train import _cut_sentences
from pipelines.storage.work_ledger import WorkLedger
from pipelines.training.data_loader import PictureReader, batch_positions, num_batches, order_of_epoch, read_split
from pipelines.training.runs.run_folder import hold_output
from pipelines.training.sample_use import balance_splits
from pipelines.training.shard_files import fetch_shards
from pipelines.training.shards_vocabulary import describe_vocabulary
from pipelines.training.systems.prompt_trainer import resolve_config
from pipelines.training.systems.train_state import TrainState
from pipelines.training.unreadable import MOST_NAMED, merge_reasons, unreadable_lines
from tests.support.in_process_training import finished, tuning_of
from tests.support.mlflow_databases import new_database
from tests.support.processes import cpus_held, hear_ctrl_c, kill_one
from tests.support.tiny_models import NAMES
from tests.support.tiny_splits import NUM_TRAIN, NUM_VALIDATION, VOCABULARY, sample, write_split, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, and shards of two splits."""
    return write_world(tmp_path_factory.mktemp("world"))


TEXT = PromptConfig(rationale_tokens=2, category_tokens=2, visual_tokens=0)
VISUAL = PromptConfig(rationale_tokens=1, category_tokens=1, visual_tokens=2, visual_depth=1, visual_shared=False)


def config_of(world: Path, output: Path, **changes: object) -> TrainConfig:
    settings: dict = {
        "shards": str(world / "shards"),
        "output": str(output),
        "backbone": BackboneConfig(name=str(world / "tiny-clip.json"), pretrained="random"),
        "prompts": TEXT,
        "fit": FitConfig(learning_rate=0.02, warmup_steps=2),
        "num_epochs": 3,
        "batch_size": 4,
        "checkpoint_every_steps": 2,
        "cache_dir": str(output / "cache"),
    }
    return TrainConfig(**(settings | changes))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_a_batch_equally(num_ranks: int) -> None:
    order = order_of_epoch(25, seed=3, epoch=1)
    assert sorted(order) == list(range(25))
    assert not np.array_equal(order, order_of_epoch(25, seed=3, epoch=2))
    assert num_batches(25, batch_size=6) == 4
    seen = []
    for batch in range(4):
        ranks = [Rank(index=index, num_ranks=num_ranks) for index in range(num_ranks)]
        parts = [batch_positions(order, batch=batch, batch_size=6, rank=rank) for rank in ranks]
        assert {len(part) for part in parts} == {6 // num_ranks}
        seen.extend(np.stack(parts, axis=1).flatten())  # in turn, they are the order again
    assert seen == list(order[:24])


def test_fewer_samples_than_a_batch_start_again() -> None:
    assert num_batches(3, batch_size=8) == 1
    order = order_of_epoch(3, seed=0, epoch=0)
    assert list(batch_positions(order, batch=0, batch_size=8, rank=Rank())) == [*order, *order, *order[:2]]


def test_rationales_are_taken_in_turn_as_samples_are_collated(world: Path) -> None:
    split = read_split(str(world / "shards" / "train"), vocabulary=VOCABULARY)
    for epoch in range(5):
        expected = [label_ids(sample(n), vocabulary=VOCABULARY, epoch=epoch) for n in range(NUM_TRAIN)]
        ours = zip(split.categories.tolist(), split.rationales_of_epoch(epoch).tolist(), strict=True)
        assert list(ours) == expected


def test_pictures_are_read_by_position(world: Path, tmp_path: Path) -> None:
    tuning = tuning_of(config_of(world, tmp_path))
    preprocess = tuning.backbone.preprocess
    paths = fetch_shards(tuning.train, rank=Rank(), cache_dir=tmp_path)
    reader = PictureReader(tuning.train, paths=paths, preprocess=preprocess, num_threads=2)
    positions = np.array([13, 2, 21, 2])
    pixels, readable = reader.pixels(positions)
    assert readable.all()
    for row, position in zip(pixels, positions, strict=True):
        expected = image_to_pixels(decode_image(sample(int(position)).image), preprocess=preprocess)
        np.testing.assert_array_equal(row.numpy(), expected)


def test_samples_without_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    bare = [dataclasses.replace(sample(0), rationales=()), dataclasses.replace(sample(1), category=None), sample(2)]
    write_split(tmp_path, bare, split="train")
    split = read_split(str(tmp_path / "train"), vocabulary=VOCABULARY)
    assert (len(split), split.num_unlabelled) == (1, 2)
    write_split(tmp_path, bare[:2], split="test")
    with pytest.raises(ValueError, match="none with a category and a rationale"):
        read_split(str(tmp_path / "test"), vocabulary=VOCABULARY)


def test_categories_without_rationales_are_told_before_the_work() -> None:
    """Their images teach nothing; LICO learns from categories alone."""

    def lines(names: dict[str, list[str]], *, system: str = "ecor") -> list[str]:
        return list(describe_vocabulary(vocabulary_from_mapping(names), shards="shards", system=system))

    assert lines({"hat": ["a brim", "a crown"], "shoes": ["laces"]}) == []
    line = lines({"hat": ["a brim"], "shoes": [], "socks": []})[-1]
    assert line.startswith("2 of 3 categories have no rationale (shoes, socks): their images are left out")
    line = lines({"hat": ["a brim"], **{f"c{number}": [] for number in range(999)}})[-1]
    assert len(line) < 500 and "c4 and 994 more" in line
    assert lines({"shoes": [], "socks": []}, system="lico") == []
    (line,) = lines({"hat": ["a brim", "a crown"]})
    assert line.startswith("the vocabulary has one category alone (hat)")
    for system in ("ecor", "eclip"):
        with pytest.raises(ValueError, match=r"has no rationale at all .*add rationales, and shard again"):
            lines({"shoes": [], "socks": []}, system=system)


def test_another_vocabulary_is_refused_with_both_digests(world: Path) -> None:
    other = vocabulary_from_mapping({**NAMES, "cat": ["whiskers"]})
    with pytest.raises(ValueError, match=f"vocabulary {other.digest} does not fit manifest .* {VOCABULARY.digest}"):
        read_split(str(world / "shards" / "train"), vocabulary=other)


@pytest.mark.parametrize("changed", ["input", "vocabulary", "config"])
@pytest.mark.parametrize("record", ["summary.json", "run.json"])
def test_what_another_run_has_made_or_begun_is_refused_with_both_digests(
    world: Path, tmp_path: Path, changed: str, record: str
) -> None:
    """Before anything is started: no cluster, no MLflow."""
    shutil.copytree(world / "shards", tmp_path / "shards")
    config = config_of(world, tmp_path / "run", shards=str(tmp_path / "shards"))
    digest = train._parents(resolve_config(config))["config"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / record).write_text(
        json.dumps({"digest": digest, "run_id": "its own", "checkpoint_digest": "c"})
    )
    if changed == "input":
        write_split(tmp_path / "shards", [sample(n) for n in range(NUM_TRAIN + 1)], split="train")
    if changed == "vocabulary":
        (tmp_path / "shards" / "vocabulary.json").write_text(json.dumps({**NAMES, "cat": ["whiskers"]}))
    other = dataclasses.replace(config, seed=1) if changed == "config" else config
    with pytest.raises(ValueError, match=f"holds run {digest}, .* make run .*--fresh") as error:
        train.run(other, tracking=TrackingConfig(uri="http://127.0.0.1:9"))
    assert train._parents(resolve_config(other))["config"] in str(error.value)
    assert not ray.is_initialized()


@pytest.mark.parametrize("prompts", [TEXT, VISUAL])
@pytest.mark.parametrize("stop_at", [2, 7])
def test_going_on_equals_never_stopping_bit_for_bit(
    world: Path, tmp_path: Path, prompts: PromptConfig, stop_at: int
) -> None:
    """Stopped within an epoch, and with sampled negatives, whose draws must be those of the same steps."""
    config = config_of(
        world,
        tmp_path,
        prompts=prompts,
        objective=ObjectiveConfig(max_sentences_per_step=6),
        fit=FitConfig(learning_rate=0.02, warmup_steps=2, accumulate=2),
        batch_size=2,
        checkpoint_every_steps=1,
        num_epochs=2,
    )
    whole = finished(tuning_of(config))
    stopped = tuning_of(config)
    for report in stopped.reports(stopped.module()):
        if report.is_due and report.progress.step == stop_at:
            file = io.BytesIO()
            state = {each.name: getattr(report.progress, each.name) for each in dataclasses.fields(report.progress)}
            torch.save(state, file)
            break
    saved = TrainState(**torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    again = finished(tuning_of(config), saved)
    assert again.step == whole.step == 10
    for name, value in whole.tokens.items():
        assert torch.equal(again.tokens[name], value), name
        assert torch.equal(again.best_tokens[name], whole.best_tokens[name]), name
    assert [e["validation_loss"] for e in again.epochs] == [e["validation_loss"] for e in whole.epochs]
    lines = [balance_splits(stopped.train, stopped.validation, uses=each.uses).line() for each in (whole, again)]
    assert lines[0] == lines[1] and f"train: {NUM_TRAIN + NUM_VALIDATION} listed = " in lines[0]


def test_the_best_epoch_is_kept_and_patience_ends_the_run(world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path, fit=FitConfig(learning_rate=1e-30), num_epochs=9, patience=2)
    progress = finished(tuning_of(config))
    assert (len(progress.epochs), progress.best_epoch) == (3, 0)
    learning = finished(tuning_of(config_of(world, tmp_path, num_epochs=4)))
    losses = [epoch["validation_loss"] for epoch in learning.epochs]
    assert learning.best_epoch == int(np.argmin(losses))
    assert min(losses) < progress.epochs[0]["validation_loss"]


def test_features_are_computed_once(world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path, num_epochs=1)
    first = finished(tuning_of(config))
    (one, two) = sorted((tmp_path / "cache" / "features").iterdir())
    before = one.stat().st_mtime_ns, two.stat().st_mtime_ns
    again = finished(tuning_of(config))
    assert before == (one.stat().st_mtime_ns, two.stat().st_mtime_ns)
    assert all(torch.equal(again.tokens[name], value) for name, value in first.tokens.items())


@pytest.mark.parametrize("prompts", [TEXT, VISUAL])
def test_a_picture_that_cannot_be_read_teaches_nothing(tmp_path: Path, world: Path, prompts: PromptConfig) -> None:
    broken = dataclasses.replace(sample(3), image=sample(3).image[:40])
    write_split(tmp_path / "shards", [sample(0), sample(1), sample(2), broken], split="train")
    write_split(tmp_path / "shards", [sample(4), dataclasses.replace(broken, key="0005")], split="validation")
    config = config_of(
        world, tmp_path, shards=str(tmp_path / "shards"), num_epochs=1, max_rejected=0.5, prompts=prompts
    )
    progress = finished(tuning_of(config))
    assert progress.epochs[0]["num_unreadable"] == 1
    assert list(progress.unreadable) == [broken.source], "of both splits, by source"
    assert progress.unreadable[broken.source].startswith("not_an_image: 40 bytes")
    (line,) = unreadable_lines(progress.unreadable, reported=())
    assert line == f"cannot read {broken.source}: {progress.unreadable[broken.source]}"
    tuning = tuning_of(config)
    balance = balance_splits(tuning.train, tuning.validation, uses=progress.uses)
    assert (balance.num_listed, balance.num_taken, balance.num_rejected) == (6, 4, 2)
    again = finished(tuning).unreadable
    assert again == (progress.unreadable if prompts is VISUAL else {broken.source: ""}), "features are not made again"
    assert all(torch.isfinite(value).all() for value in progress.tokens.values())
    with pytest.raises(ValueError, match=rf"1 of 4 images cannot be read \({broken.source}\), more than"):
        finished(tuning_of(dataclasses.replace(config, max_rejected=0.1)))


def test_pictures_that_cannot_be_read_are_named_up_to_a_number() -> None:
    """By all ranks, each once, the same ones for the whole run; then they are counted only."""
    one, other = ({f"{n}.png": "" for n in range(3)}, {"1.png": "empty: no bytes", "7.png": "empty: no bytes"})
    named = merge_reasons([one, other], before={"9.png": "corrupt: half"})
    assert list(named) == ["9.png", "0.png", "1.png", "2.png", "7.png"]
    assert named["1.png"] == "empty: no bytes", "a reason is better than none"
    assert unreadable_lines(named, reported={"9.png", "0.png", "1.png", "7.png"}) == [
        "cannot read 2.png (found when its features were made)"
    ]
    many = merge_reasons([{f"{n:03d}.png": "x" for n in range(100)}], before=named)
    assert len(many) == MOST_NAMED and list(many)[:5] == list(named)
    assert unreadable_lines(many, reported=named)[-1] == "further images that cannot be read are only counted"
    assert unreadable_lines(many, reported=many) == []


def test_names_longer_than_the_tower_are_counted(world: Path, tmp_path: Path) -> None:
    """As scoring counts them."""
    config = config_of(world, tmp_path, prompts=PromptConfig(category_tokens=30, visual_tokens=0))
    tuning = tuning_of(config)
    num_cut = tuning.num_sentences_cut
    assert num_cut == tuning.best_recognizer(finished(tuning)).text.num_truncated > 0
    assert _cut_sentences(tuning) == [f"{num_cut} sentences of the vocabulary are cut: the text tower reads 40 tokens"]
    assert _cut_sentences(tuning_of(config_of(world, tmp_path))) == []


def test_an_altered_shard_is_an_error(tmp_path: Path, world: Path) -> None:
    write_split(tmp_path / "shards", [sample(n) for n in range(8)], split="train")
    write_split(tmp_path / "shards", [sample(20)], split="validation")
    path = tmp_path / "shards" / "train" / "000006.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"000006\.tar has sha256"):
        finished(tuning_of(config_of(world, tmp_path, shards=str(tmp_path / "shards"))))


def test_presets_are_written_out() -> None:
    config = resolve_config(TrainConfig(shards="s", output="o", preset="dror"))
    assert (config.fit, config.objective.name, config.preset) == (FitConfig.dror(), "pairs", "none")
    assert config.prompts.rationale_tokens == 0
    assert resolve_config(config) == config


def test_without_tokens_the_model_is_validated_and_calibrated(world: Path, tmp_path: Path) -> None:
    none = PromptConfig(rationale_tokens=0, category_tokens=0, visual_tokens=0)
    tuning = tuning_of(config_of(world, tmp_path, prompts=none))
    progress = finished(tuning)
    assert (progress.step, len(progress.epochs), progress.best_tokens) == (0, 1, {})
    recognizer = tuning.best_recognizer(progress)
    assert recognizer.calibrated and recognizer.temperatures.rationale != 1.0


# With Ray: the stage as a cluster runs it


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a worker has: sums of floats are bit for bit the same only on as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterConfig]:
    with connect(ClusterConfig(num_cpus=2)):
        yield ClusterConfig(local_images=0)


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_and_save_a_model_with_its_history(
    world: Path,
    tmp_path: Path,
    cluster: ClusterConfig,
    tracking: TrackingConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Text and visual tokens, and the texts of all ranks gathered as negatives; one rank has the doubled batch."""
    from mlflow import MlflowClient

    config = config_of(
        world,
        tmp_path / "run",
        prompts=VISUAL,
        objective=ObjectiveConfig(name="in_batch_pairs"),
        num_workers=2,
        cpus_per_worker=0.5,
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"digest": "another", "run_id": "gone"}))
    with pytest.raises(ValueError, match=r"holds run another, .* start over with --fresh"):
        train.run(config, cluster=cluster, tracking=tracking)
    record = train.run(dataclasses.replace(config, fresh=True), cluster=cluster, tracking=tracking)
    model = ecor.load(tmp_path / "run")
    assert model.digest == record.model_digest
    assert model.calibrated
    expected = finished(tuning_of(dataclasses.replace(config, num_workers=1)))
    saved = load_file(tmp_path / "run" / "checkpoint" / "tokens.safetensors")
    assert saved.keys() == expected.best_tokens.keys()
    for name, value in saved.items():
        torch.testing.assert_close(value, expected.best_tokens[name], rtol=0, atol=1e-5)
    best = expected.epochs[expected.best_epoch]["validation_loss"]
    assert record.metrics["validation_loss"] == pytest.approx(best, abs=1e-4)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["num_train"], summary["num_steps"], summary["run_id"]) == (NUM_TRAIN, 15, record.run_id)
    assert (summary["num_sentences_cut"], summary["num_unreadable"], summary["unreadable"]) == (0, 0, {})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoint", "summary.json"]
    balance = Balance.from_record(summary["balance"])
    assert balance.num_listed == NUM_TRAIN + NUM_VALIDATION and set(balance.left_out) <= {"not_drawn"}

    run = MlflowClient(tracking_uri=tracking.uri).get_run(record.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.learning_rate"] == "0.02"
    assert run.data.tags["train_manifest"] == record.parents["train_manifest"]
    curve = MlflowClient(tracking_uri=tracking.uri).get_metric_history(record.run_id, "loss")
    assert len(curve) == 15
    assert "validation_rr" in run.data.metrics and "images_per_s" in run.data.metrics
    assert {name: run.data.metrics[name] for name in balance.metrics()} == balance.metrics()

    assert "before" not in capsys.readouterr().err
    assert train.run(config, cluster=cluster, tracking=tracking) == record
    finished_line, balance_line = capsys.readouterr().err.splitlines()
    assert finished_line == f"train: finished before, nothing to do: {config.output}"
    assert balance_line == "train: 29 listed = 29 taken + 0 copies + 0 rejected + 0 left out"
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(ValueError, match=f"holds run {summary['digest']}, .* make run "):
        train.run(other, cluster=cluster, tracking=tracking)


@pytest.mark.slow
def test_a_users_mistake_on_a_worker_is_told_as_such(
    world: Path, tmp_path: Path, cluster: ClusterConfig, tracking: TrackingConfig
) -> None:
    config = config_of(world, tmp_path / "run", prompts=PromptConfig(visual_tokens=1, visual_depth=9))
    with pytest.raises(ValueError, match="visual_depth must be at most 2"):
        train.run(config, cluster=cluster, tracking=tracking)
    assert not (tmp_path / "run" / "run.json").exists(), "the mended command must not be refused"


def cut_off_snapshot(run: Path) -> None:
    """As when Ray's controller is killed while it writes its list of states, which it does not write atomically."""
    (path,) = (run / "ray").glob("*/checkpoint_manager_snapshot.json")
    path.write_bytes(b"")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_run_goes_on(
    world: Path,
    tmp_path: Path,
    cluster: ClusterConfig,
    tracking: TrackingConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C, then SIGKILL, in the middle, and then SIGKILL of the worker; the same command again gives the tokens, and
    the one MLflow run, of an unharmed run."""
    from mlflow import MlflowClient

    settings = {"num_epochs": 8, "checkpoint_every_steps": 2, "patience": 8}
    config = config_of(world, tmp_path / "run", **settings)
    client = MlflowClient(tracking_uri=tracking.uri)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from ecor.config.model import *
            from ecor.config.scoring import *
            from ecor.config.systems import *
            from ecor.config.training import *
            from pipelines.config.infrastructure import *
            from pipelines.config.training import *
            from pipelines.stages import train
            cluster = ClusterConfig(address={ray.get_runtime_context().gcs_address!r})
            for _ in range(2):
                try:
                    train.run({config!r}, cluster=cluster, tracking=TrackingConfig(uri={tracking.uri!r}))
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
            """
        )
    )

    def status() -> str:
        record = tmp_path / "run" / "run.json"
        return client.get_run(json.loads(record.read_text())["run_id"]).info.status if record.exists() else "none"

    def saved() -> list[str]:
        """What Ray Train would go on from; a state that was only written is none yet."""
        found = (tmp_path / "run" / "ray").glob("*/checkpoint_manager_snapshot.json")
        return [path.read_text() for path in found]

    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[2])}
    started = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    try:
        for blow in (signal.SIGINT, signal.SIGKILL):
            before = saved()
            while saved() == before or status() != "RUNNING":
                assert started.poll() is None, "the run ended before it was hit"
                time.sleep(0.05)
            os.kill(started.pid, blow)
            if blow == signal.SIGINT:
                assert started.stdout is not None and started.stdout.readline() == "interrupted\n"
                assert status() == "KILLED"
            assert not (tmp_path / "run" / "summary.json").exists()
        assert started.wait() == -signal.SIGKILL
    finally:
        started.kill()
    cut_off_snapshot(tmp_path / "run")
    run_id = json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]
    before = saved()
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_one, "RayTrainWorker", when=lambda: saved() not in (before, []))
        again = train.run(dataclasses.replace(config, max_failures=1), cluster=cluster, tracking=tracking)
        assert killed.result() > 0
    assert run_id == again.run_id
    told = capsys.readouterr().err
    assert "epoch 8/8" in told
    went_on = [int(step) for step in re.findall(r"^resumed at step (\d+) of 40$", told, re.M)]
    assert len(went_on) == 2 and 0 < went_on[0] < went_on[1], "after the kill, and where its worker was replaced"
    steps = [point.step for point in client.get_metric_history(run_id, "loss")]
    assert steps.count(1) == 1, "it went on from the middle, each time"
    expected = finished(tuning_of(config_of(world, tmp_path / "local", **settings)))
    for name, value in load_file(tmp_path / "run" / "checkpoint" / "tokens.safetensors").items():
        assert torch.equal(value, expected.best_tokens[name]), name
    assert client.get_run(again.run_id).info.status == "FINISHED"


def test_jobs_on_one_output_take_turns_and_one_that_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    """A second job waits for the first; a first that shows no sign of life is taken over, and then is fenced off."""
    output, told = tmp_path / "run", []
    with ThreadPoolExecutor(1) as pool:
        with hold_output(output, lease_s=2.0) as fence:
            fence()

            def second() -> None:
                with hold_output(output, lease_s=2.0) as fence_of_second:
                    told.append("second")
                    fence_of_second()

            waiting = pool.submit(second)
            time.sleep(3)
            assert told == [], "the lease is renewed"
            told.append("first")
        waiting.result(timeout=20)
    assert told == ["first", "second"]
    dead = WorkLedger(output / "_ledger", lease_s=2.0)
    dead.renew()
    assert dead.claim("run") is not None
    with hold_output(output, lease_s=0.2) as fence:
        fence()
        other = WorkLedger(output / "_ledger", lease_s=1e-9)
        other.renew()
        assert other.claim("run") is not None, "to whom the lease seems to have run out"
        with pytest.raises(OSError, match="another job has gone on with this run"):
            fence()
        (output / "summary.json").write_text("{}")
    assert not (output / "_ledger").exists(), "of a finished run nothing stays but the run"


@pytest.mark.slow
def test_a_cluster_that_gives_no_cpu_ends_in_an_error(
    world: Path, tmp_path: Path, cluster: ClusterConfig, tracking: TrackingConfig
) -> None:
    holder = cpus_held(2)
    with pytest.raises(TimeoutError, match="nothing moved for 4 s: the cluster has 0 of 2 CPUs free"):
        short = dataclasses.replace(cluster, no_progress_timeout_s=4)
        train.run(config_of(world, tmp_path / "run"), cluster=short, tracking=tracking)
    ray.kill(holder)


@pytest.mark.slow
def test_a_dead_worker_is_an_error_that_says_what_to_do(
    world: Path, tmp_path: Path, cluster: ClusterConfig, tracking: TrackingConfig
) -> None:
    """One that dies before the first step is replaced by Ray."""
    config = config_of(world, tmp_path / "run", num_epochs=5000, patience=5000)

    def is_learning() -> bool:
        return any((tmp_path / "run/ray").glob("*/checkpoint_manager_snapshot.json"))

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_one, "RayTrainWorker", when=is_learning)
        with pytest.raises(OSError, match=r"a training worker died.*same command again"):
            train.run(config, cluster=cluster, tracking=tracking)
        assert killed.result() > 0
