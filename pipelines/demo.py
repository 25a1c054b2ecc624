"""DemoConfig in, a page of explained labels out: the whole job on drawn scenes, with the model that comes with `ecor`.

Three ways to label the same validation images are put side by side: zero-shot CLIP with the hand-written templates that
are best there, DROR's one softmax over pairs, and ECOR. The stages are those a cluster runs; only the sizes are small.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ecor.backbone import load_backbone
from ecor.config import BackboneConfig, ObjectiveConfig, PromptConfig, ScoringConfig, TemplateConfig
from ecor.demo.dataset import write_dataset
from ecor.evaluation import Evaluation
from ecor.model import Recognizer
from ecor.sample import collate
from ecor.shards import read_manifest, read_shard
from ecor.vocabulary import read_vocabulary
from ecor.wording import best_templates
from pipelines import evaluate, registry, report, score, shard, train
from pipelines.cluster import connected
from pipelines.config import (
    DemoConfig,
    EvaluateConfig,
    PromoteConfig,
    RegisterConfig,
    ReportConfig,
    ScoreConfig,
    ShardConfig,
    TrackingConfig,
    TrainConfig,
)
from pipelines.registry import ModelVersion

SET, SPLIT = "demo-small", "validation"
MODEL = "ecor-demo"
WORLD = "world.json"
COLUMNS = {
    "strict/rr": "RR",
    "strict/rw": "RW",
    "strict/wr": "WR",
    "strict/ww": "WW",
    "strict/accuracy": "accuracy",
    "strict/visible_rr": "visible RR",
}
ZERO_TOKENS = PromptConfig(rationale_tokens=0, category_tokens=0, visual_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to label: what is tuned, and how pairs are decoded."""

    name: str
    prompts: PromptConfig = field(default_factory=PromptConfig)
    templates: TemplateConfig = field(default_factory=TemplateConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


def run(config: DemoConfig) -> Path:
    """Draw, shard, tune, compare, register, promote, score with the champion, and write the page; its path.

    Everything goes into `config.output`; run again, it goes on where it stopped.

    Raises ValueError when the folder holds a demo of other settings.
    """
    started = time.monotonic()
    root = Path(config.output)
    tracking = registry.resolved(TrackingConfig(uri=f"sqlite:///{(root / 'mlflow.db').absolute()}", experiment="demo"))
    _draw(config, root=root)
    with connected(config.cluster):
        shard.run(ShardConfig(input=f"{root}/images", output=f"{root}/shards"), cluster=config.cluster)
        rivals, ours = _arms(root)
        models = {arm.name: _tuned(arm, config=config, tracking=tracking) for arm in (*rivals, ours)}
        champion = _champion(models[ours.name], tracking=tracking)
        models[ours.name] = champion.uri
        labels = [_labelled(arm, model=models[arm.name], config=config, tracking=tracking) for arm in (ours, *rivals)]
    evaluation = evaluate.run(
        EvaluateConfig(
            predictions=tuple(labels), names=tuple(models)[-1:] + tuple(models)[:-1], output=f"{root}/evaluation"
        ),
        tracking=tracking,
    )
    page = report.run(
        ReportConfig(
            predictions=labels[0],
            evaluation=f"{root}/evaluation",
            output=f"{root}/report.html",
            title="Drawn scenes, labelled with their reasons",
        )
    )
    _tell(evaluation, champion=champion, tracking=tracking, page=page, seconds=time.monotonic() - started)
    return page


def _draw(config: DemoConfig, *, root: Path) -> None:
    """The world's images, once; what was drawn is written beside them last."""
    world = {"set": SET, "train": config.num_train, SPLIT: config.num_validation, "seed": config.seed}
    record = root / WORLD
    if record.is_file():
        drawn = json.loads(record.read_text())
        if drawn != world:
            raise ValueError(f"{root} holds a demo of {drawn}, asked for is {world}: name another --output")
        return
    write_dataset(
        root / "images",
        set_name=SET,
        num_images={"train": config.num_train, SPLIT: config.num_validation},
        seed=config.seed,
    )
    record.write_text(json.dumps(world))


def _arms(root: Path) -> tuple[Sequence[Arm], Arm]:
    """The rivals, and ECOR; tuning starts from the wording that is best without it, so that it is not its repair."""
    templates = _best_templates(root)
    pairs = ObjectiveConfig(name="pairs")
    rivals = (
        Arm(name="zero-shot CLIP", templates=templates, prompts=ZERO_TOKENS),
        Arm(name="DROR pairs", templates=templates, objective=pairs, scoring=ScoringConfig(method="pairs")),
    )
    return rivals, Arm(name="ECOR", templates=templates)


@torch.no_grad()
def _best_templates(root: Path) -> TemplateConfig:
    """Of the hand-written templates the one that labels the validation images best without tuning."""
    vocabulary = read_vocabulary(root / "shards" / "vocabulary.json")
    folder = root / "shards" / SPLIT
    samples = [sample for info in read_manifest(folder).shards for sample in read_shard(folder, info)]
    recognizer = Recognizer.zero_shot(vocabulary, backbone=load_backbone(BackboneConfig()))
    batch = collate(samples, vocabulary=vocabulary, preprocess=recognizer.backbone.preprocess)
    templates, _ = best_templates(
        recognizer.image_features(batch.images),
        backbone=recognizer.backbone,
        vocabulary=vocabulary,
        categories=batch.categories,
        rationales=batch.rationales[:, None],
    )
    return templates


def _tuned(arm: Arm, *, config: DemoConfig, tracking: TrackingConfig) -> str:
    """Tune an arm's prompts; the folder of the run."""
    root = Path(config.output)
    deed = "zero-shot CLIP: nothing to tune, temperatures only" if arm.prompts.is_zero_shot else f"{arm.name}: tuning"
    Console(stderr=True).print(deed, style="bold")
    settings = TrainConfig(
        shards=f"{root}/shards",
        output=f"{root}/runs/{_folder(arm)}",
        prompts=arm.prompts,
        templates=arm.templates,
        objective=arm.objective,
        seed=config.seed,
    )
    train.run(settings, cluster=config.cluster, tracking=tracking)
    return settings.output


def _champion(checkpoint: str, *, tracking: TrackingConfig) -> ModelVersion:
    candidate = registry.register(RegisterConfig(checkpoint=checkpoint, name=MODEL), tracking=tracking)
    registry.promote(PromoteConfig(model=candidate.uri), tracking=tracking)
    return registry.resolve(f"models:/{MODEL}@champion", tracking=tracking)


def _labelled(arm: Arm, *, model: str, config: DemoConfig, tracking: TrackingConfig) -> str:
    """Label the validation images with an arm's model; the folder of the labels."""
    root = Path(config.output)
    settings = ScoreConfig(
        input=f"{root}/shards/{SPLIT}", output=f"{root}/labels/{_folder(arm)}", model=model, scoring=arm.scoring
    )
    score.run(settings, cluster=config.cluster, tracking=tracking)
    return settings.output


def _folder(arm: Arm) -> str:
    return arm.name.lower().replace(" ", "-")


def _tell(
    evaluation: Evaluation, *, champion: ModelVersion, tracking: TrackingConfig, page: Path, seconds: float
) -> None:
    """One screen: the table, where the model is, and the page to open."""
    console = Console()
    table = Table(title=f"{evaluation.results[0].num_images} validation images of the drawn world, strict rule, %")
    table.add_column("", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for result in (*evaluation.results[1:], evaluation.results[0]):
        cells = []
        for metric in COLUMNS:
            found = result.metrics[metric]
            cells.append(f"{100 * found.value:.1f}\n[dim]{100 * found.low:.0f}–{100 * found.high:.0f}[/dim]")
        table.add_row(result.name, *cells)
    console.print(table)
    console.print(
        "RR: category and rationale are right; RW, WR: one of the two; WW: neither; visible RR: the rationale is one "
        "the image shows, labelled or not. Below: 95 % bootstrap intervals. The same images chose templates, epochs, "
        "temperatures; and the world is drawn: this demonstrates the machinery and is no result.",
        style="dim",
    )
    console.print(f"model   {champion.uri} (champion) in {tracking.uri}", soft_wrap=True)
    console.print(f"page    {page.absolute()}", soft_wrap=True)
    console.print(f"took    {seconds:.0f} s")
