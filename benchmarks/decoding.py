"""Features in, the cost of decoding a batch out: tensor operations, and time against another version of the code.

    python benchmarks/decoding.py --before ../ecor-before

`--before` names a checkout of the version to compare with; each version runs in a process of its own, in turns, and the
fastest of `--repeats` counts. Times are CPU time of one thread, which other work on the machine hardly changes.
Features are random unit vectors: posteriors are flat, so that K grows to its limit, the worst case of `joint`,
`inverted` and `pooled`. Each version measures the methods that it has.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import MethodName, ScoringConfig
from ecor.probability.decoders import joint_probability

SIZES = {10: (5, 2), 100: (10, 10), 1_000: (50, 20), 2_670: (89, 30), 10_000: (200, 50)}
"""Pairs to (rationales, categories)."""
LOGIT_SCALE = 20.0
NUM_RUNS = 5
"""Of a batch, in one measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """All sentences in one table [R C D]: a `TextFeatureTable` in memory."""

    table: Tensor
    rationales: Tensor
    categories: Tensor

    def row(self, rationale: int) -> Tensor:
        return self.table[rationale]

    def column(self, category: int) -> Tensor:
        return self.table[:, category]


def draw(num_pairs: int, *, num_images: int, dim: int) -> tuple[ImageFeatures, Features]:
    num_rationales, num_categories = SIZES[num_pairs]
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, dim, generator=generator), dim=-1)

    text = Features(
        table=unit(num_rationales, num_categories), rationales=unit(num_rationales), categories=unit(num_categories)
    )
    return ImageFeatures(rationale=unit(num_images), category=unit(num_images)), text


def count_operations(image: ImageFeatures, text: Features, *, method: str) -> int:
    """Operators that decoding calls; those that PyTorch's operators call themselves are left out."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        joint_probability(image, text, scoring=ScoringConfig(method=method), logit_scale=LOGIT_SCALE)
    ours = [event for event in profiled.events() if event.name.startswith("aten::")]
    return sum(event.cpu_parent is None or not event.cpu_parent.name.startswith("aten::") for event in ours)


def measure(*, num_images: int, dim: int) -> dict[str, dict[str, float]]:
    """Operations and milliseconds of CPU time on one thread per batch, by size and method."""
    torch.set_num_threads(1)
    found = {}
    for num_pairs in SIZES:
        image, text = draw(num_pairs, num_images=num_images, dim=dim)
        for method in get_args(MethodName):
            scoring = ScoringConfig(method=method)
            operations = count_operations(image, text, method=method)
            began = time.process_time()
            for _ in range(NUM_RUNS):
                joint_probability(image, text, scoring=scoring, logit_scale=LOGIT_SCALE)
            seconds = (time.process_time() - began) / NUM_RUNS
            found[f"{num_pairs} {method}"] = {"operations": operations, "ms": 1000 * seconds}
    return found


def measure_elsewhere(checkout: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The same, by the code of a checkout, in a process of its own."""
    command = [sys.executable, __file__, "--json", "--num-images", str(options.num_images), "--dim", str(options.dim)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.absolute())}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def merge_fastest(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {row: {what: min(run[row][what] for run in runs) for what in runs[0][row]} for row in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--num-images", type=int, default=256, help="per batch")
    parser.add_argument("--dim", type=int, default=128, help="of features: the demo model's is 128, ViT-B/32's 512")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one measurement of this version as JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(num_images=options.num_images, dim=options.dim)))
        return
    versions = {"now": Path(__file__).resolve().parents[1]}
    if options.before:
        versions = {"before": options.before, **versions}
    runs: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in versions}
    for _ in range(options.repeats):
        for name, checkout in versions.items():
            runs[name].append(measure_elsewhere(checkout, options))
    best = {name: merge_fastest(each) for name, each in runs.items()}
    print(
        f"`python {shlex.join(sys.argv)}`, {os.cpu_count()} CPUs ({platform.machine()}), torch {torch.__version__}, "
        f"{date.today()}; batches of {options.num_images}, D = {options.dim}\n"
    )
    print(f"| pairs | method | operations: {' / '.join(best)} | CPU ms per batch: {' / '.join(best)} |")
    print("|---:|---|---:|---:|")
    for row in best["now"]:
        num_pairs, method = row.split(" ")
        operations = " / ".join(f"{each[row]['operations']:,}" if row in each else "" for each in best.values())
        milliseconds = " / ".join(f"{each[row]['ms']:.1f}" if row in each else "" for each in best.values())
        print(f"| {int(num_pairs):,} | {method} | {operations} | {milliseconds} |")


if __name__ == "__main__":
    main()
