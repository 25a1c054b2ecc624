"""Laws against a real server (PostgreSQL, basic auth, started as infra/mlflow has it): restarts, moved aliases,
eight actors, mistakes in a line, and no password anywhere."""

import io
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from mlflow import MlflowClient

from ecor.checkpoint import Checkpoint
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.training import FitConfig
from ecor.data.predictions.parts import read_predictions
from pipelines.__main__ import EXIT_USER_ERROR, main
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig
from pipelines.config.training import TrainConfig
from pipelines.runtime import cluster
from pipelines.stages import promote, score, train
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion
from tests.support.tiny_models import tiny_checkpoint, write_pictures
from tests.support.tiny_splits import write_world

pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install 'ecor[dev]'")
pytest.importorskip("flask_wtf", reason="flask_wtf is not installed: pip install 'ecor[dev]'")

from tests.support.mlflow_server import (
    ADMIN,
    MlflowServer,
    fetch_with_others,
    free_port,
    has_exporter,
    mlflow_server,
    postgres_programs,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="there is no PostgreSQL: apt-get install postgresql"),
]
NUM_ACTORS = 8
NUM_PICTURES = 24
NUM_EPOCHS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with pytest.MonkeyPatch.context() as patch, mlflow_server(tmp_path_factory.mktemp("server")) as started:
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", started.password)
        patch.setenv("ECOR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")  # two minutes of patience, in half as long steps
        yield started


@pytest.fixture(scope="module")
def tracking(server: MlflowServer) -> TrackingConfig:
    return TrackingConfig(uri=server.url)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    first, second = (tiny_checkpoint(tmp_path_factory.mktemp("run"), seed=seed) for seed in (0, 1))
    return first, second


@pytest.fixture(scope="module")
def champion(tracking: TrackingConfig, checkpoints: tuple[Checkpoint, Checkpoint]) -> ModelVersion:
    """Version 1 of `tiny`, registered and promoted."""
    made = model_registry.register_model(
        RegisterConfig(checkpoint=checkpoints[0].folder, name="tiny"), tracking=tracking
    )
    return promote.run(PromoteConfig(model=made.uri), tracking=tracking)


def told_by(words: list[str]) -> str:
    with redirect_stderr(io.StringIO()) as said:
        assert main(words) == EXIT_USER_ERROR
    lines = said.getvalue().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def score_words(server: MlflowServer, output: Path, *, model: str) -> list[str]:
    places = ["--input", str(output / "none"), "--output", str(output / "labels")]
    return ["score", *places, "--model", model, "--tracking.uri", server.url]


# --- mistakes, in a line


def test_a_wrong_password_is_told_in_a_line_without_it(server: MlflowServer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-password")
    line = told_by(score_words(server, tmp_path, model="models:/tiny@champion"))
    assert "refuses the user and password" in line and "MLFLOW_TRACKING_PASSWORD" in line
    assert server.url in line
    assert "not-the-password" not in line


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("models:/nosuch@champion", "registered models are tiny"),
        ("models:/tiny@nosuch", "the aliases candidate (version 1), champion (version 1)"),
        ("models:/tiny/99", "tiny has the versions 1"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    server: MlflowServer, champion: ModelVersion, tmp_path: Path, model: str, told: str
) -> None:
    line = told_by(score_words(server, tmp_path, model=model))
    assert f"there is no {model} on {server.url}" in line and told in line


def test_the_servers_start_script_serves_known_hosts_metrics_and_artifacts(
    server: MlflowServer, champion: ModelVersion
) -> None:
    assert server.answer("/api/2.0/mlflow/registered-models/get?name=tiny")[0] == 200
    for host in ("evil.example", "localhost:5000"):
        assert server.answer("/", host=host) == (403, "Invalid Host header - possible DNS rebinding attack detected")
    assert server.answer("/health", host="a-probe")[0] == 200
    assert any(server.artifacts.rglob("checkpoint.json"))
    if has_exporter():
        status, metrics = server.answer("/metrics")
        assert status == 200 and "mlflow_http_request_total" in metrics


def test_a_server_that_does_not_know_its_name_is_told_in_a_line(server: MlflowServer, tmp_path: Path) -> None:
    address = server.url.replace("127.0.0.1", "localhost")
    words = score_words(server, tmp_path, model="models:/tiny@champion")
    line = told_by([*words[:-1], address])
    assert f"{address} does not answer to this name (403" in line and "MLFLOW_SERVER_ALLOWED_HOSTS" in line


def test_what_a_user_may_not_do_is_told_in_a_line(server: MlflowServer, champion: ModelVersion, monkeypatch) -> None:
    user = {"username": "reader", "password": "a-reader-reads"}
    assert server.answer("/api/2.0/mlflow/users/create", data=user)[0] == 200
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user["password"])
    line = told_by(["promote", "--model", champion.uri, "--alias", "mine", "--tracking.uri", server.url])
    assert f"{server.url} does not let this user do that (403, permission denied)" in line
    assert user["password"] not in line


