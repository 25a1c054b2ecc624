"""Run all stages from one TOML file, up to a registered model and a page of explained labels (`ecor run`).

    shard -> train -> register (candidate) -> score and evaluate it on validation, and the champion of the day too
          -> promote, unless the candidate is worse -> score with the champion -> evaluate, if truth is known -> report

Every stage returns its finished record when its parents are the same, so that the same command resumes.
"""

from dataclasses import dataclass, replace

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet
from pipelines.config.infrastructure import resolve_tracking
from pipelines.config.pipeline_file import CANDIDATE, CHAMPION, PipelineConfig
from pipelines.config.reporting import EvaluateConfig
from pipelines.runtime.prometheus import time_stage
from pipelines.runtime.shared_cluster import share_cluster
from pipelines.stages import evaluate, promote, register, report, score, shard, train
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """Where a pipeline's results are."""

    champion: ModelVersion
    """The version that scored."""
    predictions: PredictionSet
    report: str
    """The page."""


def run(config: PipelineConfig) -> PipelineResult:
    """Run every stage in order; see the module's first lines. ValueError for a system that labels nothing."""
    require(
        config.train.system == "ecor",
        f"a pipeline labels pictures, which {config.train.system} does not: set train.system to ecor, or run "
        f"`ecor train` alone",
    )
    tracking = resolve_tracking(config.tracking)
    with share_cluster():
        shard.run(config.shard, cluster=config.cluster)
        train.run(config.train, cluster=config.cluster, tracking=tracking)
        with time_stage("register"):
            candidate = register.run(config.register, tracking=tracking)
        champion = _promoted(replace(config, tracking=tracking), candidate=candidate)
        final = replace(config.score, model=champion.uri)
        predictions = score.run(final, cluster=config.cluster, tracking=tracking)
        if predictions.has_truth:
            with time_stage("evaluate"):
                evaluate.run(config.evaluate, tracking=tracking)
            config = replace(config, report=replace(config.report, evaluation=config.evaluate.output))
        with time_stage("report"):
            page = report.run(config.report)
    return PipelineResult(champion=champion, predictions=predictions, report=page)


def _promoted(config: PipelineConfig, *, candidate: ModelVersion) -> ModelVersion:
    """The champion after the contest: the candidate, or the champion of the day where that is better.

    Validation decides (ours). Test must not: the figures at the end are of that split, and would flatter what was
    chosen on it. Nothing was learned on validation, but the candidate's epoch and temperatures were chosen there, which
    favours it a little over a champion that comes from other shards. Who wants a stricter judge gives `ecor promote`
    the evaluations of another split.
    """
    old = model_registry.find_version(f"models:/{candidate.name}@{config.promote.alias}", tracking=config.tracking)
    if old is not None and old.version == candidate.version:
        return old
    contest = replace(
        config.promote,
        model=candidate.uri,
        evaluation=_contest(config, version=candidate, role=CANDIDATE),
        champion_evaluation=_contest(config, version=old, role=CHAMPION) if old else None,
    )
    return promote.run(contest, tracking=config.tracking)


def _contest(config: PipelineConfig, *, version: ModelVersion, role: str) -> str:
    """Score and evaluate one version on the validation split; the folder of the evaluation."""
    place = f"{role}-{version.version}"
    labels = f"{config.output}/labels/{place}"
    scoring = replace(
        config.score,
        input=f"{config.shard.output}/{config.train.validation_split}",
        output=labels,
        model=version.uri,
        vocabulary=f"{config.shard.output}/vocabulary.json",
        explain=None,
        keep_features=False,
    )
    score.run(scoring, cluster=config.cluster, tracking=config.tracking)
    evaluation = EvaluateConfig(predictions=(labels,), output=f"{config.output}/evaluation/{place}")
    evaluate.run(evaluation, tracking=config.tracking)
    return evaluation.output
