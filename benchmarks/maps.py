"""What each idea brings to maps of parts: contrast with other texts, finer grids, scales, crops, means of methods.

    python benchmarks/maps.py --seed 4100
    python benchmarks/maps.py --world other --backbone other-clip/model.json:other-clip/weights.safetensors

Cases are those of `ecor explain-benchmark`, with another seed: `contrastive_attribution` was chosen by seed 4100 of the
first world, so the tables of `docs/explanations.md` (seed 3100) and of the second world chose nothing. Differences are
to `transformer_attribution` on the same images, with 95 % bootstrap intervals.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ecor.clip.loading import load_backbone
from ecor.clip.towers.enlarged_grid import with_enlarged_grid
from ecor.config.model import BackboneConfig
from ecor.data.heatmap import minmax, resize_maps
from ecor.demo.worlds.registry import set_vocabulary
from ecor.evaluation.confidence_intervals import Resampling, mean_estimates
from ecor.explain.attribution import attribute, attribute_among
from ecor.explain.methods.registry import build_method
from ecor.explain.metrics.localization import intersection_over_union, pointing_hit
from ecor.model import Recognizer
from pipelines.studies.attribution_benchmark.cases import Cases, TargetKind, find_cases
from pipelines.studies.attribution_benchmark.protocol import centre_prior, oracle_prior

SETS = {"demo": "demo-main", "other": "other-main"}
BASE = "transformer_attribution"
RESAMPLING = Resampling(num_resamples=2000)
Maps = Float[Tensor, "N H W"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Maps of all cases by one idea."""

    hits: Float[Tensor, " N"]
    """Whether the maximum lies in the mask (pointing game)."""
    overlaps: Float[Tensor, " N"]
    """IoU at the one threshold that suits all maps best."""
    s_per_image: float


def method_maps(cases: Cases, name: str, *, pixels: Tensor | None = None, **settings: object) -> Maps:
    found = attribute_among(
        cases.tower,
        cases.pixels if pixels is None else pixels,
        cases.texts,
        method=build_method(name, **settings),
        vocabulary=cases.vocabulary,
        own=cases.ids[:, None],
    )
    return minmax(found.on_input())[:, 0]


def enlarged_only(cases: Cases) -> Maps:
    """Transformer attribution on the finer grid, of the plain text."""
    pixels = interpolate(cases.tower.pixels(cases.pixels), scale_factor=2, mode="bicubic", align_corners=False)
    tower = with_enlarged_grid(cases.tower, factor=2)
    found = attribute(tower, pixels, cases.texts, method=build_method(BASE))
    return minmax(resize_maps(found.scores, tuple(cases.pixels.shape[-2:])))[:, 0]


def with_mirrored(cases: Cases) -> Maps:
    mirrored = method_maps(cases, "contrastive_attribution", pixels=cases.pixels.flip(-1)).flip(-1)
    return method_maps(cases, "contrastive_attribution") + mirrored


