"""A GPU in, tables out: scoring against the bare encoder in fp32 and bf16, what bf16 changes, text features, tuning.

    python benchmarks/gpu.py --models ecor-demo:embedded ViT-B-32:random ViT-L-14:random --vocabulary imagenet.json

Needs neither Ray nor MLflow. Pixels lie on the GPU when the clock starts, so that decoding, which decides on most
clusters (a core decodes some hundred photos a second), is left out. Rows of a model are measured in turns, in one
process; the fastest of `--repeats` counts.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.config.choices import Precision
from ecor.config.model import BackboneConfig, TemplateConfig
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.schema import origins_table
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from ecor.demo.worlds.registry import set_vocabulary
from ecor.model import Recognizer
from ecor.probability.prediction_rows import Provenance
from ecor.training.distributed import Rank
from pipelines.config.training import TrainConfig
from pipelines.studies.drawn_splits import Sizes, WorldSplits, draw_world, locate_world
from pipelines.training.data_loader import read_split
from pipelines.training.systems.prompt_trainer import PromptTrainer, resolve_config

SET = "demo-main"
SETTINGS: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "bf16": ("bf16", False),
    "bf16, compiled": ("bf16", True),
}
NUM_ROWS = 16
"""Rationales whose sentences are encoded, each with all categories."""


def opened(model: str, *, setting: str, device: str) -> Backbone:
    name, _, pretrained = model.rpartition(":")
    precision, compiled = SETTINGS[setting]
    config = BackboneConfig(name=name, pretrained=pretrained, precision=precision, compile=compiled)
    return load_backbone(config, device=device)


def fastest(deed: Callable[[], object], *, repeats: int) -> float:
    """Seconds of the fastest run, the GPU's work included; one run before, which does not count."""
    found = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        deed()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found[1:])


@torch.no_grad()
def scoring_rows(
    model: str, *, settings: Sequence[str], batch_size: int, num_batches: int, repeats: int, device: str
) -> Iterator[str]:
    names = set_vocabulary(SET)
    for setting in settings:
        backbone = opened(model, setting=setting, device=device)
        recognizer = Recognizer.zero_shot(names, backbone=backbone)
        height, width = backbone.preprocess.image_size
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8, generator=generator)
        pixels, origins = pixels.to(device), origins_table([str(number) for number in range(batch_size)])
        provenance = recognizer.provenance
        torch.cuda.reset_peak_memory_stats()

        def bare(backbone: Backbone = backbone, pixels: Tensor = pixels) -> None:
            for _ in range(num_batches):
                backbone.encode_image(pixels)

        def ours(
            recognizer: Recognizer = recognizer,
            pixels: Tensor = pixels,
            origins: pa.Table = origins,
            provenance: Provenance = provenance,
        ) -> None:
            for _ in range(num_batches):
                recognizer.label(pixels, origins=origins, scoring=ScoringConfig(), provenance=provenance)

        rates = [num_batches * batch_size / fastest(deed, repeats=repeats) for deed in (bare, ours)]
        peak = torch.cuda.max_memory_allocated() / 2**20
        yield f"| {model} | {setting} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} | {peak:,.0f} |"


@torch.no_grad()
def drift_rows(world: WorldSplits, *, device: str) -> Iterator[str]:
    """What bf16 changes in the labels of drawn test images."""
    with np.load(world.truth("test")) as truth:
        pixels = torch.from_numpy(truth["pixels"])
    dense = {}
    for place, setting in (("cpu", "fp32"), (device, "fp32"), (device, "bf16")):
        backbone = opened("ecor-demo:embedded", setting=setting, device=place)
        recognizer = Recognizer.zero_shot(world.vocabulary, backbone=backbone)
        num = len(world.vocabulary.rationales)
        joint = recognizer.joint(pixels, scoring=ScoringConfig(keep_rationales=num, max_keep_rationales=num))
        order = joint.rationales.argsort(dim=1)[:, :, None].expand_as(joint.log_prob)
        dense[place, setting] = joint.log_prob.gather(1, order).cpu()
    reference = dense["cpu", "fp32"]
    for (place, setting), log_prob in list(dense.items())[1:]:
        apart = (log_prob.exp() - reference.exp()).abs()
        same = (log_prob.flatten(1).argmax(1) == reference.flatten(1).argmax(1)).float().mean()
        mean = float(apart.amax((1, 2)).mean())
        yield f"| {place}, {setting} | {float(apart.max()):.1e} | {mean:.1e} | {float(same):.2%} |"


