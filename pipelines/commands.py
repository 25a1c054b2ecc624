"""The commands of `ecor`: one for each stage here, the others beside this module.

Only settings are imported here, so that `ecor --help` starts fast; each command imports its stage when it runs.
"""

import time
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pipelines.config.infrastructure import ClusterConfig, PlanConfig, TrackingConfig
from pipelines.config.learning import WordsConfig
from pipelines.config.reporting import EvaluateConfig, ExplainConfig, ReportConfig
from pipelines.config.stages import PromoteConfig, RegisterConfig, ScoreConfig, ShardConfig
from pipelines.config.training import PretrainConfig, TrainConfig
from pipelines.label_commands import Audit, Copies, Diff, Export, Find, Import, Learn, Review, WriteCard
from pipelines.study_commands import Ablate, Concepts, Demo, ExplainBenchmark, Studies, Validity

DESCRIPTION = "Label images with what they show, why, and how sure we are: ECOR on Ray and MLflow."
_UNPREFIXED = tyro.conf.arg(name="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Pack images into WebDataset tars with a manifest."""

    config: Annotated[ShardConfig, _UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def run(self) -> None:
        from pipelines.stages import shard

        shard.run(self.config, cluster=self.cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train prompt tokens on shards, and save a checkpoint."""

    config: Annotated[TrainConfig, _UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import train

        train.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrain:
    """Pretrain a small CLIP on captioned images (shards or drawings), for `--backbone.name` or plain open_clip."""

    config: Annotated[PretrainConfig, _UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import pretrain

        print(pretrain.run(self.config, cluster=self.cluster, tracking=self.tracking).backbone_options)  # noqa: T201


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Register a checkpoint as a version of an MLflow model."""

    config: Annotated[RegisterConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import register

        register.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Move the champion alias to a registered version."""

    config: Annotated[PromoteConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import promote

        promote.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Label images or shards, and write explained labels as Parquet."""

    config: Annotated[ScoreConfig, _UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import score

        score.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate explained labels against the truth: metrics, tables and plots."""

    config: Annotated[EvaluateConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import evaluate

        evaluate.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """Draw heat maps over photos, and print their labels and reasons; no cluster is needed."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Photos, or folders of photos."""
    text: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A sentence to look for in every photo; may be given several times."""
    concept: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A concept of the lexicon to look for, independent of what the model was tuned on; may be given several times."""
    setting: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A setting of the method, such as `num_masks=500`; an unknown name lists all; may be given several times."""
    config: Annotated[ExplainConfig, _UNPREFIXED] = field(default_factory=ExplainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import explain

        explain.run(
            self.config,
            images=self.images,
            texts=self.text,
            concepts=self.concept,
            settings=self.setting,
            tracking=self.tracking,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Write explained labels as one HTML page."""

    config: Annotated[ReportConfig, _UNPREFIXED]

    def run(self) -> None:
        from pipelines.stages import report

        print(report.run(self.config))  # noqa: T201


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPipeline:
    """Run a whole pipeline from one TOML file: shard, train, register, evaluate, promote, score, report."""

    pipeline: tyro.conf.Positional[str]
    """Path of the TOML file; each section holds the settings of a stage."""

    def run(self) -> None:
        from pipelines.config import pipeline_file
        from pipelines.stages import pipeline as flow

        flow.run(pipeline_file.read_pipeline(self.pipeline))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPipeline:
    """Say what a pipeline will take before it runs: time, money, memory and rejected images, from a sample."""

    pipeline: tyro.conf.Positional[str]
    """Path of the TOML file that `ecor run` takes."""
    price: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What an hour costs, as `2.10/gpu-hour` or `0.05/cpu-hour`; may be given for both."""
    config: Annotated[PlanConfig, _UNPREFIXED] = field(default_factory=PlanConfig)

    def run(self) -> None:
        from pipelines.stages.planning import plan

        plan.run(self.pipeline, config=self.config, prices=self.price, start_s=time.process_time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Draft a first vocabulary for a list of categories, and keep the rationales that images bear out."""

    config: Annotated[WordsConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages.words import words

        words.run(self.config, tracking=self.tracking)


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[RunPipeline, tyro.conf.subcommand("run")]
    | Annotated[PlanPipeline, tyro.conf.subcommand("plan")]
    | Annotated[Words, tyro.conf.subcommand("words")]
    | Annotated[Shard, tyro.conf.subcommand("shard")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Register, tyro.conf.subcommand("register")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Promote, tyro.conf.subcommand("promote")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Find, tyro.conf.subcommand("find")]
    | Annotated[Copies, tyro.conf.subcommand("copies")]
    | Annotated[WriteCard, tyro.conf.subcommand("card")]
    | Annotated[Learn, tyro.conf.subcommand("learn")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Review, tyro.conf.subcommand("review")]
    | Annotated[Explain, tyro.conf.subcommand("explain")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[ExplainBenchmark, tyro.conf.subcommand("explain-benchmark")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Studies, tyro.conf.subcommand("explain-studies")]
    | Annotated[Validity, tyro.conf.subcommand("validity")]
    | Annotated[Concepts, tyro.conf.subcommand("concepts")]
)