# --- one model on many machines


def test_eight_actors_of_a_machine_download_a_model_once(
    server: MlflowServer, champion: ModelVersion, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "mlflow.artifacts",
            "pipelines.tracking.model_package",
            "pipelines.tracking.model_cache",
            "pipelines.tracking.mlflow_runs",
        ]
    )
    given = (champion, server.url, tmp_path, NUM_ACTORS, dict(os.environ))
    actors = [context.Process(target=fetch_with_others, args=given) for _ in range(NUM_ACTORS)]
    for actor in actors:
        actor.start()
    for actor in actors:
        actor.join(200)
    assert [actor.exitcode for actor in actors] == [0] * NUM_ACTORS
    assert (tmp_path / "downloads").read_text() == "once\n"
    fetched = [path.read_text() for path in tmp_path.glob("*.fetched")]
    assert fetched == [champion.digest] * NUM_ACTORS


# --- a server that goes


@contextmanager
def hit(deed: Callable[[], None], *, when: Callable[[], bool]) -> Iterator[None]:
    """Beside the block: `deed`, as soon as `when` holds; it must have come to that."""
    ended, done = threading.Event(), []

    def strike() -> None:
        while not when():
            if ended.wait(0.02):
                return
        deed()
        done.append(True)

    striking = threading.Thread(target=strike)
    striking.start()
    try:
        yield
    finally:
        ended.set()
        striking.join()
    assert done, "the job ended before it was hit"


def gone(server: MlflowServer) -> str:
    return f"the MLflow server {server.url} .* run the same command again"


def restarted(server: MlflowServer) -> None:
    """It takes seconds to start."""
    server.stop()
    server.start()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and a tiny CLIP; what is trained goes beside them."""
    return write_world(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def machine(server: MlflowServer) -> Iterator[ClusterConfig]:
    """A cluster whose workers know the server's password."""
    with cluster.connect(ClusterConfig(num_cpus=1)):
        yield ClusterConfig(local_images=0)


def train_config(place: Path) -> TrainConfig:
    return TrainConfig(
        shards=str(place / "shards"),
        output=str(place / "run"),
        backbone=BackboneConfig(name=str(place / "tiny-clip.json"), pretrained="random"),
        prompts=PromptConfig(rationale_tokens=2, category_tokens=2),
        fit=FitConfig(learning_rate=0.02, warmup_steps=2),
        num_epochs=NUM_EPOCHS,
        patience=NUM_EPOCHS,
        batch_size=4,
        checkpoint_every_steps=2,
        cache_dir=str(place / "cache"),
    )


def states(place: Path) -> str:
    """What the run would go on from now: on a cluster Ray's list of states, in one process the newest of them."""
    lists = (place / "run/ray").glob("*/checkpoint_manager_snapshot.json")
    return "".join(path.read_text() for path in lists) or max(
        map(str, (place / "run/ray").glob("*/checkpoint_*")), default=""
    )


def test_training_whose_server_is_gone_for_good_ends_in_a_line(
    server: MlflowServer, tracking: TrackingConfig, place: Path, monkeypatch
) -> None:
    """The call that fails is a worker's, in the middle of an epoch; and nobody waits for minutes to close the run.

    The worker runs in this process; the same command then goes on on a cluster.
    """
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with hit(server.stop, when=lambda: bool(states(place))), pytest.raises(OSError, match=gone(server)):
        train.run(train_config(place), tracking=tracking)
    assert json.loads((place / "run/run.json").read_text())["run_id"]
    assert not (place / "run/summary.json").exists()
    server.start()


