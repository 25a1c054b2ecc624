"""Publish the events of a training run, of any kind: metrics to MLflow, steps to Prometheus, lines to the driver."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from ecor.training.distributed import Rank
from pipelines.runtime.prometheus import RETRIES, TRAINING_STEPS, count
from pipelines.training.runs.job import Job
from pipelines.training.unreadable import unreadable_lines


class RunProgress(Protocol):
    """State of a run: its step, and the images that it could not read."""

    @property
    def step(self) -> int:
        """Number of updates done."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Reasons why images could not be read, by source."""


class RunEvent(RunProgress, Protocol):
    """An event of a run that is recorded, with its points of the curves."""

    @property
    def figures(self) -> Mapping[str, float]:
        """Points of the curves."""


Event = TypeVar("Event", bound=RunEvent)


def publish_events(
    events: Iterable[Event],
    *,
    job: Job[Any],
    rank: Rank,
    stage: str,
    resumed: RunProgress | None,
    num_steps: int,
    describe: Callable[[Event], str | None],
) -> Iterator[Event]:
    """Yield the events in order; rank 0 publishes each event first.

    Args:
        events: events of the run, the same on all ranks.
        job: names the MLflow run and the queue of lines for the driver.
        rank: this worker.
        stage: `train` or `pretrain`, for Prometheus.
        resumed: state from which the run resumes; None for a new run.
        num_steps: steps of the whole run.
        describe: gives the line of an event for the terminal, or None.
    """
    step = 0 if resumed is None else resumed.step
    reported = set() if resumed is None else set(resumed.unreadable)
    if resumed is not None and rank.index == 0:
        job.messages.put(f"resumed at step {resumed.step} of {num_steps}")
        count(RETRIES, kind="training resumed")
    if rank.index == 0:
        from pipelines.tracking import model_registry  # MLflow, which the other ranks do without

    for event in events:
        if rank.index == 0:
            count(TRAINING_STEPS, event.step - step, stage=stage)
            step = event.step
            model_registry.log_metrics(job.tracking, run_id=job.run_id, metrics=dict(event.figures), step=step)
            line = describe(event)
            if line is not None:
                for each in (*unreadable_lines(event.unreadable, reported=reported), line):
                    job.messages.put(each)
                reported |= event.unreadable.keys()
        yield event
