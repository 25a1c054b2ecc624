"""A web server on this machine whose answers a test chooses, path by path."""

import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Answer = Callable[[BaseHTTPRequestHandler], None]


class WebServer(ThreadingHTTPServer):
    """Answers by path; notes what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http"
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
        return f"{self.scheme}://{host or '127.0.0.1'}:{self.server_port}{path}"


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


def make_certificate(folder: Path, *, days: int = 1) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself, in one PEM file; valid from yesterday on."""
    key, yesterday = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) - timedelta(days=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(yesterday)
        .not_valid_after(yesterday + timedelta(days=1 + days))
        .add_extension(addresses, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(secret + made.public_bytes(Encoding.PEM))
    return path


@contextmanager
def serve(*, certificate: Path | None = None) -> Iterator[WebServer]:
    """A server, until the block ends; with a certificate, by HTTPS."""
    with WebServer() as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.scheme = "https"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
