"""`ecor score --since` and `ecor shard --since` beside a full run: a store of small images, of which a few are new.

    python benchmarks/since.py --images 100000 --kills 3
    python benchmarks/since.py --images 2000 --kills 1      (a quick run)
    python benchmarks/since.py --shards --images 20000
    python benchmarks/since.py --shards --images 20000 --photos ../shared/data/photos/clothing
    python benchmarks/since.py --memory 100000 1000000

The images are coloured noise of 32 x 32 pixels, and the tower is a tiny one, so that all that is not labelling weighs
as much as it can. The timed jobs run one after the other in this process, without Ray, after a job of one image that
pays for imports; another one gives the start-up of a job: its model, its sentences, its run in MLflow. CPU seconds are
of all threads. Killed jobs are `ecor score` in processes of their own. The labels of all jobs are compared. With
`--folder`, a run that was stopped goes on with the next job. `--photos` takes JPEG files of a folder instead, again and
again, each with a comment of its own.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from PIL import Image

from ecor.checkpoint import save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig, ShardConfig
from pipelines.scoring.inputs import read_input
from pipelines.sharding.flows.local_flow import list_few, local_flow
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.scan import scan_listing
from pipelines.stages import score, shard

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 40, "width": 32, "heads": 2, "layers": 2},
}
PER_FOLDER = 1000
LONG_AGO_S = 1_700_000_000
"""Time of the images that are there from the beginning."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that ran to its end."""

    cpu_s: float
    """Of all threads of the process."""
    wall_s: float
    listing_s: float
    """CPU seconds of listing the images, in this process."""
    since: dict[str, Any]
    """Of its summary."""


