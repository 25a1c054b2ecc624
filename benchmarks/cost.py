"""Hours, GPU-hours, memory, files and requests of `ecor shard` and `ecor score` up to 10^9 images: a cost model.

    python benchmarks/cost.py                                            (prints the tables of docs/cost.md)
    python benchmarks/cost.py --photos ../shared/data/photos/clothing    (measures what decoding a photo costs)

`MEASURED` are figures of README.md. All others are products, sums and quotients of these. A test compares docs/cost.md
with what this prints.
"""

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

UNIT = 512
"""Images per shard and unit: the default of both stages."""
SIZES = (10**6, 10**7, 10**8, 10**9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured number."""

    value: float
    unit: str
    what: str
    section: str
    """Of README.md."""


MEASURED: Mapping[str, Figure] = {
    "b32": Figure(
        value=7_044, unit="images/s", what="ViT-B/32 and rows, bf16, on an H200, pixels ready", section="On a GPU"
    ),
    "l14": Figure(
        value=1_637, unit="images/s", what="ViT-L/14 and rows, bf16, on an H200, pixels ready", section="On a GPU"
    ),
    "shard_photo": Figure(
        value=915, unit="photos per core-s", what="sharding, each photo decoded, without Ray", section="Sharding"
    ),
    "decode": Figure(
        value=3.3, unit="core-ms", what="reading, decoding and resizing a photo for 224 px", section="A million images"
    ),
    "shard": Figure(value=0.5, unit="core-ms", what="sharding an image of 32 px on Ray", section="A million images"),
    "score": Figure(
        value=0.24, unit="core-ms", what="scoring an image of 32 px on Ray, tiny tower", section="A million images"
    ),
    "features": Figure(
        value=0.35, unit="core-ms", what="rows from a kept feature, without Ray", section="From kept features"
    ),
    "shard_driver": Figure(
        value=253, unit="MiB", what="driver of `ecor shard`, few images", section="A million images"
    ),
    "shard_driver_unit": Figure(
        value=30, unit="kB", what="more of it per unit of 512 images", section="A million images"
    ),
    "score_driver": Figure(
        value=335, unit="MiB", what="driver of `ecor score`, few images", section="A million images"
    ),
    "score_driver_unit": Figure(value=16, unit="kB", what="more of it per unit", section="A million images"),
    "record": Figure(
        value=0.3,
        unit="kB",
        what="memory per image of the task that writes `images.parquet`",
        section="A million images",
    ),
    "files": Figure(value=7, unit="files", what="per unit, shards and labels", section="A million images"),
    "requests": Figure(
        value=5, unit="requests", what="of the ledgers per unit, both stages", section="A million images"
    ),
    "photo": Figure(value=29.5, unit="kB", what="a photo of 400 x 533 pixels", section="A million images"),
    "tar": Figure(value=3.9, unit="kB", what="of a tar beside the photo, with index", section="A million images"),
    "row": Figure(value=0.165, unit="kB", what="a row of labels in Parquet", section="A million images"),
    "feature": Figure(value=1_064, unit="bytes", what="a kept feature of ViT-B/32", section="From kept features"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What so many images take; arithmetic."""

    shard_core_h: float
    """Decoding each photo once, and the machinery."""
    score_core_h: float
    """Decoding each photo once more, and the machinery; no tower."""
    features_core_h: float
    """Labels for another vocabulary, from kept features."""
    b32_gpu_h: float
    l14_gpu_h: float
    num_units: int
    shard_driver_gb: float
    score_driver_gb: float
    record_gb: float
    """Memory of the task that writes `images.parquet`."""
    num_files: int
    num_requests: int
    tars_gb: float
    rows_gb: float
    features_gb: float


def cost(num_images: int, *, unit: int = UNIT) -> Cost:
    """The cost of a number of photos, in units of so many images; linear in both numbers."""
    value = {name: figure.value for name, figure in MEASURED.items()}
    num_units = math.ceil(num_images / unit)

    def core_h(*names: str) -> float:
        return num_images * sum(value[name] for name in names) / 1000 / 3600

    def gb(*names: str) -> float:
        return num_images * sum(value[name] for name in names) / 1e6

    def driver_gb(name: str) -> float:
        return value[name] * 1024**2 / 1e9 + num_units * value[f"{name}_unit"] / 1e6

    return Cost(
        shard_core_h=num_images / value["shard_photo"] / 3600 + core_h("shard"),
        score_core_h=core_h("decode", "score"),
        features_core_h=core_h("features"),
        b32_gpu_h=num_images / value["b32"] / 3600,
        l14_gpu_h=num_images / value["l14"] / 3600,
        num_units=num_units,
        shard_driver_gb=driver_gb("shard_driver"),
        score_driver_gb=driver_gb("score_driver"),
        record_gb=gb("record"),
        num_files=round(num_units * value["files"]),
        num_requests=round(num_units * value["requests"]),
        tars_gb=gb("photo", "tar"),
        rows_gb=gb("row"),
        features_gb=gb("feature") / 1000,
    )


def cores_per_gpu(tower: str) -> float:
    """Cores that keep one GPU busy with photos."""
    return MEASURED[tower].value * (MEASURED["decode"].value + MEASURED["score"].value) / 1000


def measured_table() -> str:
    lines = ["| measured | | of what | section |", "|---:|---|---|---|"]
    lines += [f"| {each.value:,g} | {each.unit} | {each.what} | {each.section} |" for each in MEASURED.values()]
    return "\n".join(lines)


ROWS: Mapping[str, str] = {
    "shard_core_h": "`ecor shard`: core-hours",
    "score_core_h": "`ecor score`: core-hours, without the tower",
    "b32_gpu_h": "GPU-hours, ViT-B/32",
    "l14_gpu_h": "GPU-hours, ViT-L/14",
    "features_core_h": "another vocabulary, from kept features: core-hours",
    "num_units": "units of 512 images",
    "shard_driver_gb": "driver of `ecor shard`: GB of memory",
    "record_gb": "task that writes `images.parquet`: GB of memory",
    "score_driver_gb": "driver of `ecor score`: GB of memory",
    "num_files": "files",
    "num_requests": "requests of the ledgers",
    "tars_gb": "tars: GB",
    "rows_gb": "labels: GB",
    "features_gb": "kept features: GB",
}


def cost_table() -> str:
    found = [cost(size) for size in SIZES]
    lines = [
        "| arithmetic | " + " | ".join(f"10^{round(math.log10(size))}" for size in SIZES) + " |",
        "|---|" + "---:|" * len(SIZES),
    ]
    lines += [
        f"| {what} | " + " | ".join(rounded(getattr(each, name)) for each in found) + " |"
        for name, what in ROWS.items()
    ]
    return "\n".join(lines)


def rounded(value: float) -> str:
    """Two significant digits, or none after the point."""
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def measure_decoding(folder: Path, *, repeats: int) -> float:
    """Least CPU milliseconds per photo of a few passes over a folder, as the decoder of `ecor score` reads it."""
    from ecor.config.model import Preprocess
    from pipelines.scoring.decoder import decode_unit
    from pipelines.scoring.work_units import Listed, ListingUnit

    files = tuple(Listed(path=str(path)) for path in sorted(folder.rglob("*.jpg")))
    preprocess = Preprocess(image_size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    found = []
    for _ in range(repeats):
        spent = time.process_time()
        for _ in decode_unit(ListingUnit(name="0", files=files), preprocess=preprocess, num_images=192):
            pass
        found.append(1000 * (time.process_time() - spent) / len(files))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files; only measure what decoding costs")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.photos is not None:
        print(f"{measure_decoding(args.photos, repeats=args.repeats):.2f} CPU ms per photo")
        return
    print(measured_table(), cost_table(), sep="\n\n")
    print(f"\nCores per GPU: {cores_per_gpu('b32'):.0f} for ViT-B/32, {cores_per_gpu('l14'):.0f} for ViT-L/14")


if __name__ == "__main__":
    main()
