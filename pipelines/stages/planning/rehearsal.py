"""Rehearse the stages after `train` on the sample: what each of them takes apart from its images."""

from dataclasses import dataclass, replace

from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, sqlite_path, tracking_uri
from pipelines.config.pipeline_file import CANDIDATE, PipelineConfig
from pipelines.config.reporting import EvaluateConfig, ReportConfig
from pipelines.config.stages import ScoreConfig
from pipelines.stages import evaluate, promote, register, report, score
from pipelines.stages.planning.estimates import Cost, Spent, Stopwatch, cost_once, fixed_cost
from pipelines.stages.planning.workspace import Workspace, quiet
from pipelines.tracking import model_registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Time of each stage on the sample, as it runs for the first time in a process."""

    register: Cost
    contest: Spent
    """`score` as it runs for validation, with the images of the sample's validation split."""
    evaluate: Cost
    """Of a few hundred rows; imports are in it."""
    promote: Cost
    score: Spent
    """`score` as it runs at the end, with the same images."""
    evaluate_again: Cost
    """In a process that has evaluated before."""
    card: Cost
    """Per picture of the report's gallery."""
    report: Cost
    """Without its pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """First contact with MLflow in a process."""

    first: Cost
    """With imports, and a new database."""
    making: Cost
    """The part of it that makes the database."""

    @property
    def opening(self) -> Cost:
        """Of a database that is there."""
        first = Spent(wall_s=self.first.wall_s.value, cpu_s=self.first.cpu_s.value)
        return fixed_cost(first, variable=self.making)


def make_databases(workspace: Workspace) -> Database:
    """Make two databases of MLflow: the first one imports what the second one finds."""
    spent = []
    for tracking in (workspace.tracking, TrackingConfig(uri=f"sqlite:///{workspace.path('second.db')}")):
        watch = Stopwatch()
        with quiet():
            model_registry.find_version("models:/none@none", tracking=tracking)
        spent.append(cost_once(watch.read()))
    return Database(first=spent[0], making=spent[1])


def makes_database(config: PipelineConfig) -> bool:
    """Whether the first stage has to make a SQLite database for MLflow."""
    path = sqlite_path(tracking_uri(config.tracking))
    return path is not None and not path.exists()


def has_champion(config: PipelineConfig) -> bool:
    """Whether a SQLite database of this machine knows a champion; a server is not asked."""
    path = sqlite_path(tracking_uri(config.tracking))
    if path is None or not path.exists():
        return False
    champion = f"models:/{config.register.name}@{config.promote.alias}"
    return model_registry.find_version(champion, tracking=config.tracking) is not None


def rehearse(
    config: PipelineConfig,
    *,
    checkpoint: str,
    shards: str,
    num_images: int,
    explained_share: float,
    workspace: Workspace,
    contest: ClusterConfig,
    final: ClusterConfig,
) -> Rehearsal:
    """Run the stages after `train` in their order, before anything else in this process has used what they use.

    Args:
        config: of the pipeline; places are replaced.
        checkpoint: folder of a trained model.
        shards: folder of shards of the sample.
        num_images: of their validation split, which both runs of `score` label.
        explained_share: share of the images that get heat maps at the end, if any do.
        workspace: where everything goes.
        contest: where `score` runs for validation: in this process, or on a Ray started here.
        final: where it runs at the end.

    Raises:
        ValueError: as the stages.
        OSError: when a disk or a store fails.
    """
    labels, evaluation, tracking = workspace.path("labels"), workspace.path("evaluation"), workspace.tracking
    watch = Stopwatch()
    with quiet():
        version = register.run(replace(config.register, checkpoint=checkpoint, alias=CANDIDATE), tracking=tracking)
        registered = watch.read()
        scoring = _on_sample(config, shards=shards, model=version.uri, output=labels)
        plain = replace(scoring, explain=None, keep_features=False, vocabulary=f"{shards}/vocabulary.json")
        score.run(plain, cluster=contest, tracking=tracking)
        contested = watch.read(num_images=num_images)
        evaluate.run(EvaluateConfig(predictions=(labels,), output=evaluation), tracking=tracking)
        evaluated = watch.read()
        promotion = replace(config.promote, model=version.uri, evaluation=evaluation, champion_evaluation=None)
        promote.run(promotion, tracking=tracking)
        promoted = watch.read()
        most = max(1, round(explained_share * num_images))
        score.run(replace(scoring, output=f"{labels}-final", explain_sample=most), cluster=final, tracking=tracking)
        scored = watch.read(num_images=num_images)
        again = EvaluateConfig(predictions=(f"{labels}-final",), output=f"{evaluation}-final")
        evaluate.run(again, tracking=tracking)
        evaluated_again = watch.read()
        pages = replace(config.report, predictions=again.predictions[0])
        page, card = _pages(pages, num_images=num_images, workspace=workspace)
    return Rehearsal(
        register=cost_once(registered),
        contest=contested,
        evaluate=cost_once(evaluated),
        promote=cost_once(promoted),
        score=scored,
        evaluate_again=cost_once(evaluated_again),
        card=card,
        report=page,
    )


def _on_sample(config: PipelineConfig, *, shards: str, model: str, output: str) -> ScoreConfig:
    """Settings that label the validation split of the sample, in the way of the pipeline's last stage."""
    return replace(
        config.score,
        input=f"{shards}/{config.train.validation_split}",
        output=output,
        model=model,
        text=replace(config.score.text, cache_dir=None),
        since=None,
        fresh=False,
        max_rejected=1.0,
        num_scorers=None,
        num_decoders=None,
    )


def _pages(config: ReportConfig, *, num_images: int, workspace: Workspace) -> tuple[Cost, Cost]:
    """Cost of a page without pictures, and of each picture."""
    spent: list[Spent] = []
    alone = replace(config, evaluation=None, audit=None, beside=(), beside_names=())
    watch, most = Stopwatch(), min(num_images, config.max_images)
    for number, num_cards in enumerate((1, 1, most)):  # the first page pays for imports
        page = workspace.path(f"report-{number}.html")
        report.run(replace(alone, output=page, max_images=num_cards))
        spent.append(watch.read())
    first, few, many = spent
    more = max(1, most - 1)
    wall_s, cpu_s = max(0.0, many.wall_s - few.wall_s) / more, max(0.0, many.cpu_s - few.cpu_s) / more
    card = cost_once(Spent(wall_s=wall_s, cpu_s=cpu_s))
    return fixed_cost(first, variable=card), card
