"""Summarize the localization of many heat maps: each measure with a bootstrap interval over images.

Each pair is of an image of its own. Measures are put together from figures of single pairs, so that one draw of images
serves all; `ecor.explain.metrics.localization` and `boxes` have the same measures for one sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ecor.data.heatmap import minmax
from ecor.evaluation.confidence_intervals import Estimate, Resampling, estimates
from ecor.explain.metrics.boxes import WSOL, box_of, hits, overlaps
from ecor.explain.metrics.localization import energy_inside, intersection_over_union, pointing_hit, score_contrast
from ecor.explain.metrics.measure_table import DELTAS, LOCALISATION

NUM_BINS = 256
"""Of a map's values, for precision and recall (the exact curve has as many points as there are pixels)."""


def localization_estimates(
    maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"], *, resampling: Resampling
) -> dict[str, Estimate]:
    """Compute the measures of `LOCALISATION` over N pairs, with intervals.

    Args:
        maps: of N pairs, each of an image of its own.
        masks: of the same pairs.
        resampling: level, number and seed.

    Raises:
        ValueError: when there are no maps, or a mask has no pixel inside or none outside.
    """
    found = _Figures.of(maps, masks)
    names = list(LOCALISATION)
    known = estimates(found.statistic, num_images=len(maps), sizes=[len(maps)] * len(names), resampling=resampling)
    return dict(zip(names, known, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Values per pair that resampled measures are computed from; N pairs, K thresholds, J thresholds of boxes."""

    iou: Float[np.ndarray, "N K"]
    at_mean: Float[np.ndarray, "N 4"]
    """Pixels shared and in either, of foreground and of background."""
    means: Float[np.ndarray, "N 3"]
    """Contrast, pointing, energy."""
    found: Float[np.ndarray, "N bins"]
    """Pixels of the mask, by value of the map, highest first."""
    looked_at: Float[np.ndarray, "N bins"]
    box: Float[np.ndarray, "N J"]
    box_v2: Float[np.ndarray, "N deltas J"]

    @classmethod
    def of(cls, maps: Float[Tensor, "N H W"], masks: Bool[Tensor, "N H W"]) -> "_Figures":
        contrast, pointing, energy = score_contrast(maps, masks), pointing_hit(maps, masks), energy_inside(maps, masks)
        found, looked_at = _value_histograms(maps, masks)
        boxes = torch.stack([box_of(mask) for mask in masks])
        largest = overlaps(maps, boxes, rule=WSOL, largest_only=True)
        any_region = overlaps(maps, boxes, rule=WSOL, largest_only=False)
        v2 = torch.stack([hits(any_region, delta=delta, rule=WSOL) for delta in DELTAS], dim=1)
        return cls(
            iou=_array(intersection_over_union(maps, masks)),
            at_mean=_array(_overlap_at_mean(maps, masks)),
            means=_array(torch.stack([contrast, pointing, energy], dim=1)),
            found=found,
            looked_at=looked_at,
            box=_array(hits(largest, delta=0.5, rule=WSOL)),
            box_v2=_array(v2),
        )

    def statistic(self, counts: Float[np.ndarray, "S N"]) -> Float[np.ndarray, "S M"]:
        """All measures of each sample, in the order of `LOCALISATION`."""
        weights = counts / counts.sum(axis=1, keepdims=True)
        shares = weights @ self.at_mean
        contrast, pointing, energy = (weights @ self.means).T
        v2 = np.einsum("sn,ndj->sdj", weights, self.box_v2).max(axis=2).mean(axis=1)
        columns = [
            (weights @ self.iou).max(axis=1),
            _ratio(shares[:, [0, 2]], shares[:, [1, 3]]).mean(axis=1),
            contrast,
            pointing,
            energy,
            _average_precision(counts @ self.found, counts @ self.looked_at),
            (weights @ self.box).max(axis=1),
            v2,
        ]
        return np.stack(columns, axis=1)


def _overlap_at_mean(maps: Tensor, masks: Tensor) -> Float[Tensor, "N 4"]:
    normed = minmax(maps)
    found = normed >= normed.mean(dim=(1, 2), keepdim=True)
    columns = []
    for one, other in ((found, masks), (~found, ~masks)):
        columns += [(one & other).sum(dim=(1, 2)), (one | other).sum(dim=(1, 2))]
    return torch.stack(columns, dim=1).float()


def _value_histograms(maps: Tensor, masks: Tensor) -> tuple[Float[np.ndarray, "N bins"], Float[np.ndarray, "N bins"]]:
    """Pixels of the mask, and all pixels, by value of the map in equal steps, highest first."""
    steps = (minmax(maps) * (NUM_BINS - 1)).round().long().flatten(1)
    places = (NUM_BINS - 1 - steps).cpu()
    both = []
    for weights in (masks.flatten(1).cpu().double(), torch.ones_like(places, dtype=torch.float64)):
        both.append(torch.zeros(len(maps), NUM_BINS, dtype=torch.float64).scatter_add(1, places, weights).numpy())
    return both[0], both[1]


def _average_precision(
    found: Float[np.ndarray, "S bins"], looked_at: Float[np.ndarray, "S bins"]
) -> Float[np.ndarray, " S"]:
    """Area under precision by recall; ties as one."""
    gained = found / found.sum(axis=1, keepdims=True)
    precision = _ratio(found.cumsum(axis=1), looked_at.cumsum(axis=1))
    return (precision * gained).sum(axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()


def pad_with_nan(values: Mapping[str, Float[Tensor, " N"] | None], *, num: int) -> dict[str, Float[np.ndarray, " N"]]:
    """Fill columns up to N figures with NaN (not defined).

    Args:
        values: figures of the first images, by name; None: of none.
        num: N.
    """
    columns = {}
    for name, known in values.items():
        column = np.full(num, np.nan)
        if known is not None:
            column[: len(known)] = _array(known)
        columns[name] = column
    return columns
