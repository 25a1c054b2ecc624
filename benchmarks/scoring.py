"""Models and photos in, a table of scoring rates out: ours, end to end, against the bare encoder and CLIP_benchmark.

    python benchmarks/scoring.py --photos ../shared/data/photos --models ecor-demo:embedded ViT-B-32:random

All rows see the same shards at the same batch size and precision, each in a process of its own, in turns,
`--repeats` times; the median counts. Start-up (imports, opening the model, starting actors) is left out everywhere.

    bare        the image tower on pixels that are ready, on as many threads as a scorer gets
    decode      decoding and resizing alone, by Pillow, in as many processes as there are CPUs
    local       this project's decoder and scorer in one process, without Ray, part by part
    process     `ecor score` in one process: what all units cost more than one unit does
    score       `ecor score` on a Ray cluster of this machine, counted likewise
    ray         batch inference as Ray Data's guide writes it: read_webdataset, map, map_batches; costs as for `score`
    clip        CLIP_benchmark's classifier and loop over the same shards; always in fp32

Beside wall-clock rates stand images per CPU second, of the process and all its children: they compare what is spent
where the wall-clock depends on what else the machine does.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from PIL import Image

from ecor.checkpoint import load, read_preprocess, save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, Preprocess, PromptConfig, TextConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.samples import Sample, sample_key
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files, write_text
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from ecor.model import Recognizer
from pipelines.__main__ import OPENMP
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig
from pipelines.runtime import cluster
from pipelines.runtime.actor_resources import reserve_resources
from pipelines.scoring.decoder import decode_unit, images_per_part
from pipelines.scoring.inputs import read_input
from pipelines.scoring.scorer import Scorer, ScorerSettings
from pipelines.stages import score
from pipelines.tracking import model_registry

REASONS = ("a collar", "long sleeves", "a hem at the knee", "laces", "a brim", "a zip", "pleats", "buttons")
SHARD = 64
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model on one set of shards."""

    model: str
    """Name and weights: `ViT-B-32:random`."""
    folder: str
    """Holds `shards/test` and the model's `checkpoint`."""
    num_images: int
    batch_size: int
    num_cpus: int
    num_workers: int
    precision: Literal["fp32", "bf16"]
    fast_jpeg: bool


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of time in which images were scored."""

    num_images: int
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of one row, without start-up."""

    images_per_s: float
    images_per_cpu_s: float
    peak_mib: float
    """Proportional set size of the process and its children at most."""


class Watch:
    """CPU seconds and memory of this process and its children, as they change."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.peak_bytes = 0
        self._cpu_s: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def cpu_s(self, moment: float) -> float:
        """CPU seconds spent until a moment (`time.time`), read off between the nearest points."""
        times, spent = zip(*self.points, strict=True)
        after = min((k for k, each in enumerate(times) if each >= moment), default=len(times) - 1)
        before = max(0, after - 1)
        span = times[after] - times[before]
        share = (moment - times[before]) / span if span else 1.0
        return spent[before] + min(1.0, share) * (spent[after] - spent[before])

    def _run(self) -> None:
        while not self._over.is_set():
            self._look()
            self._over.wait(POLL_S)
        self._look()

    def _look(self) -> None:
        own = psutil.Process()
        memory = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                spent = process.cpu_times()
                self._cpu_s[process.pid] = spent.user + spent.system
                memory += process.memory_full_info().pss
            except psutil.Error:
                continue
        self.points.append((time.time(), sum(self._cpu_s.values())))
        self.peak_bytes = max(self.peak_bytes, memory)


def prepare(setting: Setting, *, photos: Path) -> None:
    """Shards of photos, repeated where there are too few, and the model's checkpoint."""
    root = Path(setting.folder)
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    names = vocabulary_of(sorted({path.parent.name for path in files}))
    if not (root / "shards").exists():
        chosen = [files[number % len(files)] for number in range(setting.num_images)]
        write_split(chosen, folder=root / "shards" / "test", names=names)
        write_split(chosen[:SHARD], folder=root / "shards" / "one", names=names)
        write_side_files(root / "shards", vocabulary=names)
    name, _, pretrained = setting.model.rpartition(":")
    backbone = load_backbone(BackboneConfig(name=name, pretrained=pretrained, precision="fp32"))
    prompts = PromptLearner(
        PromptConfig(rationale_tokens=4, category_tokens=4, visual_tokens=0),
        backbone,
        generator=torch.Generator().manual_seed(0),
    )
    recognizer = Recognizer(backbone=backbone, prompts=prompts, vocabulary=names)
    save_checkpoint(recognizer, checkpoint_of(setting), with_backbone=True)


