"""How many images must be reviewed until a tuned model is right for a visible reason: each strategy against random.

    python benchmarks/learning.py --worlds demo --output learning-demo
    python benchmarks/learning.py --worlds other --output learning-other --clip run/model.json run/weights.safetensors

A cell is one world, one strategy and one repetition: a first model is tuned on a few drawn images; then, round by
round, the strategy chooses images of a pool, a reviewer who knows the truth accepts or corrects their labels, and the
model is tuned on as `ecor learn` does it, with the reviewed images divided by the hash of their content (a held-out
share teaches nothing). Every figure is of test images that nothing was chosen on. Finished cells are kept, so the same
command goes on; without the time for all cells, repetitions come one after another, each with every strategy.
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.feature_types import ImageFeatures
from ecor.config.model import BackboneConfig
from ecor.config.scoring import ScoringConfig
from ecor.config.training import FitConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.schema import origins_table
from ecor.data.samples import Sample
from ecor.data.shard_manifest import ShardManifest, write_shard_manifest, write_side_files
from ecor.data.shards import ShardEntry, write_shard
from ecor.demo.worlds.registry import set_vocabulary
from ecor.demo.zero_shot_eval import SplitImages, draw_split
from ecor.model import Recognizer, as_vocabulary
from ecor.storage.digests import bytes_sha256
from pipelines.config.learning import AskConfig, LearnConfig, StrategyName
from pipelines.config.training import TrainConfig
from pipelines.learning.corrections import REVIEWED_SCHEMA
from pipelines.learning.strategies import rank_labels
from pipelines.learning.tuning import WARMUP_STEPS
from pipelines.training.systems.local_run import build_local_trainer, train_to_end
from pipelines.training.systems.prompt_trainer import PromptTrainer

STRATEGIES: tuple[StrategyName, ...] = ("random", "margin", "disagreement", "wrong_reason", "coverage")
WORLDS = ("demo", "other")
NUM_RESAMPLES = 2000
NUM_FIRST = 48
"""Images that the first model is tuned on."""
SHARES = LearnConfig(labels="").split_shares
FIT = FitConfig(learning_rate=LearnConfig(labels="").learning_rate, warmup_steps=WARMUP_STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all cells have in common."""

    root: Path
    budgets: tuple[int, ...]
    """Reviewed images after each round."""
    num_pool: int
    num_test: int
    num_epochs: int
    clip: BackboneConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of all rounds."""

    world: str
    strategy: StrategyName
    seed: int

    @property
    def name(self) -> str:
        return f"{self.world}-{self.strategy}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Drawn images with their truth, as samples of shards and as pixels."""

    images: SplitImages
    samples: tuple[Sample, ...]

    @property
    def pixels(self) -> torch.Tensor:
        return torch.from_numpy(self.images.pixels).permute(0, 3, 1, 2).contiguous()


@lru_cache(maxsize=4)
def draw(world: str, *, split: str, num: int, seed: int) -> Pool:
    """Images of a world; a reviewer names all visible rationales, the labelled one first."""
    images = draw_split(f"{world}-small", split=split, num_images=num, seed=seed)
    samples = tuple(_sample(images, number) for number in range(num))
    return Pool(images=images, samples=samples)


def _sample(images: SplitImages, number: int) -> Sample:
    drawing, file = images.drawings[number], BytesIO()
    drawing.drawing.image.save(file, "png", compress_level=1)
    shown = dict.fromkeys([drawing.rationale, *drawing.visible_rationales])
    return Sample(
        key=f"{number:06d}",
        image=file.getvalue(),
        extension="png",
        category=drawing.category,
        rationales=tuple(shown),
        visible_rationales=drawing.visible_rationales,
        source=str(number),
    )


def split_of(sample: Sample) -> str:
    """By the hash of the content, as `ecor shard` does."""
    place, end = int(bytes_sha256(sample.image)[-13:], 16) / 16**13, 0.0
    for split, share in sorted(SHARES.items()):
        end += share
        if place < end:
            return split
    return "validation"


