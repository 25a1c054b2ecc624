"""As much of Google's store as a ledger needs, on loopback: objects, listings, and puts that heed their generation."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@contextmanager
def gcs_in_use() -> Iterator[None]:
    """Have `gs://` mean an empty store of this process, while the block lasts; any bucket is there."""
    import fsspec
    from gcsfs.core import GCSFileSystem  # not the one that asks first, by gRPC, what kind of bucket it is

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    server.objects, server.writing = {}, threading.Lock()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = fsspec.config.conf.get("gs")
    fsspec.config.conf["gs"] = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
    fsspec.register_implementation("gs", GCSFileSystem, clobber=True)
    try:
        yield
    finally:
        fsspec.config.conf["gs"] = before or {}
        GCSFileSystem.clear_instance_cache()
        server.shutdown()


class _Store(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        url, data = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/rewriteTo/" in url.path:
            return self._copy(*(unquote(each.partition("/o/")[2]) for each in url.path.split("/rewriteTo/")))
        _, header, content = data.split(b"\n\n", 2) if data.startswith(b"--==0==") else (b"", b"", data)
        name = json.loads(header.partition(b"\n--==0==")[0])["name"]
        with self.server.writing:
            if parse_qs(url.query).get("ifGenerationMatch") == ["0"] and name in self._objects:
                return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            self._objects[name] = (content.removesuffix(b"\n--==0==--"), datetime.now(UTC).strftime(TIME))
        return self._answer(200, self._facts(name))

    def _copy(self, name: str, target: str) -> None:
        if name not in self._objects:
            return self._answer(404, {"error": {"code": 404, "message": "not found"}})
        self._objects[target] = (self._objects[name][0], datetime.now(UTC).strftime(TIME))
        return self._answer(200, {"kind": "storage#rewriteResponse", "done": True, "resource": self._facts(target)})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query, name = parse_qs(url.query), unquote(url.path.partition("/o/")[2])
        if not name:
            return self._answer(200, self._listing(query))
        if name not in self._objects:
            return self._answer(404, {"error": {"code": 404, "message": "not found"}})
        is_content = query.get("alt") == ["media"] or "/download/" in url.path
        return self._answer(200, self._objects[name][0][self._range()] if is_content else self._facts(name))

    def do_DELETE(self) -> None:
        name = unquote(urlsplit(self.path).path.partition("/o/")[2])
        self._answer(404 if self._objects.pop(name, None) is None else 204, b"")

    def log_message(self, *given: Any) -> None:
        pass

    @property
    def _objects(self) -> dict[str, tuple[bytes, str]]:
        return self.server.objects

    def _range(self) -> slice:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return slice(int(first), int(last) + 1 if last else None)

    def _facts(self, name: str) -> dict[str, Any]:
        content, time = self._objects[name]
        times = {"timeCreated": time, "updated": time}
        return {"kind": "storage#object", "name": name, "bucket": "bucket", "size": f"{len(content)}", **times}

    def _listing(self, query: dict[str, list[str]]) -> dict[str, Any]:
        (prefix,), (delimiter,) = query.get("prefix", [""]), query.get("delimiter", [""])
        names = [name for name in sorted(self._objects) if name.startswith(prefix)]
        deeper = {name for name in names if delimiter and delimiter in name[len(prefix) :]}
        folders = sorted({prefix + name[len(prefix) :].partition("/")[0] + "/" for name in deeper})
        return {"items": [self._facts(name) for name in names if name not in deeper], "prefixes": folders}

    def _answer(self, status: int, content: bytes | dict[str, Any]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", f"{len(data)}")
        self.end_headers()
        self.wfile.write(data)
