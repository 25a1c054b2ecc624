"""Time and peak memory of `ecor export` and `ecor import` at a million labels.

    python benchmarks/exchange.py --labels 1000000 --formats csv jsonl label-studio coco cvat huggingface

Each command runs in a process of its own. The labels are synthetic: 100 categories, 500 rationales, five ranked pairs
and eight ranked rationales a row, 10,000 rows a part. They share 1,000 small images on the disk, so coco and cvat read
a header for every label, and images are named by their paths. Then a tenth of the labels comes back with another
category or verdict (csv, jsonl, and of Label Studio the first 50,000 tasks) and is imported; of COCO and CVAT, where
nobody said which labels were seen, all are accepted (`--unchanged accept`).
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.records import (
    ExplainablePrediction,
    RankedCategory,
    RankedPair,
    RankedRationale,
    predictions_table,
)

ROWS_PER_PART = 10_000
NUM_IMAGES = 1000
FILES = {
    "csv": "labels.csv",
    "jsonl": "labels.jsonl",
    "coco": "annotations.json",
    "cvat": "annotations.xml",
    "fiftyone": "samples.json",
}
IMAGES = {"webdataset": "copy", "imagefolder": "link"}
"""Of formats that hold the images themselves, or that are a folder of them."""


def write_images(folder: Path) -> None:
    """Small JPEGs; their paths below each of a thousand links to their folder: a million files by name."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_IMAGES):
        (folder / f"{number:04d}").symlink_to(pictures)
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number:04d}.jpg")


def image_path(folder: str, number: int) -> str:
    """Path of the image of a label."""
    return f"{folder}/{number // NUM_IMAGES % 1000:04d}/{number % NUM_IMAGES:04d}.jpg"


def label(number: int, *, source: str, generator: np.random.Generator) -> ExplainablePrediction:
    categories = generator.choice(100, size=5, replace=False)
    rationales = generator.choice(500, size=8, replace=False)
    confidence = float(np.float32(generator.uniform(0.2, 0.99)))
    names, reasons = [f"category {c}" for c in categories], [f"a visible rationale {r}" for r in rationales]
    return ExplainablePrediction(
        key=f"{number:012x}-{number % 2**32:08x}-image",
        source=source,
        category=names[0],
        rationale=reasons[0],
        confidence=confidence,
        category_log_prob=float(np.log(confidence)),
        pairs=tuple(
            RankedPair(category=names[0], rationale=each, log_prob=-1.0 - rank) for rank, each in enumerate(reasons[:5])
        ),
        categories=tuple(RankedCategory(category=each, log_prob=-0.5 - rank) for rank, each in enumerate(names)),
        rationales=tuple(RankedRationale(rationale=each, log_prob=-0.5 - r) for r, each in enumerate(reasons)),
        two_stage_category=names[0],
        two_stage_rationale=reasons[0],
        kept_mass=0.99,
        pairs_exact=True,
        calibrated=True,
        method="joint",
        model_name="ecor",
        model_version="1",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )


def write_labels(folder: str, *, num_labels: int, images: str) -> None:
    """A folder of labels, as `ecor score` leaves it; the content of a part is repeated under other keys."""
    generator = np.random.default_rng(0)
    template = predictions_table(label(number, source="", generator=generator) for number in range(ROWS_PER_PART))
    parts = []
    for start in range(0, num_labels, ROWS_PER_PART):
        numbers = range(start, min(start + ROWS_PER_PART, num_labels))
        table = template.slice(0, len(numbers))
        texts = {
            "key": [f"{n:012x}-{n % ROWS_PER_PART:08x}-image" for n in numbers],
            "source": [image_path(images, n) for n in numbers],
        }
        for name, values in texts.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(values))
        name = f"part-{start:09d}.parquet"
        parts.append(write_part(folder, table, name=name, unit=str(start)))
    parents = PredictionParents(
        input="images",
        input_digest="i" * 64,
        model_uri="models:/ecor/1",
        model_name="ecor",
        model_version="1",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )
    write_prediction_set(folder, PredictionSet(parts=tuple(parts), parents=parents, scoring=ScoringConfig()))


def measure(*args: str) -> tuple[float, float]:
    """Seconds and peak memory in MiB of an `ecor` command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipelines", *args], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"ecor {' '.join(args)} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def change(path: Path, *, source: str) -> Path:
    """Every tenth label of an export gets another category, line by line, as the tool's own export would have it."""
    changed = path.with_name(f"changed-{path.name}")
    with path.open(encoding="utf-8-sig", newline="") as old, changed.open("w", encoding="utf-8", newline="") as new:
        for number, line in enumerate(old):
            new.write(CHANGES[source](line) if number % 10 == 5 and number else line)
    return changed


def _change_json_line(line: str) -> str:
    row = json.loads(line)
    return json.dumps({**row, "verdict": "correct", "category_after": "category 7", "rationales_after": ["x"]}) + "\n"


def _submit_task(line: str) -> str:
    end = "," if line.rstrip().endswith(",") else ""
    try:
        task = json.loads(line.rstrip().rstrip(","))
    except ValueError:
        return line
    result = [
        {"from_name": "category", "to_name": "image", "type": "choices", "value": {"choices": ["category 7"]}},
        {"from_name": "rationales", "to_name": "image", "type": "choices", "value": {"choices": ["x"]}},
    ]
    annotation = {"completed_by": 1, "updated_at": "2026-11-29T10:00:00Z", "result": result}
    return json.dumps({**task, "annotations": [annotation]}) + end + "\n"


CHANGES = {
    "jsonl": _change_json_line,
    "label-studio": _submit_task,
    "csv": lambda line: line.removesuffix('"","","","","",""\n') + '"wrong","","","","",""\n',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "label-studio", "coco", "cvat", "huggingface"])
    parser.add_argument("--folder", default=None, help="where the files go; None: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        labels = f"{scratch}/labels"
        writer = multiprocessing.get_context("spawn").Process(target=_prepare, args=(scratch, args.labels))
        writer.start()
        writer.join()
        print("| command | seconds | peak memory, MiB | size, MB |\n|---|---:|---:|---:|")
        for to in args.formats:
            output = Path(scratch) / to
            images = IMAGES.get(to, "path")
            seconds, memory = measure("export", labels, "--to", to, "--output", str(output), "--images", images)
            size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 1e6
            print(f"| `export --to {to}` | {seconds:.0f} | {memory:.0f} | {size:,.0f} |", flush=True)
            source = output / FILES[to] if to in FILES else output / "tasks-00000.json"
            if source.is_file():
                given = change(source, source=to) if to in CHANGES else source
                given = output if to == "fiftyone" else given
                more = ["--from", to, "--input", str(given), "--reviewer", "a", "--output", f"{scratch}/{to}-reviewed"]
                more += [] if to in CHANGES else ["--unchanged", "accept"]
                seconds, memory = measure("import", labels, *more)
                print(f"| `import --from {to}` | {seconds:.0f} | {memory:.0f} | |", flush=True)


def _prepare(scratch: str, num_labels: int) -> None:
    write_images(Path(scratch) / "images")
    write_labels(f"{scratch}/labels", num_labels=num_labels, images=f"{scratch}/images")


if __name__ == "__main__":
    main()