def checkpoint_of(setting: Setting) -> str:
    return f"{setting.folder}/{setting.model.replace(':', '-').replace('/', '-')}/checkpoint"


def vocabulary_of(categories: Sequence[str]) -> Vocabulary:
    """Three reasons for each category, shared ones among them."""
    return vocabulary_from_mapping(
        {name: [REASONS[(number + step) % len(REASONS)] for step in range(3)] for number, name in enumerate(categories)}
    )


def write_split(files: Sequence[Path], *, folder: Path, names: Vocabulary, size: int = SHARD) -> None:
    samples = []
    for number, path in enumerate(files):
        key = sample_key(f"{number}/{path.name}", sha256=f"{number:064d}")
        category = names.categories[names.category_id(path.parent.name)]
        suffix = path.suffix.lower().replace("jpeg", "jpg").lstrip(".")
        samples.append(
            Sample(
                key=key,
                image=path.read_bytes(),
                extension=suffix,
                category=category,
                rationales=(),
                visible_rationales=None,
                source=str(path),
            )
        )
    samples.sort(key=lambda sample: sample.key)
    shards = [
        write_shard(
            [ShardEntry(sample=sample) for sample in samples[start : start + size]],
            folder=folder,
            name=f"{start // size}.tar",
            vocabulary=names,
        )
        for start in range(0, len(samples), size)
    ]
    manifest = ShardManifest(
        split=folder.name,
        shards=tuple(shards),
        vocabulary_digest=names.digest,
        num_samples=len(samples),
        num_rejected=0,
        num_duplicates=0,
        config_digest="",
        parents={},
    )
    write_shard_manifest(manifest, folder)
    write_text(f"{len(shards)}\n", folder=folder, name="nshards.txt")


def scorer_of(setting: Setting) -> Scorer:
    """Opened as `ecor score` opens it, on the threads it would get."""
    config = ScoreConfig(input="", output="", batch_size=setting.batch_size)
    reservation = reserve_resources(config, machines=[{"CPU": float(setting.num_cpus)}])
    tracking = TrackingConfig(uri=f"sqlite:///{setting.folder}/mlflow.db")
    settings = ScorerSettings(
        model=model_registry.resolve_model(checkpoint_of(setting), tracking=tracking),
        tracking=tracking,
        vocabulary=None,
        scoring=ScoringConfig(),
        text=TextConfig(),
        batch_size=setting.batch_size,
        precision=setting.precision,
        use_gpu=False,
        num_threads=reservation.num_threads,
    )
    return Scorer(settings)


def run_bare(setting: Setting) -> list[Span]:
    backbone = scorer_of(setting).recognizer.backbone
    unit = read_input(f"{setting.folder}/shards/test", unit_size=1).units[0]
    part = next(decode_unit(unit, preprocess=backbone.preprocess, num_images=setting.batch_size))
    pixels = torch.from_numpy(part.pixels)
    num_batches = setting.num_images // len(pixels)
    with torch.no_grad():
        backbone.encode_image(pixels)
        began = time.time()
        for _ in range(num_batches):
            backbone.encode_image(pixels)
    return [Span(num_images=num_batches * len(pixels), began=began, ended=time.time())]


def run_decode(setting: Setting) -> list[Span]:
    preprocess = read_preprocess(Path(checkpoint_of(setting)))
    tars = sorted(Path(setting.folder, "shards", "test").glob("*.tar"))
    decode = partial(decode_tar, preprocess=preprocess, fast_jpeg=setting.fast_jpeg)
    with ProcessPoolExecutor(setting.num_cpus) as pool:
        list(pool.map(decode, tars[: setting.num_cpus]))  # processes have started then
        began = time.time()
        num_images = sum(pool.map(decode, tars))
        return [Span(num_images=num_images, began=began, ended=time.time())]


def decode_tar(tar: Path, *, preprocess: Preprocess, fast_jpeg: bool) -> int:
    """Decode and resize all images of a tar, to nothing; returns how many."""
    number, (height, width) = 0, preprocess.image_size
    with tarfile.open(tar) as file:
        for member in file:
            if not member.name.endswith((".jpg", ".png", ".webp")):
                continue
            image = Image.open(file.extractfile(member))
            if fast_jpeg:
                image.draft("RGB", (2 * width, 2 * height))
            ratio = max(height / image.height, width / image.width)
            size = (round(image.width * ratio), round(image.height * ratio))
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            number += 1
    return number


