"""An S3 endpoint on loopback for tests: moto's server in a process of its own, which can be told to fail.

A fault is what `S3Server.faulty` sets: every n-th request of some methods is refused, waits before it is served, is
answered with an error after it was, or loses a header. Puts are served one at a time, as a store that checks a
condition does.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"
ACCOUNT = "123456789012"
"""moto's own."""
_CONTROL, _OBJECTS = "/_tests/faults", "/_tests/objects"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to which requests."""

    kind: str = ""
    """`refuse` (503 SlowDown), `wait` (`seconds` before it is served), `lose` (served, but the answer is 500), `deny`
    (403), `unknown` (403, for the key of who asks), `unconditional` (If-None-Match is not heard); empty: nothing."""
    period: int = 1
    """Every so many of the requests that it is about."""
    methods: tuple[str, ...] = ("GET", "PUT", "HEAD", "POST", "DELETE")
    seconds: float = 0.0
    times: int = 2**31
    """How often at most."""


class S3Server:
    """The endpoint, as a test sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to use it: the usual variables."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests-secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """An empty bucket; its address."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=20).close()
        return f"s3://{name}"

    def fill(self, folder: str, names: Sequence[str]) -> None:
        """Put many small objects at once, each of which holds its name as JSON."""
        data = json.dumps({"folder": folder.removeprefix("s3://"), "names": list(names)}).encode()
        urllib.request.urlopen(urllib.request.Request(self.url + _OBJECTS, data=data), timeout=60).close()

    @contextmanager
    def faulty(self, **fault: Any) -> Iterator[None]:
        """Fail as `Fault` says, while the block lasts."""
        self._set(Fault(**fault))
        try:
            yield
        finally:
            self._set(Fault())

    @property
    def num_faults(self) -> int:
        """Since the last `faulty` began."""
        return json.loads(urllib.request.urlopen(self.url + _CONTROL, timeout=20).read())["num_faults"]

    @property
    def num_requests(self) -> int:
        """Of all kinds, since the last `faulty` began."""
        return json.loads(urllib.request.urlopen(self.url + _CONTROL, timeout=20).read())["num_requests"]

    def _set(self, fault: Fault) -> None:
        data = json.dumps(asdict(fault)).encode()
        urllib.request.urlopen(urllib.request.Request(self.url + _CONTROL, data=data), timeout=20).close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start one, and end it with the block."""
    command = [sys.executable, str(Path(__file__).resolve())]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests-secret"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the S3 endpoint did not start"
        yield S3Server(url)
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def s3_in_use() -> Iterator[S3Server]:
    """Start one, and have `s3://` mean it, here and in processes that start meanwhile."""
    import s3fs  # not needed by the process that serves

    with s3_server() as server:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        try:
            yield server
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            s3fs.S3FileSystem.clear_instance_cache()  # clients keep the address that they began with


class Faulty:
    """A WSGI application in front of another one."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.puts = threading.Lock()
        self.set(Fault())

    def set(self, fault: Fault) -> None:
        self.fault, self.num_seen, self.num_faults, self.num_requests = fault, 0, 0, 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == _OBJECTS:
            return self._fill(environ, start_response)
        if environ["PATH_INFO"] == _CONTROL:
            return self._control(environ, start_response)
        self.num_requests += 1
        fault = self.fault
        if fault.kind and environ["REQUEST_METHOD"] in fault.methods and self.num_faults < fault.times:
            self.num_seen += 1
            if self.num_seen % fault.period == 0:
                self.num_faults += 1
                return self._failing(fault, environ, start_response)
        return self._served(environ, start_response)

    def _failing(self, fault: Fault, environ: dict[str, Any], start_response: Any) -> Any:
        if fault.kind == "wait":
            time.sleep(fault.seconds)
        if fault.kind == "unconditional":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if fault.kind == "lose":
            b"".join(self._served(environ, lambda *given: None))
            return _error(environ, start_response, "500 Internal Server Error", code="InternalError")
        if fault.kind == "refuse":
            return _error(environ, start_response, "503 Service Unavailable", code="SlowDown")
        if fault.kind == "deny":
            return _error(environ, start_response, "403 Forbidden", code="AccessDenied")
        if fault.kind == "unknown":
            return _error(environ, start_response, "403 Forbidden", code="InvalidAccessKeyId")
        return self._served(environ, start_response)

    def _served(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return list(self.application(environ, start_response))
        with self.puts:
            return list(self.application(environ, start_response))

    def _fill(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        from moto.s3.models import s3_backends

        given = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        bucket, _, folder = given["folder"].partition("/")
        backend = s3_backends[ACCOUNT]["aws"]
        for name in given["names"]:
            backend.put_object(bucket, f"{folder}/{name}", json.dumps({"name": name}).encode())
        start_response("200 OK", [])
        return []

    def _control(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            given = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self.set(Fault(**{**given, "methods": tuple(given["methods"])}))
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"num_faults": self.num_faults, "num_requests": self.num_requests}).encode()]


def _error(environ: dict[str, Any], start_response: Any, status: str, *, code: str) -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    told = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made to fail</Message></Error>"
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [told.encode()]


def serve() -> None:
    """Serve on a free port, whose address is the first line of output."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
