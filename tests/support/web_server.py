"""A web server on this machine whose answers a test chooses, path by path."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class WebServer(ThreadingHTTPServer):
    """Answers by path; notes what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, bytes | Answer] = {}
        """By path and query as they are sent."""
        self.asked: Counter[str] = Counter()
        self.headers_sent: list[dict[str, str]] = []
        self.connections: set[Any] = set()

    @property
    def host(self) -> str:
        """Host and port, as a setting names them."""
        return f"127.0.0.1:{self.server_port}"

    def url(self, path: str, *, host: str | None = None) -> str:
        """The address of a path."""
        return f"http://{host or '127.0.0.1'}:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        self.server.headers_sent.append({name.lower(): value for name, value in self.headers.items()})
        self.server.connections.add(self.client_address)
        answer = self.server.answers.get(self.path)
        if answer is None:
            send(self, b"nothing here", status=404)
        elif isinstance(answer, bytes):
            send(self, answer)
        else:
            answer(self)

    def log_message(self, *args: Any) -> None:
        """Nothing is printed."""


def send(request: BaseHTTPRequestHandler, data: bytes, *, status: int = 200, **headers: str) -> None:
    """Answer with a body; underscores in names of headers are hyphens."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(data)


def redirect(to: str, *, status: int = 302) -> Answer:
    """An answer that leads elsewhere."""
    return lambda request: send(request, b"", status=status, Location=to)


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other; the last one again and again."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


@contextmanager
def serve() -> Iterator[WebServer]:
    """A server, until the block ends."""
    with WebServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
