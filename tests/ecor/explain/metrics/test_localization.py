"""Laws of the measures: hand-computed cases, other libraries' numbers, and the anchors every table is read against.

Covers: `ecor.explain.metrics.boxes`, `ecor.explain.metrics.faithfulness`.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, jaccard_score
from torch import Tensor
from torch.testing import assert_close

from ecor.data.heatmap import minmax
from ecor.explain import CosineForward, attribute, build_method
from ecor.explain.metrics.boxes import CONVIS, BoxRule, box_of, box_overlap, max_box_acc, max_box_acc_v2
from ecor.explain.metrics.faithfulness import (
    blur,
    confidence,
    deletion,
    flip_equivariance,
    insertion,
    randomise_weights,
    rank_correlation,
)
from ecor.explain.metrics.localization import (
    energy_inside,
    intersection_over_union,
    mean_iou_at_mean,
    mean_iou_oracle,
    mean_score_contrast,
    pixel_average_precision,
    pointing_game_multi,
    pointing_hit,
    score_contrast,
)
from tests.support.tiny_towers import RESNET, pixels_for, texts_for, tower_of


def disks(num: int = 60, *, size: int = 64, seed: int = 0) -> Tensor:
    """Round masks anywhere in the picture."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = torch.randint(8, size - 8, (num, 2), generator=generator)
    radii = torch.randint(5, 13, (num,), generator=generator)
    return torch.stack([(rows - y) ** 2 + (columns - x) ** 2 <= r**2 for (y, x), r in zip(centres, radii, strict=True)])


def noise(num: int = 60, *, size: int = 64, seed: int = 1) -> Tensor:
    return torch.rand(num, size, size, generator=torch.Generator().manual_seed(seed))


HAND = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]]])
HAND_MASK = torch.tensor([[[False, False, True], [False, True, False]]])


def test_anchors_truth_inverse_and_noise() -> None:
    masks = disks()
    truth, inverse, area = masks.float(), 1 - masks.float(), float(masks.float().mean())
    assert mean_iou_oracle(truth, masks).value == 1 and mean_iou_at_mean(truth, masks) == 1
    assert score_contrast(truth, masks).tolist() == [100] * 60
    assert score_contrast(inverse, masks).tolist() == [-100] * 60
    assert pointing_hit(truth, masks).mean() == 1 and pointing_hit(inverse, masks).max() == 0
    assert energy_inside(truth, masks).mean() == 1 and energy_inside(inverse, masks).max() == 0
    assert pixel_average_precision(truth, masks) == 1
    assert mean_iou_oracle(inverse, masks).value == pytest.approx(area, abs=1e-6)
    assert float(energy_inside(noise(), masks).mean()) == pytest.approx(area, abs=0.005)
    assert pixel_average_precision(noise(), masks) == pytest.approx(area, abs=0.005)
    assert abs(float(score_contrast(noise(), masks).mean())) < 1
    constant = torch.full_like(truth, 3.0)
    assert_close(pointing_hit(constant, masks), masks.float().mean((1, 2)))
    assert_close(energy_inside(constant, masks), masks.float().mean((1, 2)))
    assert score_contrast(constant, masks).abs().max() == 0


def test_measures_by_hand() -> None:
    ious = intersection_over_union(HAND, HAND_MASK, thresholds=(0.0, 0.5, 0.75, 1.0))
    assert_close(ious, torch.tensor([[2 / 6, 2 / 3, 1 / 3, 1 / 2]]))
    best = mean_iou_oracle(HAND, HAND_MASK)
    assert best.value == pytest.approx(2 / 3) and 0.25 < best.threshold <= 0.5
    # the mean of 0 1/4 2/4 3/4 1 0 is 5/12: found are 2/4, 3/4 and 1
    assert mean_iou_at_mean(HAND, HAND_MASK) == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert float(score_contrast(HAND, HAND_MASK)) == pytest.approx(100 * ((0.5 + 1) / 2 - (0.25 + 0.75) / 4))
    assert float(energy_inside(HAND, HAND_MASK)) == pytest.approx(6 / 10)
    assert float(energy_inside(HAND - 2, HAND_MASK)) == pytest.approx(6 / 10)
    assert float(energy_inside(HAND - 2, HAND_MASK, relu=True)) == pytest.approx(2 / 3)
    assert pointing_hit(HAND, HAND_MASK).item() == 1 and pointing_hit(-HAND, HAND_MASK).item() == 0
    assert pointing_hit(torch.tensor([[[0.0, 0, 5], [5, 0, 0]]]), HAND_MASK).item() == 0.5


