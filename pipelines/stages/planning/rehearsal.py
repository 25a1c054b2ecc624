"""Rehearse the stages after `train` on the sample: what each of them takes apart from its images."""

from dataclasses import dataclass, replace

from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.pipeline_file import CANDIDATE, PipelineConfig
from pipelines.config.reporting import EvaluateConfig
from pipelines.stages import evaluate, promote, register, report, score
from pipelines.stages.planning.estimates import Cost, Spent, Stopwatch, cost_once, fixed_cost
from pipelines.stages.planning.workspace import Workspace, quiet
from pipelines.tracking import model_registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Time of each stage on the sample."""

    register: Cost
    contest: Cost
    """`score` without its images, as it runs for validation."""
    score: Cost
    """The same, as it runs at the end."""
    evaluate: Cost
    """Of a few hundred rows; imports are in it."""
    evaluate_again: Cost
    """In a process that has evaluated before."""
    promote: Cost
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


def rehearse(
    config: PipelineConfig,
    *,
    checkpoint: str,
    shards: str,
    num_images: int,
    image: Cost,
    workspace: Workspace,
    contest: ClusterConfig,
    final: ClusterConfig,
) -> Rehearsal:
    """Register, score and evaluate on validation, promote, evaluate again, and report.

    Args:
        config: of the pipeline; places are replaced.
        checkpoint: folder of a trained model.
        shards: folder of shards of the sample.
        num_images: of their validation split.
        image: cost of labelling an image, which is taken from the time of `score`.
        workspace: where everything goes.
        contest: where `score` runs for validation: in this process, or on a Ray started here.
        final: where it runs at the end.

    Raises:
        ValueError: as the stages.
        OSError: when a disk or a store fails.
    """
    labels, evaluation, tracking = workspace.path("labels"), workspace.path("evaluation"), workspace.tracking
    spent: dict[str, Spent] = {}
    watch = Stopwatch()
    with quiet():
        version = register.run(replace(config.register, checkpoint=checkpoint, alias=CANDIDATE), tracking=tracking)
        spent["register"] = watch.read()
        scoring = replace(
            config.score,
            input=f"{shards}/{config.train.validation_split}",
            output=labels,
            model=version.uri,
            vocabulary=f"{shards}/vocabulary.json",
            explain=None,
            since=None,
            keep_features=False,
            fresh=False,
            max_rejected=1.0,
            num_scorers=None,
            num_decoders=None,
        )
        score.run(scoring, cluster=contest, tracking=tracking)
        spent["contest"] = spent["score"] = watch.read()
        if final != contest:
            score.run(replace(scoring, output=f"{labels}-final"), cluster=final, tracking=tracking)
            spent["score"] = watch.read()
        for name in ("evaluate", "evaluate_again"):
            evaluate.run(EvaluateConfig(predictions=(labels,), output=f"{evaluation}-{name}"), tracking=tracking)
            spent[name] = watch.read()
        promotion = replace(config.promote, model=version.uri, evaluation=f"{evaluation}-evaluate")
        promote.run(replace(promotion, champion_evaluation=None), tracking=tracking)
        spent["promote"] = watch.read()
        pages: dict[str, Spent] = {}
        for name, most in (("first", 1), ("few", 1), ("many", min(num_images, config.report.max_images))):
            page = workspace.path(f"report-{name}.html")
            report.run(replace(config.report, predictions=labels, output=page, max_images=most, evaluation=None))
            pages[name] = watch.read()
    more = max(1, min(num_images, config.report.max_images) - 1)
    card = Spent(
        wall_s=max(0.0, pages["many"].wall_s - pages["few"].wall_s) / more,
        cpu_s=max(0.0, pages["many"].cpu_s - pages["few"].cpu_s) / more,
    )
    return Rehearsal(
        register=cost_once(spent["register"]),
        contest=fixed_cost(spent["contest"], variable=image.times(num_images)),
        score=fixed_cost(spent["score"], variable=image.times(num_images)),
        evaluate=cost_once(spent["evaluate"]),
        evaluate_again=cost_once(spent["evaluate_again"]),
        promote=cost_once(spent["promote"]),
        card=cost_once(card),
        report=fixed_cost(pages["first"], variable=cost_once(card)),
    )
