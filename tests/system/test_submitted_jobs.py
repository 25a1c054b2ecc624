"""Jobs submitted to two nodes with a token: whole pipelines and single stages, stopped and submitted again.

One cluster serves all tests, and they go on from each other's records, in the order they stand in: a Ray job costs ten
seconds here before it does anything, and a `ray job` command three.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ecor.data.predictions.parts import read_predictions
from ecor.data.shard_manifest import read_shard_manifest
from pipelines.__main__ import EXIT_USER_ERROR
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.pipeline_file import read_pipeline
from pipelines.runtime.prometheus import METRICS
from pipelines.scoring.job import plan_job
from pipelines.scoring.predictions_folder import PredictionsFolder
from tests.repository.test_infra import WATCHED, expressions, names_in
from tests.support.clusters import BIN, ROOT, Nodes, nodes_started
from tests.support.tiny_models import NAMES, TINY_CLIP

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
samples_per_shard = 4
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
num_scorers = 1
num_decoders = 1
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


def submit(nodes: Nodes, entrypoint: str) -> Any:
    """`ray job submit -- sh -c '…'`, as a person types it; waits for the job's end."""
    return nodes.ray("job", "submit", "--", "sh", "-c", entrypoint)


def begin(nodes: Nodes, entrypoint: str, *, name: str) -> None:
    """Submit under a name, and do not wait."""
    assert nodes.asked("", {"entrypoint": entrypoint, "submission_id": name})["submission_id"] == name


def ended(nodes: Nodes, name: str) -> dict[str, Any]:
    """What is known of a job, at its end."""
    until(lambda: nodes.asked(name)["status"] not in ("PENDING", "RUNNING"), what=f"the end of {name}")
    return nodes.asked(name)


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


def test_shard_and_train_with_two_workers_as_single_commands(nodes, place):
    """The commands of one job, as those of a RayJob are."""
    shard = (
        f"ecor shard --input {place}/photos --vocabulary {place}/names.json --output {place}/shards "
        "--samples-per-shard 4 --split-shares.train 0.5 --split-shares.validation 0.3 --split-shares.test 0.2"
    )
    train = (
        f"ecor train --shards {place}/shards --output {place}/run --num-workers 2 --num-epochs 2 --batch-size 8 "
        f"--backbone.name {place}/clip.json --backbone.pretrained random"
    )
    done = submit(nodes, f"{shard} && {train}")
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = [read_shard_manifest(place / "shards" / split) for split in ("train", "validation", "test")]
    assert sum(manifest.num_samples for manifest in manifests) == NUM_PICTURES
    assert sum(manifest.num_rejected for manifest in manifests) == NUM_BROKEN
    assert "epoch 2/2" in done.stdout, "the job's own lines come to whoever submitted it"
    assert (place / "run" / "summary.json").is_file()


def labels_of_the_contest(place: Path) -> tuple[PredictionsFolder, list[str]]:
    """Where the pipeline will score its candidate, and the units of that."""
    config = read_pipeline(str(place / "pipeline.toml"))
    scoring = replace(
        config.score,
        input=f"{place}/shards/validation",
        output=f"{place}/labels/candidate-1",
        model=f"{place}/run",
        vocabulary=f"{place}/shards/vocabulary.json",
    )
    job = plan_job(scoring, cluster=config.cluster, tracking=TrackingConfig(uri=f"sqlite:///{place}/mlflow.db"))
    registered = {"model_name": "clothes", "model_version": "1"}  # what the pipeline will have made of that run
    folder = PredictionsFolder(scoring.output, identity=job.identity | registered, lease_s=config.cluster.lease_s)
    return folder, [unit.name for unit in job.input.units]


