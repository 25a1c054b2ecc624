"""Photos and drawings in, a table of sharding rates out: ours against webdataset's ShardWriter, per core and whole.

    python benchmarks/sharding.py --photos ../shared/data/photos/clothing
    python benchmarks/sharding.py --driver-memory

Each line of the table is measured in a process of its own, the lines in turn, `--repeats` times, and the best counts.
Rates are per second of CPU time of that one process, which other work on the machine hardly changes; wall-clock rates
stand beside them. The whole stage is measured on a warm cluster of `--num-cpus`. With `--driver-memory` only the peak
memory of the driver of the stage is measured, a process per row, on tiny pictures: few or many, in few or many shards.
"""

import argparse
import io
import json
import multiprocessing
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import webdataset as wds
from PIL import Image

from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import Vocabulary
from pipelines.config.infrastructure import ClusterConfig
from pipelines.config.stages import ShardConfig
from pipelines.sharding.deduplication import mark_duplicate_rows
from pipelines.sharding.folder_layout import find_source
from pipelines.sharding.inspection import entries, inspect_images
from pipelines.sharding.label_names import labels_in, vocabulary_of
from pipelines.sharding.listing import list_images
from pipelines.sharding.shard_job import ShardJob

SHARD = 512


@dataclass(frozen=True, kw_only=True)
class Measured:
    num_images: int
    num_bytes: int
    cpu_s: float
    wall_s: float
    peak_mib: float


def repeated(source: Path, target: Path, *, num_images: int) -> None:
    """`num_images` files made of those in `source`, each with a tail of its own, so that hashes differ."""
    files = sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png") and "-masks" not in str(path))
    for number in range(num_images):
        path = files[number % len(files)]
        folder = target / path.relative_to(source).parts[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}{path.suffix}").write_bytes(path.read_bytes() + number.to_bytes(4, "big"))


def job_of(root: Path, *, validate: str, output: Path) -> tuple[ShardJob, pa.Table]:
    config = ShardConfig(
        input=str(root), output=str(output), validate=validate, samples_per_shard=SHARD, split_shares={"train": 1.0}
    )
    source = find_source(config)
    listing = pa.concat_tables([table for place in source.places for table in list_images(place)])
    job = ShardJob(
        config=config,
        root=source.root,
        vocabulary=vocabulary_of(labels_in(listing)),
        given_splits=(),
        from_vocabulary=True,
        parents={},
        output=str(output),
    )
    return job, listing


def ours(root: Path, output: Path, *, validate: str) -> None:
    """What the stage's workers do, in one process: list, read, hash, validate, find copies, sort, read, write."""
    job, listing = job_of(root, validate=validate, output=output)
    found = pa.concat_tables(
        [inspect_images(pa.Table.from_batches([batch]), job=job) for batch in listing.to_batches(32)]
    )
    rows = mark_duplicate_rows(found).sort_by("key")
    for number, start in enumerate(range(0, rows.num_rows, SHARD)):
        part = entries(rows.slice(start, SHARD), job=job)
        write_shard(part, folder=output, name=f"{number}.tar", vocabulary=job.vocabulary)


def theirs(root: Path, output: Path, *, decode: bool) -> None:
    """The same members through ShardWriter: no hash, no check, no index, no manifest."""
    _, listing = job_of(root, validate="header", output=output)
    categories = {name: number for number, name in enumerate(sorted(set(listing["category"].to_pylist())))}
    output.mkdir(parents=True, exist_ok=True)
    with wds.ShardWriter(f"{output}/%06d.tar", maxcount=SHARD, mtime=0, verbose=0) as writer:
        for number, row in enumerate(listing.to_pylist()):
            data = (root / row["source"]).read_bytes()
            if decode:
                Image.open(io.BytesIO(data)).convert("RGB")
            writer.write(as_members(number, data, row=row, category=categories[row["category"]]))


def as_members(number: int, data: bytes, *, row: dict, category: int) -> dict:
    told = {"source": row["source"], "category": row["category"], "split": "train", "key": f"{number:06d}"}
    text = f"This is a photo of a {row['category']}."
    return {
        "__key__": f"{number:06d}",
        Path(row["source"]).suffix[1:]: data,
        "json": told,
        "cls": category,
        "txt": text,
    }


