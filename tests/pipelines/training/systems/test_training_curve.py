"""A point of the curves is the mean of the steps since the last point."""

import pytest
import torch

from ecor.training.distributed import Rank
from pipelines.training.systems.training_curve import TrainingCurve


def test_a_point_is_the_mean_over_its_steps() -> None:
    curve = TrainingCurve()
    for loss, norm, rate in ((1.0, 2.0, 0.1), (3.0, 6.0, 0.3)):
        terms = {"rationale": torch.tensor(loss), "category": torch.tensor(0.5)}
        curve.add(terms, gradient_norm=torch.tensor(norm), learning_rate=rate)
    point = curve.mean_over(Rank())
    expected = {"rationale": 2.0, "category": 0.5, "loss": 2.5, "gradient_norm": 4.0, "learning_rate": 0.2}
    assert point == pytest.approx(expected)
