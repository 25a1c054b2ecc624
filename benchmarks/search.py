"""Near copies that were planted among drawn images: how many `ecor copies` finds; and time and memory of both searches.

python benchmarks/search.py --copies 2000           recall and precision by similarity, on two drawn sets
python benchmarks/search.py --find 10000 1000000    `ecor find` against NumPy on all features at once
python benchmarks/search.py --index 10000 100000    `ecor find --index` against the exact search
python benchmarks/search.py --compare 10000 100000  `ecor copies` on random features
"""

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

from ecor.clip.image_features import feature_arrays
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.data.images.decoding import decode_image
from ecor.data.images.preprocessing import image_to_pixels
from ecor.demo.dataset import write_dataset
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer
from pipelines.reporting.search.copies import compare_all
from pipelines.reporting.search.feature_folders import open_feature_folders
from pipelines.reporting.search.feature_index import search_index
from pipelines.reporting.search.find import search
from pipelines.reporting.search.neighbours import find_neighbours
from pipelines.reporting.search.queries import Query
from pipelines.storage.kept_features import iterate_features, read_kept_features
from tests.support.kept_labels import rows_of, unit_vectors, write_kept_labels

CHOSEN_ON, REPORTED_ON = "demo-main", "demo-large"
"""Drawn sets: the limit is chosen on the first, and reported on both."""
NUM_COPIED = 60
"""Images that have a copy of each kind, about."""
LIMITS = (0.90, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99)
LIMIT = 0.97
UNIT, DIM = 16_384, 512
NUM_QUERIES, TOP = 4, 100
MIB = 2**20


def as_jpeg(image: Image.Image, *, quality: int) -> Image.Image:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return decode_image(sink.getvalue())