def in_memory(root: Path, output: Path) -> tuple[Vocabulary, list[ShardEntry]]:
    job, listing = job_of(root, validate="header", output=output)
    rows = mark_duplicate_rows(inspect_images(listing, job=job)).sort_by("key")
    return job.vocabulary, list(entries(rows, job=job))


def ours_writing(root: Path, output: Path) -> Callable[[], None]:
    """Only the writing, of samples that are in memory (the hash of each image and of the tar is part of it)."""
    vocabulary, prepared = in_memory(root, output)

    def write() -> None:
        for number, start in enumerate(range(0, len(prepared), SHARD)):
            write_shard(prepared[start : start + SHARD], folder=output, name=f"{number}.tar", vocabulary=vocabulary)

    return write


def theirs_writing(root: Path, output: Path) -> Callable[[], None]:
    vocabulary, prepared = in_memory(root, output)
    output.mkdir(parents=True, exist_ok=True)
    members = [
        as_members(
            number,
            entry.sample.image,
            row={"source": entry.sample.source, "category": entry.sample.category},
            category=vocabulary.category_id(entry.sample.category),
        )
        for number, entry in enumerate(prepared)
    ]

    def write() -> None:
        with wds.ShardWriter(f"{output}/%06d.tar", maxcount=SHARD, mtime=0, verbose=0) as writer:
            for each in members:
                writer.write(each)

    return write


LINES: dict[str, Callable[[Path, Path], Callable[[], None]]] = {
    "write: ours": ours_writing,
    "write: ShardWriter": theirs_writing,
    "header: ours": lambda root, output: lambda: ours(root, output, validate="header"),
    "header: ShardWriter, no check": lambda root, output: lambda: theirs(root, output, decode=False),
    "decode: ours": lambda root, output: lambda: ours(root, output, validate="decode"),
    "decode: ShardWriter + PIL": lambda root, output: lambda: theirs(root, output, decode=True),
}


def measured(name: str, root: Path, output: Path) -> Measured:
    """One line, once, in this process, after a run on a few images, so that no import counts."""
    LINES[name](few_of(root), output)()
    shutil.rmtree(output)
    files = [path for path in root.rglob("*") if path.is_file()]
    if not name.startswith("write"):
        for path in files:
            path.read_bytes()
    deed = LINES[name](root, output)
    cpu, wall = time.process_time(), time.perf_counter()
    deed()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    shutil.rmtree(output)
    peak = peak_mib()
    num_bytes = sum(path.stat().st_size for path in files)
    return Measured(num_images=len(files), num_bytes=num_bytes, cpu_s=cpu, wall_s=wall, peak_mib=peak)


