"""A backbone and a vocabulary in, what tuning costs out: a step against its bare passes, cached features against none.

Times are CPU seconds over all threads, which other work on the machine hardly changes; on one thread of a free machine
they are wall-clock seconds.

python benchmarks/training.py --models ecor-demo:embedded ViT-B-32:random --num-images 64 --batch-size 16
"""

import argparse
import datetime
import io
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.training import FitConfig, ObjectiveConfig
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest
from ecor.data.shards import ShardEntry, write_shard
from ecor.data.vocabulary import Vocabulary, vocabulary_from_mapping
from ecor.model import Recognizer
from ecor.training.distributed import Rank
from ecor.training.losses.objective import objective_of
from ecor.training.steps import LabelledBatch, PromptTuningModule, optimizer_of, training_step
from pipelines.training.data_loader import (
    PictureReader,
    Split,
    batch_positions,
    num_batches,
    order_of_epoch,
    read_split,
)
from pipelines.training.feature_cache import cached_features
from pipelines.training.shard_files import fetch_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one measurement runs on."""

    model: str
    """name:pretrained"""
    num_categories: int
    rationales_per_category: int
    num_images: int
    batch_size: int
    num_steps: int
    """Timed, after one that is not."""
    threads: int
    shards: str

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of a few words each, every rationale of one category."""
        categories = range(self.num_categories)
        return vocabulary_from_mapping(
            {
                f"kind number {c}": [f"a visible part {r} of kind {c}" for r in range(self.rationales_per_category)]
                for c in categories
            }
        )

    def backbone(self) -> Backbone:
        name, _, pretrained = self.model.partition(":")
        return load_backbone(BackboneConfig(name=name, pretrained=pretrained or None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table."""

    what: str
    image_s: float | None
    """Image side, CPU seconds per step or epoch."""
    text_s: float | None
    """Text side and all else."""
    total_s: float
    peak_bytes: int
    """Largest resident memory of a process that did nothing else."""


def pictures(num: int, *, vocabulary: Vocabulary) -> list[Sample]:
    """JPEG pictures of 320 x 240 coloured patches."""
    random = np.random.default_rng(0)
    samples = []
    for number in range(num):
        file = io.BytesIO()
        patches = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(patches).resize((320, 240), Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
        category = number % len(vocabulary.categories)
        rationale = vocabulary.rationales_of[category][number % len(vocabulary.rationales_of[category])]
        samples.append(
            Sample(
                key=f"{number:08d}",
                image=file.getvalue(),
                extension="jpg",
                category=vocabulary.categories[category],
                rationales=(vocabulary.rationales[rationale],),
                visible_rationales=None,
                source=str(number),
            )
        )
    return samples


def write_shards(setting: Setting) -> None:
    vocabulary = setting.vocabulary
    entries = [ShardEntry(sample=sample) for sample in pictures(setting.num_images, vocabulary=vocabulary)]
    shard = write_shard(entries, folder=setting.shards, name="000000.tar", vocabulary=vocabulary)
    manifest = ShardManifest(
        split="train",
        shards=(shard,),
        vocabulary_digest=vocabulary.digest,
        num_samples=len(entries),
        num_rejected=0,
        num_duplicates=0,
        config_digest="0" * 64,
        parents={},
    )
    write_shard_manifest(manifest, setting.shards)


def model_of(setting: Setting, *, visual_tokens: int) -> tuple[Recognizer, PromptTuningModule]:
    backbone = setting.backbone()
    prompts = PromptLearner(
        PromptConfig(rationale_tokens=6, category_tokens=6, visual_tokens=visual_tokens, visual_depth=1),
        backbone,
        generator=torch.Generator().manual_seed(0),
    )
    model = Recognizer(backbone=backbone, prompts=prompts, vocabulary=setting.vocabulary)
    objective = objective_of(ObjectiveConfig())
    module = PromptTuningModule(backbone=backbone, prompts=prompts, sentences=model.encoder, objective=objective)
    return model, module


def labelled(setting: Setting, backbone: Backbone) -> LabelledBatch:
    random, size = torch.Generator().manual_seed(0), backbone.preprocess.image_size
    num_c, num_r = len(setting.vocabulary.categories), len(setting.vocabulary.rationales)
    return LabelledBatch(
        pictures=torch.randint(0, 256, (setting.batch_size, 3, *size), dtype=torch.uint8, generator=random),
        categories=torch.randint(0, num_c, (setting.batch_size,), generator=random),
        rationales=torch.randint(0, num_r, (setting.batch_size,), generator=random),
    )


def bare_passes(setting: Setting, *, padded: bool) -> Row:
    """Forward and backward of the towers alone, on a step's pictures and sentences, at the same precision."""
    model, _ = model_of(setting, visual_tokens=4)
    batch, encoder = labelled(setting, model.backbone), model.encoder
    templates, names = model.templates, setting.vocabulary
    rows = batch.rationales.unique()
    texts = [templates.rationale.format(rationale=name) for name in names.rationales] + [
        templates.category_given_rationale.format(category=category, rationale=names.rationales[row])
        for row in rows.tolist()
        for category in names.categories
    ]

    def image() -> None:
        features = model.prompts.image_features(model.backbone, batch.pictures)
        features.rationale.sum().backward()

    def text() -> None:
        if padded:
            for start in range(0, len(texts), 256):
                part = texts[start : start + 256]
                model.backbone.encode_text(part, context=model.prompts.category_context).sum().backward()
        else:
            (encoder.rationale_features().sum() + encoder.category_features(rows).sum()).backward()

    image_s, text_s = seconds_of(image, num=setting.num_steps), seconds_of(text, num=setting.num_steps)
    what = f"bare passes, {len(texts)} sentences {'padded, as open_clip encodes them' if padded else 'without padding'}"
    return row(what, image_s=image_s, text_s=text_s)


def whole_step(setting: Setting) -> Row:
    """A training step: the same passes, both losses, clipping and the update."""
    model, module = model_of(setting, visual_tokens=4)
    batch, config = labelled(setting, model.backbone), FitConfig()
    optimizer = optimizer_of(config, module.parameters())

    def step() -> None:
        training_step(module, [batch], optimizer=optimizer, config=config, step=0, num_steps=100)

    total_s = seconds_of(step, num=setting.num_steps)
    return row("training step (visual and text tokens)", total_s=total_s)


def text_epoch(setting: Setting, *, cached: bool) -> Row:
    """An epoch of tuning text tokens, with image features from the cache, or read, decoded and encoded anew."""
    model, module = model_of(setting, visual_tokens=0)
    split = read_split(setting.shards, vocabulary=setting.vocabulary)
    config = FitConfig()
    optimizer = optimizer_of(config, module.parameters())
    features_of = cached_side(setting, model, split) if cached else encoded_side(setting, model, split)
    order = order_of_epoch(len(split), seed=0, epoch=1)
    image_s, started = 0.0, time.process_time()
    for number in range(num_batches(len(split), batch_size=setting.batch_size)):
        positions = batch_positions(order, batch=number, batch_size=setting.batch_size, rank=Rank())
        image_started = time.process_time()
        features = features_of(positions)
        image_s += time.process_time() - image_started
        batch = LabelledBatch(
            pictures=ImageFeatures(rationale=features, category=features),
            categories=split.categories[positions],
            rationales=split.rationales_of_epoch(1)[positions],
        )
        training_step(module, [batch], optimizer=optimizer, config=config, step=0, num_steps=100)
    total_s = time.process_time() - started
    what = "cached image features" if cached else "images read, decoded and encoded each epoch"
    return row(f"epoch of text tokens, {what}", image_s=image_s, text_s=total_s - image_s)


def encoded_side(setting: Setting, model: Recognizer, split: Split) -> Callable[[np.ndarray], torch.Tensor]:
    reader = reader_of(setting, model, split)
    return lambda positions: model.image_features(reader.pixels(positions)[0]).rationale


def cached_side(setting: Setting, model: Recognizer, split: Split) -> Callable[[np.ndarray], torch.Tensor]:
    features, _ = cached_features(
        split,
        backbone=model.backbone,
        reader=lambda: reader_of(setting, model, split),
        batch_size=setting.batch_size,
        rank=Rank(),
        folder=Path(setting.shards) / "features",
    )
    return lambda positions: features[positions]


def reader_of(setting: Setting, model: Recognizer, split: Split) -> PictureReader:
    paths = fetch_shards(split, rank=Rank(), cache_dir=Path(setting.shards))
    preprocess = model.backbone.preprocess
    return PictureReader(split, paths=paths, preprocess=preprocess, num_threads=setting.threads)


def seconds_of(deed: Callable[[], object], *, num: int) -> float:
    """Of the fastest of some runs, after one that does not count: other work on the machine only ever adds."""
    times = []
    for _ in range(num + 1):
        started = time.process_time()
        deed()
        times.append(time.process_time() - started)
    return min(times[1:])


def row(what: str, *, image_s: float | None = None, text_s: float | None = None, total_s: float | None = None) -> Row:
    if total_s is None:
        assert image_s is not None and text_s is not None
        total_s = image_s + text_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Row(what=what, image_s=image_s, text_s=text_s, total_s=total_s, peak_bytes=peak)


def alone(deed: Callable[..., Row], setting: Setting, **options: bool) -> Row:
    """Measured in a process of its own, so that its peak memory is its own."""
    with get_context("spawn").Pool(1, initializer=torch.set_num_threads, initargs=(setting.threads,)) as pool:
        return pool.apply(deed, (setting,), options)


def table(setting: Setting, rows: list[Row]) -> str:
    lines = [
        f"### {setting.model}: {setting.num_categories} categories x {setting.rationales_per_category} rationales, "
        f"batch {setting.batch_size}, {setting.num_images} images, {setting.threads} threads, fp32",
        "",
        "| what | image side, CPU s | text side, CPU s | total, CPU s | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for each in rows:
        sides = ["–" if value is None else f"{value:.4f}" for value in (each.image_s, each.text_s)]
        lines.append(f"| {each.what} | {sides[0]} | {sides[1]} | {each.total_s:.4f} | {each.peak_bytes / 2**20:.0f} |")
    padded, bare, step, anew, cached = rows
    assert anew.image_s and cached.image_s and cached.text_s
    lines += [
        "",
        f"The step takes {step.total_s / bare.total_s:.2f} times its bare passes without padding, "
        f"{step.total_s / padded.total_s:.2f} times those with padding. With cached features the image side of an "
        f"epoch is {anew.image_s / cached.image_s:.0f} times cheaper, the epoch {anew.total_s / cached.total_s:.1f} "
        f"times; the text side is {cached.text_s / cached.total_s:.1%} of what is left.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["ecor-demo:embedded"], help="name:pretrained")
    parser.add_argument("--num-categories", type=int, default=10)
    parser.add_argument("--rationales-per-category", type=int, default=6)
    parser.add_argument("--num-images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(
        f"`python {shlex.join(sys.argv)}`, {datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"torch {torch.__version__}\n"
    )
    for model in options.models:
        with tempfile.TemporaryDirectory() as shards:
            given = {name: value for name, value in vars(options).items() if name != "models"}
            setting = Setting(model=model, shards=shards, **given)
            write_shards(setting)
            alone(text_epoch, setting, cached=True)  # the first run makes the cache, the measured one finds it
            rows = [
                alone(bare_passes, setting, padded=True),
                alone(bare_passes, setting, padded=False),
                alone(whole_step, setting),
                alone(text_epoch, setting, cached=False),
                alone(text_epoch, setting, cached=True),
            ]
            print(table(setting, rows))


if __name__ == "__main__":
    main()
