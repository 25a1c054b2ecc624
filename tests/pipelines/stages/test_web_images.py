"""Images that a table names by addresses of the web, for `shard` and `score`: only from hosts that are allowed."""

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.storage.digests import bytes_sha256
from pipelines.__main__ import main
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig
from pipelines.config.stages import ScoreConfig, ShardConfig
from pipelines.runtime import retries
from pipelines.stages import score, shard
from pipelines.storage.image_bytes import UnreadableError, read_image_bytes
from tests.support.image_forms import pictures
from tests.support.mlflow_databases import new_database
from tests.support.tiny_models import tiny_checkpoint
from tests.support.web_server import WebServer, in_turn, redirect, send, serve

ONE = ClusterConfig(num_cpus=1)
pytestmark = pytest.mark.usefixtures("no_cluster")


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("run")).folder


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return new_database(tmp_path)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES_S", (0.0, 0.01, 0.01))


@pytest.fixture
def table(server: WebServer, tmp_path: Path) -> Path:
    """All pictures on the server, the last one twice; some come in odd ways."""
    server.answers.clear()
    server.asked.clear()
    images = dict(pictures())
    lines, ways = ["path,category"], list(images.items())
    for number, (name, data) in enumerate([*ways, ways[-1]]):
        path = f"/{number}/斑 {name}"
        server.answers[quote(path)] = data
        lines.append(f"{server.url(path if number % 2 else quote(path))},{name.partition('/')[0]}")
    paths = list(server.answers)
    first, second, third = (server.answers[path] for path in paths[:3])
    busy = [lambda request: send(request, b"", status=503, Retry_After="0")]
    server.answers[paths[0]] = in_turn(*busy, lambda request: send(request, first))
    server.answers[paths[1]] = lambda request: send(request, gzip.compress(second), Content_Encoding="gzip")
    server.answers |= {paths[2]: redirect("/moved.png"), "/moved.png": third}
    (tmp_path / "images.csv").write_text("\n".join(lines))
    return tmp_path / "images.csv"


def rejected_of(folder: Path) -> dict[str, tuple[str, str]]:
    rows = pq.ParquetFile(folder / "quarantine.parquet").read().to_pylist()
    return {row["source"]: (row["reason"], row["detail"]) for row in rows}


