"""Hosts that fail many times in a row are left alone for a minute; others, and those that answer, are asked."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from ecor.storage.retries import RetryLaterError
from ecor.storage.web.silent_hosts import SilentHostError, SilentHosts
from ecor.storage.web.web_reader import WebError, WebReader


@contextmanager
def failing(kind: type[BaseException]) -> Iterator[None]:
    with pytest.raises(kind):
        yield


def ask(hosts: SilentHosts, host: str, *, error: BaseException | None = None) -> None:
    with hosts.asking(host):
        if error is not None:
            raise error


def no_connection() -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(connection_key=None, os_error=OSError("refused"))  # type: ignore[arg-type]


def test_after_eight_failures_a_host_is_asked_once_a_minute() -> None:
    now = [0.0]
    hosts = SilentHosts(clock=lambda: now[0])
    for _ in range(8):
        with failing(aiohttp.ClientConnectorError):
            ask(hosts, "down", error=no_connection())
    with pytest.raises(SilentHostError, match="down has not answered 8 times in a row"):
        ask(hosts, "down")
    ask(hosts, "up")
    now[0] = 61.0
    with failing(aiohttp.ClientConnectorError):
        ask(hosts, "down", error=no_connection())
    with failing(SilentHostError):
        ask(hosts, "down")
    now[0] = 200.0
    ask(hosts, "down")
    ask(hosts, "down")


@pytest.mark.parametrize("answer", [None, FileNotFoundError(), RetryLaterError("busy")])
def test_any_answer_makes_the_count_begin_anew(answer: BaseException | None) -> None:
    hosts = SilentHosts()
    for _ in range(3):
        for _ in range(7):
            with failing(aiohttp.ClientConnectorError):
                ask(hosts, "host", error=no_connection())
        if answer is None:
            ask(hosts, "host")
            continue
        with failing(type(answer)):
            ask(hosts, "host", error=answer)


def test_a_closed_port_is_given_up_without_further_attempts() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader = WebReader((f"127.0.0.1:{port}=127.0.0.1",))
    try:
        for _ in range(8):
            with failing(RetryLaterError):
                reader.read(f"http://127.0.0.1:{port}/a.png")
        with pytest.raises(WebError, match=f"127.0.0.1:{port} has not answered 8 times in a row"):
            reader.read(f"http://127.0.0.1:{port}/b.png")
    finally:
        reader.close()
