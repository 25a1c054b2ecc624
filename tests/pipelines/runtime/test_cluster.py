"""A machine that is too busy to start Ray gets a second chance, and then an error in one line."""

import os
from typing import Any

import pytest
import ray

from pipelines.config.infrastructure import ClusterConfig
from pipelines.runtime.cluster import connect

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


def starts(monkeypatch: pytest.MonkeyPatch, *failures: Exception | None) -> list[Any]:
    """Let Ray's start fail as told, one call after another; returns the calls."""
    calls: list[Any] = []

    def init(**options: Any) -> None:
        calls.append(options)
        if (failure := failures[len(calls) - 1]) is not None:
            raise failure

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def test_a_late_start_is_tried_once_more(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    calls = starts(monkeypatch, Exception(LATE), None)
    with connect(ClusterConfig(num_cpus=1)):
        assert len(calls) == 2 and calls[0] == calls[1]
    assert "trying once more" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "used"), [(None, "0"), ("1", "1")])
def test_no_usage_is_reported_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch, said: str | None, used: str
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", said or "")
    if said is None:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    starts(monkeypatch, None)
    with connect(ClusterConfig(num_cpus=1)):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == used


def test_a_machine_that_never_starts_ray_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = starts(monkeypatch, Exception(LATE), Exception(LATE))
    with pytest.raises(TimeoutError, match="busy, or out of memory"), connect(ClusterConfig()):
        pytest.fail("there is no cluster")
    assert len(calls) == 2


def test_other_errors_of_rays_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    starts(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"), connect(ClusterConfig()):
        pytest.fail("there is no cluster")


@pytest.mark.parametrize("by_setting", [True, False])
def test_the_address_of_a_dashboard_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, by_setting: bool) -> None:
    calls, address = starts(monkeypatch), "http://user:pass12@head:8265"
    if not by_setting:
        monkeypatch.setenv("RAY_ADDRESS", address)
    config = ClusterConfig(address=address if by_setting else None)
    with pytest.raises(ValueError, match="address of Ray's dashboard") as caught, connect(config):
        pytest.fail("there is no cluster")
    said = str(caught.value)
    assert said.startswith("--cluster.address is" if by_setting else "RAY_ADDRESS is") and "head:6379" in said
    assert not calls and "pass12" not in said and "\n" not in said
