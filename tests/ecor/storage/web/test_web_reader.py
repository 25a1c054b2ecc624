"""Files are read over HTTP from allowed hosts and checked addresses only, within limits of bytes and time."""

import gzip
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ecor.storage.retries import RetryLaterError
from ecor.storage.web.web_reader import WebError, WebLimits, WebReader, web_reader
from tests.support.web_server import WebServer, make_certificate, redirect, send, serve

MOST = 1000
SECONDS = 1.5


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with serve() as running:
        yield running


@pytest.fixture
def open_reader() -> Iterator[Callable[..., WebReader]]:
    """Opens readers of hosts; they are closed at the end."""
    found: list[WebReader] = []

    def opened(*allowed: str) -> WebReader:
        found.append(WebReader(allowed, limits=WebLimits(num_bytes=MOST, seconds=SECONDS, silence_s=1.0)))
        return found[-1]

    yield opened
    for each in found:
        each.close()


@pytest.fixture
def reader(server: WebServer, open_reader: Callable[..., WebReader]) -> WebReader:
    return open_reader(server.host)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses of names, in place of those of the network."""
    found: dict[str, list[str]] = {}
    usual = socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        if host not in found:
            return usual(host, port, *args, **kwargs)
        kinds = [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in found[host]]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (each, port, 0, 0)[: 4 if ":" in each else 2]) for kind, each in kinds
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return found


def test_bytes_come_as_they_are_on_one_connection_and_with_no_credentials(server, reader, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.headers_sent.clear()
    server.connections.clear()
    server.answers["/a.png"] = lambda request: send(request, b"\x89PNG", Set_Cookie="session=1; Path=/")
    assert [reader.read(server.url("/a.png")) for _ in range(3)] == [b"\x89PNG"] * 3
    sent = {name for headers in server.headers_sent for name in headers}
    assert sent == {"host", "user-agent", "accept", "accept-encoding"}
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/with%20space%2Fslash.png", "/with%20space%2Fslash.png"),
        ("/with space.png", "/with%20space.png"),
        ("/zèbre/斑马.png", "/z%C3%A8bre/%E6%96%91%E9%A9%AC.png"),
        ("/a.png?size=1&name=a%2Bb", "/a.png?size=1&name=a%2Bb"),
        ("/a/../b.png#part", "/b.png"),
    ],
)
def test_paths_are_asked_for_as_browsers_do(server, reader, path, asked):
    server.answers[asked] = asked.encode()
    assert reader.read(server.url(path)) == asked.encode()


def test_a_host_that_is_not_listed_is_not_asked(server, reader):
    for url in (server.url("/a.png", host="localhost"), "http://127.0.0.1/a.png", "https://example.org/a.png"):
        with pytest.raises(WebError, match=r"is not an allowed host: name it with --allow-http \S+$"):
            reader.read(url)
    for url in ("ftp://127.0.0.1/a", "http:///a", "http://[::/", "http://a:b:c/", "http://h:99999/a"):
        with pytest.raises(WebError):
            reader.read(url)
    with pytest.raises(WebError, match="credentials"):
        reader.read(server.url("/a.png", host="ann:secret@127.0.0.1"))


def test_a_name_of_a_private_address_is_refused_unless_both_are_named(server, names, open_reader):
    names["images.example.org"], port = ["127.0.0.1"], server.server_port
    server.answers["/a.png"] = b"image"
    asked = server.asked["/a.png"]
    reader = open_reader(f"images.example.org:{port}")
    with pytest.raises(WebError, match=rf"not public.*--allow-http images.example.org:{port}=127.0.0.1$"):
        reader.read(server.url("/a.png", host="images.example.org"))
    assert server.asked["/a.png"] == asked
    reader = open_reader(f"images.example.org:{port}=127.0.0.0/8")
    assert reader.read(server.url("/a.png", host="images.example.org")) == b"image"


def test_a_name_with_one_private_address_among_public_ones_is_refused(server, names, open_reader):
    names["images.example.org"] = ["93.184.215.14", "127.0.0.1"]
    reader = open_reader(f"images.example.org:{server.server_port}")
    with pytest.raises(WebError, match=r"127\.0\.0\.1, which is not public"):
        reader.read(server.url("/a.png", host="images.example.org"))


def test_the_connection_goes_to_the_address_that_was_checked(server, names, open_reader, monkeypatch):
    """A name that is resolved again, to another address, before the connection: rebinding."""
    names["images.lan"] = ["127.0.0.1"]
    reader = open_reader(f"images.lan:{server.server_port}=127.0.0.1")
    usual, seen = socket.getaddrinfo, []

    def resolve(host, *args, **kwargs):
        seen.append(host)
        found = usual(host, *args, **kwargs)
        if host == "images.lan":
            names["images.lan"] = ["10.9.8.7"]
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    server.answers["/a.png"] = b"image"
    assert reader.read(server.url("/a.png", host="images.lan")) == b"image"
    assert seen.count("images.lan") == 1


def test_redirects_lead_only_to_allowed_hosts_and_addresses(server, names, open_reader):
    names["images.lan"], names["metadata.lan"] = ["127.0.0.1"], ["169.254.169.254"]
    port = server.server_port
    reader = open_reader(server.host, f"images.lan:{port}=127.0.0.1", f"metadata.lan:{port}")
    server.answers |= {
        "/a.png": b"image",
        "/here": redirect("/a.png", status=301),
        "/there": redirect(server.url("/here", host="images.lan"), status=307),
        "/elsewhere": redirect("http://169.254.169.254/latest?token=secret"),
        "/by-name": redirect(server.url("/latest", host="metadata.lan")),
        "/file": redirect("file:///etc/passwd"),
        "/ann": redirect(server.url("/a.png", host="ann:secret@127.0.0.1")),
        "/round": redirect("/round"),
        "/nowhere": lambda request: send(request, b"", status=302),
        "/bad": redirect("http://[/?token=secret"),
    }
    assert reader.read(server.url("/there")) == b"image"
    refused = {
        "/elsewhere": "169.254.169.254 is not an allowed host",
        "/by-name": "not public",
        "/file": "file:// is not read",
        "/ann": "holds credentials",
        "/round": "more than 5 redirects",
        "/nowhere": "more than 5 redirects",
        "/bad": "no valid address",
    }
    for path, reason in refused.items():
        with pytest.raises(WebError, match=reason) as error:
            reader.read(server.url(path))
        assert str(error.value).startswith(server.url(path)) and "secret" not in str(error.value)


def without_length(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(bytes(MOST + 1))
    request.close_connection = True


def in_chunks(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for _ in range(3):
        request.wfile.write(b"190\r\n" + bytes(400) + b"\r\n")
    request.wfile.write(b"0\r\n\r\n")


def bomb(request: BaseHTTPRequestHandler) -> None:
    send(request, gzip.compress(bytes(10**6)), Content_Encoding="gzip")


def announced(request: BaseHTTPRequestHandler) -> None:
    """More than is allowed, by its header alone."""
    request.send_response(200)
    request.send_header("Content-Length", str(10**15))
    request.end_headers()


@pytest.mark.parametrize("answer", [bytes(MOST + 1), without_length, in_chunks, bomb, announced])
def test_a_large_body_is_refused(server, reader, answer):
    server.answers["/large"] = answer
    with pytest.raises(WebError, match=f"more than {MOST} bytes"):
        reader.read(server.url("/large"))
    server.answers["/fits"] = bytes(MOST)
    assert reader.read(server.url("/fits")) == bytes(MOST)


def test_a_compressed_answer_is_unpacked(server, reader):
    server.answers["/packed"] = lambda request: send(request, gzip.compress(b"image"), Content_Encoding="gzip")
    assert reader.read(server.url("/packed")) == b"image"


def dripping(*, headers: bool) -> Callable[[BaseHTTPRequestHandler], None]:
    """Never silent, and never done."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if headers:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            request.send_response(200)
            request.send_header("Content-Length", "900")
            request.end_headers()
        for _ in range(100):
            time.sleep(0.1)
            try:
                request.wfile.write(b"x")
            except OSError:
                break
        request.close_connection = True

    return answer