def resized(image: Image.Image, *, share: float) -> Image.Image:
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, *, share: float) -> Image.Image:
    left, top = (round(size * share) for size in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


CHANGES = {
    "JPEG, quality 75": lambda image: as_jpeg(image, quality=75),
    "JPEG, quality 40": lambda image: as_jpeg(image, quality=40),
    "resized to 75 %": lambda image: resized(image, share=0.75),
    "resized to 50 %": lambda image: resized(image, share=0.5),
    "cropped by 2 % a side": lambda image: cropped(image, share=0.02),
    "cropped by 5 % a side": lambda image: cropped(image, share=0.05),
    "brighter by 10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "brighter by 30 %": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
}
"""What was done to a planted copy."""


@torch.no_grad()
def encode(images: list[Image.Image], *, model: Recognizer) -> np.ndarray:
    """Features as they are kept."""
    found = []
    for start in range(0, len(images), 64):
        pixels = [image_to_pixels(each, preprocess=model.backbone.preprocess) for each in images[start : start + 64]]
        found.append(model.image_features(torch.from_numpy(np.stack(pixels))).category.numpy().astype(np.float16))
    return np.concatenate(found)


def planted_set(name: str, *, num_images: int, model: Recognizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, the original of each image, and its change (-1: none); some images have a copy of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), set_name=name, num_images={"test": num_images}, seed=3)
        paths = sorted((Path(folder) / "test").rglob("*.png"))
        images = [decode_image(path.read_bytes()) for path in paths]
    original, change = list(range(len(images))), [-1] * len(images)
    for number in range(0, num_images, max(1, num_images // NUM_COPIED)):
        for kind, alter in enumerate(CHANGES.values()):
            images.append(alter(images[number]))
            original.append(number)
            change.append(kind)
    return encode(images, model=model), np.array(original), np.array(change)


def measure_copies(*, num_images: int) -> None:
    model = Recognizer.zero_shot(set_vocabulary("demo-small"), backbone=load_backbone(BackboneConfig()))
    for name in (CHOSEN_ON, REPORTED_ON):
        features_ND, original, change = planted_set(name, num_images=num_images, model=model)
        wide_ND = features_ND.astype(np.float32)
        similarity_NN = wide_ND @ wide_ND.T
        upper = np.triu(np.ones_like(similarity_NN, dtype=bool), k=1)
        same = (original[:, None] == original[None, :]) & upper
        print(f"\n{name}: {num_images} drawn images and {len(original) - num_images} planted copies; ", end="")
        others = similarity_NN[upper & ~same]
        print(f"cosine of other pairs: 99.9 % below {np.quantile(others, 0.999):.3f}, largest {others.max():.3f}\n")
        print(
            "| limit | true pairs found | pairs that are none | found pairs that are true | grouped with original | "
            + " | ".join(CHANGES)
            + " |"
        )
        print("|---:|" + "---:|" * (4 + len(CHANGES)))
        for limit in LIMITS:
            nearest = find_neighbours(features_ND, similarity=limit, num_nearest=5)
            found = (similarity_NN >= limit) & upper
            hits, total = (found & same).sum(), max(1, found.sum())
            recall, precision, num_false = hits / same.sum(), hits / total, (found & ~same).sum()
            grouped = nearest.group == nearest.group[original]
            by_kind = [f"{grouped[change == kind].mean():.3f}" for kind in range(len(CHANGES))]
            print(
                f"| {limit} | {recall:.3f} | {num_false:,} | {precision:.3f} | {grouped[change >= 0].mean():.3f} "
                f"| {' | '.join(by_kind)} |",
                flush=True,
            )


def draw_labels(folder: Path, *, num_rows: int, num_centres: int = 0) -> str:
    """A folder of labels with random features, which lie around some directions if there are centres."""
    write_kept_labels(str(folder), _random_units(num_rows, num_centres=num_centres))
    return str(folder)


def _random_units(num_rows: int, *, num_centres: int) -> Iterator[tuple[object, np.ndarray]]:
    centres = unit_vectors(max(1, num_centres), dim=DIM, seed=7)
    for start in range(0, num_rows, UNIT):
        keys = [f"k{number:09d}" for number in range(start, min(start + UNIT, num_rows))]
        vectors = unit_vectors(len(keys), dim=DIM, seed=start)
        if num_centres:
            near = centres[np.random.default_rng(start).integers(0, num_centres, len(keys))]
            vectors = _unit(near + vectors.astype(np.float32)).astype(np.float16)
        yield rows_of(keys), vectors


def random_queries() -> tuple[Query, ...]:
    vectors = unit_vectors(NUM_QUERIES, dim=DIM, seed=99).astype(np.float32)
    return tuple(Query(name=str(number), kind="text", feature=each) for number, each in enumerate(vectors))


def one_find(folder: str) -> None:
    """In a process of its own: time, CPU time and memory of the search, and whether it equals NumPy's."""
    queries, start_mib, began, cpu = random_queries(), peak_mib(), time.perf_counter(), time.process_time()
    among = open_feature_folders([folder], feature="category")
    found = search(among, queries, top=TOP)
    images = [among.read_images(found.of(query)[1].tolist()) for query in range(NUM_QUERIES)]
    wall_s, cpu_s, peak = time.perf_counter() - began, time.process_time() - cpu, peak_mib()
    assert all(len(each) == TOP for each in images)
    whole = np.concatenate([feature_arrays(each.features)[1] for each in iterate_features(read_kept_features(folder))])
    equal = 0
    for number, query in enumerate(queries):
        scores = np.concatenate(
            [_unit(whole[start : start + UNIT]) @ query.feature for start in range(0, len(whole), UNIT)]
        )
        order = np.argsort(-scores, kind="stable")[:TOP]
        equal += int(
            (np.abs(scores[order] - found.of(number)[0]) < 1e-6).all() and set(order) == set(found.of(number)[1])
        )
    print(f"{wall_s:.1f} s | {cpu_s:.1f} s | {start_mib:.0f} | {peak:.0f} | {equal} of {NUM_QUERIES}")


def one_index(folder: str) -> None:
    """In a process of its own: the index is made, then read; the exact search says what the best are.

    Half of the queries are random, far from all images, as sentences are; the others are near to one.
    """
    among = open_feature_folders([folder], feature="category")
    first = next(among.iterate())
    near = _unit(first[:NUM_QUERIES] + 0.02 * np.random.default_rng(1).standard_normal((NUM_QUERIES, DIM)))
    images = tuple(Query(name=str(number), kind="image", feature=each) for number, each in enumerate(near))
    queries = (*random_queries(), *images)
    place, start_mib = Path(folder).parent / "index", peak_mib()
    spent = []
    for _ in range(2):
        began, cpu = time.perf_counter(), time.process_time()
        found = search_index(among, queries, top=TOP, folder=place)
        spent.append((time.perf_counter() - began, time.process_time() - cpu))
    peak, began = peak_mib(), time.perf_counter()
    exact = search(among, queries, top=TOP)
    exact_s = time.perf_counter() - began
    shares = [len({*found.of(query)[1]} & {*exact.of(query)[1]}) / TOP for query in range(len(queries))]
    far, close = (sum(each) / NUM_QUERIES for each in (shares[:NUM_QUERIES], shares[NUM_QUERIES:]))
    size = sum(path.stat().st_size for path in place.iterdir()) / MIB
    print(
        f"{spent[0][0]:.1f} s | {spent[0][1]:.1f} s | {size:.0f} | {start_mib:.0f} | {peak:.0f} "
        f"| {1000 * spent[1][0]:.0f} ms | {exact_s:.2f} s | {far:.1%} | {close:.1%}"
    )


def _unit(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def one_compare(folder: str) -> None:
    start_mib, began, cpu = peak_mib(), time.perf_counter(), time.process_time()
    among = open_feature_folders([folder], feature="category")
    with tempfile.TemporaryDirectory() as scratch:
        found = compare_all(among, scratch=Path(scratch), similarity=LIMIT, num_nearest=5)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(f"{wall_s:.1f} s | {cpu_s:.1f} s | {start_mib:.0f} | {peak_mib():.0f} | {found.num_pairs} pairs")


def peak_mib() -> float:
    """Of this program alone: `ru_maxrss` begins with that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / MIB


def measure(kind: str, *, sizes: list[int]) -> None:
    columns = {
        "find": ("wall", "CPU", "MiB before", "peak MiB", f"equal best {TOP}"),
        "compare": ("wall", "CPU", "MiB before", "peak MiB", "near copies"),
        "index": (
            "made in",
            "CPU",
            "MiB",
            "MiB before",
            "peak MiB",
            "8 searches",
            "exact",
            f"recall of {TOP}: random",
            "near",
        ),
    }[kind]
    print(f"| features of {DIM} numbers | {' | '.join(columns)} |\n|{'---:|' * (1 + len(columns))}")
    for num_rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            centres = num_rows // 100 if kind == "index" else 0
            place = draw_labels(Path(folder) / "labels", num_rows=num_rows, num_centres=centres)
            done = subprocess.run(
                [sys.executable, __file__, f"--one-{kind}", place], capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        print(f"| {num_rows:,} | {done.stdout.splitlines()[-1]} |", flush=True)


MEASURED = {"find": one_find, "index": one_index, "compare": one_compare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, metavar="IMAGES")
    parser.add_argument("--find", type=int, nargs="+", metavar="IMAGES")
    parser.add_argument("--index", type=int, nargs="+", metavar="IMAGES")
    parser.add_argument("--compare", type=int, nargs="+", metavar="IMAGES")
    for kind in MEASURED:
        parser.add_argument(f"--one-{kind}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for kind, one in MEASURED.items():
        if place := getattr(given, f"one_{kind}"):
            return one(place)
    print(f"`python {' '.join(sys.argv)}`, {platform.machine()}, {os.cpu_count()} CPUs, ", end="")
    print(f"torch {torch.__version__}, {date.today()}, load {os.getloadavg()[0]:.0f}\n", flush=True)
    if given.copies:
        measure_copies(num_images=given.copies)
    for kind in MEASURED:
        if sizes := getattr(given, kind):
            measure(kind, sizes=sizes)
    return None


if __name__ == "__main__":
    main()
