"""The commands of `ecor`: one for each stage and each study.

Only settings are imported here, so that `ecor --help` starts fast; each command imports its stage when it runs.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pipelines.config.exchange import ExportConfig, ImportConfig
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.learning import LearnConfig
from pipelines.config.reporting import CardConfig, DiffConfig, EvaluateConfig, ReportConfig
from pipelines.config.review import AuditConfig, ReviewConfig
from pipelines.config.stages import ExplainConfig, PromoteConfig, RegisterConfig, ScoreConfig, ShardConfig
from pipelines.config.studies import (
    AblateConfig,
    ConceptsConfig,
    DemoConfig,
    ExplainBenchmarkConfig,
    StudiesConfig,
    ValidityConfig,
)
from pipelines.config.training import PretrainConfig, TrainConfig

DESCRIPTION = "Label images with what they show, why, and how sure we are: ECOR on Ray and MLflow."


UNPREFIXED = tyro.conf.arg(name="")
EXIT_DRIFT = 3
"""Exit code of `ecor diff --fail-on-drift` when a drift is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Pack images into WebDataset tars with a manifest."""

    config: Annotated[ShardConfig, UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def run(self) -> None:
        from pipelines.stages import shard

        shard.run(self.config, cluster=self.cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train prompt tokens on shards, and save a checkpoint."""

    config: Annotated[TrainConfig, UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import train

        train.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrain:
    """Pretrain a small CLIP on captioned images (shards or drawings), for `--backbone.name` or plain open_clip."""

    config: Annotated[PretrainConfig, UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import pretrain

        print(pretrain.run(self.config, cluster=self.cluster, tracking=self.tracking).backbone_options)  # noqa: T201


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Register a checkpoint as a version of an MLflow model."""

    config: Annotated[RegisterConfig, UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import register

        register.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Move the champion alias to a registered version."""

    config: Annotated[PromoteConfig, UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import promote

        promote.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Label images or shards, and write explained labels as Parquet."""

    config: Annotated[ScoreConfig, UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import score

        score.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate explained labels against the truth: metrics, tables and plots."""

    config: Annotated[EvaluateConfig, UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import evaluate

        evaluate.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Accept the labels that are right as often as promised, by a judged random sample of them."""

    config: Annotated[AuditConfig, UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import audit

        audit.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Compare two sets of labels: what changed, and whether their distributions have drifted."""

    config: Annotated[DiffConfig, UNPREFIXED]

    def run(self) -> int:
        """Exit code: `EXIT_DRIFT` when a drift is found and `fail_on_drift` is set."""
        from pipelines.reporting.drift import diff

        found = diff.run(self.config)
        return EXIT_DRIFT if found.has_drift and self.config.fail_on_drift else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCard:
    """Write the card of a model or of a dataset (Markdown), made from its records."""

    config: Annotated[CardConfig, UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.cards import write_card

        write_card.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """Tune a model on with reviewers' corrections of its labels, and list the images to review next."""

    config: Annotated[LearnConfig, UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.learning import learn

        learn.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Hand labels to another tool: Label Studio, FiftyOne, CVAT, COCO, Hugging Face, WebDataset, tables."""

    config: Annotated[ExportConfig, UNPREFIXED]

    def run(self) -> None:
        from pipelines.exchange import export_labels

        export_labels.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Take corrections of labels back from another tool, into a set of decisions."""

    config: Annotated[ImportConfig, UNPREFIXED]

    def run(self) -> None:
        from pipelines.exchange import import_decisions

        import_decisions.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Review labels by keyboard, on a page that this machine serves."""

    config: Annotated[ReviewConfig, UNPREFIXED]

    def run(self) -> None:
        from pipelines.stages import review

        review.run(self.config)


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
    config: Annotated[ExplainConfig, UNPREFIXED] = field(default_factory=ExplainConfig)
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

    config: Annotated[ReportConfig, UNPREFIXED]

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
class Ablate:
    """Run the ablation study on drawn scenes: one task per cell, one page of tables and plots."""

    config: Annotated[AblateConfig, UNPREFIXED] = field(default_factory=AblateConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.studies.ablation import run as ablate

        ablate.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainBenchmark:
    """Benchmark all attribution methods on drawn scenes whose parts are known: a CSV and a page."""

    config: Annotated[ExplainBenchmarkConfig, UNPREFIXED] = field(default_factory=ExplainBenchmarkConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.studies.attribution_benchmark import benchmark as explain_benchmark

        explain_benchmark.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """Compare ECLIP, LICO and prompts with manifold matching on drawn scenes: tables over seeds."""

    config: Annotated[StudiesConfig, UNPREFIXED] = field(default_factory=StudiesConfig)

    def run(self) -> None:
        from pipelines.studies.attribution_benchmark import systems_study

        systems_study.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Measure what the small CLIP knows of the drawn world, on images that no other study uses."""

    config: Annotated[ValidityConfig, UNPREFIXED] = field(default_factory=ValidityConfig)

    def run(self) -> None:
        from pipelines.studies import validity

        validity.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """Detect and locate unknown categories in drawn scenes by definitions of concepts (ConVis)."""

    config: Annotated[ConceptsConfig, UNPREFIXED] = field(default_factory=ConceptsConfig)

    def run(self) -> None:
        from pipelines.studies import concepts

        print(concepts.run(self.config))  # noqa: T201


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Run the whole pipeline on drawn scenes with the embedded model: no download, no GPU, no server."""

    config: Annotated[DemoConfig, UNPREFIXED] = field(default_factory=DemoConfig)

    def run(self) -> None:
        from pipelines.studies import demo

        demo.run(self.config)


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[RunPipeline, tyro.conf.subcommand("run")]
    | Annotated[Shard, tyro.conf.subcommand("shard")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Register, tyro.conf.subcommand("register")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Promote, tyro.conf.subcommand("promote")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
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
