"""The commands that measure the method on drawn scenes: the demo and the studies."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.studies import (
    AblateConfig,
    ConceptsConfig,
    DemoConfig,
    ExplainBenchmarkConfig,
    StudiesConfig,
    ValidityConfig,
)

_UNPREFIXED = tyro.conf.arg(name="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablate:
    """Run the ablation study on drawn scenes: one task per cell, one page of tables and plots."""

    config: Annotated[AblateConfig, _UNPREFIXED] = field(default_factory=AblateConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.studies.ablation import run as ablate

        ablate.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainBenchmark:
    """Benchmark all attribution methods on drawn scenes whose parts are known: a CSV and a page."""

    config: Annotated[ExplainBenchmarkConfig, _UNPREFIXED] = field(default_factory=ExplainBenchmarkConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.studies.attribution_benchmark import benchmark as explain_benchmark

        explain_benchmark.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """Compare ECLIP, LICO and prompts with manifold matching on drawn scenes: tables over seeds."""

    config: Annotated[StudiesConfig, _UNPREFIXED] = field(default_factory=StudiesConfig)

    def run(self) -> None:
        from pipelines.studies.attribution_benchmark import systems_study

        systems_study.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Measure what the small CLIP knows of the drawn world, on images that no other study uses."""

    config: Annotated[ValidityConfig, _UNPREFIXED] = field(default_factory=ValidityConfig)

    def run(self) -> None:
        from pipelines.studies import validity

        validity.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """Detect and locate unknown categories in drawn scenes by definitions of concepts (ConVis)."""

    config: Annotated[ConceptsConfig, _UNPREFIXED] = field(default_factory=ConceptsConfig)

    def run(self) -> None:
        from pipelines.studies import concepts

        print(concepts.run(self.config))  # noqa: T201


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Run the whole pipeline on drawn scenes with the embedded model: no download, no GPU, no server."""

    config: Annotated[DemoConfig, _UNPREFIXED] = field(default_factory=DemoConfig)

    def run(self) -> None:
        from pipelines.studies import demo

        demo.run(self.config)