@pytest.mark.parametrize("command", ["shard", "score"])
def test_nothing_is_read_from_the_web_unless_a_host_is_named(command, table, server, tmp_path, checkpoint, capsys):
    model = ["--model", checkpoint] if command == "score" else []
    assert main([command, "--input", str(table), "--output", str(tmp_path / "out"), *model]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert f"{table}: line 2: {server.url('/0/')}" in line and "--allow-http images.example.org" in line
    assert not server.asked and not list(tmp_path.glob("out/**/*.tar"))


@pytest.mark.parametrize("settings", [ShardConfig, ScoreConfig])
def test_an_entry_that_is_no_host_is_refused(settings):
    with pytest.raises(ValueError, match=r"allow_http must be names of hosts, got 'https://a\.org'"):
        settings(input="in", output="out", allow_http=("https://a.org",))


@pytest.mark.parametrize("secret", ["http://ann:pass@{}/a.png", "http://{}/a.png?X-Amz-Signature=pass"])
@pytest.mark.parametrize("command", ["shard", "score"])
def test_an_address_with_credentials_is_refused_and_not_shown(
    command, secret, server, tmp_path, checkpoint, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text(f"path,category\n{secret.format(server.host)},cat\n")
    model = ["--model", checkpoint] if command == "score" else []
    assert main([command, "--input", "in.csv", "--output", "out", "--allow-http", server.host, *model]) == 2
    said = capsys.readouterr()
    assert "holds credentials or a signature" in said.err and "pass" not in said.err + said.out
    assert not any(b"pass" in path.read_bytes() for path in Path("out").rglob("*") if path.is_file())


def test_shards_hold_the_images_of_the_web_each_once(table, server, tmp_path):
    config = ShardConfig(
        input=str(table), output=str(tmp_path / "shards"), allow_http=(server.host,), split_shares={"train": 1.0}
    )
    (manifest,) = shard.run(config, cluster=ONE).values()
    assert (manifest.num_samples, manifest.num_duplicates, manifest.num_rejected) == (len(pictures()), 1, 0)
    folder = str(tmp_path / "shards" / "train")
    rows = [row for info in read_shard_manifest(folder).shards for row in read_index(folder, info).to_pylist()]
    assert {row["sha256"] for row in rows} == set(map(bytes_sha256, pictures().values()))
    addresses = {line.partition(",")[0] for line in table.read_text().splitlines()[1:]}
    assert {row["source"] for row in rows} < addresses
    assert server.asked[next(iter(server.answers))] == 3  # busy, inspected, packed


def test_labels_name_the_address_and_a_later_job_compares_contents(table, server, tmp_path, checkpoint, tracking):
    def config(name: str, **settings) -> ScoreConfig:
        place, hosts = str(table), (server.host,)
        return ScoreConfig(
            input=place, output=str(tmp_path / name), model=checkpoint, allow_http=hosts, unit_size=4, **settings
        )

    made = score.run(config("monday"), tracking=tracking)
    assert (made.num_rows, made.num_rejected) == (len(pictures()) + 1, 0)
    addresses = {line.partition(",")[0] for line in table.read_text().splitlines()[1:]}
    labels = read_predictions(str(tmp_path / "monday"))
    assert set(labels["source"].to_pylist()) == addresses
    changed = list(server.answers)[4]
    server.answers[changed] = next(iter(pictures(seed=7).values()))
    score.run(config("tuesday", since=str(tmp_path / "monday")), tracking=tracking)
    since = json.loads((tmp_path / "tuesday" / "summary.json").read_text())["since"]
    assert (since["num_reused"], since["num_changed"]) == (len(pictures()), 1)


@pytest.mark.parametrize("command", ["shard", "score"])
def test_an_image_that_is_not_read_is_rejected_with_the_reason(
    command, server, tmp_path, checkpoint, tracking, monkeypatch
):
    usual = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kwargs: usual("127.0.0.1" if host == "cdn.lan" else host, *args, **kwargs),
    )
    good = next(iter(pictures().values()))
    server.asked.clear()
    server.answers |= {
        "/good.png": good,
        "/away.png": redirect("http://169.254.169.254/x"),
        "/page.png": b"<!doctype html>",
        "/down.png": lambda request: send(request, b"", status=500),
        "/shut.png": lambda request: send(request, b"", status=403),
    }
    reasons = {
        server.url("/gone.png"): "HTTP status 404",
        server.url("/away.png"): "169.254.169.254 is not an allowed host: name it with --allow-http 169.254.169.254",
        server.url("/good.png", host="localhost"): f"--allow-http localhost:{server.server_port}",
        server.url("/good.png", host="cdn.lan"): "has the address 127.0.0.1, which is not public",
        server.url("/page.png"): "start with b'<!doctyp'",
        server.url("/down.png"): "HTTP status 500",
        server.url("/shut.png"): "HTTP status 403",
        f"http://{server.host}/a.zip!/cat.png": "HTTP status 404",
    }
    table = pa.table({"path": [server.url("/good.png"), *reasons], "category": ["cat"] * (len(reasons) + 1)})
    pq.write_table(table, tmp_path / "images.parquet")
    hosts = (server.host, f"cdn.lan:{server.server_port}")
    given = {
        "input": str(tmp_path / "images.parquet"),
        "output": str(tmp_path / "out"),
        "allow_http": hosts,
        "max_rejected": 0.9,
    }
    if command == "shard":
        (manifest,) = shard.run(ShardConfig(**given, split_shares={"train": 1.0}), cluster=ONE).values()
        assert manifest.num_samples == 1
    else:
        assert score.run(ScoreConfig(**given, model=checkpoint), tracking=tracking).num_rows == 1
    found = rejected_of(tmp_path / "out")
    assert found.keys() == reasons.keys()
    for source, detail in reasons.items():
        assert detail in found[source][1], found[source]
    kinds = {source: reason for source, (reason, _) in found.items()}
    assert kinds.pop(server.url("/page.png")) == "not_an_image"
    missing = {"missing"} if command == "score" else set()
    assert set(kinds.values()) == {"unreadable"} | missing
    assert server.asked["/down.png"] == 4


def test_other_commands_do_not_read_from_the_web(server):
    with pytest.raises(UnreadableError, match="`ecor shard` and `ecor score` read it with --allow-http"):
        read_image_bytes(server.url("/good.png"))


def test_a_busy_server_is_asked_again_when_it_says(server, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    busy, late = (
        lambda request, after=after: send(request, b"", status=429, Retry_After=after) for after in ("7", "9999")
    )
    server.answers["/busy.png"] = in_turn(busy, late, lambda request: send(request, b"image"))
    assert read_image_bytes(server.url("/busy.png"), allow_http=(server.host,)) == b"image"
    assert [each for each in slept if each >= 1] == [7.0, 30.0]
