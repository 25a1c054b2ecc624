"""How fast `ecor review` answers, and how much memory it takes: labels are made, its real server is asked over HTTP.

    python benchmarks/review.py --labels 1000000

Labels are of 1,000 categories with 5 rationales each, in parts of 10,000; pictures are 500 photo-like JPEG files of
640 x 480 pixels, each the picture of many labels. A client opens lists of groups (with and without filters and search),
groups, pictures and details at random places and sends decisions, one request after the other, while nothing else runs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.manifest import PredictionParents, PredictionSet, write_prediction_set
from ecor.data.predictions.parts import write_part
from ecor.data.predictions.schema import PREDICTION_SCHEMA
from pipelines.runtime.console import progress_bar, say

NUM_CATEGORIES, NUM_RATIONALES_OF, NUM_PICTURES, ROWS_PER_PART = 1000, 5, 500, 10_000
RANKED = 10
"""Pairs, categories and rationales of each label."""


def make_pictures(folder: Path) -> list[str]:
    """Draw pictures that cost a JPEG decoder about as much as photos do."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(NUM_PICTURES):
        small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (picture + random.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=88)
    return sorted(map(str, folder.iterdir()))


def make_part(start: int, num_rows: int, *, pictures: list[str], random: np.random.Generator) -> pa.Table:
    """Some labels with random names and confidences; popular categories are more frequent than others."""
    numbers = np.arange(start, start + num_rows)
    category = (NUM_CATEGORIES * random.random(num_rows) ** 2).astype(int)
    ranked = (category[:, None] + np.arange(RANKED)) % NUM_CATEGORIES
    reasons = ranked * NUM_RATIONALES_OF + random.integers(0, NUM_RATIONALES_OF, ranked.shape)
    confidence = random.beta(4, 1.5, size=num_rows).astype(np.float32)
    categories, rationales = (
        pa.array([f"{word} {each:04d}" for each in range(most)])
        for word, most in (("kind of animal", NUM_CATEGORIES), ("visible part", NUM_CATEGORIES * NUM_RATIONALES_OF))
    )
    log_probs = np.tile(np.log(0.5) - np.arange(RANKED, dtype=np.float32), (num_rows, 1))

    def ranking(**names: pa.Array) -> pa.Array:
        fields = [*names.values(), pa.array(log_probs.ravel(), pa.float32())]
        entries = pa.StructArray.from_arrays(fields, names=[*names, "log_prob"])
        return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1) * RANKED, pa.int32()), entries)

    category_names, reason_names = categories.take(pa.array(ranked.ravel())), rationales.take(pa.array(reasons.ravel()))
    columns = {
        "key": pa.array([f"{(each * 2654435761) % 2**48:012x}-{each:08x}-photo_{each}" for each in numbers.tolist()]),
        "source": pa.array([pictures[each % NUM_PICTURES] for each in numbers.tolist()]),
        "category": categories.take(pa.array(ranked[:, 0])),
        "rationale": rationales.take(pa.array(reasons[:, 0])),
        "confidence": pa.array(confidence),
        "category_log_prob": pa.array(np.log(confidence)),
        "pairs": ranking(category=category_names, rationale=reason_names),
        "categories": ranking(category=category_names),
        "rationales": ranking(rationale=reason_names),
        "two_stage_category": categories.take(pa.array(ranked[:, 0])),
        "two_stage_rationale": rationales.take(pa.array(reasons[:, 0])),
        "kept_mass": pa.array(np.full(num_rows, 0.99, dtype=np.float32)),
        "pairs_exact": pa.array(np.ones(num_rows, dtype=bool)),
        "calibrated": pa.array(np.ones(num_rows, dtype=bool)),
        "method": pa.array(["joint"] * num_rows),
        "model_name": pa.array(["ecor"] * num_rows),
        "model_digest": pa.array(["m" * 64] * num_rows),
        "vocabulary_digest": pa.array(["v" * 64] * num_rows),
    }
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(num_rows, field.type)
        for field in PREDICTION_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=PREDICTION_SCHEMA)