def run_local(setting: Setting) -> list[Span]:
    scorer = scorer_of(setting)
    preprocess = scorer.recognizer.backbone.preprocess
    num_images = images_per_part(preprocess, batch_size=setting.batch_size)
    units = read_input(f"{setting.folder}/shards/test", unit_size=1).units
    decode = partial(decode_unit, preprocess=preprocess, num_images=num_images, fast_jpeg=setting.fast_jpeg)
    scorer.score(next(decode(units[0])))
    began = time.time()
    parts = (part for unit in units for part in decode(unit))
    num_rows = sum(scorer.score(part).rows.num_rows for part in parts)
    return [Span(num_images=num_rows, began=began, ended=time.time())]


def run_process(setting: Setting) -> list[Span]:
    """The whole stage without Ray, on all units, and on one, which takes the same start-up."""
    return score_splits(setting, local_images=10**9)


def run_score(setting: Setting) -> list[Span]:
    """The same on Ray."""
    with cluster.connect(ClusterConfig(num_cpus=setting.num_cpus)):
        return score_splits(setting, local_images=0)


def score_splits(setting: Setting, *, local_images: int) -> list[Span]:
    place = ClusterConfig(num_cpus=setting.num_cpus, local_images=local_images)
    with tempfile.TemporaryDirectory() as output:
        score_split(setting, split="one", output=f"{output}/warm", place=place)  # libraries are in the page cache then
        return [score_split(setting, split=name, output=f"{output}/{name}", place=place) for name in ("one", "test")]


def score_split(setting: Setting, *, split: str, output: str, place: ClusterConfig) -> Span:
    config = ScoreConfig(
        input=f"{setting.folder}/shards/{split}",
        output=output,
        model=checkpoint_of(setting),
        batch_size=setting.batch_size,
        precision=setting.precision,
        fast_jpeg=setting.fast_jpeg,
    )
    began = time.time()
    found = score.run(
        config,
        cluster=place,
        tracking=TrackingConfig(uri=f"sqlite:///{setting.folder}/mlflow.db"),
    )
    return Span(num_images=found.num_rows, began=began, ended=time.time())


def run_ray(setting: Setting) -> list[Span]:
    """All shards, and the first alone, which takes the same start-up."""
    with cluster.connect(ClusterConfig(num_cpus=setting.num_cpus)):
        infer_with_ray(setting, split="one")
        return [infer_with_ray(setting, split=split) for split in ("one", "test")]


def infer_with_ray(setting: Setting, *, split: str) -> Span:
    import ray

    preprocess = read_preprocess(Path(checkpoint_of(setting)))
    tars = sorted(str(path) for path in Path(setting.folder, "shards", split).glob("*.tar"))

    def to_pixels(row: dict[str, Any]) -> dict[str, Any]:
        data = next(row[name] for name in ("jpg", "png", "webp") if row.get(name) is not None)
        return {"pixels": image_to_pixels(Image.open(io.BytesIO(data)).convert("RGB"), preprocess=preprocess)}

    began = time.time()
    dataset = ray.data.read_webdataset(tars, decoder=None).map(to_pixels)
    named = dataset.map_batches(
        BestCategory, fn_constructor_args=(setting,), batch_size=setting.batch_size, concurrency=1, num_cpus=1
    )
    num_images = sum(len(batch["category"]) for batch in named.iter_batches(batch_size=None))
    return Span(num_images=num_images, began=began, ended=time.time())


class BestCategory:
    """A CLIP that names the category of each image: the actor of Ray Data's guide."""

    def __init__(self, setting: Setting) -> None:
        self.recognizer = load(checkpoint_of(setting), device="cpu", precision=setting.precision)
        torch.set_num_threads(max(1, setting.num_cpus - 1))
        with torch.no_grad():
            self.categories = self.recognizer.text.categories

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        features = self.recognizer.backbone.encode_image(torch.from_numpy(batch["pixels"]))
        return {"category": (features @ self.categories.T).argmax(dim=-1).numpy()}