@pytest.mark.parametrize("headers", [True, False])
def test_a_slow_answer_ends_at_the_limit_of_all_its_time(server, reader, headers):
    server.answers["/slow"] = dripping(headers=headers)
    began = time.monotonic()
    with pytest.raises(WebError, match=r"not read within 1\.5 s"):
        reader.read(server.url("/slow"))
    assert SECONDS <= time.monotonic() - began < SECONDS + 3


def test_a_silent_server_a_cut_body_and_a_closed_port_are_worth_another_attempt(server, reader, open_reader):
    server.answers["/silent"] = lambda request: time.sleep(1.3)

    def cut(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"half")
        request.close_connection = True

    server.answers["/cut"] = cut
    for path in ("/silent", "/cut"):
        with pytest.raises(RetryLaterError, match=path):
            reader.read(server.url(path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        stranger = open_reader(f"127.0.0.1:{port}", "no-such-name.invalid")
        for url in (f"http://127.0.0.1:{port}/a", "http://no-such-name.invalid/a"):
            with pytest.raises(RetryLaterError):
                stranger.read(url)


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, FileNotFoundError), (410, FileNotFoundError), (401, WebError), (403, WebError), (206, WebError)]
    + [(status, RetryLaterError) for status in (408, 425, 429, 500, 503)],
)
def test_statuses_are_told_apart(server, reader, status, error):
    server.answers["/status"] = lambda request: send(request, b"", status=status)
    with pytest.raises(error, match=f"HTTP status {status}"):
        reader.read(server.url("/status"))


