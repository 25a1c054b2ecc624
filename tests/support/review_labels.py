"""Labels with pictures in shards, and a server of `ecor review` in this process, for tests."""

import contextlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from ecor.config.scoring import ScoringConfig
from ecor.data.heatmap_codec import Evidence, quantize
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, read_prediction_set, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.records import ExplainablePrediction, predictions_table
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from pipelines.config.review import ReviewConfig
from pipelines.review.server.app import make_app
from pipelines.review.server.security import HEADER, Access
from pipelines.review.server.serve import bind_socket, make_server
from pipelines.review.server.service import ReviewService
from pipelines.stages.review import open_service
from tests.support.prediction_rows import row
from tests.support.tiny_splits import VOCABULARY, sample, write_split

NAMES = (("fox", "pointed ears"), ("fox", "a bushy tail"), ("whale", "a tail fin"))


def evidence(number: int) -> Evidence:
    """Three maps of a picture, as `ecor score --explain` keeps them."""
    scores = np.random.default_rng(number).normal(size=(3, 4, 4))
    maps = tuple(quantize(each, rationale=name) for each, name in zip(scores, (None, "a", "b"), strict=True))
    return Evidence(
        method="gradcam", category="fox", input_height=32, input_width=32, resize_mode="shortest", maps=maps
    )


def label(number: int, **changes: Any) -> ExplainablePrediction:
    """A label whose group follows from its number: three pairs of names, confidences from 0.05 to 0.95."""
    names = NAMES[number % len(NAMES)]
    confidence = 0.05 + 0.1 * (number // len(NAMES) % 10)
    others = [pair for pair in NAMES if pair != names]
    return replace(row(f"{number:04d}", names, *others, confidence=confidence), **changes)


def write_reviewed_labels(folder: Path, *, num: int, with_maps: bool = True, per_part: int = 40, **parents: str) -> str:
    """Shards of `num` small pictures, and labels of them in parts; the folder of the labels."""
    write_split(folder / "shards", [sample(number) for number in range(num)], split="test", per_shard=25)
    split = folder / "shards" / "test"
    manifest = read_shard_manifest(str(split))
    rows = []
    for info in manifest.shards:
        for entry in read_index(split, info).to_pylist():
            number = int(entry["key"])
            place = {name: entry[name] for name in ("source", "member_offset", "member_num_bytes")}
            maps = evidence(number) if with_maps and number % 2 == 0 else None
            rows.append(label(number, shard=info.name, evidence=maps, vocabulary_digest=VOCABULARY.digest, **place))
    write_labels(folder / "labels", rows, per_part=per_part, input=str(split), input_digest=manifest.digest, **parents)
    return str(folder / "labels")


def write_labels(
    folder: Path, rows: list[ExplainablePrediction], *, per_part: int = 40, **parents: str
) -> PredictionSet:
    """A finished folder of labels."""
    parts = tuple(
        write_part(
            str(folder),
            predictions_table(rows[start : start + per_part]),
            name=f"part-{start}.parquet",
            unit=f"unit-{start}",
        )
        for start in range(0, len(rows), per_part)
    )
    values = {
        "input": "photos",
        "input_digest": "i" * 64,
        "model_uri": "models:/ecor@champion",
        "model_name": "ecor",
        "model_version": "3",
        "model_digest": "m" * 64,
        "vocabulary_digest": VOCABULARY.digest,
    }
    made = PredictionSet(parts=parts, parents=PredictionParents(**{**values, **parents}), scoring=ScoringConfig())
    write_prediction_set(str(folder), made)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True, kw_only=True)
class Client:
    """Asks a server as the page does; all that identifies it can be left out or spoilt."""

    port: int
    cookie: str = ""
    header: str = ""
    reviewer: str = "Ada"
    num_actions: int = field(default=0)

    def ask(self, method: str, path: str, *, body: bytes | None = None, **headers: str | None) -> Answer:
        """One request; a header that is None is left out."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie, HEADER: self.header}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[misc]
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            found = connection.getresponse()
            return Answer(
                status=found.status,
                headers={name.lower(): value for name, value in found.getheaders()},
                body=found.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **values: Any) -> Any:
        """The JSON of an address."""
        query = urllib.parse.urlencode({"reviewer": self.reviewer, **values})
        answer = self.ask("GET", f"{path}?{query}")
        assert answer.status == 200, (path, answer.status, answer.body)
        return answer.json

    def post(self, path: str, **values: Any) -> Answer:
        """Send a decision or the like."""
        self.num_actions += 1
        body = {"reviewer": self.reviewer, "action": f"{id(self)}-{self.num_actions}", **values}
        return self.ask("POST", path, body=json.dumps(body).encode())

    def enter(self, address: str) -> "Client":
        """Open the printed address, as a browser does: cookie first, then the page with its header."""
        entered = self.ask("GET", f"/?{urllib.parse.urlsplit(address).query}", Cookie=None)
        assert entered.status == 303 and entered.headers["location"] == "/", entered
        self.cookie = entered.headers["set-cookie"].partition(";")[0]
        page = self.ask("GET", "/").body.decode()
        settings = page.partition('data-settings="')[2].partition('"')[0].replace("&#34;", '"')
        self.header = json.loads(settings)["header"]
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server in a thread of this process."""

    service: ReviewService
    access: Access
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.access.token}"

    def client(self, reviewer: str = "Ada") -> Client:
        return Client(port=self.port, reviewer=reviewer).enter(self.address)


@contextlib.contextmanager
def running_review(labels: str, **settings: Any) -> Iterator[Running]:
    """The server of some labels, until the block ends."""
    config = ReviewConfig(labels=labels, **{"reviewer": "Ada", **settings})
    service, access = open_service(config, read_prediction_set(labels)), Access(host=config.host)
    with bind_socket(config.host, config.port) as listening:
        server = make_server(make_app(service, access=access))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.01)
            yield Running(service=service, access=access, port=listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            service.session.close()


def run_command(words: list[str], output: str) -> None:
    """Run `ecor` in a process of its own; its output goes to a file."""
    import sys  # not to be confused with the streams of the test

    from pipelines.__main__ import main

    with Path(output).open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(main(words))


def printed_address(path: Path, *, alive: Callable[[], bool]) -> str:
    """The address that `ecor review` has printed into a file; waits for it."""
    deadline = time.monotonic() + 120
    while not (found := re.search(r"http://\S+token=\S+", path.read_text() if path.exists() else "")):
        assert alive() and time.monotonic() < deadline, path.read_text() if path.exists() else "no output"
        time.sleep(0.01)
    return found[0]