def run_clip(setting: Setting) -> list[Span]:
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
    from open_clip.transform import PreprocessCfg, image_transform_v2

    scorer = scorer_of(setting)
    backbone = scorer.recognizer.backbone
    transform = image_transform_v2(PreprocessCfg(**backbone.model.visual.preprocess_cfg), is_train=False)
    dataset = build_dataset("wds/ours", root=f"{setting.folder}/shards", split="test", transform=transform)
    weights = zero_shot_classifier(
        backbone.model, backbone.tokenizer, dataset.classes, dataset.templates, device="cpu", amp=False
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=setting.batch_size, num_workers=setting.num_workers)
    began = time.time()
    logits, _ = run_classification(backbone.model, weights, loader, device="cpu", amp=False)
    return [Span(num_images=len(logits), began=began, ended=time.time())]


ROWS: dict[str, tuple[str, Callable[[Setting], list[Span]]]] = {
    "bare": ("bare forward", run_bare),
    "decode": ("bare decoding", run_decode),
    "local": ("ours, one process", run_local),
    "process": ("ours, `ecor score` in one process", run_process),
    "score": ("ours, `ecor score` on Ray", run_score),
    "ray": ("Ray Data's guide", run_ray),
    "clip": ("CLIP_benchmark's loop", run_clip),
}


def measure(row: str, setting: Setting) -> Measured:
    """In this process; what the row prints is dropped."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), Watch() as watch:
        *less, whole = ROWS[row][1](setting)
    cost = [
        (span.num_images, span.ended - span.began, watch.cpu_s(span.ended) - watch.cpu_s(span.began))
        for span in (whole, *less)
    ]
    num_images, wall_s, cpu_s = (first - sum(rest) for first, *rest in zip(*cost, strict=True))
    return Measured(
        images_per_s=num_images / wall_s, images_per_cpu_s=num_images / cpu_s, peak_mib=watch.peak_bytes / 2**20
    )


def measure_apart(row: str, setting: Setting) -> Measured:
    """In a process of its own, with the settings of OpenMP that `ecor` makes where the row is one of its commands."""
    command = [sys.executable, __file__, "--row", row, "--setting", json.dumps(asdict(setting))]
    own = OPENMP if row in ("process", "score") else {}
    told = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **own})
    if told.returncode != 0:
        raise RuntimeError(f"{row} of {setting.model} failed:\n{told.stderr[-2000:]}")
    return Measured(**json.loads(told.stdout.splitlines()[-1]))


def middle(runs: Sequence[Measured]) -> Measured:
    """The median of each number; of memory, the most."""
    return Measured(
        images_per_s=statistics.median(run.images_per_s for run in runs),
        images_per_cpu_s=statistics.median(run.images_per_cpu_s for run in runs),
        peak_mib=max(run.peak_mib for run in runs),
    )


def table(setting: Setting, found: dict[str, Measured]) -> str:
    bare = found.get("bare") or next(iter(found.values()))
    told = f"{setting.model}, {setting.precision}" + (", fast JPEG" if setting.fast_jpeg else "")
    lines = [
        "| model | row | images/s | of bare | images per CPU s | of bare | peak MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row, measured in found.items():
        lines.append(
            f"| {told} | {ROWS[row][0]} | {measured.images_per_s:.1f} "
            f"| {measured.images_per_s / bare.images_per_s:.2f} | {measured.images_per_cpu_s:.1f} "
            f"| {measured.images_per_cpu_s / bare.images_per_cpu_s:.2f} | {measured.peak_mib:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of folders of photos, one per category")
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded", "ViT-B-32:random"])
    parser.add_argument("--num-images", type=int, default=512, help="a multiple of 64; photos are repeated")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-cpus", type=int, default=os.cpu_count())
    parser.add_argument("--num-workers", type=int, default=1, help="loader processes of CLIP_benchmark")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--fast-jpeg", action="store_true")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(asdict(measure(given.row, Setting(**json.loads(given.setting))))))
        return
    print(f"`python {' '.join(sys.argv)}`, {platform.processor() or platform.machine()}, ", end="")
    print(f"{given.num_cpus} CPUs, torch {torch.__version__}, {date.today()}\n")
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            setting = Setting(
                model=model,
                folder=folder,
                num_images=given.num_images,
                batch_size=given.batch_size,
                num_cpus=given.num_cpus,
                num_workers=given.num_workers,
                precision=given.precision,
                fast_jpeg=given.fast_jpeg,
            )
            prepare(setting, photos=given.photos)
            runs = [{row: measure_apart(row, setting) for row in given.rows} for _ in range(given.repeats)]
            print(table(setting, {row: middle([run[row] for run in runs]) for row in given.rows}), "\n", flush=True)


if __name__ == "__main__":
    main()