def write_splits(folder: Path, samples: Sequence[Sample], *, world: str) -> str:
    """Shards of `train` and `validation`; held-out samples teach nothing."""
    vocabulary = as_vocabulary(set_vocabulary(f"{world}-small"))
    for split in ("train", "validation"):
        chosen = [each for each in samples if split_of(each) == split]
        entries = [ShardEntry(sample=each) for each in sorted(chosen, key=lambda each: each.key)]
        manifest = ShardManifest(
            split=split,
            shards=(write_shard(entries, folder=folder / split, name="000000.tar", vocabulary=vocabulary),),
            vocabulary_digest=vocabulary.digest,
            num_samples=len(entries),
            num_rejected=0,
            num_duplicates=0,
            config_digest="0" * 64,
            parents={},
        )
        write_shard_manifest(manifest, folder / split)
    write_side_files(folder, vocabulary=vocabulary)
    return str(folder)


def tune(samples: Sequence[Sample], *, cell: Cell, study: Study, init_from: Path | None, target: Path) -> Recognizer:
    """Tune on, as `ecor learn` does, and save the model."""
    with tempfile.TemporaryDirectory() as scratch:
        config = TrainConfig(
            shards=write_splits(Path(scratch) / "shards", samples, world=cell.world),
            output=scratch,
            backbone=study.clip,
            fit=FIT,
            num_epochs=study.num_epochs,
            batch_size=16,
            init_from=None if init_from is None else str(init_from),
            seed=cell.seed,
            cache_dir=f"{scratch}/cache",
        )
        trainer = build_local_trainer(config, vocabulary=as_vocabulary(set_vocabulary(f"{cell.world}-small")))
        assert isinstance(trainer, PromptTrainer)
        recognizer = trainer.best_recognizer(train_to_end(trainer))
    save_checkpoint(recognizer, target)
    return recognizer


def features_of(recognizer: Recognizer, pool: Pool) -> ImageFeatures:
    parts = [recognizer.image_features(part) for part in pool.pixels.split(64)]
    return ImageFeatures(
        rationale=torch.cat([each.rationale for each in parts]), category=torch.cat([each.category for each in parts])
    )


def label(recognizer: Recognizer, pool: Pool, folder: Path) -> pa.Table:
    """Labels of all images of a pool, as `ecor score` writes them."""
    origins = origins_table([each.key for each in pool.samples])
    table = recognizer.label(features_of(recognizer, pool), origins=origins)
    shutil.rmtree(folder, ignore_errors=True)
    parents = PredictionParents(
        input="pool",
        input_digest="0" * 64,
        model_uri="study",
        model_name="study",
        model_version=None,
        model_digest=recognizer.digest,
        vocabulary_digest=recognizer.vocabulary.digest,
    )
    part = write_part(str(folder), table, name="part-0.parquet", unit="0")
    write_prediction_set(str(folder), PredictionSet(parts=(part,), parents=parents, scoring=ScoringConfig()))
    return table


def review(table: pa.Table, pool: Pool, positions: Sequence[int]) -> pa.Table:
    """What a reviewer who knows the truth says of these labels, as `ecor learn` keeps it."""
    rows = []
    for position, row in zip(positions, table.take(list(positions)).to_pylist(), strict=True):
        sample = pool.samples[position]
        is_right, is_visible = row["category"] == sample.category, row["rationale"] in sample.rationales
        rows.append(
            {
                "key": row["key"],
                "use": "taken",
                "category": sample.category,
                "rationales": [row["rationale"]] if is_right and is_visible else list(sample.rationales),
                "category_before": row["category"],
                "rationale_before": row["rationale"],
                "is_wrong_reason": is_right and not is_visible,
            }
        )
    return pa.Table.from_pylist(rows, schema=REVIEWED_SCHEMA)


def measure(recognizer: Recognizer, test: Pool) -> dict[str, float]:
    """Accuracy, and RR: the category is right, and the image shows the rationale."""
    origins = origins_table([each.key for each in test.samples])
    rows = recognizer.label(features_of(recognizer, test), origins=origins).to_pylist()
    right = [row["category"] == each.category for row, each in zip(rows, test.samples, strict=True)]
    shown = [row["rationale"] in each.rationales for row, each in zip(rows, test.samples, strict=True)]
    return {"accuracy": float(np.mean(right)), "rr": float(np.mean(np.array(right) & np.array(shown)))}


