"""Counters and histograms for Prometheus, exported by the Ray metrics agent of each node.

Ray exports a counter as `ray_<name>_total`, a histogram as `ray_<name>_bucket`, `_sum` and `_count`. Without a
connection to Ray nothing is counted. A unit of work that is done twice counts twice.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A counter or histogram: name, description, tags."""

    name: str
    description: str
    kind: Literal["counter", "histogram"]
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()
    """Boundaries of a histogram's buckets, in its unit."""

    @property
    def exported_names(self) -> tuple[str, ...]:
        """The names that Prometheus sees."""
        if self.kind == "counter":
            return (f"ray_{self.name}_total",)
        return tuple(f"ray_{self.name}_{part}" for part in ("bucket", "sum", "count"))


IMAGES_SCORED = Metric(
    name="ecor_images_scored", kind="counter", tags=(), description="Images whose labels this job has committed"
)
IMAGES_QUARANTINED = Metric(
    name="ecor_images_quarantined",
    kind="counter",
    tags=("stage", "reason"),
    description="Images that a stage has rejected, by reason",
)
IMAGES_SEEN = Metric(
    name="ecor_images_seen",
    kind="counter",
    tags=("stage",),
    description="Images that a stage has looked at, rejected ones included",
)
UNITS_DONE = Metric(
    name="ecor_units_done",
    kind="counter",
    tags=("stage", "how"),
    description="Shards or units of work that are finished: done, taken over, kept, by another job",
)
RETRIES = Metric(
    name="ecor_retries",
    kind="counter",
    tags=("kind",),
    description="Work that was begun again: units taken over, calls of a store repeated, training resumed",
)
TRAINING_STEPS = Metric(
    name="ecor_training_steps", kind="counter", tags=("stage",), description="Optimiser steps, counted once per step"
)
MODEL_CACHE = Metric(
    name="ecor_model_cache",
    kind="counter",
    tags=("outcome",),
    description="Pinned models opened: found on this machine (hit), or downloaded first (miss)",
)
STAGE_SECONDS = Metric(
    name="ecor_stage_seconds",
    kind="histogram",
    tags=("stage", "outcome"),
    boundaries=(1, 10, 60, 300, 1800, 7200, 21_600, 86_400),
    description="Seconds that a stage of the pipeline took, from its start to its end or error",
)
STEP_SECONDS = Metric(
    name="ecor_step_seconds",
    kind="histogram",
    tags=("stage", "step"),
    boundaries=(0.01, 0.1, 0.5, 1, 5, 10, 60, 300),
    description="Seconds that one part of a unit spent in a step of a stage: decode, encode, text, explain, write",
)
METRICS = (
    IMAGES_SCORED,
    IMAGES_QUARANTINED,
    IMAGES_SEEN,
    UNITS_DONE,
    RETRIES,
    TRAINING_STEPS,
    MODEL_CACHE,
    STAGE_SECONDS,
    STEP_SECONDS,
)
"""All metrics that this project exports."""


def count(metric: Metric, number: float = 1, **tags: str) -> None:
    """Add to a counter; no-op for 0 and without a connection to Ray.

    Args:
        metric: a counter of `METRICS`.
        number: amount to add.
        **tags: value of each tag of the metric.
    """
    counter = _ray_metric(metric)
    if counter is not None and number:
        counter.inc(number, tags=tags)


def observe(metric: Metric, value: float, **tags: str) -> None:
    """Add a value to a histogram; no-op without a connection to Ray.

    Args:
        metric: a histogram of `METRICS`.
        value: in the unit of the metric.
        **tags: value of each tag of the metric.
    """
    histogram = _ray_metric(metric)
    if histogram is not None:
        histogram.observe(value, tags=tags)


@contextmanager
def time_stage(stage: str) -> Iterator[None]:
    """Record the duration of a stage and whether it failed."""
    began, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "done"
    finally:
        observe(STAGE_SECONDS, time.perf_counter() - began, stage=stage, outcome=outcome)


def _ray_metric(metric: Metric) -> Any:
    """Ray's metric object; None in a process that is not connected to Ray."""
    ray = sys.modules.get("ray")
    return _register(metric) if ray is not None and ray.is_initialized() else None


@cache
def _register(metric: Metric) -> Any:
    from ray.util.metrics import Counter, Histogram

    if metric.kind == "counter":
        return Counter(metric.name, description=metric.description, tag_keys=metric.tags)
    return Histogram(
        metric.name, description=metric.description, boundaries=list(metric.boundaries), tag_keys=metric.tags
    )
