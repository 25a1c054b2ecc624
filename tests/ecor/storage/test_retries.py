"""What a store refuses for a moment is asked for again, as often as there are pauses; what no attempt mends is not.

Covers: `pipelines.runtime.retries`.
"""

import pytest

from ecor.storage.retries import with_retries
from pipelines.runtime import retries
from pipelines.runtime.retries import retry_in_store


class Failing:
    """An operation that fails a number of times."""

    def __init__(self, error: Exception, *, times: int) -> None:
        self.error, self.times, self.num_calls = error, times, 0

    def __call__(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.times:
            raise self.error
        return "done"


@pytest.mark.parametrize("times", range(4))
def test_there_is_an_attempt_more_than_pauses(times):
    operation, told = Failing(OSError("busy"), times=times), []
    if times <= 2:
        assert with_retries(operation, pauses_s=(0.0, 0.0), on_retry=lambda: told.append(1)) == "done"
    else:
        with pytest.raises(OSError, match="busy"):
            with_retries(operation, pauses_s=(0.0, 0.0), on_retry=lambda: told.append(1))
    assert operation.num_calls == min(times, 2) + 1 and len(told) == min(times, 2)


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), ValueError("damaged")])
def test_final_errors_and_others_than_of_stores_are_raised_at_once(error):
    operation = Failing(error, times=1)
    with pytest.raises(type(error)):
        with_retries(operation, pauses_s=(0.0, 0.0))
    assert operation.num_calls == 1


def test_pauses_are_waited_for(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    with_retries(Failing(OSError(), times=2), pauses_s=(1.5, 2.5, 3.5))
    assert slept == [1.5, 2.5]


@pytest.mark.parametrize(
    ("place", "error", "num_calls"),
    [
        ("memory://folder", OSError("busy"), 4),
        ("memory://folder", PermissionError("denied"), 1),
        ("memory://folder", FileExistsError("there"), 1),
        ("/folder", OSError("full"), 1),
    ],
)
def test_a_remote_store_is_asked_again_and_a_local_disk_is_not(place, error, num_calls, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES_S", (0.0, 0.0, 0.0))
    operation = Failing(error, times=10)
    with pytest.raises(type(error)):
        retry_in_store(operation, place=place)
    assert operation.num_calls == num_calls