def run_cell(cell: Cell, *, study: Study) -> list[dict[str, float]]:
    """Figures on test images: of the first model, and after each round."""
    pool = draw(cell.world, split="train", num=study.num_pool, seed=100 + cell.seed)
    test = draw(cell.world, split="test", num=study.num_test, seed=200 + cell.seed)
    with tempfile.TemporaryDirectory() as scratch:
        model = first_model(cell, study=study)
        recognizer = load(model)
        found = [{"reviewed": 0.0, **measure(recognizer, test)}]
        beside = Path(scratch, "zero-shot")
        if cell.strategy == "disagreement":
            label(Recognizer.zero_shot(recognizer.vocabulary, backbone=recognizer.backbone), pool, beside)
        reviewed, samples = REVIEWED_SCHEMA.empty_table(), list[Sample]()
        for number, budget in enumerate(study.budgets):
            table = label(recognizer, pool, Path(scratch, "labels"))
            config = ask_config(cell, number=budget - reviewed.num_rows, is_first=number == 0, beside=beside)
            positions = rank_labels(str(Path(scratch, "labels")), reviewed=reviewed, config=config)[0].tolist()
            said = review(table, pool, positions)
            samples += [_corrected(pool.samples[p], row) for p, row in zip(positions, said.to_pylist(), strict=True)]
            reviewed = pa.concat_tables([reviewed, said])
            target = Path(scratch, f"model-{number}")
            recognizer = tune(samples, cell=cell, study=study, init_from=model, target=target)
            model = target
            found.append({"reviewed": float(budget), **measure(recognizer, test)})
    return found


def first_model(cell: Cell, *, study: Study) -> Path:
    """Of a world and a repetition; all strategies start from it."""
    folder = study.root / "first" / f"{cell.world}-{cell.seed}"
    if not folder.exists():
        samples = draw(cell.world, split="validation", num=NUM_FIRST, seed=300 + cell.seed).samples
        tune(samples, cell=cell, study=study, init_from=None, target=folder)
    return folder


def ask_config(cell: Cell, *, number: int, is_first: bool, beside: Path) -> AskConfig:
    """The strategy's; `wrong_reason` knows nothing before the first corrections, and begins at random."""
    strategy: StrategyName = "random" if is_first and cell.strategy == "wrong_reason" else cell.strategy
    others = (str(beside),) if strategy == "disagreement" else ()
    return AskConfig(number=number, strategy=strategy, others=others, seed=cell.seed)


def _corrected(sample: Sample, row: dict[str, object]) -> Sample:
    rationales = row["rationales"]
    assert isinstance(rationales, list)
    return Sample(
        key=sample.key,
        image=sample.image,
        extension=sample.extension,
        category=sample.category,
        rationales=tuple(rationales),
        visible_rationales=None,
        source=sample.source,
    )


# Figures


def finished(study: Study) -> Iterator[tuple[Cell, list[dict[str, float]]]]:
    for path in sorted((study.root / "cells").glob("*.json")):
        values = json.loads(path.read_text())
        yield Cell(**values["cell"]), values["figures"]


