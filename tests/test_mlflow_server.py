"""Laws against a real server (PostgreSQL, basic auth): restarts, moved aliases, eight actors, mistakes in a line."""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow import MlflowClient
from models import tiny_checkpoint, write_pictures

from ecor.checkpoint import Checkpoint, load
from ecor.predictions import read_predictions
from pipelines import cluster, pinned, registry, score
from pipelines.__main__ import USER_MISTAKE, main
from pipelines.config import PromoteConfig, RegisterConfig, ScoreConfig
from pipelines.pinned import ModelVersion
from pipelines.places import ClusterConfig, TrackingConfig

pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install 'ecor[dev]'")
pytest.importorskip("flask_wtf", reason="flask_wtf is not installed: pip install 'ecor[dev]'")

from mlflow_server import ADMIN, MlflowServer, free_port, mlflow_server, postgres_programs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="there is no PostgreSQL: apt-get install postgresql"),
]
ROOT = Path(__file__).resolve().parents[1]
NUM_ACTORS = 8
NUM_PICTURES = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with pytest.MonkeyPatch.context() as patch, mlflow_server(tmp_path_factory.mktemp("server")) as started:
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", started.password)
        patch.setenv("ECOR_CACHE", str(tmp_path_factory.mktemp("cache")))
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
    made = registry.register(RegisterConfig(checkpoint=checkpoints[0].folder, name="tiny"), tracking=tracking)
    return registry.promote(PromoteConfig(model=made.uri), tracking=tracking)


def told_by(words: list[str]) -> str:
    with redirect_stderr(io.StringIO()) as said:
        assert main(words) == USER_MISTAKE
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


# --- one model on many machines


ACTOR = """
import json, os, sys, time
from pathlib import Path
from ecor.checkpoint import load
from pipelines import pinned
from pipelines.places import TrackingConfig

version, uri, place = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
fetched = pinned._download

def download(*given, **named):
    with (place / "downloads").open("a") as file:
        file.write("once\\n")
    fetched(*given, **named)

pinned._download = download
(place / f"{os.getpid()}.ready").touch()
while len(list(place.glob("*.ready"))) < int(sys.argv[4]):
    time.sleep(0.01)
model = pinned.ModelVersion(**version)
print(load(pinned.fetch(model, tracking=TrackingConfig(uri=uri), cache_dir=place / "cache")).digest)
"""


def test_eight_actors_of_a_machine_download_a_model_once(
    server: MlflowServer, champion: ModelVersion, tmp_path: Path
) -> None:
    words = [json.dumps(asdict(champion)), server.url, str(tmp_path), str(NUM_ACTORS)]
    actors = [
        subprocess.Popen([sys.executable, "-c", ACTOR, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(NUM_ACTORS)
    ]
    told = [actor.communicate(timeout=200)[0] for actor in actors]
    assert told == [f"{champion.digest}\n"] * NUM_ACTORS
    assert (tmp_path / "downloads").read_text() == "once\n"


def test_a_job_keeps_the_version_that_it_began_with(
    tracking: TrackingConfig, champion: ModelVersion, checkpoints: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    job = registry.resolve("models:/tiny@champion", tracking=tracking)
    newer = registry.register(RegisterConfig(checkpoint=checkpoints[1].folder, name="tiny"), tracking=tracking)
    stays = registry.promote(PromoteConfig(model=newer.uri), tracking=tracking)
    assert stays.version == champion.version  # nobody has compared them
    assert registry.promote(PromoteConfig(model=newer.uri, force=True), tracking=tracking) == newer
    tags = MlflowClient(tracking.uri).get_model_version("tiny", str(newer.version)).tags
    assert tags["ecor.champion.forced"].startswith(f"not compared with {champion.uri}")
    assert registry.resolve("models:/tiny@champion", tracking=tracking).version == newer.version
    assert load(pinned.fetch(job, tracking=tracking, cache_dir=tmp_path)).digest == champion.digest
    back = PromoteConfig(model=champion.uri, force=True)
    assert registry.promote(back, tracking=tracking).version == champion.version


# --- a server that goes


def test_a_restart_of_the_server_in_mid_job_is_waited_for(
    server: MlflowServer, tracking: TrackingConfig, champion: ModelVersion, tmp_path: Path
) -> None:
    """`score` on Ray: the server ends when the first labels are there, and comes back."""
    write_pictures(tmp_path / "pictures", num=NUM_PICTURES)
    output = tmp_path / "labels"

    def restart() -> None:
        while not list(output.glob("*.parquet")):
            time.sleep(0.05)
        server.stop()
        time.sleep(3)
        server.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    config = ScoreConfig(
        input=str(tmp_path / "pictures"), output=str(output), model="models:/tiny@champion", batch_size=4, unit_size=4
    )
    with cluster.connected(ClusterConfig(num_cpus=1)):
        labels = score.run(config, tracking=tracking)
    restarting.join()
    rows = read_predictions(str(output))
    assert rows.num_rows == NUM_PICTURES
    assert set(rows["model_version"].to_pylist()) == {champion.version}
    assert set(rows["model_digest"].to_pylist()) == {champion.digest}
    run = MlflowClient(tracking.uri).get_run(str(labels.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["num_images"] == NUM_PICTURES
    assert json.loads((output / "summary.json").read_text())["run_id"] == labels.run_id


def test_a_server_that_is_gone_for_good_is_told_and_the_run_goes_on_later(
    server: MlflowServer, tracking: TrackingConfig, monkeypatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    run_id = registry.start_training_run(tracking, name="again", params={"seed": 1}, tags={})
    server.stop()
    with pytest.raises(OSError, match=f"the MLflow server {server.url} .* run the same command again"):
        registry.log_metrics(tracking, run_id=run_id, metrics={"loss": 1.0}, step=0)
    with pytest.raises(ValueError, match="does not answer"):
        registry.start_training_run(tracking, name="again", params={}, tags={}, run_id=run_id)
    server.start()
    assert registry.start_training_run(tracking, name="again", params={}, tags={}, run_id=run_id) == run_id
    registry.log_metrics(tracking, run_id=run_id, metrics={"loss": 0.5}, step=1)
    registry.finish_run(tracking, run_id=run_id)
    assert MlflowClient(tracking.uri).get_run(run_id).data.metrics == {"loss": 0.5}


def test_a_server_that_never_was_is_told_in_a_line(server: MlflowServer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "nobody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "nothing")  # put back afterwards: the address overwrites them
    nowhere = f"http://user:a-password@127.0.0.1:{free_port()}"
    words = score_words(server, tmp_path, model="models:/tiny@champion")
    line = told_by([*words[:-1], nowhere])
    assert "does not answer" in line
    assert "a-password" not in line