def test_a_pipeline_that_is_stopped_goes_on_when_it_is_submitted_again(nodes, place):
    """What shard and train made is kept; labels of committed units too.

    A unit that another job holds keeps the pipeline from coming further, until all others are committed; once it is
    free, the pipeline takes it over, and is stopped while its actors start again. So what is there then is no matter
    of luck: all units but one are committed, and that one is claimed by a job which is gone.
    """
    made = {path: path.stat().st_mtime_ns for kind in ("*.tar", "tokens*") for path in place.rglob(kind)}
    assert made
    folder, units = labels_of_the_contest(place)
    *others, held = units
    assert others
    with folder.hold_lease():
        assert held in folder.claim_units([held])
        begin(nodes, f"ecor run {place}/pipeline.toml", name="pipeline-1")
        with pytest.raises(ValueError, match="already exists"):
            begin(nodes, f"ecor run {place}/pipeline.toml", name="pipeline-1")
        until(lambda: set(folder.units.read_commits()) == set(others), what="labels of all units but one")
    claims = place / "labels" / "candidate-1" / "_commits"
    until(lambda: any(claims.glob(f"*/{held}~1.json")), what="the claim of the last unit")
    nodes.asked("pipeline-1/stop", {})
    assert ended(nodes, "pipeline-1")["status"] == "STOPPED"
    assert set(folder.units.read_commits()) == set(others), "the last one is claimed, and not committed"
    assert not (place / "report.html").exists()
    done = submit(nodes, f"ecor run {place}/pipeline.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train: finished before, nothing to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made, "finished stages are kept as they are"
    assert f"units: {len(others)} kept, 1 done (1 taken over)" in done.stdout
    summary = json.loads((place / "labels" / "candidate-1" / "summary.json").read_text())
    assert (summary["num_units_kept"], summary["num_units_taken_over"]) == (len(others), 1)
    assert "<html" in (place / "report.html").read_text(encoding="utf-8")
    rows = read_predictions(str(place / "labels" / "final"))
    sources = rows["source"].to_pylist()
    assert len(sources) == len(set(sources)) == NUM_PICTURES
    summary = json.loads((place / "labels" / "final" / "summary.json").read_text())
    assert summary["num_units"] == -(-(NUM_PICTURES + NUM_BROKEN) // UNIT_SIZE)
    assert summary["num_rejected"] == NUM_BROKEN


def test_both_nodes_score_evaluate_alone_and_a_users_mistake_is_a_failed_job_with_ecors_code(nodes, place):
    """One job of three commands, the last of which is the mistake."""
    commands = (
        f"ecor score --input {place}/photos --model {place}/run --output {place}/labels/again --unit-size {UNIT_SIZE}",
        f"ecor evaluate --predictions {place}/labels/candidate-1 --output {place}/evaluated",
        f"ecor score --input {place}/nowhere --model {place}/run --output {place}/x",
    )
    begin(nodes, " && ".join(commands), name="mistake")
    known, told = ended(nodes, "mistake"), nodes.asked("mistake/logs")["logs"]
    assert re.search(r"units: 0 kept, \d+ done", told)
    actors = json.loads((place / "labels" / "again" / "summary.json").read_text())["actors"]
    assert actors["num_scorers"] == 2
    assert actors["cpus_per_scorer"] <= 1, "no more than the smaller node has"
    final, again = (read_predictions(str(place / "labels" / name)) for name in ("final", "again"))
    assert sorted(final["source"].to_pylist()) == sorted(again["source"].to_pylist())
    assert (place / "evaluated" / "evaluation.json").is_file()
    assert known["status"] == "FAILED"
    assert f"exit code {EXIT_USER_ERROR}" in known["message"]
    assert f"ecor: {place}/nowhere" in told


def test_what_prometheus_reads_is_what_was_done(nodes, place):
    """Of all jobs so far: labels were committed once per unit, whoever was stopped in between."""
    seen = nodes.scraped()
    exported = set(re.findall(r"^(\w+)\{", seen, re.M))
    wanted = {name for expression in expressions().values() for name in names_in(expression)}
    ours = {name for metric in METRICS for name in metric.exported_names}
    assert set(WATCHED) <= exported
    assert wanted & ours <= exported
    assert total(seen, "ray_ecor_retries_total", 'kind="taken over"') == 1, "what the stopped pipeline had claimed"
    assert total(seen, "ray_ecor_images_scored_total") >= 2 * NUM_PICTURES
    assert total(seen, "ray_ecor_images_quarantined_total", 'stage="shard"') == NUM_BROKEN
    assert total(seen, "ray_ecor_units_done_total", 'stage="shard"', 'how="done"') == len(list(place.rglob("*.tar")))
    assert total(seen, "ray_ecor_stage_seconds_count", 'stage="train"', 'outcome="done"') >= 1


def total(page: str, name: str, *labels: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


def test_the_token_is_in_no_log(nodes):
    assert sys.platform == "linux"
    token = nodes.environment["RAY_AUTH_TOKEN"].encode()
    logs = [path for path in nodes.logs.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err")]
    assert logs
    assert not [path for path in logs if token in path.read_bytes()]
