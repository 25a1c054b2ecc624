"""Serve the page on this machine until the user stops it."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from pipelines.review.server.security import Access

_STOP_AFTER_S = 5
"""Given to answers that are under way when the server stops."""


def bind_socket(host: str, port: int) -> socket.socket:
    """Listen at an address of this machine; port 0: a free one.

    Raises ValueError, with the remedy, for a port that is taken and a host that is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"cannot serve at {host}, port {port} ({error}): name another --port, or a --host of this machine"
        ) from error
    # connections inherit it; without it, every answer waits 40 ms for the client's acknowledgement of its head
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def page_address(listening: socket.socket, *, access: Access) -> str:
    """The address to open, with the token."""
    host = f"[{access.host}]" if ":" in access.host else access.host
    return f"http://{host}:{listening.getsockname()[1]}/?token={access.token}"


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server without access log: its addresses hold the token."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_level="error",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_STOP_AFTER_S,
        )
    )


def serve_until_stopped(app: ASGIApp, listening: socket.socket, *, started: Callable[[], None]) -> None:
    """Serve until Ctrl-C or a termination signal; returns then, so that the caller can finish.

    Args:
        app: the application.
        listening: from `bind_socket`.
        started: is called when signals are handled.
    """
    server = make_server(app)

    async def run() -> None:
        asyncio.get_running_loop().call_soon(started)
        await server.serve(sockets=[listening])

    with _quiet_signals():
        asyncio.run(run())


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """uvicorn raises the signals that stopped it again, after it has stopped: these do nothing here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
