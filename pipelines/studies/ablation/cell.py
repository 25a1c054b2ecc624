"""Run one cell of the ablation study: tune as `ecor train` does, and evaluate. Each judgement gives a row."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecor.checkpoint import load, save_checkpoint
from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig, PromptConfig, TemplateConfig
from ecor.config.scoring import MethodName, ScoringConfig
from ecor.config.training import FitConfig, ObjectiveConfig
from ecor.model import Recognizer
from ecor.probability.temperature_scaling import fit_temperatures
from ecor.storage.atomic_write import replace_file
from ecor.storage.model_records import read_checkpoint
from ecor.training.template_search import HAND_TEMPLATES, best_templates
from pipelines.config.training import TrainConfig
from pipelines.studies.ablation.factors import factor_metrics
from pipelines.studies.ablation.figures import LabelledImages, row_metrics, set_metrics
from pipelines.studies.ablation.grid import Cell, Judgement
from pipelines.studies.drawn_splits import Sizes, WorldSplits, draw_world, locate_world
from pipelines.training.systems.local_run import build_local_trainer, train_to_end
from pipelines.training.systems.prompt_trainer import PromptTrainer

_IMAGES_PER_PASS = 256


def read_images(world: WorldSplits, *, split: str, recognizer: Recognizer) -> LabelledImages:
    """Read a split with image features of a model and the full ground truth."""
    with np.load(world.truth(split)) as stored:
        truth = {name: torch.from_numpy(stored[name]) for name in stored.files}
    parts = [recognizer.image_features(pixels) for pixels in truth.pop("pixels").split(_IMAGES_PER_PASS)]
    features = ImageFeatures(
        rationale=torch.cat([part.rationale for part in parts]), category=torch.cat([part.category for part in parts])
    )
    return LabelledImages(features=features, **truth)


def read_plain_images(world: WorldSplits, *, split: str, backbone: Backbone) -> LabelledImages:
    """Read a split with the features that the image tower gives without tokens; they are encoded once, into a file."""
    plain = Recognizer.zero_shot(world.vocabulary, backbone=backbone)
    path = world.folder / f"{split}-{plain.image_side.model_digest[:16]}.safetensors"
    if not path.is_file():
        features = read_images(world, split=split, recognizer=plain).features
        with replace_file(path) as unfinished:
            save_file({"rationale": features.rationale, "category": features.category}, unfinished)
    return LabelledImages(features=ImageFeatures(**load_file(path)), **_read_truth(world, split=split))


def _read_truth(world: WorldSplits, *, split: str) -> dict[str, Tensor]:
    """Ground truth of a split, without its pixels."""
    with np.load(world.truth(split)) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files if name != "pixels"}


def run_cell(cell: Cell, *, root: Path, clip: BackboneConfig, sizes: Sizes) -> list[dict[str, Any]]:
    """Tune as the cell says, and evaluate the result; each judgement gives a row.

    Args:
        cell: the tuning and its judgements.
        root: folder shared by all cells: worlds, image features, chosen wordings, tuned tokens.
        clip: the backbone of the cell's pretraining seed.
        sizes: numbers of images and epochs. Torch runs on one thread.
    """
    torch.set_num_threads(1)
    world = locate_world(root, set_name=cell.set_name, num_categories=cell.num_categories, seed=cell.seed, sizes=sizes)
    draw_world(world)
    backbone = load_backbone(clip)
    templates = _choose_templates(cell, world=world, backbone=backbone, root=root)
    name = cell.digest_of(asdict(sizes))
    tuning: Mapping[str, float] = {}
    if cell.objective is None:
        recognizer = _zero_shot(world, backbone=backbone, templates=templates)
    else:
        folder = root / "tuned" / name
        if not folder.is_dir():
            _tune(cell, folder=folder, world=world, clip=clip, templates=templates, root=root)
        recognizer, tuning = load(folder, backbone=backbone), read_checkpoint(folder).metrics
    shared = {
        "cell": name,
        **{field: value for field, value in asdict(cell).items() if field not in ("judgements", "wording")},
        "num_categories": len(world.categories),
        "wording": HAND_TEMPLATES.index(templates),
        "wording_is_chosen": cell.wording is None,
        **tuning,
    }
    encoded: dict[tuple[str, str], LabelledImages] = {}
    return [
        shared | _evaluate(judgement, world=world, recognizer=recognizer, encoded=encoded)
        for judgement in cell.judgements
    ]


def _evaluate(
    judgement: Judgement,
    *,
    world: WorldSplits,
    recognizer: Recognizer,
    encoded: dict[tuple[str, str], LabelledImages],
) -> dict[str, Any]:
    """Judge the model; images of a set and split are encoded once, into `encoded`."""
    target = world
    if judgement.test_set != world.set_name:
        root = world.folder.parents[1]
        target = locate_world(
            root, set_name=judgement.test_set, num_categories=None, seed=world.seed, sizes=world.sizes
        )
        draw_world(target)
        recognizer = recognizer.with_vocabulary(target.vocabulary)
    key = (target.set_name, judgement.split)
    if key not in encoded and recognizer.prompts.visual is None:
        encoded[key] = read_plain_images(target, split=judgement.split, backbone=recognizer.backbone)
    elif key not in encoded:
        encoded[key] = read_images(target, split=judgement.split, recognizer=recognizer)
    images = encoded[key]
    found: dict[str, Any] = {"judgement": judgement.name, **asdict(judgement), "num_images": len(images.categories)}
    found["decoding_judged"] = found.pop("decoding")
    if judgement.set_size > 1:
        return found | set_metrics(recognizer, images, size=judgement.set_size, rule=judgement.set_rule)
    found |= row_metrics(recognizer, images, decoding=judgement.decoding, seed=world.seed)
    for num_things, name in ((1, "one"), (2, "two")):
        some = images.select((images.num_things == num_things).nonzero().squeeze(1))
        part = row_metrics(recognizer, some, decoding=judgement.decoding, seed=world.seed)
        found |= {f"{figure}_{name}": part[figure] for figure in ("rr", "accuracy", "visible_rr")}
    if judgement.decoding == "joint" and judgement.split == "test" and target is world:
        found |= factor_metrics(recognizer, images)
    return found


def _tune(
    cell: Cell, *, folder: Path, world: WorldSplits, clip: BackboneConfig, templates: TemplateConfig, root: Path
) -> None:
    """Tune as `ecor train` does, on one rank, and save the model with metrics of its tuning."""
    started = time.perf_counter()
    config = _train_config(cell, world=world, clip=clip, templates=templates, root=root)
    trainer = build_local_trainer(config, vocabulary=world.vocabulary)
    assert isinstance(trainer, PromptTrainer)
    progress = train_to_end(trainer)
    best = progress.epochs[progress.best_epoch]
    metrics = {
        "num_steps": float(progress.step),
        "best_epoch": float(progress.best_epoch),
        "validation_rr": best["validation_rr"],
        "seconds_per_epoch": progress.seconds / len(progress.epochs),
    }
    recognizer = trainer.best_recognizer(progress)
    save_checkpoint(recognizer, folder, metrics=metrics | {"tuning_s": time.perf_counter() - started})


def _train_config(
    cell: Cell, *, world: WorldSplits, clip: BackboneConfig, templates: TemplateConfig, root: Path
) -> TrainConfig:
    """Settings of `ecor train` for a cell that is tuned."""
    assert cell.objective is not None
    sizes = world.sizes
    return TrainConfig(
        shards=str(world.folder / "shards"),
        output=str(root),
        backbone=clip,
        prompts=prompt_config(cell.tokens, num=cell.num_tokens, num_blocks=load_backbone(clip).num_visual_blocks),
        templates=templates,
        objective=ObjectiveConfig(name=cell.objective, max_sentences_per_step=sizes.max_sentences_per_step),
        fit=FitConfig(learning_rate=cell.learning_rate),
        num_epochs=sizes.num_epochs,
        patience=sizes.num_epochs,
        batch_size=sizes.batch_size,
        seed=cell.seed,
        cache_dir=str(root / "cache"),
    )


def prompt_config(tokens: str, *, num: int, num_blocks: int | None) -> PromptConfig:
    """Settings for `num` tokens of a kind of `grid.TOKENS`; deep ones are in `num_blocks` blocks, None: in all."""
    none = PromptConfig(rationale_tokens=0, category_tokens=0, visual_tokens=0, visual_depth=1)
    text = replace(none, rationale_tokens=num, category_tokens=num)
    kinds = {
        "text": text,
        "visual-shallow": replace(none, visual_tokens=num),
        "visual-deep": replace(none, visual_tokens=num, visual_depth=num_blocks),
        "both": replace(text, visual_tokens=num),
        "separate": replace(text, visual_tokens=num, visual_shared=False),
    }
    return kinds[tokens]


def _zero_shot(world: WorldSplits, *, backbone: Backbone, templates: TemplateConfig) -> Recognizer:
    recognizer = Recognizer.zero_shot(world.vocabulary, backbone=backbone, templates=templates)
    images = read_plain_images(world, split="validation", backbone=backbone)
    temperatures = fit_temperatures(
        images.features,
        recognizer.text,
        categories=images.categories,
        rationales=images.rationales,
        logit_scale=backbone.logit_scale,
    )
    return recognizer.with_temperatures(temperatures)


def _choose_templates(cell: Cell, *, world: WorldSplits, backbone: Backbone, root: Path) -> TemplateConfig:
    """Return the wording that the cell names, or the best one on validation images by its decoding.

    The best one is cached in a file.
    """
    if cell.wording is not None:
        return HAND_TEMPLATES[cell.wording]
    note = root / "wordings" / f"{world.folder.name}-{cell.decoding}-{backbone.digest[:16]}.json"
    if note.is_file():
        return HAND_TEMPLATES[json.loads(note.read_text())["wording"]]
    found = _best_templates(world, backbone=backbone, decoding=cell.decoding)
    with replace_file(note) as unfinished:
        unfinished.write_text(json.dumps({"wording": HAND_TEMPLATES.index(found)}))
    return found


def _best_templates(world: WorldSplits, *, backbone: Backbone, decoding: MethodName) -> TemplateConfig:
    vocabulary = world.vocabulary
    images = read_plain_images(world, split="validation", backbone=backbone)
    templates, _ = best_templates(
        images.features,
        backbone=backbone,
        vocabulary=vocabulary,
        categories=images.categories,
        rationales=images.rationales.unsqueeze(1),
        scoring=ScoringConfig(method=decoding, top_k=1),
    )
    return templates
