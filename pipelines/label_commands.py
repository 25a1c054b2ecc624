"""The commands that work on labels once they are written: audit, review, learn, find, compare, describe, hand on."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from pipelines.config.exchange import ExportConfig, ImportConfig
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, resolve_tracking
from pipelines.config.learning import LearnConfig
from pipelines.config.reporting import CardConfig, CopiesConfig, DiffConfig, FindConfig
from pipelines.config.review import AuditConfig, ReviewConfig

_UNPREFIXED = tyro.conf.arg(name="")
EXIT_DRIFT = 3
"""Exit code of `ecor diff --fail-on-drift` when a drift is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Accept the labels that are right as often as promised, by a judged random sample of them."""

    config: Annotated[AuditConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import audit

        audit.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Review labels by keyboard, on a page that this machine serves."""

    config: Annotated[ReviewConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.stages import review

        review.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """Tune a model on with reviewers' corrections of its labels, and list the images to review next."""

    config: Annotated[LearnConfig, _UNPREFIXED]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.learning import learn

        learn.run(self.config, cluster=self.cluster, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Compare two sets of labels: what changed, and whether their distributions have drifted."""

    config: Annotated[DiffConfig, _UNPREFIXED]

    def run(self) -> int:
        """Exit code: `EXIT_DRIFT` when a drift is found and `fail_on_drift` is set."""
        from pipelines.reporting.drift import diff

        found = diff.run(self.config)
        return EXIT_DRIFT if found.has_drift and self.config.fail_on_drift else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Find:
    """Find images by a sentence or a picture, among labels whose features were kept."""

    config: Annotated[FindConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.reporting.search import find
        from pipelines.tracking.model_loading import open_model, resolve_device

        device, tracking = resolve_device(self.config.device), resolve_tracking(self.tracking)
        opened = partial(open_model, tracking=tracking, demo_set="demo-small", device=device)
        find.run(self.config, open_model=opened)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Find near copies and outliers among labels whose features were kept, within and across splits."""

    config: Annotated[CopiesConfig, _UNPREFIXED]

    def run(self) -> None:
        from pipelines.reporting.search import copies

        copies.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCard:
    """Write the card of a model or of a dataset (Markdown), made from its records."""

    config: Annotated[CardConfig, _UNPREFIXED]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def run(self) -> None:
        from pipelines.cards import write_card

        write_card.run(self.config, tracking=self.tracking)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Hand labels to another tool: Label Studio, FiftyOne, CVAT, COCO, Hugging Face, WebDataset, tables."""

    config: Annotated[ExportConfig, _UNPREFIXED]

    def run(self) -> None:
        from pipelines.exchange import export_labels

        export_labels.run(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Take corrections of labels back from another tool, into a set of decisions."""

    config: Annotated[ImportConfig, _UNPREFIXED]

    def run(self) -> None:
        from pipelines.exchange import import_decisions

        import_decisions.run(self.config)
