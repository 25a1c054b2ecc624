"""Calibration of pair, category and visible rationale on fresh drawn images, by the number of validation images.

python benchmarks/calibration.py --work /tmp/calibration --sets demo-small demo-main --seeds 5000 5001 5002
python benchmarks/calibration.py --work /tmp/calibration --sets other-main --clip run/model.json run/weights.safetensors

Each seed draws training, validation and test images of a set. A model is tuned on the training images of each seed with
the shipped settings. Its validation images choose templates and epoch, and temperatures, maps of visibility and maps of
confidence are fitted on them. It is judged on the test images of its seed, which choose nothing. Everything is kept in
--work: the same command resumes.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig
from ecor.config.scoring import MethodName, ScoringConfig
from ecor.config.training import ObjectiveConfig
from ecor.data.predictions.schema import origins_table
from ecor.evaluation.calibration import Stated, calibration_of, stated_probabilities
from ecor.evaluation.confidence_intervals import Estimate, Resampling
from ecor.evaluation.correctness import Labels
from ecor.evaluation.label_columns import read_labels
from ecor.model import Recognizer
from ecor.probability.temperature_scaling import fit_temperatures
from ecor.storage.atomic_write import replace_file
from ecor.training.template_search import best_templates
from pipelines.config.training import TrainConfig
from pipelines.studies.ablation.cell import read_images
from pipelines.studies.ablation.figures import LabelledImages
from pipelines.studies.drawn_splits import Sizes, WorldSplits, draw_world, locate_world
from pipelines.training.systems.local_run import build_local_trainer, train_to_end
from pipelines.training.systems.probability_maps import fit_probability_maps
from pipelines.training.systems.prompt_trainer import PromptTrainer

MAPPED = {"pair": "pair, mapped", "category": "category, mapped"}
"""What `calibrated_confidence` states of the best pair, and of the most probable category."""
QUANTITIES = {
    "pair": "pair",
    MAPPED["pair"]: "pair, as stated",
    "category": "category",
    MAPPED["category"]: "category, as stated",
    "rationale_visible": "rationale visible",
    "visible": "P(r \\| I)",
}
METHODS: tuple[MethodName, ...] = ("joint", "pooled")
RESAMPLING = Resampling(num_resamples=1000)
NUM_BINS = 15
LEAST_IMAGES = 50
"""Fewest images of a category whose gap is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a method states of some images, by seed."""

    method: MethodName
    sizes: str
    stated: dict[str, list[Stated]]
    categories: dict[str, list[np.ndarray]]
    """Named category of the same images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of drawings and tuned models")
    parser.add_argument("--sets", nargs="+", default=["demo-small", "demo-main"], help="sets of a drawn world")
    parser.add_argument("--seeds", nargs="+", type=int, default=[5000, 5001, 5002], help="of images and tunings")
    parser.add_argument("--clip", nargs=2, metavar=("MODEL", "WEIGHTS"), help="of `ecor pretrain`; none: the package's")
    parser.add_argument("--validation", nargs="+", type=int, default=[300, 1000, 3000], help="images per seed")
    parser.add_argument("--test", type=int, default=3000, help="test images per seed")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clip = BackboneConfig(precision="fp32")
    if given.clip:
        clip = BackboneConfig(name=given.clip[0], pretrained=given.clip[1], precision="fp32")
    print(
        "| set | method | validation images | probability of | error, corrected, % | mean gap, points | Brier | NLL |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in given.sets:
        for number in given.validation:
            sizes = Sizes(num_validation=number, num_test=given.test)
            worlds = [
                locate_world(given.work, set_name=name, num_categories=None, seed=seed, sizes=sizes)
                for seed in given.seeds
            ]
            for judged in judge_set(worlds, clip=clip):
                print_rows(name, judged)


def judge_set(worlds: list[WorldSplits], *, clip: BackboneConfig) -> Iterator[Judged]:
    """Tune a model per world, and judge what it states of fresh images."""
    backbone = load_backbone(clip)
    found: dict[tuple[MethodName, str], list[tuple[Labels, Labels]]] = {}
    for world in worlds:
        draw_world(world)
        recognizer = tuned_model(world, clip=clip, backbone=backbone)
        held_out, test = (kept_images(world, split=split, recognizer=recognizer) for split in ("validation", "test"))
        calibrated = calibrate(recognizer, held_out)
        for method in METHODS:
            key = (method, f"{len(held_out.categories):,}")
            both = tuple(label(calibrated, test, method=method, is_mapped=each) for each in (False, True))
            found.setdefault(key, []).append(both)
    for (method, num_images), labels in found.items():
        yield judged_of(labels, method=method, sizes=num_images)


def kept_images(world: WorldSplits, *, split: str, recognizer: Recognizer) -> LabelledImages:
    """Features of a split with its truth, kept in a file."""
    path = world.folder / f"{split}-{recognizer.digest[:16]}.pt"
    if not path.is_file():
        with replace_file(path) as unfinished:
            torch.save(read_images(world, split=split, recognizer=recognizer), unfinished)
    found: LabelledImages = torch.load(path, weights_only=False)
    return found


def tuned_model(world: WorldSplits, *, clip: BackboneConfig, backbone: Backbone) -> Recognizer:
    """Tune with the shipped settings, from the hand-written templates that are best on validation images."""
    folder = world.folder / f"tuned-{backbone.digest[:8]}"
    if not folder.is_dir():
        plain = Recognizer.zero_shot(world.vocabulary, backbone=backbone)
        images = read_images(world, split="validation", recognizer=plain)
        templates, _ = best_templates(
            images.features,
            backbone=backbone,
            vocabulary=world.vocabulary,
            categories=images.categories,
            rationales=images.rationales.unsqueeze(1),
            scoring=ScoringConfig(top_k=1),
        )
        config = TrainConfig(
            shards=str(world.folder / "shards"),
            output=str(world.folder),
            backbone=clip,
            templates=templates,
            objective=ObjectiveConfig(max_sentences_per_step=world.sizes.max_sentences_per_step),
            num_epochs=world.sizes.num_epochs,
            patience=world.sizes.num_epochs,
            batch_size=world.sizes.batch_size,
            seed=world.seed,
            cache_dir=str(world.folder / "cache"),
        )
        trainer = build_local_trainer(config, vocabulary=world.vocabulary)
        assert isinstance(trainer, PromptTrainer)
        save_checkpoint(trainer.best_recognizer(train_to_end(trainer)), folder)
    return load(folder, backbone=backbone)


def calibrate(recognizer: Recognizer, images: LabelledImages) -> Recognizer:
    """Fit temperatures and maps, as `ecor train` does."""
    truth = {"categories": images.categories, "rationales": images.rationales}
    temperatures = fit_temperatures(
        images.features, recognizer.text, **truth, logit_scale=recognizer.backbone.logit_scale, methods=METHODS
    )
    maps = fit_probability_maps(
        recognizer.with_temperatures(temperatures),
        images.features,
        **truth,
        visible=[frozenset(row.nonzero().squeeze(1).tolist()) for row in images.visible],
        methods=METHODS,
    )
    return recognizer.with_temperatures(temperatures, visibility=maps.visibility, confidence_maps=maps.confidence)


def label(recognizer: Recognizer, images: LabelledImages, *, method: MethodName, is_mapped: bool) -> Labels:
    names = recognizer.vocabulary
    origins = origins_table(
        [f"{number:06d}" for number in range(len(images.categories))],
        category_true=[names.categories[c] for c in images.categories.tolist()],
        rationales_true=[[names.rationales[r]] for r in images.rationales.tolist()],
        visible_rationales=[[names.rationales[r] for r in row.nonzero().squeeze(1).tolist()] for row in images.visible],
    )
    scoring = ScoringConfig(method=method, visible_probability=True, calibrated_confidence=is_mapped)
    parts = [
        recognizer.label(images.features.select(ids), origins=origins.take(pa.array(ids.numpy())), scoring=scoring)
        for ids in torch.split(torch.arange(len(images.categories)), 256)
    ]
    return read_labels(pa.concat_tables(parts))


def judged_of(labels: list[tuple[Labels, Labels]], *, method: MethodName, sizes: str) -> Judged:
    stated: dict[str, list[Stated]] = {}
    categories: dict[str, list[np.ndarray]] = {}
    for each, mapped in labels:
        named = np.array(each.categories)[each.answers.pair_categories[:, 0]]
        marginal = np.array(each.categories)[each.answers.marginal_categories]
        by_map = stated_probabilities(mapped.answers, mapped.truth)
        both = stated_probabilities(each.answers, each.truth) | {MAPPED[name]: by_map[name] for name in MAPPED}
        for name, found in both.items():
            stated.setdefault(name, []).append(found)
            categories.setdefault(name, []).append(marginal if name.startswith("category") else named)
    return Judged(method=method, sizes=sizes, stated=stated, categories=categories)


def print_rows(name: str, judged: Judged) -> None:
    """Metrics over the images of all seeds, those of one model alone, and the gap per named category.

    Over all seeds the errors of three models make up for each other in part; the user of one has that of one model: the
    root mean square of the models' errors, a little too large because none of them is below 0.
    """
    for quantity, words in QUANTITIES.items():
        parts = judged.stated[quantity]
        joined = Stated(
            probability=np.concatenate([each.probability for each in parts]),
            is_so=np.concatenate([each.is_so for each in parts]),
        )
        metrics = calibration_of(joined, num_bins=NUM_BINS, resampling=RESAMPLING)
        errors = [
            calibration_of(each, num_bins=NUM_BINS, resampling=Resampling(num_resamples=1))["error"].value
            for each in parts
        ]
        gap = joined.probability - joined.is_so
        spread = 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
        of_one = np.sqrt(np.mean(np.square(errors)))
        shown = (
            f"{percent(metrics['error'])}; of one model {100 * of_one:.1f}, from {100 * min(errors):.1f} to "
            f"{100 * max(errors):.1f}"
        )
        print(
            f"| {name} | {judged.method} | {judged.sizes} | {words} | {shown} "
            f"| {100 * gap.mean():+.1f} ± {100 * spread:.1f} | {metrics['brier'].value:.3f} "
            f"| {metrics['nll'].value:.3f} |"
        )
        gaps = [each.probability - each.is_so for each in parts]
        print_categories(judged.categories[quantity], gaps, words=words)


def print_categories(categories: list[np.ndarray], gaps: list[np.ndarray], *, words: str) -> None:
    """A comment: the mean gaps of named categories, and how many differ from zero beyond their 95 % intervals.

    Of all models together, where a category's images are those that any of them names so, and of one model: of the gaps
    of each by itself. The error is their root mean square less what the number of images alone would make of it.
    """
    together, limits = mean_gaps(np.concatenate(categories), np.concatenate(gaps))
    alone = [mean_gaps(*each) for each in zip(categories, gaps, strict=True)]
    of_one = corrected(*(np.concatenate(parts) for parts in zip(*alone, strict=True)))
    print(
        f"<!-- {words}: {len(together)} categories; error {100 * corrected(together, limits):.1f}, of one model "
        f"{100 * of_one:.1f}; mean gap {100 * together.mean():.1f} points in size, half an interval is "
        f"{100 * limits.mean():.1f}; off in {(together > limits).sum()}, more than 10 points in "
        f"{(together > 0.1).sum()} -->"
    )


def mean_gaps(categories: np.ndarray, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Size of the mean gap of each category with enough images, and half its 95 % interval."""
    own = [gap[categories == name] for name in np.unique(categories)]
    enough = [each for each in own if len(each) >= LEAST_IMAGES]
    limits = [1.96 * each.std(ddof=1) / np.sqrt(len(each)) for each in enough]
    return np.array([abs(each.mean()) for each in enough]), np.array(limits)


def corrected(gaps: np.ndarray, limits: np.ndarray) -> float:
    """Root mean square of gaps without what noise adds to it."""
    return float(np.sqrt(max(0.0, np.mean(gaps**2 - (limits / 1.96) ** 2))))


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


if __name__ == "__main__":
    main()