def peak_mib() -> float:
    """Of this process (Linux): getrusage would hand on the parent's peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def staged(root: Path, output: Path, *, validate: str, num_cpus: int) -> Measured:
    """The whole stage; a first run has started the workers."""
    from pipelines.runtime import cluster
    from pipelines.stages import shard

    files = [path for path in root.rglob("*") if path.is_file()]
    shares = {"train": 1.0}
    config = ShardConfig(
        input=str(root), output=str(output), validate=validate, samples_per_shard=SHARD, split_shares=shares, fresh=True
    )
    on_ray = ClusterConfig(num_cpus=num_cpus, local_images=0)
    with cluster.connect(on_ray):
        shard.run(config, cluster=on_ray)
        wall = time.perf_counter()
        shard.run(config, cluster=on_ray)
        wall = time.perf_counter() - wall
    peak = peak_mib()
    num_bytes = sum(path.stat().st_size for path in files)
    return Measured(num_images=len(files), num_bytes=num_bytes, cpu_s=float("nan"), wall_s=wall, peak_mib=peak)


DRIVEN = ((250, 10), (4_000, 10), (16_000, 10), (16_000, 160))
"""Images and shards of each row of `driver_memory`; the first shows what the libraries take."""


def driver_memory(folder: Path, *, num_cpus: int) -> None:
    """Print the driver's peak memory for so many images in so many shards."""
    print("| images | shards | peak MiB of the driver | s |")
    print("|---:|---:|---:|---:|")
    for num_images, num_shards in DRIVEN:
        root = folder / f"tiny-{num_images}"
        if not root.is_dir():
            tiny(root, num_images=num_images)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            peak, seconds = alone.apply(driven, (root, folder / "driven", num_images // num_shards, num_cpus))
        print(f"| {num_images:,} | {num_shards} | {peak:,.0f} | {seconds:,.0f} |", flush=True)


def tiny(root: Path, *, num_images: int) -> None:
    """Pictures of 2 x 2 pixels, all different."""
    for number in range(num_images):
        path = root / f"category-{number % 10}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (2, 2), number.to_bytes(12, "big")).save(path)


def driven(root: Path, output: Path, samples_per_shard: int, num_cpus: int) -> tuple[float, float]:
    """Peak memory in MiB of this process, which drives the stage once, and its seconds."""
    from pipelines.stages import shard

    config = ShardConfig(
        input=str(root), output=str(output), samples_per_shard=samples_per_shard, split_shares={"train": 1.0}
    )
    began = time.perf_counter()
    shard.run(config, cluster=ClusterConfig(num_cpus=num_cpus, local_images=0))
    seconds = time.perf_counter() - began
    shutil.rmtree(output)
    return peak_mib(), seconds


def table_row(pictures: str, name: str, best: Measured) -> str:
    per_cpu = "" if best.cpu_s != best.cpu_s else f"{best.num_images / best.cpu_s:,.0f}"
    return (
        f"| {pictures} | {name} | {per_cpu} | {best.num_images / best.wall_s:,.0f} | "
        f"{best.num_bytes / best.wall_s / 1e6:,.0f} | {best.peak_mib:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--photos", type=Path, help="a folder of photos per category")
    what.add_argument("--driver-memory", action="store_true", help="measure only the driver's peak memory")
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-cpus", type=int, default=2)
    parser.add_argument("--without-stage", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.driver_memory:
        with tempfile.TemporaryDirectory() as temporary:
            driver_memory(Path(temporary), num_cpus=options.num_cpus)
        return
    results: dict[str, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        inputs = prepared_inputs(Path(temporary), photos=options.photos, num_images=options.num_images)
        spawn = multiprocessing.get_context("spawn")
        for pictures, root in inputs.items():
            best: dict[str, Measured] = {}
            for _ in range(options.repeats):
                for name in LINES:
                    with spawn.Pool(1) as alone:
                        found = alone.apply(measured, (name, root, Path(temporary) / "out"))
                    best[name] = min(found, best.get(name, found), key=lambda each: each.cpu_s)
            if not options.without_stage:
                for validate in ("header", "decode"):
                    output = Path(temporary) / f"staged-{pictures}-{validate}"
                    name = f"{validate}: whole stage, {options.num_cpus} CPUs"
                    best[name] = staged(root, output, validate=validate, num_cpus=options.num_cpus)
            results[pictures] = best
    print(f"`python {' '.join(sys.argv)}`, {date.today()}, {platform.processor() or platform.machine()}, "
          f"Python {platform.python_version()}\n")  # fmt: skip
    print("| images | what | images per CPU-second | images/s | MB/s | peak MiB |")
    print("|---|---|---:|---:|---:|---:|")
    for pictures, best in results.items():
        print("\n".join(table_row(pictures, name, each) for name, each in best.items()))
    if options.json:
        told = {pictures: {name: asdict(each) for name, each in best.items()} for pictures, best in results.items()}
        options.json.write_text(json.dumps(told, indent=1))


def few_of(root: Path) -> Path:
    """Folder of a few images of the same kind."""
    return root.with_name(f"{root.name}-few")


def prepared_inputs(folder: Path, *, photos: Path, num_images: int) -> dict[str, Path]:
    from ecor.demo.dataset import write_dataset

    write_dataset(folder / "drawn", set_name="demo-small", num_images={"train": min(num_images, 200)}, seed=0)
    for source, name in ((photos, "photos"), (folder / "drawn" / "train", "drawings")):
        repeated(source, folder / name, num_images=num_images)
        repeated(source, few_of(folder / name), num_images=64)
    return {"photos": folder / "photos", "64 px drawings": folder / "drawings"}


if __name__ == "__main__":
    main()
