"""Precision and reduced JPEG files of a scoring job: chosen once for all its rows, and kept when it is resumed.

Covers: `pipelines.scoring.sources.decoded_images`, `pipelines.storage.checkpoint_facts`.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecor.checkpoint import load
from ecor.config.model import Preprocess
from ecor.data.predictions.parts import read_predictions
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.scoring.inputs import read_input
from pipelines.scoring.job import plan_job
from pipelines.scoring.sources.decoded_images import decode_images
from pipelines.stages import score
from tests.support.mlflow_databases import new_database
from tests.support.scoring_without_ray import score_without_ray
from tests.support.tiny_models import tiny_checkpoint

NUM = 6


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    score_without_ray(monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.fixture
def config(tmp_path: Path, checkpoint: str) -> ScoreConfig:
    """Large JPEG files, for a tower that takes 32 x 32 pixels."""
    for number in range(NUM):
        noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = tmp_path / "photos" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise).resize((640, 480)).save(path, quality=90)
    return ScoreConfig(input=str(tmp_path / "photos"), output=str(tmp_path / "monday"), model=checkpoint)


def with_processor(monkeypatch: pytest.MonkeyPatch, *, has_units: bool) -> None:
    monkeypatch.setattr("pipelines.scoring.job.has_bf16_units", lambda: has_units)


def precision_of(config: ScoreConfig, *, tracking: TrackingConfig) -> str:
    return plan_job(config, cluster=ClusterConfig(), tracking=tracking).config.precision


def confidences(config: ScoreConfig) -> np.ndarray:
    return read_predictions(config.output).to_pandas().sort_values("source")["confidence"].to_numpy()


@pytest.mark.parametrize(("has_units", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_processor_computes_fast(config, tracking, monkeypatch, has_units: bool, expected: str):
    with_processor(monkeypatch, has_units=has_units)
    assert precision_of(config, tracking=tracking) == expected
    assert precision_of(replace(config, precision="fp32"), tracking=tracking) == "fp32"
    assert precision_of(replace(config, use_gpu=True), tracking=tracking) == "bf16"
    score.run(config, tracking=tracking)
    model = load(str(config.model), precision=expected)
    photos = sorted(str(path) for path in Path(str(config.input)).iterdir())
    np.testing.assert_allclose(confidences(config), model.predict(photos).to_pandas()["confidence"], atol=1e-5)


def test_a_job_that_goes_on_elsewhere_keeps_its_precision(config, tracking, monkeypatch):
    with_processor(monkeypatch, has_units=True)
    made = score.run(config, tracking=tracking)
    with_processor(monkeypatch, has_units=False)
    assert precision_of(config, tracking=tracking) == "bf16"
    assert score.run(config, tracking=tracking) == made
    assert precision_of(replace(config, fresh=True), tracking=tracking) == "fp32"
    with pytest.raises(ValueError, match="precision was bf16, is fp32"):
        score.run(replace(config, precision="fp32"), tracking=tracking)
    tuesday = replace(config, output=config.output.replace("monday", "tuesday"))
    assert precision_of(tuesday, tracking=tracking) == "fp32"
    assert precision_of(replace(tuesday, since=config.output), tracking=tracking) == "bf16"


def test_labels_from_features_have_the_precision_of_the_features(config, tracking, monkeypatch):
    with_processor(monkeypatch, has_units=True)
    score.run(replace(config, keep_features=True), tracking=tracking)
    with_processor(monkeypatch, has_units=False)
    again = replace(config, input=None, features=config.output, output=f"{config.output}-again")
    score.run(again, tracking=tracking)
    np.testing.assert_allclose(confidences(again), confidences(config), atol=2e-3)


def test_labels_of_an_earlier_version_are_resumed(config, tracking, monkeypatch):
    """Their record says `auto`, which was fp32 on every CPU."""
    with_processor(monkeypatch, has_units=True)
    made = score.run(replace(config, precision="fp32"), tracking=tracking)
    record = Path(config.output) / "_commits" / "job" / "identity.json"
    identity = json.loads(record.read_text())
    record.write_text(json.dumps({**identity, "precision": "auto"}))
    again = score.run(config, tracking=tracking)
    assert json.loads(record.read_text())["precision"] == "auto"
    assert (again.num_rows, again.digest) == (made.num_rows, made.digest)


def test_threads_decode_what_one_decodes(config, tracking):
    photos = Path(str(config.input))
    for name in ("a.jpg", "c.jpg"):
        (photos / name).write_bytes(b"no image")
    (unit,) = read_input(str(photos), unit_size=100).units
    preprocess = Preprocess(image_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    one, several = (
        decode_images(unit.read(), num_images=NUM + 2, preprocess=preprocess, num_threads=number) for number in (1, 3)
    )
    assert (len(one.pixels), [Path(each.source).name for each in one.rejected]) == (NUM, ["a.jpg", "c.jpg"])
    np.testing.assert_array_equal(several.pixels, one.pixels)
    assert several.origins.equals(one.origins) and several.rejected == one.rejected
    assert score.run(replace(config, max_rejected=0.5), tracking=tracking).num_rows == NUM


def test_reduced_jpegs_change_rows_a_little_and_are_another_job(config, tracking):
    config = replace(config, precision="fp32")
    fast = replace(config, fast_jpeg=True, output=f"{config.output}-fast")
    for each in (config, fast):
        score.run(each, tracking=tracking)
    difference = np.abs(confidences(fast) - confidences(config))
    assert 0 < difference.max() < 0.02
    with pytest.raises(ValueError, match="fast_jpeg was None, is True"):
        score.run(replace(config, fast_jpeg=True), tracking=tracking)
    with pytest.raises(ValueError, match="fast_jpeg was True, is None"):
        score.run(replace(fast, fast_jpeg=False), tracking=tracking)
