"""Leave hosts alone that do not answer: a store that is down would cost each of its images several attempts."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp

_FAILURES = 8
"""Connections in a row that fail before a host is left alone (our choice)."""
_PAUSE_S = 60.0
"""How long; then it is asked once more."""


class SilentHostError(OSError):
    """A host that is left alone for now."""


class SilentHosts:
    """Counts the connections that fail in a row, by host; of one thread alone."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: Counter[str] = Counter()
        self._last_s: dict[str, float] = {}

    @contextmanager
    def asking(self, host: str) -> Iterator[None]:
        """Connect to a host within this block; SilentHostError where that has failed too often."""
        failures = self._failures[host]
        if failures >= _FAILURES and self._clock() - self._last_s[host] < _PAUSE_S:
            raise SilentHostError(f"{host} has not answered {failures} times in a row: it is not asked for a while")
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if not isinstance(error, aiohttp.ClientSSLError):
                self._failures[host] += 1
                self._last_s[host] = self._clock()
            raise
        except BaseException:
            self._failures.pop(host, None)  # it has answered something
            raise
        self._failures.pop(host, None)
