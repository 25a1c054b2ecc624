"""`ecor review` as a user runs it: end and new start, kill -9, the loop with `ecor audit`, what it refuses."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ecor.data.predictions.manifest import read_prediction_set
from pipelines.__main__ import main
from pipelines.audit.certificate import read_certificate
from pipelines.config.review import ReviewConfig
from pipelines.review.decision_log import LoggedDecision
from pipelines.review.decision_set import open_decision_set, read_decision_set
from pipelines.runtime.balance import Balance
from tests.support.prediction_rows import random_table
from tests.support.prediction_rows import write_labels as write_table
from tests.support.processes import ROOT
from tests.support.review_labels import (
    Client,
    label,
    printed_address,
    run_command,
    running_review,
    write_labels,
    write_reviewed_labels,
)

NUM_KILLS = int(os.environ.get("ECOR_KILLS", "12"))
"""Kills of the server; `ECOR_KILLS=50` for the figure of docs/review.md."""


@contextlib.contextmanager
def started(words: list[str], output: Path) -> Iterator[subprocess.Popen[str]]:
    """`ecor review` in a process of its own."""
    command = [sys.executable, "-m", "pipelines", "review", *words]
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def enter(address: str, reviewer: str) -> Client:
    return Client(port=int(urllib.parse.urlsplit(address).port or 0), reviewer=reviewer).enter(address)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_the_table_and_starts_again_where_it_was(tmp_path: Path, stop: signal.Signals) -> None:
    labels = write_reviewed_labels(tmp_path, num=12)
    before = {path.name: path.read_bytes() for path in Path(labels).iterdir()}
    for run in range(2):
        output = tmp_path / f"output-{run}"
        with started([labels, "--reviewer", "Ada"], output) as process:
            client = enter(printed_address(output, alive=lambda process=process: process.poll() is None), "Ada")
            assert client.get("/api/groups")["progress"]["num_done"] == run
            assert client.post("/api/decide", verdict="accept", numbers=[run]).status == 200
            process.send_signal(stop)
            assert process.wait(timeout=60) == 0, output.read_text()
        assert f"{run + 1} decisions on {run + 1} images, 0 disputed" in output.read_text()
        line = f"12 listed = {run + 1} taken + 0 copies + 0 rejected + {11 - run} left out ({11 - run} undecided)"
        assert f"review: {line}" in output.read_text()
        summary = json.loads(Path(f"{labels}-review/summary.json").read_text())
        assert Balance.from_record(summary["balance"]).line() == f"review: {line}"
        assert output.read_text().count("token=") == 1
        assert pq.read_table(f"{labels}-review/decisions.parquet")["key"].to_pylist() == ["0000", "0001"][: run + 1]
    assert {path.name: path.read_bytes() for path in Path(labels).iterdir()} == before, "labels never change"


@pytest.mark.slow
def test_what_was_decided_before_the_server_was_killed_can_be_undone_after_a_new_start(tmp_path: Path) -> None:
    labels = write_reviewed_labels(tmp_path, num=12)
    for run in range(2):
        output = tmp_path / f"output-{run}"
        with started([labels, "--reviewer", "Ada"], output) as process:
            client = enter(printed_address(output, alive=lambda process=process: process.poll() is None), "Ada")
            if run == 0:
                assert client.post("/api/decide", verdict="wrong", numbers=[5]).status == 200
                assert client.post("/api/decide", verdict="accept", numbers=[3, 4, 5]).json["num"] == 3
                process.kill()
                continue
            undone = client.post("/api/undo").json
            assert (undone["numbers"], undone["progress"]["num_done"]) == ([3, 4, 5], 1)
            assert [client.post("/api/undo").json["numbers"] for _ in range(2)] == [[5], []]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0, output.read_text()
    assert pq.read_table(f"{labels}-review/decisions.parquet").num_rows == 0


@pytest.mark.slow
def test_no_confirmed_decision_is_lost_when_the_server_is_killed_at_any_time(tmp_path: Path) -> None:
    """Two reviewers decide one or several images as fast as they can; the server is killed often while they do."""
    labels, decisions, moments = write_reviewed_labels(tmp_path, num=60), tmp_path / "decisions", random.Random(4)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.stages.review", "tests.support.review_labels"])
    confirmed: list[tuple[str, str]] = []

    def review(address: str, name: str, run: int) -> None:
        choices = random.Random(f"{name} {run}")
        with contextlib.suppress(OSError, HTTPException):  # the server is gone
            client = enter(address, name)
            for step in range(10_000):
                note, numbers = f"{name} {run} {step}", choices.sample(range(60), choices.choice((1, 5)))
                if client.post("/api/decide", verdict="accept", numbers=numbers, note=note).status == 200:
                    confirmed.extend((f"{number:04d}", note) for number in numbers)

    for run in range(NUM_KILLS):
        words = ["review", labels, "--decisions", str(decisions), "--reviewer", "Ada"]
        process = context.Process(target=run_command, args=(words, str(tmp_path / f"{run}.txt")))
        process.start()
        address = printed_address(tmp_path / f"{run}.txt", alive=process.is_alive)
        reviewers = [threading.Thread(target=review, args=(address, name, run)) for name in ("Ada", "Grace")]
        for each in reviewers:
            each.start()
        time.sleep(moments.uniform(0.01, 0.3))
        process.kill()
        process.join()
        for each in reviewers:
            each.join()
    logged = [each for each in read_decision_set(str(decisions)).iterate_logs() if isinstance(each, LoggedDecision)]
    found = {(each.decision.key, each.decision.note) for each in logged}
    assert len(confirmed) > 2 * NUM_KILLS and set(confirmed) <= found
    assert len({note for _, note in found - set(confirmed)}) <= 2 * NUM_KILLS  # an answer per reviewer was under way


def test_a_sample_of_an_audit_is_reviewed_in_its_order_and_certified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = str(tmp_path / "labels")
    table = random_table(400, skill=0.9)
    write_table(labels, table)
    doubtful = set(table.sort_by("confidence")["key"].to_pylist()[:40])
    command = ["audit", labels, "--right", "0.6", "--sure", "0.9", "--sample-size", "120"]
    assert main(command) == 0
    with Path(f"{labels}-audit", "sample.csv").open(newline="", encoding="utf-8-sig") as file:
        keys = [row["key"] for row in csv.DictReader(file)]
    with running_review(labels, sample=f"{labels}-audit/sample.csv") as running:
        client, judged = running.client(), []
        assert f"--judged {labels}-review" in json.dumps(running.service.next_steps)
        while (page := client.get("/api/sample", limit=50, start=len(judged) // 50 * 50))["num_open"]:
            image = next(each for each in page["images"] if not each["mine"])
            judged.append(image["key"])
            verdict = "wrong" if image["key"] in doubtful else "accept"
            done = client.post("/api/decide", verdict=verdict, numbers=[image["number"]]).json
            assert done["progress"] == {"num_labels": 120, "num_done": len(judged)} | {
                "num_done_by_anyone": len(judged),
                "num_disputed": 0,
            }
        assert judged == keys
        assert client.post("/api/decide", verdict="accept", group=0, num_expected=1).status == 400
    capsys.readouterr()
    assert main([*command, "--judged", f"{labels}-review"]) == 0
    certificate = read_certificate(f"{labels}-audit")
    assert certificate.judged_by == ("Ada",) and certificate.num_accepted > 0
    assert "accepted" in capsys.readouterr().out


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a refused command prints."""
    assert main(["review", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ecor: ")]
    return line


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = str(tmp_path / "labels")
    write_labels(Path(labels), [label(number) for number in range(9)])
    write_labels(tmp_path / "none", [])
    write_labels(tmp_path / "others", [label(number) for number in range(5)])
    others = read_prediction_set(str(tmp_path / "others"))
    open_decision_set(str(tmp_path / "taken"), labels="others", predictions=others)
    (tmp_path / "keys.csv").write_text("key\nnobody\n")
    (tmp_path / "words.json").write_text('{"cup": ["a handle"]}')
    for words, problem in (
        ([str(tmp_path)], "holds no manifest.json"),
        ([str(tmp_path / "none")], "has no labels"),
        ([labels, "--decisions", str(tmp_path / "taken")], "holds decisions about the labels"),
        ([labels, "--decisions", "s3://bucket/decisions"], "must be on a disk of this machine"),
        (["s3://bucket/labels"], "name a folder with --decisions"),
        ([labels, "--sample", str(tmp_path / "keys.csv")], "no key of these labels"),
        ([labels, "--sample", str(tmp_path / "nothing.csv")], "nothing.csv"),
        ([labels, "--vocabulary", str(tmp_path / "words.json")], "name the vocabulary of the labels"),
        ([labels, "--host", "0.0.0.0"], "name one of them"),
        ([labels, "--host", "no.such.host.invalid"], "name another --port"),
        ([labels, "--model", "models:/a", "--tracking.uri", "mlflow.db"], "write sqlite:///mlflow.db"),
        ([labels, "--port", "70000"], "port must be below 65,536"),
        ([labels, "--reviewer", " "], "reviewer must be a name"),
        ([labels, "--thumbnail-px", "1"], "thumbnail_px must be at least 16"),
    ):
        assert problem in refusal(words, capsys), words
    assert not Path(f"{labels}-review", "log").exists()


def test_only_loopback_addresses_are_private() -> None:
    settings = {
        host: ReviewConfig(labels="labels", host=host) for host in ("127.0.0.1", "localhost", "::1", "10.0.0.4")
    }
    assert [each.is_loopback for each in settings.values()] == [True, True, True, False]
    assert settings["::1"].decisions_folder == "labels-review"