def test_the_same_command_goes_on_in_the_same_run_though_the_server_is_away_for_a_while(
    server: MlflowServer, tracking: TrackingConfig, machine: ClusterConfig, place: Path
) -> None:
    """One run, whose curve lacks no step, and a model with its name on it."""
    run_id, before = json.loads((place / "run/run.json").read_text())["run_id"], states(place)
    with hit(lambda: restarted(server), when=lambda: states(place) != before):
        record = train.run(train_config(place), cluster=machine, tracking=tracking)
    assert record.run_id == run_id
    client = MlflowClient(tracking.uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    made = client.search_runs([run.info.experiment_id], f"tags.config = '{run.data.tags['config']}'")
    assert [each.info.run_id for each in made] == [run_id]
    steps = [point.step for point in client.get_metric_history(run_id, "loss")]
    assert set(steps) == set(range(1, json.loads((place / "run/summary.json").read_text())["num_steps"] + 1))
    assert steps.count(1) == 1, "it went on from the middle of the first epoch"
    assert {"best_validation_loss", "validation_rr"} <= set(run.data.metrics)


def parts_of(output: Path) -> list[Path]:
    """Files of units that are written."""
    return sorted(output.glob("*-*-*.parquet"))


def test_what_was_trained_is_promoted_and_scores_with_that_version_whatever_becomes_of_server_and_alias(
    server: MlflowServer,
    tracking: TrackingConfig,
    machine: ClusterConfig,
    place: Path,
    checkpoints: tuple[Checkpoint, Checkpoint],
    monkeypatch,
) -> None:
    """The server goes for good when the first labels are there, and comes back; while the same command makes the rest,
    it restarts, and the alias moves."""
    learned = model_registry.register_model(
        RegisterConfig(checkpoint=str(place / "run"), name="learned"), tracking=tracking
    )
    assert promote.run(PromoteConfig(model=learned.uri), tracking=tracking) == learned
    assert learned.run_id == json.loads((place / "run/summary.json").read_text())["run_id"]
    newer = model_registry.register_model(
        RegisterConfig(checkpoint=checkpoints[1].folder, name="learned"), tracking=tracking
    )
    stays = promote.run(PromoteConfig(model=newer.uri), tracking=tracking)
    assert stays.version == learned.version  # nobody has compared them
    write_pictures(place / "pictures", num=NUM_PICTURES)
    output = place / "labels"
    config = ScoreConfig(
        input=str(place / "pictures"),
        output=str(output),
        model="models:/learned@champion",
        batch_size=4,
        unit_size=4,
    )
    began = output / "_commits/job/run.json"
    with monkeypatch.context() as impatient:
        impatient.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        with hit(server.stop, when=lambda: bool(parts_of(output))), pytest.raises(OSError, match=gone(server)):
            score.run(config, cluster=machine, tracking=tracking)
        run_id = json.loads(began.read_text())["run_id"]
        with pytest.raises(ValueError, match="does not answer"):
            model_registry.start_training_run(tracking, name="again", params={}, tags={}, run_id=run_id)
    server.start()
    before = pa.concat_tables([pq.read_table(path) for path in parts_of(output)]).sort_by("key")
    assert before.num_rows == NUM_PICTURES
    num_left = len(parts_of(output)) // 2
    for path in parts_of(output)[num_left:]:
        path.unlink()

    def restart_and_move() -> None:
        restarted(server)
        assert promote.run(PromoteConfig(model=newer.uri, force=True), tracking=tracking) == newer

    with hit(restart_and_move, when=lambda: len(parts_of(output)) > num_left):
        labels = score.run(config, cluster=machine, tracking=tracking)
    tags = MlflowClient(tracking.uri).get_model_version("learned", str(newer.version)).tags
    assert tags["ecor.champion.forced"].startswith(f"not compared with {learned.uri}")
    rows = read_predictions(str(output))
    assert rows.sort_by("key").equals(before)
    assert set(rows["model_version"].to_pylist()) == {learned.version}
    assert set(rows["model_digest"].to_pylist()) == {learned.digest}
    run = MlflowClient(tracking.uri).get_run(str(labels.run_id))
    assert labels.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics["num_images"] == NUM_PICTURES
    assert json.loads((output / "summary.json").read_text())["run_id"] == labels.run_id
    with pytest.raises(ValueError, match=f"model_version was {learned.version}, is {newer.version}"):
        score.run(config, cluster=machine, tracking=tracking)  # the alias means another one now


def test_the_password_is_in_no_record_no_log_and_no_run(
    server: MlflowServer, tracking: TrackingConfig, machine: ClusterConfig, place: Path
) -> None:
    """After all that was trained and scored above, with errors among it."""
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    files = [path for folder in (place, logs) for path in folder.rglob("*") if path.is_file()]
    assert {"summary.json", "manifest.json", "checkpoint.json", "raylet.out"} <= {path.name for path in files}
    assert any(path.name.startswith("worker-") for path in files)
    assert not [path for path in [*files, server.log] if server.password.encode() in path.read_bytes()]
    client = MlflowClient(tracking.uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert {"train", "score"} <= {run.info.run_name for run in runs}
    versions = client.search_model_versions("name = 'learned'")
    assert len(versions) == 2
    told = [run.to_dictionary() for run in runs] + [dict(version) for version in versions]
    assert server.password not in json.dumps(told, default=str)


def test_a_server_that_never_was_is_told_in_a_line(server: MlflowServer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "nobody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "nothing")  # put back afterwards: the address overwrites them
    nowhere = f"http://user:a-password@127.0.0.1:{free_port()}"
    words = score_words(server, tmp_path, model="models:/tiny@champion")
    line = told_by([*words[:-1], nowhere])
    assert "does not answer" in line
    assert "a-password" not in line
