"""Evaluate one attribution method on test cases: measures with intervals, sanity checks, time, memory."""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ecor.clip.towers.image_tower import ImageTower
from ecor.data.heatmap import Heatmap, resize_maps
from ecor.evaluation.confidence_intervals import Estimate, Resampling, mean_estimates
from ecor.explain.attribution import attribute_among
from ecor.explain.methods.registry import Method
from ecor.explain.metrics.faithfulness import (
    confidence,
    deletion,
    flip_equivariance,
    insertion,
    randomise_weights,
    rank_correlation,
)
from ecor.explain.metrics.localization import energy_inside
from ecor.explain.metrics.summary import localization_estimates, pad_with_nan
from pipelines.studies.attribution_benchmark.cases import Cases
from pipelines.studies.attribution_benchmark.mosaics import make_mosaics

Prior = Callable[[Bool[Tensor, "N H W"], tuple[int, int]], Float[Tensor, "N h w"]]
"""Makes maps without a model, from the masks and the size of the tower's grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """Settings of the evaluation of a method."""

    resampling: Resampling
    num_checked: int
    """Images for the checks that need new maps: random weights, mirrored pictures."""
    step: float = 0.036
    """Share of pixels per step of insertion and deletion."""
    batch_size: int = 16
    seed: int = 0
    """Seed of the random weights."""


def oracle_prior(masks: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Float[Tensor, "N h w"]:
    """Share of each cell that the mask covers: about the best possible map on this grid."""
    return adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0]


def inverse_prior(masks: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Float[Tensor, "N h w"]:
    """Return the opposite of the oracle: high outside the mask."""
    return 1 - oracle_prior(masks, grid)


def centre_prior(masks: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Float[Tensor, "N h w"]:
    """Return a Gaussian in the middle with a standard deviation of a quarter of the side (our choice)."""
    axes = [torch.exp(-(((torch.arange(num) + 0.5) / num - 0.5) ** 2) / (2 * 0.25**2)) for num in grid]
    return torch.outer(axes[0], axes[1]).expand(len(masks), -1, -1)


def noise_prior(masks: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Float[Tensor, "N h w"]:
    """Uniform noise: the result of chance."""
    return torch.rand(len(masks), *grid, generator=torch.Generator().manual_seed(0))


PRIORS: dict[str, Prior] = {
    "oracle on the grid": oracle_prior,
    "centre": centre_prior,
    "random": noise_prior,
    "inverse": inverse_prior,
}
"""Maps without a model, which show how good or bad a figure of the table is."""


def evaluate_method(method: Method, cases: Cases, *, trial: EvaluationSettings) -> dict[str, Estimate]:
    """Evaluate a method by every measure; names are those of `ecor.explain.metrics.measure_table.MEASURES`."""
    began = time.perf_counter()
    with peak_memory() as peak:
        heatmap = _heatmap(method, cases.tower, cases, images=cases.pixels)
    seconds = (time.perf_counter() - began) / len(cases.pixels)
    lacking = _heatmap(method, cases.tower, cases, images=cases.lacking)
    moved = 100 * (
        energy_inside(heatmap.on_input()[:, 0], cases.masks) - energy_inside(lacking.on_input()[:, 0], cases.masks)
    )
    recognised = _recognition(method, cases)
    known = {"moved": moved, "recognised": recognised, **_sanity_checks(method, cases, heatmap=heatmap, trial=trial)}
    figures = _evaluate_maps(heatmap.on_input()[:, 0], cases, more=known, trial=trial)
    num = len(cases.pixels)
    cost = {"seconds": seconds, "peak_mb": peak.bytes / 1024**2}
    nan = float("nan")
    costs = {name: Estimate(value=value, low=nan, high=nan, num_images=num) for name, value in cost.items()}
    return {**figures, **costs}


def evaluate_prior(prior: Prior, cases: Cases, *, trial: EvaluationSettings) -> dict[str, Estimate]:
    """Evaluate maps that are made without a model by every measure that applies."""
    height, width = cases.masks.shape[1:]
    maps = resize_maps(prior(cases.masks, patch_grid(cases.tower))[:, None], (height, width))[:, 0]
    mosaics, recognised = make_mosaics(cases), None
    if mosaics is not None:
        num = len(mosaics.members)
        tiles = prior(mosaics.tiles.repeat(num, 1, 1), patch_grid(cases.tower))[:, None]
        own = resize_maps(tiles, (height, width)).unflatten(0, (num, -1))[:, :, 0]
        recognised = mosaics.hits(own, num_cases=len(maps))
    return _evaluate_maps(maps, cases, more={"recognised": recognised}, trial=trial)


def patch_grid(tower: ImageTower) -> tuple[int, int]:
    """Return the tower's grid of patches; 7 x 7 if it is not known."""
    if "activations" not in tower.capabilities:
        return 7, 7
    height, width = tower.backbone.preprocess.image_size
    return tower.trace(torch.zeros(1, 3, height, width, device=tower.backbone.device)).grid