@torch.no_grad()
def crop_probability(cases: Cases, *, share: float, steps: int) -> Maps:
    """Mean log probability of the name in the crops that cover a pixel; those whose middle it is near count more."""
    pixels, size = cases.tower.pixels(cases.pixels), cases.pixels.shape[-1]
    side = round(share * size)
    starts = np.linspace(0, size - side, steps).round().astype(int).tolist()
    axis = torch.linspace(-1, 1, side)
    bell = torch.exp(-2 * (axis[:, None] ** 2 + axis[None] ** 2))
    total, weight = torch.zeros(len(pixels), size, size), torch.zeros(size, size)
    for top in starts:
        for left in starts:
            crop = pixels[:, :, top : top + side, left : left + side]
            crop = interpolate(crop, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
            log_prob = cases.prob(crop).clamp(min=1e-12).log()
            total[:, top : top + side, left : left + side] += log_prob[:, None, None] * bell
            weight[top : top + side, left : left + side] += bell
    return minmax(total / weight)


def of_methods(cases: Cases) -> Maps:
    """The mean of methods that work in different ways, each from 0 to 1."""
    names = {"contrastive_attribution": {}, "occlusion": {}, "rise": {"num_masks": 300}}
    return torch.stack([method_maps(cases, name, **settings) for name, settings in names.items()]).mean(dim=0)


IDEAS: dict[str, Callable[[Cases], Maps]] = {
    BASE: lambda cases: method_maps(cases, BASE),
    "contrast with the other texts": lambda cases: method_maps(cases, "contrastive_attribution", largest_grid=1),
    "grid of twice the size": enlarged_only,
    "both: contrastive_attribution": lambda cases: method_maps(cases, "contrastive_attribution"),
    "both, grid of three times the size": lambda cases: method_maps(cases, "contrastive_attribution", largest_grid=24),
    "both, mean of two grids": lambda cases: method_maps(cases, "contrastive_attribution", all_grids=True),
    "both, mean of three grids": lambda cases: method_maps(
        cases, "contrastive_attribution", largest_grid=24, all_grids=True
    ),
    "both, and the mirrored picture": with_mirrored,
    "probability in crops of a half": lambda cases: crop_probability(cases, share=0.5, steps=7),
    "probability in crops of a third": lambda cases: crop_probability(cases, share=1 / 3, steps=9),
    "mean of both, occlusion and RISE": of_methods,
}


def measure(idea: Callable[[Cases], Maps], cases: Cases) -> Measured:
    began = time.perf_counter()
    maps = idea(cases)
    seconds = (time.perf_counter() - began) / len(maps)
    return measured(maps, cases, seconds=seconds)


def measured(maps: Maps, cases: Cases, *, seconds: float) -> Measured:
    overlap_NK = intersection_over_union(minmax(maps), cases.masks)
    best = int(overlap_NK.mean(dim=0).argmax())
    return Measured(hits=pointing_hit(maps, cases.masks), overlaps=overlap_NK[:, best], s_per_image=seconds)


def row(title: str, found: Measured, *, base: Measured | None) -> str:
    values = {"hit": found.hits, "overlap": found.overlaps}
    if base is not None:
        values |= {"more hits": found.hits - base.hits, "more overlap": found.overlaps - base.overlaps}
    estimates = mean_estimates({name: each.double().numpy() for name, each in values.items()}, resampling=RESAMPLING)
    cells = [
        f"{each.value:+.3f} [{each.low:+.3f}, {each.high:+.3f}]" if name.startswith("more") else f"{each.value:.3f}"
        for name, each in estimates.items()
    ]
    if base is None:
        cells += ["", ""]
    return f"| {title} | {cells[0]} | {cells[2]} | {cells[1]} | {cells[3]} | {found.s_per_image:.3f} |"


def tables(model: Recognizer, *, set_name: str, seed: int, num_cases: int, ideas: Sequence[str]) -> None:
    kinds: dict[str, TargetKind] = {"rationales": "rationale", "categories": "category"}
    for title, kind in kinds.items():
        cases = find_cases(model, set_name=set_name, kind=kind, num_cases=num_cases, seed=seed)
        print(f"\n{title} of {set_name}, seed {seed}: {num_cases} of {cases.num_looked_at} images\n")
        print("| map | PG | difference | mIoU | difference | s per image |\n|---|---:|---:|---:|---:|---:|")
        grid = cases.tower.backbone.vit.grid_size
        for title, prior in (("oracle on the grid", oracle_prior), ("centre", centre_prior)):
            maps = resize_maps(prior(cases.masks, grid)[:, None], tuple(cases.masks.shape[1:]))[:, 0]
            print(row(title, measured(maps, cases, seconds=0.0), base=None))
        base = measure(IDEAS[BASE], cases)
        for title in ideas:
            print(row(title, base if title == BASE else measure(IDEAS[title], cases), base=base), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=SETS, default="demo")
    parser.add_argument("--backbone", default="ecor-demo:embedded", help="name and weights")
    parser.add_argument("--seed", type=int, default=4100)
    parser.add_argument("--num-cases", type=int, default=150)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=list(IDEAS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    name, _, pretrained = given.backbone.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained, precision="fp32"))
    set_name = SETS[given.world]
    model = Recognizer.zero_shot(set_vocabulary(set_name), backbone=backbone)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one thread"
    print(f"`python {' '.join(sys.argv)}`, {machine}, {date.today()}, load {psutil.getloadavg()[0]:.0f}")
    tables(model, set_name=set_name, seed=given.seed, num_cases=given.num_cases, ideas=given.ideas)


if __name__ == "__main__":
    main()
