"""Localization by bounding boxes: MaxBoxAcc and MaxBoxAccV2 (arXiv:2007.04178).

A box is the first and last row and column that it covers: top, left, bottom, right; its area counts both ends.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import find_objects, label
from torch import Tensor

from ecor.config.checks import require
from ecor.data.heatmap import minmax
from ecor.explain.metrics.localization import THRESHOLDS, AtThreshold


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRule:
    """Rules for boxes of a map with values from 0 to 1, and for hits."""

    thresholds: tuple[float, ...] = THRESHOLDS[:-1]
    """The best of them over all images counts."""
    corners_touch: bool = True
    """Pixels that touch at a corner are of one region."""
    at_threshold: bool = False
    """A pixel at the threshold is in."""
    at_overlap: bool = True
    """An overlap of just δ is a hit."""


WSOL = BoxRule()
"""As the benchmark's code does it."""
CONVIS = BoxRule(corners_touch=False, at_threshold=True, at_overlap=False)
"""As ConVis (arXiv:2405.14563) evaluates."""


def box_of(mask: Bool[Tensor, "H W"]) -> Int[Tensor, " 4"]:
    """The smallest box around a mask.

    Raises:
        ValueError: when the mask has no pixel.
    """
    require(bool(mask.any()), "a mask without a pixel has no box")
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    return torch.stack([rows[0], columns[0], rows[-1], columns[-1]])


def box_overlap(one: Int[Tensor, "N 4"], other: Int[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """IoU of all pairs of boxes."""
    top_left = torch.maximum(one[:, None, :2], other[None, :, :2])
    bottom_right = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (bottom_right - top_left + 1).clamp(min=0).prod(dim=-1).float()
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(dim=-1) for boxes in (one, other)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def max_box_acc(
    maps: Float[Tensor, "N H W"], boxes: Int[Tensor, "N 4"], *, delta: float = 0.5, rule: BoxRule = WSOL
) -> AtThreshold:
    """Share of images whose largest region's box overlaps the true one by `delta`, at the best threshold for all.

    The largest region is the one with most pixels (the benchmark takes the largest contour).

    Args:
        maps: one per image.
        boxes: the true ones.
        delta: IoU of a hit.
        rule: for boxes and hits.

    Raises:
        ValueError: when there are no maps, or not as many boxes.
    """
    found = overlaps(maps, boxes, rule=rule, largest_only=True)
    shares = hits(found, delta=delta, rule=rule).mean(dim=0)
    best = int(shares.argmax())
    return AtThreshold(value=float(shares[best]), threshold=rule.thresholds[best])


def max_box_acc_v2(
    maps: Float[Tensor, "N H W"],
    boxes: Int[Tensor, "N 4"],
    *,
    deltas: tuple[float, ...] = (0.3, 0.5, 0.7),
    rule: BoxRule = WSOL,
) -> float:
    """The mean over `deltas` of the best share, where any region of a map may give the box.

    Args:
        maps: one per image.
        boxes: the true ones.
        deltas: IoU of a hit.
        rule: for boxes and hits.

    Raises:
        ValueError: when there are no maps, or not as many boxes.
    """
    found = overlaps(maps, boxes, rule=rule, largest_only=False)
    best = [hits(found, delta=delta, rule=rule).mean(dim=0).max() for delta in deltas]
    return float(torch.stack(best).mean())


def hits(overlap: Float[Tensor, "N K"], *, delta: float, rule: BoxRule) -> Float[Tensor, "N K"]:
    """Return 1 for overlaps that count as hits, 0 for others.

    Args:
        overlap: IoU.
        delta: IoU of a hit.
        rule: whether an overlap of just `delta` is one.
    """
    return (overlap >= delta if rule.at_overlap else overlap > delta).float()


def overlaps(
    maps: Float[Tensor, "N H W"], boxes: Int[Tensor, "N 4"], *, rule: BoxRule, largest_only: bool
) -> Float[Tensor, "N K"]:
    """The best IoU of each map's boxes with the true box at each of K thresholds; 0 where there is no region.

    Args:
        maps: one per image, of any range.
        boxes: the true ones.
        rule: gives the thresholds.
        largest_only: only the region with most pixels gives a box.

    Raises:
        ValueError: when there are no maps, or not as many boxes.
    """
    require(len(maps) == len(boxes) > 0, f"{len(maps)} maps for {len(boxes)} boxes")
    normed = minmax(maps).cpu()
    rows = []
    for each, box in zip(normed, boxes.cpu(), strict=True):
        masks = [each >= threshold if rule.at_threshold else each > threshold for threshold in rule.thresholds]
        found = [_region_boxes(mask, rule=rule, largest_only=largest_only) for mask in masks]
        rows.append([float(box_overlap(ours, box[None]).max()) if len(ours) else 0.0 for ours in found])
    return torch.tensor(rows)


def _region_boxes(mask: Bool[Tensor, "H W"], *, rule: BoxRule, largest_only: bool) -> Int[Tensor, "N 4"]:
    labels, num_regions = label(mask.numpy(), structure=np.ones((3, 3)) if rule.corners_touch else None)
    places = find_objects(labels)
    if largest_only and num_regions:
        places = [places[int(np.bincount(labels.flatten())[1:].argmax())]]
    boxes = [(rows.start, columns.start, rows.stop - 1, columns.stop - 1) for rows, columns in places]
    return torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)