@torch.no_grad()
def text_rows(model: str, *, vocabulary: Vocabulary, repeats: int, device: str) -> Iterator[str]:
    """One row is one rationale with all categories."""
    num_pairs = len(vocabulary.categories) * len(vocabulary.rationales)
    num_rationales = len(vocabulary.rationales)
    rationales = torch.arange(num_rationales)[:: max(1, num_rationales // NUM_ROWS)][:NUM_ROWS]
    for setting in ("fp32", "bf16"):
        backbone = opened(model, setting=setting, device=device)
        encoder = SentenceEncoder(backbone, vocabulary=vocabulary, templates=TemplateConfig()).with_frozen_contexts()
        seconds = fastest(partial(encoder.category_features, rationales), repeats=repeats) / len(rationales)
        rate, whole = len(vocabulary.categories) / seconds, seconds * num_rationales / 60
        yield f"| {model} | {setting} | {seconds:.4f} | {rate:,.0f} | {whole:.1f} min for {num_pairs:,} |"


def tuning_rows(world: WorldSplits, *, root: Path, device: str) -> Iterator[str]:
    """The default tuning of the study's size, with its validation."""
    for place in ("cpu", device):
        config = TrainConfig(
            shards=str(world.folder / "shards"),
            output=str(root),
            num_epochs=world.sizes.num_epochs,
            patience=world.sizes.num_epochs,
            batch_size=world.sizes.batch_size,
            calibrate=False,
        )
        splits = {
            name: read_split(f"{config.shards}/{name}", vocabulary=world.vocabulary) for name in ("train", "validation")
        }
        tuning = PromptTrainer(
            resolve_config(config),
            vocabulary=world.vocabulary,
            rank=Rank(device=place),
            cache_dir=root / place,
            **splits,
        )
        began, progress = time.perf_counter(), None
        for report in tuning.reports(tuning.module()):
            progress = report.progress
        seconds = time.perf_counter() - began
        assert progress is not None, "a run makes at least one report"
        best = progress.epochs[progress.best_epoch]
        yield (
            f"| {place}, {torch.get_num_threads()} threads | {tuning.backbone.precision} | {seconds:.1f} "
            f"| {best['validation_rr']:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded", "ViT-B-32:random", "ViT-L-14:random"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="of scoring")
    parser.add_argument("--vocabulary", type=Path, help="whose rows of sentences are encoded; without it none are")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--num-batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here")
    print(
        f"`python {shlex.join(sys.argv)}`, {torch.cuda.get_device_name()}, torch {torch.__version__}, {date.today()}\n"
    )
    print("| model | precision | bare, images/s | ours, images/s | of bare | peak MiB |\n|---|---|---:|---:|---:|---:|")
    for model in given.models:
        for row in scoring_rows(
            model,
            settings=given.settings,
            batch_size=given.batch_size,
            num_batches=given.num_batches,
            repeats=given.repeats,
            device=given.device,
        ):
            print(row, flush=True)
    if given.vocabulary:
        vocabulary = read_vocabulary(given.vocabulary)
        print("\n| model | precision | s per row | sentences/s | all pairs |\n|---|---|---:|---:|---:|")
        for model in given.models:
            for row in text_rows(model, vocabulary=vocabulary, repeats=given.repeats, device=given.device):
                print(row, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = locate_world(root, set_name=SET, num_categories=None, seed=100, sizes=Sizes())
        draw_world(world)
        print(
            "\n| against fp32 on the CPU | largest change of a probability | mean of images' largest | same best pair |"
        )
        print("|---|---:|---:|---:|")
        for row in drift_rows(world, device=given.device):
            print(row, flush=True)
        print("\n| tuning of the study's size | precision | seconds | validation RR |\n|---|---|---:|---:|")
        for row in tuning_rows(world, root=root, device=given.device):
            print(row, flush=True)


if __name__ == "__main__":
    main()
