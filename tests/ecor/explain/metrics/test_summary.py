"""Laws of judging many maps at once: each measure is the one of `measures` and `boxes`; intervals behave.

Covers: `ecor.explain.metrics.measure_table`.
"""

import numpy as np
import torch
from torch.testing import assert_close

from ecor.evaluation.confidence_intervals import Resampling
from ecor.explain.metrics.boxes import box_of, max_box_acc, max_box_acc_v2
from ecor.explain.metrics.localization import (
    energy_inside,
    mean_iou_at_mean,
    mean_iou_oracle,
    mean_score_contrast,
    pixel_average_precision,
    pointing_hit,
)
from ecor.explain.metrics.measure_table import LOCALISATION
from ecor.explain.metrics.summary import NUM_BINS, localization_estimates, pad_with_nan

RESAMPLING = Resampling(num_resamples=200)


def cases(num: int = 12, *, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps in the benchmark's own steps from 0 to 1, and a rectangle each."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, NUM_BINS, (num, size, size), generator=generator).float()
    maps[:, 0, 0], maps[:, 0, 1] = 0, NUM_BINS - 1
    masks = torch.zeros(num, size, size, dtype=torch.bool)
    for n in range(num):
        masks[n, n % 5 : n % 5 + 6, 3 : 7 + n % 3] = True
    return (maps + 60 * masks).clamp(max=NUM_BINS - 1) / (NUM_BINS - 1), masks


def test_the_whole_sample_gives_the_measures_of_the_library() -> None:
    maps, masks = cases()
    found = {name: each.value for name, each in localization_estimates(maps, masks, resampling=RESAMPLING).items()}
    boxes = torch.stack([box_of(mask) for mask in masks])
    expected = {
        "iou": mean_iou_oracle(maps, masks).value,
        "iou_at_mean": mean_iou_at_mean(maps, masks),
        "contrast": mean_score_contrast(maps, masks, images=torch.arange(len(maps))),
        "pointing": float(pointing_hit(maps, masks).mean()),
        "energy": float(energy_inside(maps, masks).mean()),
        "pxap": pixel_average_precision(maps, masks),
        "box": max_box_acc(maps, boxes).value,
        "box_v2": max_box_acc_v2(maps, boxes),
    }
    assert list(found) == list(LOCALISATION)
    for name, value in expected.items():
        assert_close(found[name], value, atol=1e-5, rtol=0, msg=name)


def test_the_truth_is_best_and_its_opposite_worst() -> None:
    _, masks = cases()
    truth = localization_estimates(masks.float(), masks, resampling=RESAMPLING)
    opposite = localization_estimates(1 - masks.float(), masks, resampling=RESAMPLING)
    for name in set(LOCALISATION) - {"contrast"}:
        assert 1 - 1e-9 < truth[name].low <= truth[name].high < 1 + 1e-9, name
    assert abs(truth["contrast"].value - 100) < 1e-9 and abs(opposite["contrast"].value + 100) < 1e-9
    for name in ("pointing", "energy"):
        assert opposite[name].high == 0


def test_intervals_hold_the_value_and_shrink_with_more_images() -> None:
    few, many = (localization_estimates(*cases(num), resampling=RESAMPLING) for num in (6, 40))
    for name in ("contrast", "energy", "iou_at_mean"):
        assert few[name].low <= few[name].value <= few[name].high
        assert many[name].high - many[name].low < few[name].high - few[name].low


def test_what_is_not_known_is_not_a_number() -> None:
    columns = pad_with_nan({"all": torch.ones(4), "first": torch.ones(2), "none": None}, num=4)
    assert np.isnan(columns["none"]).all() and np.isnan(columns["first"]).tolist() == [False, False, True, True]
    assert (columns["all"] == 1).all()
