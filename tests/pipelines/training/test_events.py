"""What is published of a run: its metrics and steps by rank 0, lines where an event has one, and nothing twice."""

from dataclasses import dataclass, field
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest

from ecor.training.distributed import Rank
from pipelines.tracking import model_registry
from pipelines.training.events import publish_events


@dataclass(frozen=True)
class Moment:
    """An event of a run, and the state to resume from."""

    step: int
    figures: dict[str, float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    line: str | None = None


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    """What is sent to MLflow."""
    found: list[tuple[int, dict[str, float]]] = []
    monkeypatch.setattr(model_registry, "log_metrics", lambda *_, run_id, metrics, step: found.append((step, metrics)))
    return found


def lines_of(moments: list[Moment], *, rank: Rank, resumed: Moment | None = None) -> list[str]:
    """What the driver is sent while the events pass through."""
    job: Any = SimpleNamespace(messages=Queue(), tracking=None, run_id="run")
    passed = publish_events(
        moments, job=job, rank=rank, stage="train", resumed=resumed, num_steps=9, describe=lambda moment: moment.line
    )
    assert list(passed) == moments
    return list(job.messages.queue)


def test_metrics_of_every_event_and_lines_of_some_are_published(published):
    moments = [
        Moment(step=1, figures={"loss": 2.0}),
        Moment(step=2, figures={"loss": 1.0}, unreadable={"a.png": "truncated"}, line="epoch 1"),
        Moment(step=4, figures={"loss": 0.5}, unreadable={"a.png": "truncated", "b.png": "corrupt"}, line="epoch 2"),
    ]
    lines = lines_of(moments, rank=Rank())
    assert published == [(1, {"loss": 2.0}), (2, {"loss": 1.0}), (4, {"loss": 0.5})]
    assert lines == ["cannot read a.png: truncated", "epoch 1", "cannot read b.png: corrupt", "epoch 2"]


def test_a_resumed_run_says_where_and_repeats_no_line(published):
    before = Moment(step=3, unreadable={"a.png": "truncated"})
    moments = [Moment(step=5, unreadable={"a.png": "truncated"}, line="epoch 2")]
    assert lines_of(moments, rank=Rank(), resumed=before) == ["resumed at step 3 of 9", "epoch 2"]


def test_other_ranks_publish_nothing(published):
    moments = [Moment(step=1, figures={"loss": 2.0}, unreadable={"a.png": "x"}, line="epoch 1")]
    assert lines_of(moments, rank=Rank(index=1, num_ranks=2), resumed=Moment(step=0)) == []
    assert not published