def test_iou_and_pxap_are_scikit_learns() -> None:
    masks, maps = disks(5, size=32), noise(5, size=32) + disks(5, size=32).float() * 0.5
    maps = (maps * 20).round()  # ties
    normed = minmax(maps)
    ious = intersection_over_union(maps, masks, thresholds=(0.3, 0.6))
    for n in range(5):
        for k, threshold in enumerate((0.3, 0.6)):
            wanted = jaccard_score(masks[n].flatten().numpy(), (normed[n] >= threshold).flatten().numpy())
            assert float(ious[n, k]) == pytest.approx(wanted)
    wanted = average_precision_score(masks.flatten().numpy(), normed.flatten().numpy())
    assert pixel_average_precision(maps, masks) == pytest.approx(wanted)


def test_score_contrast_is_averaged_over_names_then_images() -> None:
    maps, masks = noise(5, size=32), disks(5, size=32)
    each = score_contrast(maps, masks)
    wanted = (each[[0, 2]].mean() + each[1] + each[[3, 4]].mean()) / 3
    assert mean_score_contrast(maps, masks, images=torch.tensor([7, 3, 7, 9, 9])) == pytest.approx(float(wanted))
    assert_close(score_contrast(1 - minmax(maps), masks), -each)


@pytest.mark.parametrize("tolerance", [1, 3, 6])
def test_pointing_tolerance_is_a_distance(tolerance: int) -> None:
    masks, maps = disks(20, size=32), noise(20, size=32)
    offsets = np.arange(-tolerance, tolerance + 1)
    disk = offsets[:, None] ** 2 + offsets**2 <= tolerance**2
    near = torch.from_numpy(np.stack([binary_dilation(mask, structure=disk) for mask in masks.numpy()]))
    assert_close(pointing_hit(maps, masks, tolerance=tolerance), pointing_hit(maps, near))


def test_multi_object_pointing_compares_objects_only() -> None:
    objects = torch.zeros(1, 2, 4, 8, dtype=torch.bool)
    objects[0, 0, :2, :2], objects[0, 1, 2:, 6:] = True, True
    maps = torch.zeros(1, 2, 4, 8)
    maps[0, :, 3, 0] = 9.0  # background: not looked at
    maps[0, 0, 1, 1], maps[0, 1, 0, 0] = 2.0, 1.0
    assert pointing_game_multi(maps, objects).tolist() == [[1.0, 0.0]]
    assert_close(pointing_game_multi(torch.zeros_like(maps), objects), torch.full((1, 2), 0.5))
    with pytest.raises(ValueError, match="objects overlap"):
        pointing_game_multi(maps, torch.ones_like(objects))


def test_boxes_by_hand() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[1:4, 2:5] = True
    assert box_of(mask).tolist() == [1, 2, 3, 4]
    one, other = torch.tensor([[0, 0, 1, 1], [0, 0, 3, 3]]), torch.tensor([[1, 1, 2, 2]])
    assert_close(box_overlap(one, other), torch.tensor([[1 / 7], [4 / 16]]))
    assert box_overlap(one, torch.tensor([[5, 5, 6, 6]])).max() == 0
    pixels = torch.zeros(2, 9, 9, dtype=torch.bool)
    pixels[0, 2:7, 1:5], pixels[1, 4:9, 3:8] = True, True
    overlap = (pixels[0] & pixels[1]).sum() / (pixels[0] | pixels[1]).sum()
    assert_close(box_overlap(box_of(pixels[0])[None], box_of(pixels[1])[None])[0, 0], overlap)
    with pytest.raises(ValueError, match="no box"):
        box_of(torch.zeros(2, 2, dtype=torch.bool))