@pytest.mark.parametrize(
    ("text", "least_s", "most_s"),
    [("7", 7, 7), ("in 15 minutes", 100, 901), ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0), ("soon", 0, 0), ("-1", 0, 0)],
)
def test_the_server_says_when_to_come_again(server, reader, text, least_s, most_s):
    said = formatdate(time.time() + 900, usegmt=True) if text == "in 15 minutes" else text
    server.answers["/busy"] = lambda request: send(request, b"", status=503, Retry_After=said)
    with pytest.raises(RetryLaterError) as error:
        reader.read(server.url("/busy"))
    assert least_s <= error.value.after_s <= most_s


def test_many_threads_share_a_reader(server, reader):
    server.answers |= {f"/{number}.png": str(number).encode() for number in range(200)}
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(reader.read, [server.url(f"/{number}.png") for number in range(200)]))
    assert found == [str(number).encode() for number in range(200)]


def test_a_process_has_one_reader_for_a_list_of_hosts(server: WebServer, tmp_path: Path):
    assert web_reader((server.host,)) is web_reader((server.host,)) is not web_reader(("example.org",))
    server.answers["/a.png"] = b"image"
    assert web_reader((server.host,)).read(server.url("/a.png")) == b"image"
    child = os.fork()
    if child == 0:  # a thread is not copied: the child has a reader of its own
        os._exit(0 if web_reader((server.host,)).read(server.url("/a.png")) == b"image" else 1)
    assert os.waitpid(child, 0)[1] == 0


READ = """
import sys
from ecor.storage.web.web_reader import WebReader
sys.stdout.buffer.write(WebReader((sys.argv[1],)).read(sys.argv[2]))
"""


def read_with(certificates: Path, server: WebServer, path: str) -> subprocess.CompletedProcess[bytes]:
    """Read in a new process that trusts these certificates: OpenSSL looks for them once."""
    environment = {**os.environ, "SSL_CERT_FILE": str(certificates)}
    words = [sys.executable, "-c", READ, server.host, server.url(path)]
    return subprocess.run(words, env=environment, capture_output=True, check=False, timeout=60)


def test_https_is_read_where_the_certificate_is_trusted_only(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own, other = make_certificate(tmp_path), make_certificate(tmp_path / "other")
    with serve(certificate=own) as server:
        server.answers |= {"/a.png": b"pixels", "/old.png": redirect("/a.png")}
        assert [read_with(own, server, path).stdout for path in ("/a.png", "/old.png")] == [b"pixels"] * 2
        refused = read_with(other, server, "/a.png")
    assert refused.returncode != 0 and b"pixels" not in refused.stdout
    assert b"WebError: https://127.0.0.1" in refused.stderr and b"CERTIFICATE_VERIFY_FAILED" in refused.stderr


def test_a_certificate_that_has_expired_is_an_error_at_once(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, days=-1)
    with serve(certificate=certificate) as server:
        server.answers["/a.png"] = b"pixels"
        refused = read_with(certificate, server, "/a.png")
    assert b"WebError" in refused.stderr and b"certificate has expired" in refused.stderr
