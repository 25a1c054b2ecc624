"""The whole pipeline on drawn scenes with the embedded model: the shipped method beside three rivals, and a report.

Four ways to label the same test images are compared: zero-shot CLIP with the best hand-written templates, DROR's one
softmax over pairs, ECOR's joint as in the paper, and what ships: pooled decoding, tuned with its own loss. Templates,
epochs and temperatures are chosen on validation images; the test images choose nothing. The shipped method runs through
every stage as on a cluster; the rivals are labelled in this process.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from ecor.checkpoint import load
from ecor.clip.loading import load_backbone
from ecor.config.model import BackboneConfig, TemplateConfig
from ecor.config.scoring import ScoringConfig
from ecor.config.training import ObjectiveConfig, ObjectiveName
from ecor.data.images.collate import collate
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_shard
from ecor.data.vocabulary import read_vocabulary
from ecor.demo.dataset import write_dataset
from ecor.evaluation.record import slug
from ecor.model import Recognizer
from ecor.probability.temperature_scaling import fit_temperatures
from ecor.training.template_search import best_templates
from pipelines.config.infrastructure import TrackingConfig, resolve_tracking, sqlite_uri
from pipelines.config.reporting import EvaluateConfig, ReportConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig, ShardConfig
from pipelines.config.studies import DemoConfig
from pipelines.config.training import TrainConfig
from pipelines.runtime.shared_cluster import share_cluster
from pipelines.scoring.decoder import PART_IMAGES, decode_unit
from pipelines.scoring.inputs import read_input
from pipelines.scoring.predictors import DEFAULT_METHOD
from pipelines.stages import evaluate, promote, report, score, shard, train
from pipelines.studies.demo_summary import print_summary
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion

SET, CHOOSING, SPLIT = "demo-small", "validation", "test"
"""Drawn set, the split that chooses, and the split that is labelled and compared."""
MODEL = "ecor-demo"
WORLD = "world.json"
NUM_EPOCHS = 5
"""Epochs of each tuning, as in the study; with visual tokens every epoch reads all images again."""
OURS, JOINT, PAIRS, ZERO_SHOT = "ECOR, pooled", "ECOR, joint", "DROR pairs", "zero-shot CLIP"
TUNED: dict[str, ObjectiveName] = {PAIRS: "pairs", JOINT: "two_term", OURS: "three_term"}
"""Objective of each tuned method; its model is decoded as it was tuned for."""
WITHOUT_TUNING = ScoringConfig(method="pooled")
"""Zero-shot CLIP is decoded as the shipped method is."""


def run(config: DemoConfig) -> str:
    """Draw, shard, tune, compare, register, promote, score with the champion, and write the page; returns its path.

    All output is in `config.output`; the same command resumes an interrupted demo.

    Raises:
        ValueError: when the folder holds a demo of other settings.
    """
    started = time.monotonic()
    root = Path(config.output)
    tracking = resolve_tracking(TrackingConfig(uri=sqlite_uri(root / "mlflow.db"), experiment="demo"))
    _draw_images(config, root=root)
    with share_cluster():
        shard.run(ShardConfig(input=f"{root}/images", output=f"{root}/shards"), cluster=config.cluster)
        zero_shot = _zero_shot_model(root)
        for name in TUNED:
            _tune(name, templates=zero_shot.templates, config=config, tracking=tracking)
        champion = _promote_ours(root, tracking=tracking)
        score.run(
            ScoreConfig(
                input=f"{root}/shards/{SPLIT}",
                output=f"{root}/labels",
                model=champion.uri,
                explain=DEFAULT_METHOD,
                scoring=ScoringConfig(visible_probability=True),
                keep_features=True,
                precision="fp32",  # as its rivals: the same table on every processor
            ),
            cluster=config.cluster,
            tracking=tracking,
        )
    rivals = {
        JOINT: _write_labels(load(_run_folder(root, JOINT)), root=root, name=JOINT),
        PAIRS: _write_labels(load(_run_folder(root, PAIRS)), root=root, name=PAIRS),
        ZERO_SHOT: _write_labels(zero_shot, root=root, name=ZERO_SHOT, scoring=WITHOUT_TUNING),
    }
    evaluation = evaluate.run(
        EvaluateConfig(
            predictions=(f"{root}/labels", *rivals.values()), names=(OURS, *rivals), output=f"{root}/evaluation"
        ),
        tracking=tracking,
    )
    page = report.run(
        ReportConfig(
            predictions=f"{root}/labels",
            evaluation=f"{root}/evaluation",
            beside=tuple(rivals.values()),
            beside_names=tuple(rivals),
            output=f"{root}/report.html",
            title="Drawn scenes, labelled with their reasons",
        )
    )
    model = f"{champion.uri} (champion) in {tracking.uri}"
    print_summary(evaluation, model=model, page=page, seconds=time.monotonic() - started)
    return page


def _draw_images(config: DemoConfig, *, root: Path) -> None:
    """Draw the images once; the record of their settings is written last."""
    num_images = {"train": config.num_train, CHOOSING: config.num_validation, SPLIT: config.num_test}
    world = {"set": SET, **num_images, "seed": config.seed}
    record = root / WORLD
    if record.is_file():
        drawn = json.loads(record.read_text())
        if drawn != world:
            raise ValueError(f"{root} holds a demo of {drawn}, asked for is {world}: name another --output")
        return
    write_dataset(root / "images", set_name=SET, num_images=num_images, seed=config.seed)
    record.write_text(json.dumps(world))


@torch.no_grad()
def _zero_shot_model(root: Path) -> Recognizer:
    """CLIP with the best hand-written templates on the validation images, and temperatures fitted there.

    Tuning starts from the same templates, so that it does not merely repair a poor wording.
    """
    vocabulary = read_vocabulary(root / "shards" / "vocabulary.json")
    folder = root / "shards" / CHOOSING
    samples = [sample for info in read_shard_manifest(folder).shards for sample in read_shard(folder, info)]
    backbone = load_backbone(BackboneConfig())
    batch = collate(samples, vocabulary=vocabulary, preprocess=backbone.preprocess)
    features = Recognizer.zero_shot(vocabulary, backbone=backbone).image_features(batch.images)
    templates, _ = best_templates(
        features,
        backbone=backbone,
        vocabulary=vocabulary,
        categories=batch.categories,
        rationales=batch.rationales[:, None],
        scoring=replace(WITHOUT_TUNING, top_k=1),
    )
    recognizer = Recognizer.zero_shot(vocabulary, backbone=backbone, templates=templates)
    temperatures = fit_temperatures(
        features,
        recognizer.text,
        categories=batch.categories,
        rationales=batch.rationales,
        logit_scale=backbone.logit_scale,
    )
    return recognizer.with_temperatures(temperatures)


def _tune(name: str, *, templates: TemplateConfig, config: DemoConfig, tracking: TrackingConfig) -> None:
    root = Path(config.output)
    Console(stderr=True).print(f"{name}: tuning", style="bold")
    settings = TrainConfig(
        shards=f"{root}/shards",
        output=_run_folder(root, name),
        templates=templates,
        objective=ObjectiveConfig(name=TUNED[name]),
        seed=config.seed,
        num_epochs=NUM_EPOCHS,
    )
    train.run(settings, cluster=config.cluster, tracking=tracking)


def _promote_ours(root: Path, *, tracking: TrackingConfig) -> ModelVersion:
    candidate = model_registry.register_model(
        RegisterConfig(checkpoint=_run_folder(root, OURS), name=MODEL), tracking=tracking
    )
    promote.run(PromoteConfig(model=candidate.uri, force=True), tracking=tracking)
    return model_registry.resolve_model(f"models:/{MODEL}@champion", tracking=tracking)


def _write_labels(recognizer: Recognizer, *, root: Path, name: str, scoring: ScoringConfig | None = None) -> str:
    """Label the test images in this process; returns the path of the labels."""
    recognizer, tables = recognizer.with_name(name), []
    for unit in read_input(f"{root}/shards/{SPLIT}", unit_size=PART_IMAGES).units:
        for part in decode_unit(unit, preprocess=recognizer.backbone.preprocess, num_images=PART_IMAGES):
            pixels_B3HW = torch.from_numpy(part.pixels)
            tables.append(recognizer.label(pixels_B3HW, origins=part.origins, scoring=scoring))
    path = root / f"labels-{slug(name)}.parquet"
    pq.write_table(pa.concat_tables(tables), path)
    return str(path)


def _run_folder(root: Path, name: str) -> str:
    return f"{root}/runs/{slug(name)}"
