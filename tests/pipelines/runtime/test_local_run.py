"""Small jobs run in this process, unless a cluster is named or joined."""

import os
import sys
from types import SimpleNamespace

import pytest

from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime import cluster
from pipelines.runtime.local_run import num_local_cpus, runs_in_process, scores_in_process


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))


def test_the_number_of_images_decides():
    few = ClusterConfig(local_images=10)
    assert runs_in_process(few, num_images=10) and not runs_in_process(few, num_images=11)
    assert runs_in_process(ClusterConfig(), num_images=1000) and not runs_in_process(ClusterConfig(), num_images=1001)
    assert not runs_in_process(ClusterConfig(local_images=0), num_images=1)
    with pytest.raises(ValueError, match="local_images must not be negative, got -1"):
        ClusterConfig(local_images=-1)


def test_a_machine_of_few_cpus_labels_in_this_process_whatever_the_number():
    assert scores_in_process(ClusterConfig(num_cpus=2), num_images=10**9)
    assert scores_in_process(ClusterConfig(num_cpus=3), num_images=1000)
    assert not scores_in_process(ClusterConfig(num_cpus=3), num_images=1001)
    assert not scores_in_process(ClusterConfig(num_cpus=2, local_images=0), num_images=1)
    assert not scores_in_process(ClusterConfig(num_cpus=2, address="auto"), num_images=1)


def test_a_cluster_that_is_named_or_joined_is_used(monkeypatch: pytest.MonkeyPatch):
    assert not runs_in_process(ClusterConfig(address="auto"), num_images=1)
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
        assert not runs_in_process(ClusterConfig(), num_images=1)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert not runs_in_process(ClusterConfig(), num_images=1), "the caller has joined one"
    monkeypatch.setattr(cluster, "is_own_cluster", lambda: True)
    assert runs_in_process(ClusterConfig(), num_images=1), "as the stages of `ecor run`"


def test_cpus_are_those_asked_for_or_those_that_this_process_may_use():
    assert num_local_cpus(ClusterConfig(num_cpus=3)) == 3
    assert num_local_cpus(ClusterConfig()) >= 1
    if hasattr(os, "sched_getaffinity"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7, 9, 11})
            assert num_local_cpus(ClusterConfig()) == 5