def make_labels(folder: str, *, num_labels: int, pictures: list[str]) -> None:
    """A finished folder of labels, as `ecor score` leaves it."""
    random, parts = np.random.default_rng(1), []
    with progress_bar("making labels", total=num_labels, unit="labels") as advance:
        for start in range(0, num_labels, ROWS_PER_PART):
            table = make_part(start, min(ROWS_PER_PART, num_labels - start), pictures=pictures, random=random)
            parts.append(write_part(folder, table, name=f"part-{start:08d}.parquet", unit=f"unit-{start:08d}"))
            advance(table.num_rows)
    parents = PredictionParents(
        input="photos",
        input_digest="i" * 64,
        model_uri="models:/ecor@champion",
        model_name="ecor",
        model_version="1",
        model_digest="m" * 64,
        vocabulary_digest="v" * 64,
    )
    write_prediction_set(folder, PredictionSet(parts=tuple(parts), parents=parents, scoring=ScoringConfig()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Asks the server over one connection, as a browser's tab does."""

    connection: HTTPConnection
    headers: dict[str, str]

    def ask(self, path: str, body: dict[str, object] | None = None) -> tuple[float, bytes]:
        """Seconds until the answer was read, and the answer."""
        data = None if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self.connection.request("GET" if body is None else "POST", path, body=data, headers=self.headers)
        answer = self.connection.getresponse()
        found = answer.read()
        seconds = time.perf_counter() - began
        assert answer.status == 200, (path, answer.status, found[:200])
        return seconds, found

    def get(self, path: str, **values: object) -> tuple[float, dict[str, object]]:
        seconds, found = self.ask(f"{path}?{urllib.parse.urlencode({'reviewer': 'Ada', **values})}")
        return seconds, json.loads(found)


@contextmanager
def started_server(labels: str, *, decisions: str) -> Iterator[tuple[int, str, float]]:
    """`ecor review` in a process of its own: its id, the address, and the seconds until it answers."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipelines", "review", labels, "--decisions", decisions]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None, "the server has not started"
            yield process.pid, found[0], time.perf_counter() - began
        finally:
            process.terminate()


def enter(address: str) -> Client:
    """Open the printed address, and take cookie and header as the page does."""
    connection = HTTPConnection("127.0.0.1", int(urllib.parse.urlsplit(address).port or 0), timeout=120)
    connection.request("GET", f"/?{urllib.parse.urlsplit(address).query}")
    answer = connection.getresponse()
    answer.read()
    cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
    connection.request("GET", "/", headers={"Cookie": cookie})
    page = connection.getresponse().read().decode()
    found = re.search(r"&#34;header&#34;: &#34;([\w-]+)&#34;", page)
    assert found is not None
    return Client(connection=connection, headers={"Cookie": cookie, "X-Ecor-Review": found[1]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Of one kind of request."""

    seconds: tuple[float, ...]
    """Until each answer was read."""
    cpu_seconds: float
    """Of the server, per request: the same however busy the machine is."""


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def measure(client: Client, *, pid: int, num_labels: int, repeats: int) -> dict[str, Timing]:
    """Ask for each kind of thing, at random places."""
    random = np.random.default_rng(2)
    total = json.loads(client.ask("/api/groups?reviewer=Ada&seen=open&limit=1")[1])["num_groups"]

    def kind_of_animal() -> str:
        return f"kind of animal {random.integers(NUM_CATEGORIES):04d}"

    def search() -> str:
        return str(
            random.choice([f"photo_{random.integers(num_labels)}", f"part {random.integers(999):04d}", "animal 07"])
        )

    kinds: dict[str, Callable[[], float]] = {
        "list of groups": lambda: client.get(
            "/api/groups", seen="open", order="size", start=int(random.integers(total)), limit=50
        )[0],
        "list, filtered": lambda: client.get(
            "/api/groups", seen="open", order="unsure", name=kind_of_animal(), **{"from": 0.2}, limit=50
        )[0],
        "list, searched (new text)": lambda: client.get("/api/groups", seen="open", q=search(), limit=50)[0],
        "a group's pictures": lambda: client.get(f"/api/group/{random.integers(total)}", seen="open", limit=48)[0],
        "a picture, not in the cache": lambda: client.ask(f"/picture/{random.integers(num_labels)}")[0],
        "a label's details": lambda: client.get(f"/api/label/{random.integers(num_labels)}")[0],
        "completion of a name": lambda: client.get("/api/names", kind="category", q=kind_of_animal()[:16])[0],
    }
    kinds["decision about one image"] = lambda: decide(client, numbers=[int(random.integers(num_labels))])
    kinds["acceptance of a group"] = lambda: accept(client, start=int(random.integers(100)))
    times = {}
    for name, ask in kinds.items():
        before = processor_seconds(pid)
        seconds = tuple(ask() for _ in range(repeats))
        times[name] = Timing(seconds=seconds, cpu_seconds=(processor_seconds(pid) - before) / repeats)
    return times


def decide(client: Client, **values: object) -> float:
    """Seconds until a decision is confirmed, after the disk has it."""
    body = {"reviewer": "Ada", "action": os.urandom(8).hex(), "verdict": "accept", **values}
    return client.ask("/api/decide", body)[0]


def accept(client: Client, *, start: int) -> float:
    """Accept one of the largest groups that are left."""
    group = client.get("/api/groups", seen="open", start=start, limit=1)[1]["groups"][0]  # type: ignore[index]
    return decide(client, group=group["number"], num_expected=group["size"])


def memory(pid: int) -> str:
    """Peak and present memory of the server: its own, and mapped files, which the system takes back when needed."""
    text = Path(f"/proc/{pid}/status").read_text()
    peak, own, mapped = (
        int((re.search(rf"{name}:\s+(\d+) kB", text) or [0, 0])[1]) // 1024 for name in ("VmHWM", "RssAnon", "RssFile")
    )
    return f"peak {peak} MB, at the end {own} MB of its own and {mapped} MB of mapped files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000, help="labels to make")
    parser.add_argument("--repeats", type=int, default=100, help="requests of each kind")
    parser.add_argument("--folder", help="where the labels are made, or lie already; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.folder or scratch)
        if not (folder / "labels" / "manifest.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_labels(str(folder / "labels"), num_labels=given.labels, pictures=make_pictures(folder / "photos"))
        with started_server(str(folder / "labels"), decisions=f"{scratch}/decisions") as (pid, address, seconds):
            client = enter(address)
            times = measure(client, pid=pid, num_labels=given.labels, repeats=given.repeats)
            print(f"{given.labels:,} labels; the server answers after {seconds:.1f} s; memory: {memory(pid)}\n")
            print("| request | median, ms | 95th percentile, ms | slowest, ms | processor time of the server, ms |")
            print("|---|---:|---:|---:|---:|")
            for name, each in times.items():
                median, high = np.percentile(each.seconds, [50, 95])
                figures = (median, high, max(each.seconds), each.cpu_seconds)
                print(f"| {name} | {' | '.join(f'{1000 * figure:.0f}' for figure in figures)} |")
        say(f"load of this machine: {os.getloadavg()[0]:.1f} processes on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
