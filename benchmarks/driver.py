"""Measure what `ecor score` costs its driver: memory and CPU seconds of that one process, for few and for many units.

    python benchmarks/driver.py --units 10 100 1000

The input are drawn pictures of 32 x 32 pixels, the model is the demo tower. Each row is a process of its own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from ecor.checkpoint import save_checkpoint
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.stages import score

MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The driver of one job."""

    num_units: int
    num_rows: int
    start_mib: float
    """Resident memory before the job, with all libraries imported."""
    peak_mib: float
    """Resident memory at most."""
    cpu_s: float
    """Of this process alone."""
    wall_s: float


class PeakMemory:
    """The largest resident memory of this process while a block runs."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.1):
            self.num_bytes = max(self.num_bytes, own.memory_info().rss)


def prepare(root: Path, *, num_images: int) -> None:
    """Pictures and a checkpoint, where they are not there."""
    random = np.random.default_rng(0)
    folder = root / f"images-{num_images}"
    folder.mkdir(parents=True)
    for number in range(num_images):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")
    if not (root / "checkpoint").exists():
        save_checkpoint(Recognizer.zero_shot(set_vocabulary("demo-small")), root / "checkpoint")


def measure(root: Path, *, num_units: int, images_per_unit: int, explain: str | None) -> Measured:
    """Score all units in this process and its workers."""
    config = ScoreConfig(
        input=f"{root}/images-{num_units * images_per_unit}",
        output=f"{root}/labels-{num_units}",
        model=f"{root}/checkpoint",
        unit_size=images_per_unit,
        batch_size=1,
        explain=explain,
    )
    start, began, spent = psutil.Process().memory_info().rss, time.perf_counter(), _cpu_s()
    with PeakMemory() as peak:
        found = score.run(
            config,
            cluster=ClusterConfig(num_cpus=2, local_images=0),
            tracking=TrackingConfig(uri=f"sqlite:///{root}/mlflow.db"),
        )
    return Measured(
        num_units=num_units,
        num_rows=found.num_rows,
        start_mib=start / MIB,
        peak_mib=peak.num_bytes / MIB,
        cpu_s=_cpu_s() - spent,
        wall_s=time.perf_counter() - began,
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured_apart(root: Path, *, num_units: int, args: argparse.Namespace) -> Measured:
    """The same in a new process, so that no row has what another one left in memory."""
    words = [sys.executable, __file__, "--root", str(root), "--one", str(num_units)]
    words += ["--images-per-unit", str(args.images_per_unit), *(["--explain", args.explain] if args.explain else [])]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def print_table(rows: list[Measured]) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {date.today()}\n")
    print("| units | rows | driver before, MiB | driver at most, MiB | driver CPU s | CPU ms per unit | job s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.num_units:,} | {row.num_rows:,} | {row.start_mib:.0f} | {row.peak_mib:.0f} | {row.cpu_s:.1f} | "
            f"{1000 * row.cpu_s / row.num_units:.1f} | {row.wall_s:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--images-per-unit", type=int, default=1)
    parser.add_argument("--explain", help="a method, so that rows have heat maps")
    parser.add_argument("--root", type=Path, help="of the process of one row")
    parser.add_argument("--one", type=int, help="the process of one row: so many units")
    args = parser.parse_args()
    if args.one is not None:
        with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            found = measure(args.root, num_units=args.one, images_per_unit=args.images_per_unit, explain=args.explain)
        print(json.dumps(asdict(found)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for num_units in args.units:
            prepare(Path(folder), num_images=num_units * args.images_per_unit)
            rows.append(measured_apart(Path(folder), num_units=num_units, args=args))
        print_table(rows)


if __name__ == "__main__":
    main()