def interval(values: Sequence[float]) -> str:
    """Mean with its 95 % interval over repetitions (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f}"


def images_needed(figures: Sequence[dict[str, float]], *, metric: str, level: float) -> float:
    """Reviewed images until the figure is first at this level, between rounds by a line; infinity if never."""
    for before, after in pairwise(figures):
        if before[metric] >= level:
            return before["reviewed"]
        if after[metric] >= level:
            share = (level - before[metric]) / (after[metric] - before[metric])
            return before["reviewed"] + share * (after["reviewed"] - before["reviewed"])
    return math.inf


def needed_interval(curves: Sequence[list[dict[str, float]]], *, metric: str, level: float) -> str:
    """Reviewed images until the mean over repetitions is at a level, with its 95 % interval (bootstrap over them)."""
    values = np.array([[each[metric] for each in figures] for figures in curves])
    reviewed = [each["reviewed"] for each in curves[0]]
    draws = np.random.default_rng(0).integers(0, len(values), (NUM_RESAMPLES, len(values)))

    def needed(rows: np.ndarray) -> float:
        mean = [{"reviewed": number, metric: value} for number, value in zip(reviewed, rows.mean(0), strict=True)]
        return images_needed(mean, metric=metric, level=level)

    low, high = np.quantile([needed(values[draw]) for draw in draws], (0.025, 0.975), method="nearest")
    middle, low, high = ("more" if math.isinf(each) else f"{each:.0f}" for each in (needed(values), low, high))
    return f"{middle} ({low} to {high})"


def print_world(world: str, *, study: Study) -> None:
    """Tables of a world: figures by round, differences from random, and images needed for what random reaches."""
    cells = {(cell.strategy, cell.seed): found for cell, found in finished(study) if cell.world == world}
    seeds = sorted({seed for _, seed in cells if all((name, seed) in cells for name in STRATEGIES)})
    if not seeds:
        print(f"\n{world}: no repetition with every strategy")
        return
    print(f"\n## {world}: {len(seeds)} repetitions\n")
    rounds = range(len(study.budgets) + 1)
    for metric in ("rr", "accuracy"):
        print(
            f"| {metric}, % | "
            + " | ".join(str(int(cells["random", seeds[0]][r]["reviewed"])) for r in rounds)
            + " | rounds |"
        )
        print("|---|" + "---:|" * (len(rounds) + 1))
        for name in STRATEGIES:
            figures = [[100 * cells[name, seed][r][metric] for seed in seeds] for r in rounds]
            print(
                f"| {name} | "
                + " | ".join(map(interval, figures))
                + f" | {interval(np.mean(figures[1:], axis=0).tolist())} |"
            )
        for name in STRATEGIES[1:]:
            gaps = [
                [100 * (cells[name, seed][r][metric] - cells["random", seed][r][metric]) for seed in seeds]
                for r in rounds
            ]
            over_rounds = np.mean(gaps[1:], axis=0).tolist()
            print(f"| {name} less random | " + " | ".join(map(interval, gaps)) + f" | {interval(over_rounds)} |")
        level = float(np.mean([cells["random", seed][-2][metric] for seed in seeds]))
        print(f"\nimages until {metric} is {100 * level:.1f} % (as random is with {study.budgets[-2]}):")
        for name in STRATEGIES:
            print(f"- {name}: {needed_interval([cells[name, seed] for seed in seeds], metric=metric, level=level)}")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--worlds", nargs="+", required=True, choices=WORLDS)
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--budgets", nargs="+", type=int, default=[40, 80, 160, 320])
    parser.add_argument("--num-pool", type=int, default=800)
    parser.add_argument("--num-test", type=int, default=1000)
    parser.add_argument("--num-epochs", type=int, default=LearnConfig(labels="").num_epochs)
    parser.add_argument("--clip", nargs=2, metavar=("MODEL", "WEIGHTS"), help="of `ecor pretrain`; none: the package's")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no cell after this time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clip = BackboneConfig(precision="fp32")
    if options.clip:
        clip = BackboneConfig(name=options.clip[0], pretrained=options.clip[1], precision="fp32")
    study = Study(
        root=options.output,
        budgets=tuple(options.budgets),
        num_pool=options.num_pool,
        num_test=options.num_test,
        num_epochs=options.num_epochs,
        clip=clip,
    )
    settings = {name: getattr(options, name) for name in ("budgets", "num_pool", "num_test", "num_epochs", "clip")}
    (study.root / "cells").mkdir(parents=True, exist_ok=True)
    record = study.root / "study.json"
    if record.exists() and json.loads(record.read_text()) != settings:
        parser.error(f"{study.root} holds a study of {record.read_text()}: name another --output")
    record.write_text(json.dumps(settings))
    began = time.monotonic()
    for seed in range(options.repetitions):
        for world in options.worlds:
            for strategy in STRATEGIES:
                cell = Cell(world=world, strategy=strategy, seed=seed)
                path = study.root / "cells" / f"{cell.name}.json"
                if path.exists() or time.monotonic() - began > 60 * options.minutes:
                    continue
                started = time.monotonic()
                figures = run_cell(cell, study=study)
                values = {"cell": {"world": world, "strategy": strategy, "seed": seed}, "figures": figures}
                path.write_text(json.dumps(values))
                shown = ", ".join(f"{100 * each['rr']:.1f}" for each in figures)
                print(f"{cell.name}: RR {shown} % ({time.monotonic() - started:.0f} s)", flush=True)
    for world in options.worlds:
        print_world(world, study=study)


if __name__ == "__main__":
    main()
