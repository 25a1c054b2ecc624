"""Laws of what MLflow is told: runs reattach, aliases pin, a changed model is refused."""

import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines import registry
from pipelines.config import TrackingConfig


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs.db")


def client(tracking: TrackingConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)


def test_a_run_keeps_params_metrics_and_tags(tracking: TrackingConfig) -> None:
    run_id = registry.start_training_run(
        tracking, name="first", params={"fit": {"learning_rate": 0.1}, "seed": 3}, tags={"vocabulary": "abc"}
    )
    for step in range(3):
        registry.log_metrics(tracking, run_id=run_id, metrics={"loss": 1.0 / (step + 1)}, step=step)
    registry.finish_run(tracking, run_id=run_id, status="FINISHED")
    run = client(tracking).get_run(run_id)
    assert run.data.params == {"fit.learning_rate": "0.1", "seed": "3"}
    assert run.data.tags["vocabulary"] == "abc"
    assert run.info.status == "FINISHED"
    history = client(tracking).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]


def test_a_restarted_run_goes_on_in_the_same_run(tracking: TrackingConfig) -> None:
    first = registry.start_training_run(tracking, name="again", params={"seed": 1}, tags={})
    registry.finish_run(tracking, run_id=first, status="FAILED")
    second = registry.start_training_run(tracking, name="again", params={"seed": 1}, tags={}, run_id=first)
    assert second == first
    assert client(tracking).get_run(first).info.status == "RUNNING"
    with pytest.raises(ValueError, match="0000 is not on sqlite"):
        registry.start_training_run(tracking, name="again", params={}, tags={}, run_id="0000")


def test_a_block_that_fails_leaves_a_failed_run(tracking: TrackingConfig) -> None:
    with pytest.raises(RuntimeError), registry.recorded_run(tracking, name="bad", params={}, tags={}) as run_id:
        raise RuntimeError("no")
    assert client(tracking).get_run(run_id).info.status == "FAILED"


def test_an_evaluation_is_a_run_with_its_folder(tracking: TrackingConfig, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("rule,rr\nstrict,0.5\n")
    run_id = registry.log_evaluation(tracking, metrics={"strict/rr": 0.5}, folder=tmp_path, tags={"model": "m"})
    assert client(tracking).get_run(run_id).data.metrics == {"strict/rr": 0.5}
    assert [file.path for file in client(tracking).list_artifacts(run_id)] == ["table.csv"]


def test_without_a_uri_the_database_is_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry.resolved(TrackingConfig()).uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert registry.resolved(TrackingConfig()).uri == "http://somewhere:5000"
    assert registry.resolved(TrackingConfig(uri="sqlite:////x.db")).uri == "sqlite:////x.db"


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"{uri} does not answer"):
            registry.start_training_run(TrackingConfig(uri=uri), name="x", params={}, tags={})
    with pytest.raises(ValueError, match="does not accept the tracking URI"):
        registry.start_training_run(TrackingConfig(uri=f"file:{tmp_path}/runs"), name="x", params={}, tags={})