def test_max_box_acc_by_hand() -> None:
    """A weak large region that is right, and a strong small one that is not."""
    maps = torch.zeros(1, 10, 10)
    maps[0, 0:4, 0:4], maps[0, 7:9, 7:9] = 0.5, 1.0
    right, wrong = torch.tensor([[0, 0, 3, 3]]), torch.tensor([[7, 7, 8, 8]])
    assert max_box_acc(maps, right).value == 1 and max_box_acc(maps, right).threshold < 0.5
    found = max_box_acc(maps, wrong)
    assert found.value == 1 and found.threshold >= 0.5, "the small region is the largest once the other is gone"
    half = torch.tensor([[0, 0, 3, 7]])
    assert max_box_acc(maps, half, delta=0.5).value == 1, "an overlap of just a half is a hit"
    assert max_box_acc(maps, half, delta=0.5, rule=CONVIS).value == 0
    low = BoxRule(thresholds=(0.2,))
    assert max_box_acc(maps, wrong, rule=low).value == 0
    assert max_box_acc_v2(maps, wrong, rule=low) == 1, "any region counts"
    assert max_box_acc_v2(maps, torch.tensor([[0, 0, 3, 9]]), rule=low) == pytest.approx(1 / 3)
    assert max_box_acc(torch.zeros(1, 4, 4), right).value == 0


def test_corners_join_regions_as_the_rule_says() -> None:
    maps = torch.zeros(1, 6, 6)
    maps[0, 0:3, 0:3], maps[0, 3:6, 3:6] = 1.0, 1.0
    whole = torch.tensor([[0, 0, 5, 5]])
    assert max_box_acc(maps, whole).value == 1
    apart = BoxRule(thresholds=(0.5,), corners_touch=False)
    assert max_box_acc(maps, whole, rule=apart).value == 0


