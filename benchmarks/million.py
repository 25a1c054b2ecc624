"""A million drawn images through `ecor shard` and `ecor score` on Ray: what an image costs, for few and for many.

    python benchmarks/million.py --folder /tmp/million --images 10000 100000 1000000
    python benchmarks/million.py --images 2000 8000 --repeats 1      (a quick run)

The images are coloured noise of 32 x 32 pixels in a folder per category, all different, and the tower is the tiny one
of `since.py`: all that is not the tower weighs as much as it can, and a million images take tens of minutes.
`--model ecor-demo:embedded` takes the demo's CLIP. Each stage is a process of its own, which starts a Ray cluster.

Cost per image: a job of 512 images, one unit, is the start-up; its seconds are subtracted from those of a job of n
images, and the rest is divided by n - 512. Jobs of up to 10,000 images run `--repeats` times, and the run with the
median CPU seconds counts. CPU seconds are of all processes that the stage starts, by a cgroup (Linux, as root).
Requests are calls of the record stores: claims, commits, leases. A byte per call is appended to a file.

The same command again goes on: finished jobs are in `results/`, and a stage that was killed resumes. Its figures are
then those of its last process, and the table says so. Images of a size are deleted when both stages are done.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from ecor.demo.worlds.registry import set_vocabulary
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig, ShardConfig

UNIT = 512
"""Images per shard and unit: the default of both stages."""
PER_FOLDER = 1000
NUM_REPEATED = 10_000
STAGES = ("shard", "score")
REQUESTS = ("create", "read", "write", "names", "modified_at", "remove")
"""Methods of a `RecordStore`, each one request of its store; listing a folder is one for each 1,000 names."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage that ran to its end."""

    stage: str
    num_images: int
    wall_s: float
    cpu_s: float
    """Of all processes."""
    driver_cpu_s: float
    driver_mib: float
    """Resident memory of the driver at most (VmHWM)."""
    num_files: int
    """In the output folder at the end."""
    num_bytes: int
    """Of these files."""
    requests: dict[str, int]
    """Of record stores, by kind."""
    num_processes: int
    """1, unless the stage was killed and resumed."""
    load: float
    """Of the machine, at the end."""