def noise(number: int) -> bytes:
    """A small PNG file; the same each time."""
    colours = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(colours).resize((32, 32), Image.Resampling.NEAREST).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def photo(number: int, *, files: Sequence[bytes]) -> bytes:
    """A JPEG file with the comment (marker FF FE) that makes it another one."""
    comment = f"{number:08d}".encode()
    file = files[number % len(files)]
    return file[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + file[2:]


def draw(folder: Path, numbers: range, *, modified_s: int, image: Callable[[int], bytes] = noise) -> None:
    """Write images by their number."""

    def write(number: int) -> None:
        path = folder / f"{number // PER_FOLDER:04d}" / f"{number:07d}{'.png' if image is noise else '.jpg'}"
        path.write_bytes(image(number))
        os.utime(path, (modified_s, modified_s))

    for number in range(numbers.start // PER_FOLDER, (numbers.stop - 1) // PER_FOLDER + 1):
        (folder / f"{number:04d}").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(write, numbers):
            pass


def save_model(root: Path, *, model: str) -> None:
    (root / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    name, _, pretrained = model.rpartition(":")
    tower = BackboneConfig(name=name.replace("tiny", str(root / "tiny-clip.json")), pretrained=pretrained)
    save_checkpoint(Recognizer.zero_shot(set_vocabulary("demo-small"), backbone=load_backbone(tower)), root / "model")


def run_job(root: Path, *, output: str, since: str | None = None, photos: str = "photos") -> Job:
    """A job, or what is known of it from a run of this program that was stopped later."""
    known = root / f"{output}.json"
    if known.exists():
        return Job(**json.loads(known.read_text()))
    began = time.process_time()
    read_input(f"{root}/{photos}", unit_size=512)
    listing_s, spent, began = time.process_time() - began, time.process_time(), time.perf_counter()
    config = ScoreConfig(
        input=f"{root}/{photos}",
        output=f"{root}/{output}",
        model=f"{root}/model",
        since=None if since is None else f"{root}/{since}",
    )
    tracking = TrackingConfig(uri=f"sqlite:///{root}/mlflow.db")
    score.run(config, cluster=ClusterConfig(local_images=10**9, num_cpus=1), tracking=tracking)
    found = Job(
        cpu_s=time.process_time() - spent,
        wall_s=time.perf_counter() - began,
        listing_s=listing_s,
        since=json.loads((root / output / "summary.json").read_text()).get("since", {}),
    )
    known.write_text(json.dumps(asdict(found)))
    return found


def run_killed(root: Path, *, output: str, since: str, num_kills: int, over_s: float) -> str:
    """Kill a job again and again, ever later, and let it end; what became of it."""
    command = [sys.executable, "-m", "pipelines", "score", "--input", f"{root}/photos", "--output", f"{root}/{output}"]
    command += ["--model", f"{root}/model", "--tracking.uri", f"sqlite:///{root}/mlflow.db"]
    command += ["--cluster.local-images", str(10**9), "--since", f"{root}/{since}"]
    num_done = []
    for number in range(num_kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=over_s * (number + 1) / (num_kills + 1))
        process.kill()
        process.wait()
        num_done.append(len(list((root / output).glob("*-*.parquet"))))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return f"killed {num_kills} times, with {num_done} files of units written; then: {done.stdout.strip()}"


def compare(root: Path, *, found: str, expected: str) -> str:
    """Rows of two folders of labels, by key: AssertionError unless they are equal to the rounding of float32."""
    ours, theirs = (
        read_predictions(f"{root}/{name}").to_pandas().sort_values("key", ignore_index=True)
        for name in (found, expected)
    )
    largest = 0.0
    for name in ours.columns:
        if pd.api.types.is_float_dtype(ours[name]):
            largest = max(largest, float((ours[name] - theirs[name]).abs().max()))
        elif name not in ("pairs", "categories", "rationales"):
            pd.testing.assert_series_equal(ours[name], theirs[name])
    assert largest < 1e-5, largest
    return f"{len(ours):,} rows are equal; largest difference of a number {largest:.1e}"


def measure(root: Path, *, num_images: int, share: float, num_kills: int, model: str) -> None:
    num_new = max(1, round(share * num_images))
    if not (root / "model").exists():
        save_model(root, model=model)
        draw(root / "one", range(1), modified_s=LONG_AGO_S)
        draw(root / "photos", range(num_images), modified_s=LONG_AGO_S)
    (root / "warm-up.json").unlink(missing_ok=True)
    shutil.rmtree(root / "warm-up", ignore_errors=True)
    run_job(root, output="warm-up", photos="one")
    start, monday = run_job(root, output="start-up", photos="one"), run_job(root, output="monday")
    draw(root / "photos", range(num_images, num_images + num_new), modified_s=LONG_AGO_S + 86_400)
    rows = {
        "one image: start-up": start,
        f"monday: all {num_images:,} images": monday,
        f"tuesday: `--since monday`, {num_new:,} new": run_job(root, output="tuesday", since="monday"),
        "wednesday: `--since tuesday`, nothing new": run_job(root, output="wednesday", since="tuesday"),
    }
    print_table(rows, full=monday, start=start)
    run_job(root, output="full")
    print(f"\n{compare(root, found='tuesday', expected='full')}", flush=True)
    began = time.perf_counter()
    run_killed(root, output="whole", since="monday", num_kills=0, over_s=0)
    over_s = time.perf_counter() - began
    print(run_killed(root, output="killed", since="monday", num_kills=num_kills, over_s=over_s))
    print(compare(root, found="killed", expected="full"))


def print_table(rows: Mapping[str, Job], *, full: Job, start: Job) -> None:
    def own_s(job: Job) -> float:
        return job.cpu_s - job.listing_s - start.cpu_s

    beyond = "beyond listing and start-up: CPU s"
    print(f"| job | CPU s | wall s | listing CPU s | {beyond} | share of monday | with start-up |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, each in rows.items():
        share, whole = own_s(each) / own_s(full), (each.cpu_s - each.listing_s) / (full.cpu_s - full.listing_s)
        print(
            f"| {name} | {each.cpu_s:.1f} | {each.wall_s:.1f} | {each.listing_s:.2f} | {own_s(each):.1f} "
            f"| {100 * share:.1f} % | {100 * whole:.1f} % |",
            flush=True,
        )


def measure_shards(root: Path, *, num_images: int, share: float, image: Callable[[int], bytes]) -> None:
    """`ecor shard` of all images, and since then; CPU seconds of the whole job, in one process, without Ray."""
    num_new = max(1, round(share * num_images))
    draw(root / "one", range(1), modified_s=LONG_AGO_S, image=image)
    draw(root / "photos", range(num_images), modified_s=LONG_AGO_S, image=image)
    names = {f"{folder:04d}": ["grain"] for folder in range((num_images + num_new) // PER_FOLDER + 1)}
    for folder in ("one", "photos"):
        (root / folder / "vocabulary.json").write_text(json.dumps(names))
    run_shards(root, output="warm-up", photos="one")
    print("| job | CPU s | wall s | listing CPU s | beyond listing: CPU s | share of monday | peak MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    full_s = print_shards_row(f"monday: all {num_images:,} images", root, output="monday")
    draw(root / "photos", range(num_images, num_images + num_new), modified_s=LONG_AGO_S + 86_400, image=image)
    for name, since in (("tuesday", "monday"), ("wednesday", "tuesday")):
        what = f"{num_new:,} new" if since == "monday" else "nothing new"
        print_shards_row(f"{name}: `--since {since}`, {what}", root, output=name, since=since, full_s=full_s)
    run_shards(root, output="full")
    found, expected = (read_samples_of(root / name) for name in ("tuesday", "full"))
    assert found == expected
    print(f"\n{len(found):,} samples are equal: split, key, digest, labels")


def print_shards_row(
    what: str, root: Path, *, output: str, since: str | None = None, full_s: float | None = None
) -> float:
    """Run a job, and print its times; returns its CPU seconds beyond the listing."""
    spent = time.process_time()
    config = ShardConfig(input=f"{root}/photos", output=f"{root}/{output}")
    source = find_source(config)
    listing = list_few(source, flow=local_flow(ClusterConfig(num_cpus=1)), most=10**9)
    assert listing is not None
    scan_listing(listing, source=source)
    listing_s = time.process_time() - spent
    cpu_s, wall_s = run_shards(root, output=output, since=since)
    own_s = cpu_s - listing_s
    share = f"{100 * own_s / (full_s or own_s):.1f} %"
    times = f"{cpu_s:.1f} | {wall_s:.1f} | {listing_s:.2f} | {own_s:.2f}"
    print(f"| {what} | {times} | {share} | {peak_mib():.0f} |", flush=True)
    return own_s


def run_shards(root: Path, *, output: str, since: str | None = None, photos: str = "photos") -> tuple[float, float]:
    spent, began = time.process_time(), time.perf_counter()
    config = ShardConfig(
        input=f"{root}/{photos}", output=f"{root}/{output}", since=None if since is None else f"{root}/{since}"
    )
    shard.run(config, cluster=ClusterConfig(local_images=10**9, num_cpus=1))
    return time.process_time() - spent, time.perf_counter() - began


def read_samples_of(output: Path) -> dict[str, tuple[str, ...]]:
    """Split, digest and labels of each sample, by key, from the verified indices."""
    found = {}
    for path in output.glob("*/manifest.json"):
        for info in read_shard_manifest(path.parent).shards:
            for row in read_index(path.parent, info).to_pylist():
                found[row["key"]] = (path.parent.name, row["sha256"], row["category"], *row["rationales"])
    return found


def measure_memory(sizes: list[int]) -> None:
    """The plan alone, on drawn listings and labels; each size in a process of its own."""
    print("| images | plan s | peak MiB | MiB before |")
    print("|---:|---:|---:|---:|")
    for size in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--plan", str(size)], capture_output=True, text=True, check=True
        )
        print(done.stdout.strip(), flush=True)


def plan_drawn(num_images: int) -> None:
    """Plan the reuse of drawn labels: 1 % of the images are new, 1 % have another size."""
    from pipelines.scoring.incremental import reuse_plan
    from pipelines.scoring.incremental.listing_record import LISTING_SCHEMA

    sources = [
        f"/photos/{number // PER_FOLDER:04d}/picture-of-something-{number:07d}.jpg" for number in range(num_images)
    ]
    sizes = np.arange(num_images) + 1000
    listing = pa.Table.from_arrays(
        [pa.array(sources, pa.large_string()), pa.array(sizes), pa.array(np.full(num_images, 10**18))],
        schema=LISTING_SCHEMA,
    )
    del sources
    before = listing.slice(num_images // 100)
    before = before.set_column(1, "num_bytes", pa.array(np.where(sizes % 100 == 0, 1, sizes)[num_images // 100 :]))
    parts = [
        SimpleNamespace(start=start, num_rows=min(512, before.num_rows - start))
        for start in range(0, before.num_rows, 512)
    ]

    def read_names(earlier: object, part: SimpleNamespace) -> pa.Table:
        found = before["source"].slice(part.start, part.num_rows).combine_chunks()
        return pa.table({"key": found, "source": found})

    reuse_plan._read_names = read_names  # type: ignore[assignment] - no files: the join alone
    labels = SimpleNamespace(parts=parts, num_rows=before.num_rows)
    earlier = SimpleNamespace(folder="drawn", labels=labels, read_listing=lambda: before)
    start_mib, began = peak_mib(), time.perf_counter()
    found = reuse_plan.plan_reuse(listing, earlier, check="time")  # type: ignore[arg-type]
    assert found.counts.num_reused + found.counts.num_changed == before.num_rows
    print(f"| {num_images:,} | {time.perf_counter() - began:.1f} | {peak_mib():.0f} | {start_mib:.0f} |")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--new", type=float, default=0.01, help="new images, as a share of the others")
    parser.add_argument("--model", default="tiny:random", help="name and weights, such as ecor-demo:embedded")
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--shards", action="store_true", help="measure `ecor shard`")
    parser.add_argument("--photos", type=Path, help="for --shards: a folder of JPEG files")
    parser.add_argument("--memory", type=int, nargs="+", metavar="IMAGES")
    parser.add_argument("--folder", type=Path, help="where to work; it stays")
    parser.add_argument("--plan", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plan:
        plan_drawn(given.plan)
        return
    print(f"`python {' '.join(sys.argv)}`, {platform.machine()}, {os.cpu_count()} CPUs, ", end="")
    print(f"torch {torch.__version__}, {date.today()}, load {os.getloadavg()[0]:.0f}\n", flush=True)
    if given.memory:
        measure_memory(given.memory)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if given.shards:
            files = [path.read_bytes() for path in sorted(given.photos.rglob("*.jpg"))] if given.photos else []
            image = partial(photo, files=files) if files else noise
            measure_shards(folder, num_images=given.images, share=given.new, image=image)
            return
        measure(folder, num_images=given.images, share=given.new, num_kills=given.kills, model=given.model)


if __name__ == "__main__":
    main()