def test_deletion_and_insertion_are_the_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, maps = torch.randn(2, 3, 6, 5, generator=generator), torch.rand(2, 6, 5, generator=generator)
    weights = torch.randn(3, 6, 5, generator=generator)

    def score(x: Tensor) -> Tensor:
        return (x * weights).sum((1, 2, 3)).sigmoid()

    start = torch.from_numpy(
        np.stack([[gaussian_filter(c, 5.0, radius=5, mode="constant") for c in image] for image in pixels.numpy()])
    )
    assert_close(blur(pixels), start, atol=1e-5, rtol=1e-4)
    for curve, before, after in (
        (deletion(score, pixels, maps, step=0.1, fill=0.2), pixels, torch.full_like(pixels, 0.2)),
        (insertion(score, pixels, maps, step=0.1), start, pixels),
    ):
        assert_close(curve.share, torch.linspace(0, 1, 11))
        for b in range(2):
            x, wanted = before[b].clone(), [score(before[b : b + 1]).item()]
            ranked = sorted(range(30), key=lambda i, b=b: -float(maps[b].flatten()[i]))
            for k in range(10):
                for i in ranked[3 * k : 3 * k + 3]:
                    x[:, i // 5, i % 5] = after[b, :, i // 5, i % 5]
                wanted.append(score(x[None]).item())
            assert_close(curve.scores[b], torch.tensor(wanted), atol=1e-5, rtol=1e-4)
            area = sum((a + b) / 2 for a, b in pairwise(wanted)) / 10
            assert float(curve.area[b]) == pytest.approx(area, abs=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_points_of_the_curves_are_pytorch_grad_cams(share: float) -> None:
    """What is left where the most, or least, relevant pixels are replaced, by another library's thresholds."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 6, 5, generator=generator)
    maps = torch.stack([torch.randperm(30, generator=generator).view(6, 5) / 29 for _ in range(2)])
    weights = torch.randn(3, 6, 5, generator=generator)

    class Scored(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * weights).sum((1, 2, 3)).sigmoid()[:, None]

    def score(x: Tensor) -> Tensor:
        return Scored()(x)[:, 0]

    at = round(share * 10)
    deleted = deletion(score, pixels, maps, step=0.1, fill=0.2).scores[:, at]
    inserted = insertion(score, pixels, maps, step=0.1).scores[:, at]
    soft = {image.sum().item(): blur for image, blur in zip(pixels, blur(pixels), strict=True)}
    targets, given = [lambda scores: scores[0]] * 2, {"return_diff": False}
    remove = PerturbationConfidenceMetric(
        RemoveMostRelevantFirst(100 * (1 - share), lambda x, kept: torch.where(kept > 0, x, 0.2))
    )
    assert_close(deleted, torch.from_numpy(remove(pixels, maps.numpy(), targets, Scored(), **given)))
    keep = PerturbationConfidenceMetric(
        RemoveLeastRelevantFirst(100 * share, lambda x, kept: torch.where(kept > 0, x, soft[x.sum().item()]))
    )
    assert_close(inserted, torch.from_numpy(keep(pixels, maps.numpy(), targets, Scored(), **given)))


def test_the_true_map_deletes_and_inserts_best() -> None:
    """The score sums a few pixels: the map that names them beats its inverse."""
    weights = torch.zeros(8, 8)
    weights[2:4, 2:4] = 1

    def score(x: Tensor) -> Tensor:
        return (x[:, 0] * weights).sum((1, 2))

    pixels = torch.ones(1, 3, 8, 8)
    good, bad = weights[None], 1 - weights[None]
    assert deletion(score, pixels, good).area < deletion(score, pixels, bad).area
    assert insertion(score, pixels, good).area > insertion(score, pixels, bad).area
    with pytest.raises(ValueError, match="maps of"):
        deletion(score, pixels, torch.ones(1, 4, 4))


def test_confidence_is_pytorch_grad_cams(tmp_path) -> None:
    tower = tower_of(tmp_path, RESNET)
    scorer, pixels = CosineForward(tower, texts_for(tower)), pixels_for(tower, num=4)
    maps = noise(4)

    def prob(x: Tensor) -> Tensor:
        return (scorer(x) * 20).softmax(-1)[:, 0]

    class Prob(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return prob(x)[:, None]

    found, targets = confidence(prob, pixels, minmax(maps)), [lambda scores: scores[0]] * 4
    share = DropInConfidence()(pixels, minmax(maps).numpy(), targets, Prob()) / found.whole.numpy()
    assert found.drop == pytest.approx(float(np.mean(share)), abs=1e-5)
    rises = IncreaseInConfidence()(pixels, minmax(maps).numpy(), targets, Prob())
    assert found.increase == pytest.approx(float(np.mean(rises)))
    with pytest.raises(ValueError, match="give probabilities"):
        _ = confidence(lambda x: -prob(x), pixels, maps).drop


def test_rank_correlation_is_scipys() -> None:
    one, other = (noise(4, size=8, seed=s).mul(10).round() for s in (0, 1))
    wanted = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other, strict=True)]
    assert_close(rank_correlation(one, other), torch.tensor(wanted, dtype=torch.float32), atol=1e-5, rtol=0)
    assert_close(rank_correlation(one, one.exp()), torch.ones(4))
    assert rank_correlation(one, torch.zeros_like(one)).tolist() == [0] * 4


def test_randomised_copies_differ_from_the_top_down_and_leave_the_tower(tmp_path) -> None:
    tower = tower_of(tmp_path, prompted=True)
    pixels, texts, before = pixels_for(tower), texts_for(tower), tower.backbone.digest
    one, all_blocks = (randomise_weights(tower, num_blocks=n) for n in (1, 3))
    plain = tower.trace(pixels)
    assert_close(one.trace(pixels).blocks[-1].entered, plain.blocks[-1].entered)
    assert not torch.allclose(one.trace(pixels).feature, plain.feature, atol=1e-2)
    assert not torch.allclose(all_blocks.trace(pixels).blocks[-1].entered, plain.blocks[-1].entered, atol=1e-2)
    grad_eclip = build_method("grad_eclip", signed=True)
    maps = [attribute(each, pixels, texts, method=grad_eclip).scores.flatten(0, 1) for each in (tower, all_blocks)]
    assert rank_correlation(*maps).mean() < 0.9
    del tower.backbone.digest  # kept since it was first asked for
    assert tower.backbone.digest == before
    with pytest.raises(ValueError, match="has 3 blocks, not 4"):
        randomise_weights(tower, num_blocks=4)
    with pytest.raises(ValueError, match="the image tower has no transformer blocks"):
        randomise_weights(tower_of(tmp_path / "resnet", RESNET), num_blocks=1)


def test_flip_equivariance_of_known_maps() -> None:
    pixels = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_close(flip_equivariance(lambda x: x[:, 0], pixels), torch.ones(3))
    fixed = torch.zeros(8, 8)
    fixed[:, :4] = 1
    assert flip_equivariance(lambda x: fixed.expand(len(x), -1, -1), pixels).tolist() == [0] * 3
    assert flip_equivariance(lambda x: torch.zeros(len(x), 2, 2), pixels).tolist() == [1] * 3


def test_masks_without_pixels_are_refused() -> None:
    masks = disks(3)
    masks[1] = False
    with pytest.raises(ValueError, match=r"masks \[1\] have no pixel"):
        pointing_hit(noise(3), masks)
    with pytest.raises(ValueError, match="nothing outside"):
        score_contrast(noise(1), torch.ones(1, 64, 64, dtype=torch.bool))
