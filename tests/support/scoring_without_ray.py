"""Small jobs of `ecor score` run in one process; here with one thread, which a busy machine does not slow down."""

import pytest


def score_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on small jobs have one CPU and start no cluster."""
    monkeypatch.setattr("pipelines.scoring.flows.flow.num_local_cpus", lambda cluster: 1)
    monkeypatch.setattr("pipelines.scoring.flows.flow.scores_in_process", lambda cluster, *, num_images: True)
