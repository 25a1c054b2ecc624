"""A cluster is started when the first stage needs one, serves the stages of the block, and ends with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipelines.runtime.shared_cluster import keep_open, share_cluster


@pytest.fixture
def told() -> list[str]:
    return []


def use(told: list[str], name: str) -> None:
    """A stage that needs a cluster; where none is open it starts one, as `connect` does."""

    @contextmanager
    def cluster() -> Iterator[None]:
        told.append("start")
        try:
            yield
        finally:
            told.append("stop")

    with keep_open(cluster()):
        told.append(name)


def test_alone_a_stage_stops_its_cluster(told):
    use(told, "shard")
    use(told, "score")
    assert told == ["start", "shard", "stop", "start", "score", "stop"]


def test_stages_in_a_block_leave_the_cluster_to_its_end(told):
    with share_cluster():
        assert told == [], "no stage needs one yet"
        use(told, "shard")
        told.append("next")
    assert told == ["start", "shard", "next", "stop"]
    use(told, "score")
    assert told[4:] == ["start", "score", "stop"]


def test_the_outer_block_keeps_it_and_an_error_stops_it(told):
    with pytest.raises(ValueError, match="bad"), share_cluster():
        with share_cluster():
            use(told, "shard")
        told.append("inner ended")
        raise ValueError("bad")
    assert told == ["start", "shard", "inner ended", "stop"]
