"""A small job in this process: the recognizer's own rows, errors of both threads, an interrupt, and what it leaves."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ecor.checkpoint import load
from ecor.data.predictions.parts import read_predictions
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring import scorer
from pipelines.stages import score
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import tiny_checkpoint, write_pictures

NUM_PICTURES = 7


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray must not be asked for."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.runtime.cluster.connect", None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.fixture
def config(tmp_path: Path, checkpoint: str) -> ScoreConfig:
    write_pictures(tmp_path / "photos", num=NUM_PICTURES)
    return ScoreConfig(
        input=str(tmp_path / "photos"),
        output=str(tmp_path / "labels"),
        model=checkpoint,
        unit_size=3,
        batch_size=2,
        precision="fp32",
    )


def test_rows_are_the_recognizers_own_and_the_callers_threads_stay(config, tracking, checkpoint, monkeypatch):
    before = torch.get_num_threads()
    (Path(config.input) / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    made = score.run(replace(config, max_rejected=0.5), tracking=tracking)
    assert torch.get_num_threads() == before
    assert (made.num_rows, made.num_rejected, len(made.parts)) == (NUM_PICTURES, 1, 3)
    rows = read_predictions(config.output).to_pandas()
    expected = load(checkpoint).predict(list(rows["source"])).to_pandas()
    assert list(rows["rationale"]) == list(expected["rationale"])
    np.testing.assert_allclose(rows["confidence"], expected["confidence"], atol=1e-5)
    summary = json.loads((Path(config.output) / "summary.json").read_text())
    assert summary["in_process"] and summary["actors"]["num_scorers"] == 1


def test_after_an_interrupt_the_same_command_goes_on(config, tracking, monkeypatch):
    calls = 0
    label = scorer.Scorer.__call__

    def interrupted(self, rows):
        nonlocal calls
        calls += 1
        if calls == 2:  # the second unit
            raise KeyboardInterrupt
        return label(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(scorer.Scorer, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score.run(config, tracking=tracking)
    assert not (Path(config.output) / "manifest.json").exists()
    made = score.run(config, tracking=tracking)
    assert made.num_rows == NUM_PICTURES
    summary = json.loads((Path(config.output) / "summary.json").read_text())
    assert (summary["num_units_kept"], summary["num_units_done"]) == (1, 2)


def test_an_error_of_the_decoding_thread_ends_the_job(config, tracking, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.scoring.decoder.decode_unit", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            score.run(config, tracking=tracking)
    assert score.run(config, tracking=tracking).num_rows == NUM_PICTURES


def test_a_disk_that_does_not_answer_ends_the_job_with_the_remedy(config, tracking, monkeypatch):
    answered = threading.Event()

    def hang(*args, **kwargs):
        answered.wait(20)
        return iter(())

    monkeypatch.setattr("pipelines.scoring.decoder.decode_unit", hang)
    monkeypatch.setattr("pipelines.scoring.flows.local_flow._LAST_PART_S", 0.1)
    with pytest.raises(TimeoutError, match=r"no image was read and decoded for 0\.3 s.*no-progress-timeout-s"):
        score.run(config, cluster=ClusterConfig(no_progress_timeout_s=0.3), tracking=tracking)
    answered.set()


def test_a_model_that_does_not_load_is_told(config, tracking, tmp_path):
    shutil.copytree(config.model, tmp_path / "damaged")
    tokens = tmp_path / "damaged" / "tokens.safetensors"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"tokens\.safetensors"):
        score.run(replace(config, model=str(tmp_path / "damaged")), tracking=tracking)
