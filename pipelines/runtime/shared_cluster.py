"""Keep a cluster for several stages, from the first that needs one; small stages run in this process and need none."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

_KEEPERS: list[ExitStack] = []
"""Of the blocks that are open: a process has one cluster at a time."""


@contextmanager
def share_cluster() -> Iterator[None]:
    """Within the block, the cluster that a stage starts or joins stays for the next ones; it is left with the block."""
    with ExitStack() as keeper:
        _KEEPERS.append(keeper)
        try:
            yield
        finally:
            _KEEPERS.remove(keeper)


def keep_open(cluster: AbstractContextManager[None]) -> AbstractContextManager[None]:
    """The context manager of a cluster that is started; within `share_cluster`, it is entered once and stays open."""
    return _enter(cluster) if _KEEPERS else cluster


@contextmanager
def _enter(cluster: AbstractContextManager[None]) -> Iterator[None]:
    _KEEPERS[0].enter_context(cluster)
    yield