class CpuAccount:
    """A cgroup that counts the CPU seconds of a command and of all that it starts."""

    def __init__(self, name: str) -> None:
        first = Path("/sys/fs/cgroup/cpuacct")
        self.folder = (first if first.is_dir() else first.parent) / f"ecor-{name}-{os.getpid()}"
        self.samples: list[tuple[float, float]] = []
        """Time and CPU seconds until then, about once a second."""

    def run(self, command: list[str]) -> tuple[str, float]:
        """Output and CPU seconds of a command. Raises RuntimeError where it fails."""
        self.folder.mkdir()
        try:
            enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', f"{self.folder}/cgroup.procs"]
            process, output = subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, text=True), None
            while output is None:
                self.samples.append((time.time(), self._seconds()))
                with suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=1)
            if process.returncode != 0:
                raise RuntimeError(f"{command} ended with code {process.returncode}")
            self._wait_for_end()
            return output, self._seconds()
        finally:
            self._wait_for_end()
            self.folder.rmdir()

    def _seconds(self) -> float:
        if (nanoseconds := self.folder / "cpuacct.usage").exists():
            return int(nanoseconds.read_text()) / 1e9
        lines = (self.folder / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6

    def _wait_for_end(self) -> None:
        """Ray's processes end a little later than the driver."""
        deadline = time.monotonic() + 60
        while (self.folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)


def draw_images(folder: Path, *, num_images: int) -> None:
    """A folder per category, with a folder per thousand numbers; the same images each time, all different."""
    categories = sorted(set_vocabulary("demo-small"))
    for block in range(-(-num_images // PER_FOLDER)):
        place = folder / categories[block % len(categories)] / f"{block:04d}"
        place.mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(noise_png(block, number=min(PER_FOLDER, num_images - PER_FOLDER * block))):
            with open(f"{place}/{index:03d}.png", "wb", buffering=0) as file:  # noqa: PTH123 - a path object is slower
                file.write(data)


def noise_png(seed: int, *, number: int) -> Iterator[bytes]:
    """PNG files of 32 x 32 pixels in 4 x 4 colours, made without PIL, which takes 0.4 ms for each."""
    colours = np.random.default_rng(seed).integers(0, 256, (number, 4, 4, 3), dtype=np.uint8)
    pixels = colours.repeat(8, axis=1).repeat(8, axis=2).reshape(number, 32, 96)
    rows = np.concatenate(
        [np.zeros((number, 32, 1), np.uint8), pixels], axis=2
    )  # each row begins with its filter: none
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    for each in rows:
        data = png_chunk(b"IDAT", zlib.compress(each.tobytes(), 1))
        yield b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def counting_hook(folder: str) -> Callable[[], None]:
    """A function that counts, from its call on, the requests of this process; Ray calls it in each worker."""

    def count_requests() -> None:
        from pipelines.storage.record_store import RecordStore

        def counted(method: Callable[..., Any], path: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with open(path, "ab", buffering=0) as file:  # noqa: PTH123 - appends of one byte do not mix
                    file.write(b".")
                return method(*args, **kwargs)

            return call

        for name in REQUESTS:
            setattr(RecordStore, name, counted(getattr(RecordStore, name), f"{folder}/{name}"))

    return count_requests


def run_stage(root: Path, *, stage: str, num_images: int, num_cpus: int) -> dict[str, float]:
    """Run a stage in this process and on a cluster that it starts; returns what only this process knows."""
    from pipelines.runtime import cluster
    from pipelines.stages import score, shard

    requests = root / f"requests-{stage}"
    requests.mkdir(exist_ok=True)
    hook, options = counting_hook(str(requests)), cluster._local_options
    hook()
    on_ray = ClusterConfig(num_cpus=num_cpus, local_images=0)
    photos, shards, labels = (f"{root}/{name}-{num_images}" for name in ("photos", "shards", "labels"))
    began, spent = time.perf_counter(), time.process_time()
    with_hook = {"runtime_env": {"worker_process_setup_hook": hook}}
    with patch.object(cluster, "_local_options", lambda config: options(config) | with_hook):
        if stage == "shard":
            config = ShardConfig(input=photos, output=shards, split_shares={"train": 1.0}, samples_per_shard=UNIT)
            shard.run(config, cluster=on_ray)
        else:
            tracking = TrackingConfig(uri=f"sqlite:///{root}/mlflow.db")
            scored = ScoreConfig(input=f"{shards}/train", output=labels, model=f"{root}/model")
            score.run(scored, cluster=on_ray, tracking=tracking)
    return {
        "wall_s": time.perf_counter() - began,
        "driver_cpu_s": time.process_time() - spent,
        "driver_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Of this process (Linux): getrusage would hand on the parent's peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_stage(root: Path, *, stage: str, num_images: int, num_cpus: int) -> Job:
    """Run a stage in a new process, and count."""
    output = root / f"{'shards' if stage == 'shard' else 'labels'}-{num_images}"
    attempts = root / f"attempts-{stage}"
    with attempts.open("a") as file:
        file.write(f"{time.time()}\n")
    words = ["--job", stage, "--images", str(num_images), "--folder", str(root), "--num-cpus", str(num_cpus)]
    printed, cpu_s = CpuAccount(stage).run([sys.executable, __file__, *words])
    sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    found = Job(
        stage=stage,
        num_images=num_images,
        cpu_s=cpu_s,
        num_files=len(sizes),
        num_bytes=sum(sizes),
        requests={path.name: path.stat().st_size for path in sorted((root / f"requests-{stage}").iterdir())},
        num_processes=len(attempts.read_text().splitlines()),
        load=os.getloadavg()[0],
        **json.loads(printed.splitlines()[-1]),
    )
    shutil.rmtree(root / f"requests-{stage}")
    attempts.unlink()
    return found


def measure_size(root: Path, *, num_images: int, run: int, args: argparse.Namespace) -> list[Job]:
    """Both stages of a size; finished ones are read."""
    photos = root / f"photos-{num_images}"
    jobs = []
    for stage in STAGES:
        known = root / "results" / f"{num_images}-{run}-{stage}.json"
        if not known.exists():
            if stage == "shard" and not (drawn := root / f"drawn-{num_images}").exists():
                draw_images(photos, num_images=num_images)
                drawn.touch()
            job = measure_stage(root, stage=stage, num_images=num_images, num_cpus=args.num_cpus)
            known.write_text(json.dumps(asdict(job), indent=1))
            print(job, file=sys.stderr, flush=True)
        jobs.append(Job(**json.loads(known.read_text())))
    for name in ("shards", "labels"):
        shutil.rmtree(root / f"{name}-{num_images}", ignore_errors=True)
    return jobs


def print_table(jobs: Mapping[int, list[Job]]) -> None:
    """A row per size and stage, and what an image costs from each size to the next."""
    start = {job.stage: job for job in jobs[UNIT]}
    print("| stage | images | CPU s | wall s | beyond start-up, per image: CPU ms | wall ms | driver: CPU s | peak MiB "
          "| files | bytes per image | requests | per unit |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for stage in STAGES:
        for job in sizes_of(jobs, stage=stage):
            more, num_requests = job.num_images - UNIT, sum(job.requests.values())
            num_units = -(-job.num_images // UNIT)
            beyond = [
                f"{1000 * (found - begun) / more:.3f}" if more else ""
                for found, begun in ((job.cpu_s, start[stage].cpu_s), (job.wall_s, start[stage].wall_s))
            ]
            resumed = f" (process {job.num_processes})" if job.num_processes > 1 else ""
            print(
                f"| {stage} | {job.num_images:,}{resumed} | {job.cpu_s:,.1f} | {job.wall_s:,.1f} | "
                f"{' | '.join(beyond)} | {job.driver_cpu_s:.1f} | {job.driver_mib:,.0f} | {job.num_files:,} | "
                f"{job.num_bytes / job.num_images:,.0f} | {num_requests:,} | {num_requests / num_units:.1f} |"
            )
    print("\n| stage | more images | CPU ms of each | wall ms of each | driver's MiB more |")
    print("|---|---|---:|---:|---:|")
    for stage in STAGES:
        found = sizes_of(jobs, stage=stage)
        for fewer, more in itertools.pairwise(found):
            num_more = more.num_images - fewer.num_images
            print(
                f"| {stage} | {fewer.num_images:,} to {more.num_images:,} | "
                f"{1000 * (more.cpu_s - fewer.cpu_s) / num_more:.3f} | "
                f"{1000 * (more.wall_s - fewer.wall_s) / num_more:.3f} | {more.driver_mib - fewer.driver_mib:+.0f} |"
            )
    loads = [job.load for each in jobs.values() for job in each]
    print(f"\nLoad of the machine at the ends of the jobs: {min(loads):.0f} to {max(loads):.0f}", flush=True)


def sizes_of(jobs: Mapping[int, Iterable[Job]], *, stage: str) -> list[Job]:
    return [next(job for job in jobs[size] if job.stage == stage) for size in sorted(jobs)]


def median_jobs(runs: list[list[Job]]) -> list[Job]:
    """Of each stage the run with the median CPU seconds."""
    found = []
    for same in zip(*runs, strict=True):
        middle = statistics.median_low(job.cpu_s for job in same)
        found.append(next(job for job in same if job.cpu_s == middle))
    return found


def measure(root: Path, *, args: argparse.Namespace) -> dict[int, list[Job]]:
    (root / "results").mkdir(parents=True, exist_ok=True)
    settings = {"model": args.model, "num_cpus": args.num_cpus}
    if not (root / "settings.json").exists():
        (root / "settings.json").write_text(json.dumps(settings))
    if (before := json.loads((root / "settings.json").read_text())) != settings:
        raise ValueError(f"{root} holds figures of {before}, not of {settings}: name another --folder")
    if not (root / "model").exists():
        from since import save_model

        save_model(root, model=args.model)
    found: dict[int, list[Job]] = {}
    for size in sorted({UNIT, *args.images}):
        num_runs = args.repeats if size <= NUM_REPEATED else 1
        runs = [measure_size(root, num_images=size, run=run, args=args) for run in range(num_runs)]
        found[size] = median_jobs(runs)
        (root / f"drawn-{size}").unlink(missing_ok=True)
        shutil.rmtree(root / f"photos-{size}", ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to work; results stay, and the same command goes on")
    parser.add_argument("--model", default="tiny:random", help="name and weights, such as ecor-demo:embedded")
    parser.add_argument("--num-cpus", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job is not None:
        os.environ.pop("RAY_ADDRESS", None)
        found = run_stage(args.folder, stage=args.job, num_images=args.images[0], num_cpus=args.num_cpus)
        print(json.dumps(found))
        return
    print(f"`python {' '.join(sys.argv)}`, {platform.machine()}, {os.cpu_count()} CPUs, {date.today()}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.folder or Path(scratch)).absolute()
        print_table(measure(folder, args=args))


if __name__ == "__main__":
    main()
