"""An image that the weights cannot encode is a rejection with its reason, never a label of NaN."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecor.checkpoint import save_checkpoint
from ecor.config.model import TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.schema import origins_table
from pipelines.config.infrastructure import TrackingConfig
from pipelines.scoring.attributions import AttributionSettings
from pipelines.scoring.decoder import Part
from pipelines.scoring.flows.flow_settings import ScorerSettings
from pipelines.scoring.scored_part import ScoredPart
from pipelines.scoring.scorer import Scorer
from pipelines.tracking import model_registry
from tests.support.overflowing_model import overflowing_recognizer, white_and_grey


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_checkpoint(overflowing_recognizer(path), path / "checkpoint", with_backbone=True)
    return path / "checkpoint"


def score(folder: Path, order: list[int], *, batch_size: int, rule: AttributionSettings | None = None) -> ScoredPart:
    """A part of white (0) and grey (1) images."""
    settings = ScorerSettings(
        model=model_registry.resolve_model(str(folder), tracking=TrackingConfig()),
        tracking=TrackingConfig(),
        vocabulary=None,
        scoring=ScoringConfig(),
        text=TextConfig(),
        batch_size=batch_size,
        precision="fp32",
        use_gpu=False,
        num_threads=1,
        evidence=rule,
    )
    names = [f"k{place}" for place in range(len(order))]
    origins = origins_table(names, source=[f"{name}.png" for name in names])
    pixels = white_and_grey()[order]
    part = Part(unit="0", attempt=None, index=0, num_parts=1, pixels=pixels, origins=origins, rejected=(), decode_s=0.0)
    return Scorer(settings).score(part)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_without_a_finite_feature_are_rejected(folder: Path, batch_size: int):
    scored = score(folder, [1, 0, 0, 1, 1], batch_size=batch_size)
    assert scored.rows["key"].to_pylist() == ["k0", "k3", "k4"]
    assert np.isfinite(scored.rows["confidence"].to_numpy()).all()
    assert [(each.source, each.stage, each.reason) for each in scored.rejected] == [
        ("k1.png", "score", "not_finite"),
        ("k2.png", "score", "not_finite"),
    ]
    assert "overflow" in scored.rejected[0].detail
    assert score(folder, [0, 0], batch_size=batch_size).rows.num_rows == 0


def test_heat_maps_stay_with_their_images(folder: Path):
    rule = AttributionSettings(method="grad_eclip", top=1, images="all", share=1.0, seed=0)
    scored = score(folder, [0, 1, 0], batch_size=2, rule=rule)
    assert scored.rows["key"].to_pylist() == ["k1"] and len(scored.rejected) == 2


def test_the_model_of_a_notebook_names_the_image(tmp_path: Path):
    model = overflowing_recognizer(tmp_path)
    white, grey = (Image.fromarray(each.transpose(1, 2, 0)) for each in white_and_grey())
    assert len(model.predict([grey, grey])) == 2
    with pytest.raises(ValueError, match="picture 1 has a feature of NaN or infinity"):
        model.predict([grey, white, grey])