def _evaluate_maps(
    maps: Float[Tensor, "N H W"], cases: Cases, *, more: dict[str, Tensor | None], trial: EvaluationSettings
) -> dict[str, Estimate]:
    pixels = cases.tower.pixels(cases.pixels)
    left = confidence(cases.prob, pixels, maps)
    columns = {
        "insertion": insertion(cases.prob, pixels, maps, step=trial.step).area,
        "deletion": deletion(cases.prob, pixels, maps, step=trial.step).area,
        "drop": ((left.whole - left.left) / left.whole).clamp(min=0),
        "increase": (left.left > left.whole).float(),
        **more,
    }
    means = mean_estimates(pad_with_nan(columns, num=len(maps)), resampling=trial.resampling)
    return {**localization_estimates(maps.cpu(), cases.masks, resampling=trial.resampling), **means}


def _recognition(method: Method, cases: Cases) -> Tensor | None:
    """Test whether the map of each name is highest in its own picture of a mosaic; None for too few cases."""
    mosaics = make_mosaics(cases)
    if mosaics is None:
        return None
    own = cases.ids[mosaics.members.to(cases.ids.device)]
    maps = attribute_among(
        cases.tower, mosaics.pixels, cases.vocabulary[own], method=method, vocabulary=cases.vocabulary, own=own
    ).on_input()
    return mosaics.hits(maps, num_cases=len(cases.pixels))


def _sanity_checks(
    method: Method, cases: Cases, *, heatmap: Heatmap, trial: EvaluationSettings
) -> dict[str, Tensor | None]:
    """Test whether maps change with random weights, and follow a mirrored picture; None where this is not known."""
    num = min(trial.num_checked, len(cases.pixels))
    few = cases.pixels[:num]
    flip = flip_equivariance(
        lambda pixels: _heatmap(method, cases.tower, cases, images=pixels).scores[:, 0], cases.tower.pixels(few)
    )
    num_blocks = cases.tower.backbone.num_visual_blocks
    if num_blocks is None:
        return {"flip": flip, "randomised": None}
    other = randomise_weights(cases.tower, num_blocks=num_blocks, seed=trial.seed)
    theirs = _heatmap(method, other, cases, images=few)
    return {"flip": flip, "randomised": rank_correlation(heatmap.scores[:num, 0], theirs.scores[:, 0])}


def _heatmap(method: Method, tower: ImageTower, cases: Cases, *, images: Tensor) -> Heatmap:
    """Make heat maps of the first images of the cases, or of altered ones in the same order."""
    num = len(images)
    return attribute_among(
        tower, images, cases.texts[:num], method=method, vocabulary=cases.vocabulary, own=cases.ids[:num, None]
    )


@dataclass(slots=True)
class PeakMemory:
    """Peak memory in bytes, known when the block has ended; NaN if the system does not report it."""

    bytes: float = float("nan")


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the peak memory of a block above the memory in use before: of the GPU, or of this process (Linux)."""
    peak = PeakMemory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.bytes = float(torch.cuda.max_memory_allocated() - before)
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)  # return free memory to the system: its reuse would not be measured
        Path("/proc/self/clear_refs").write_text("5")  # reset the kernel's peak (VmHWM)
        before_rss = _read_memory("VmRSS")
    except (OSError, AttributeError, StopIteration):
        yield peak
        return
    yield peak
    peak.bytes = max(0.0, _read_memory("VmHWM") - before_rss)


def _read_memory(name: str) -> float:
    """Read a line of /proc/self/status, which counts kB, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
