"""Jobs submitted to two nodes with a token: whole pipelines and single stages, stopped and submitted again.

One cluster serves all tests, and they go on from each other's records, in the order they stand in: a Ray job costs ten
seconds here before it does anything.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import BIN, ROOT, Nodes, nodes_started
from models import NAMES, TINY_CLIP
from PIL import Image
from test_infra import WATCHED, expressions, names_in

from ecor.predictions import read_predictions
from ecor.shards import read_manifest
from pipelines.__main__ import USER_MISTAKE
from pipelines.metrics import METRICS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NUM_PICTURES = 36
NUM_BROKEN = 1
UNIT_SIZE = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all nodes share: pictures in DROR's layout without splits, their names, a tiny CLIP."""
    folder = tmp_path_factory.mktemp("shared")
    for number in range(NUM_PICTURES):
        category = sorted(NAMES)[number % len(NAMES)]
        path = folder / "photos" / category / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), ((37 * number) % 256, (91 * number) % 256, number)).save(path)
    (folder / "photos" / "fox" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    (folder / "names.json").write_text(json.dumps(NAMES))
    (folder / "clip.json").write_text(json.dumps(TINY_CLIP))
    (folder / "pipeline.toml").write_text(pipeline(folder))
    return folder


def pipeline(folder: Path) -> str:
    return f"""
output = "{folder}"
[shard]
input = "{folder}/photos"
vocabulary = "{folder}/names.json"
samples_per_shard = 12
split_shares = {{ train = 0.5, validation = 0.3, test = 0.2 }}
[train]
num_workers = 2
num_epochs = 2
batch_size = 8
[train.backbone]
name = "{folder}/clip.json"
pretrained = "random"
[register]
name = "clothes"
[score]
input = "{folder}/photos"
unit_size = {UNIT_SIZE}
[cluster]
lease_s = 5.0
"""


@pytest.fixture(scope="module")
def nodes(place: Path) -> Iterator[Nodes]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{BIN}:/usr/bin:/bin",
        "ECOR_CACHE": str(place / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    with nodes_started(num_cpus=[1, 2], environment=environment) as started:
        yield started


def submit(nodes: Nodes, *words: str, submission_id: str | None = None, waits: bool = True) -> Any:
    """`ray job submit -- ecor …`, as a person types it."""
    named = [] if submission_id is None else ["--submission-id", submission_id]
    return nodes.ray("job", "submit", *named, *([] if waits else ["--no-wait"]), "--", "ecor", *words)


def until(holds: Callable[[], bool], *, what: str, patience_s: float = 600) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def test_who_has_no_token_or_another_is_refused(nodes):
    done = nodes.ray("job", "submit", "--", "ecor", "--help", RAY_AUTH_TOKEN="0" * 32)
    assert done.returncode != 0
    assert "Invalid authentication token" in done.stdout + done.stderr
    assert nodes.environment["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr


def test_shard_and_train_with_two_workers_as_single_jobs(nodes, place):
    done = submit(
        nodes,
        *("shard", "--input", f"{place}/photos", "--vocabulary", f"{place}/names.json", "--output", f"{place}/shards"),
        *("--samples-per-shard", "12", "--split-shares.train", "0.5", "--split-shares.validation", "0.3"),
        *("--split-shares.test", "0.2"),
        submission_id="shard-1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = [read_manifest(place / "shards" / split) for split in ("train", "validation", "test")]
    assert sum(manifest.num_samples for manifest in manifests) == NUM_PICTURES
    assert sum(manifest.num_rejected for manifest in manifests) == NUM_BROKEN
    done = submit(
        nodes,
        *(
            "train",
            "--shards",
            f"{place}/shards",
            "--output",
            f"{place}/run",
            "--num-workers",
            "2",
            "--num-epochs",
            "2",
        ),
        *("--batch-size", "8", "--backbone.name", f"{place}/clip.json", "--backbone.pretrained", "random"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 2/2" in done.stdout, "the job's own lines come to whoever submitted it"
    assert (place / "run" / "summary.json").is_file()


def test_a_pipeline_that_is_stopped_goes_on_when_it_is_submitted_again(nodes, place):
    """What shard and train made is kept; labels of committed units too."""
    made = {path: path.stat().st_mtime_ns for kind in ("*.tar", "tokens*") for path in place.rglob(kind)}
    assert made
    labels = place / "labels"
    started = submit(nodes, "run", f"{place}/pipeline.toml", submission_id="pipeline-1", waits=False)
    assert started.returncode == 0, started.stderr
    refused = submit(nodes, "run", f"{place}/pipeline.toml", submission_id="pipeline-1")
    assert refused.returncode != 0
    assert "already exists" in refused.stdout + refused.stderr
    until(lambda: any(labels.rglob("*.parquet")), what="labels")
    stopped = nodes.ray("job", "stop", "pipeline-1")
    assert stopped.returncode == 0, stopped.stderr
    assert "was stopped" in _status(nodes, "pipeline-1")
    assert not (place / "report.html").exists()
    done = submit(nodes, "run", f"{place}/pipeline.toml", submission_id="pipeline-2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made, "finished stages are kept as they are"
    assert "<html" in (place / "report.html").read_text(encoding="utf-8")
    rows = read_predictions(str(labels / "final"))
    sources = rows["source"].to_pylist()
    assert len(sources) == len(set(sources)) == NUM_PICTURES
    summary = json.loads((labels / "final" / "summary.json").read_text())
    assert summary["num_units"] == -(-(NUM_PICTURES + NUM_BROKEN) // UNIT_SIZE)
    assert summary["num_rejected"] == NUM_BROKEN


def test_both_nodes_score(nodes, place):
    done = submit(
        nodes,
        *("score", "--input", f"{place}/photos", "--model", f"{place}/run", "--output", f"{place}/labels/again"),
        *("--unit-size", str(UNIT_SIZE)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"units: 0 kept, \d+ done", done.stdout)
    actors = json.loads((place / "labels" / "again" / "summary.json").read_text())["actors"]
    assert actors["num_scorers"] == 2
    assert actors["cpus_per_scorer"] <= 1, "no more than the smaller node has"
    final, again = (read_predictions(str(place / "labels" / name)) for name in ("final", "again"))
    assert sorted(final["source"].to_pylist()) == sorted(again["source"].to_pylist())


def test_what_prometheus_reads_is_what_was_done(nodes, place):
    """Of all jobs so far: labels were committed once per unit, whoever was stopped in between."""
    seen = nodes.scraped()
    exported = set(re.findall(r"^(\w+)\{", seen, re.M))
    wanted = {name for expression in expressions().values() for name in names_in(expression)}
    ours = {name for metric in METRICS for name in metric.exported}
    assert set(WATCHED) <= exported
    unseen = {name for name in wanted & ours if name not in exported}
    assert unseen <= {"ray_ecor_retries_total"}, "counted only where something went wrong"
    assert total(seen, "ray_ecor_images_scored_total") >= 2 * NUM_PICTURES
    assert total(seen, "ray_ecor_images_quarantined_total", 'stage="shard"') == NUM_BROKEN
    assert total(seen, "ray_ecor_units_done_total", 'stage="shard"', 'how="done"') == len(list(place.rglob("*.tar")))
    assert total(seen, "ray_ecor_stage_seconds_count", 'stage="train"', 'outcome="done"') >= 1


def total(page: str, name: str, *labels: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


def test_evaluate_as_a_single_job_and_a_users_mistake_is_a_failed_job_with_ecors_code(nodes, place):
    done = submit(nodes, "evaluate", "--predictions", f"{place}/labels/candidate-1", "--output", f"{place}/evaluated")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "evaluated" / "evaluation.json").is_file()
    done = submit(nodes, "score", "--input", f"{place}/nowhere", "--output", f"{place}/x", submission_id="mistake")
    assert done.returncode != 0
    told = _status(nodes, "mistake")
    assert "failed" in told
    assert f"exit code {USER_MISTAKE}" in told
    assert "ecor: " in nodes.ray("job", "logs", "mistake").stdout


def _status(nodes: Nodes, submission_id: str) -> str:
    done = nodes.ray("job", "status", submission_id)
    return done.stdout + done.stderr


def test_the_token_is_in_no_log(nodes):
    assert sys.platform == "linux"
    token = nodes.environment["RAY_AUTH_TOKEN"].encode()
    logs = [path for path in nodes.logs.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err")]
    assert logs
    assert not [path for path in logs if token in path.read_bytes()]
