"""Logs of decisions survive kill -9, a full disk and damage; nothing that was confirmed is lost or changed.

Covers: `pipelines.review.decision`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.review.decision import Correction, Decision, LabelBefore, parse_time
from pipelines.review.decision_log import DecisionLog, LoggedDecision, TornLine, list_logs, read_log, read_logs

BEFORE = LabelBefore(category="zebra", rationale="stripes", confidence=0.75)
DECISION = Decision(
    labels_digest="d" * 64,
    key="k0",
    image_sha256="a" * 64,
    reviewer="Ada",
    time=datetime(2026, 1, 31, 12, tzinfo=UTC),
    verdict="accept",
    before=BEFORE,
)
HOSTILE = replace(
    DECISION,
    reviewer="../../Ada\n<b>🦓",
    verdict="correct",
    after=Correction(category='ho"rse\n', rationales=("a\\mane", "ü\u2028"), new_names=("a\\mane",)),
    note='{"torn',
)


def decisions_of(folder: Path) -> list[Decision]:
    return [each.decision for each in read_logs(folder) if isinstance(each, LoggedDecision)]


@pytest.mark.parametrize("decision", [DECISION, HOSTILE, replace(DECISION, image_sha256=None, verdict="undo")])
def test_a_decision_is_read_as_it_was_written(tmp_path, decision):
    with DecisionLog(tmp_path, reviewer=decision.reviewer) as log:
        log.append(decision)
    assert decisions_of(tmp_path) == [decision]
    (name,) = list_logs(tmp_path)
    assert (tmp_path / name).read_bytes().count(b"\n") == 1, "a line per decision"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "right"}, "verdict must be one of accept"),
        ({"verdict": "correct"}, "a correction says what the image shows"),
        ({"after": Correction(category="horse")}, "no other verdict does"),
        ({"reviewer": " "}, "name of a reviewer"),
        ({"time": datetime(2026, 1, 31)}, "time zone"),
    ],
)
def test_a_decision_that_contradicts_itself_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        replace(DECISION, **changes)
    with pytest.raises(ValueError, match="does not use"):
        Correction(category="horse", new_names=("mane",))


@pytest.mark.parametrize(
    ("decision", "right", "visible"),
    [
        (DECISION, True, True),
        (replace(DECISION, verdict="rationale_not_visible"), True, False),
        (replace(DECISION, verdict="out_of_vocabulary"), False, None),
        (replace(DECISION, verdict="wrong"), False, None),
        (replace(DECISION, verdict="skip"), None, None),
        (replace(DECISION, verdict="correct", after=Correction(category="Zebra", rationales=("mane",))), True, False),
        (
            replace(DECISION, verdict="correct", after=Correction(category="horse", rationales=("mane", "Stripes"))),
            False,
            True,
        ),
    ],
)
def test_what_a_decision_says_of_the_label(decision, right, visible):
    assert (decision.is_category_right, decision.is_rationale_visible) == (right, visible)


def test_every_cut_of_a_log_is_recognised_and_loses_only_what_was_cut(tmp_path):
    decisions = [replace(HOSTILE, key=f"k{number}") for number in range(3)]
    with DecisionLog(tmp_path / "whole", reviewer=HOSTILE.reviewer) as log:
        log.append(*decisions)
    (name,) = list_logs(tmp_path / "whole")
    data = (tmp_path / "whole" / name).read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    near_ends = {end + step for end in ends for step in (-2, -1, 0, 1)} - {len(data) + 1}
    for cut in sorted({*range(0, len(data), 11), *near_ends}):
        (tmp_path / name).write_bytes(data[:cut])
        read = list(read_log(tmp_path, name))
        num_whole = sum(end - 1 <= cut for end in ends)  # without its line break a decision is complete too
        assert [each.decision for each in read if isinstance(each, LoggedDecision)] == decisions[:num_whole]
        torn = [each for each in read if isinstance(each, TornLine)]
        is_torn = cut > 0 and not any(cut in (end, end - 1) for end in ends)
        assert len(torn) == is_torn, cut
        if torn:
            assert str(torn[0]).startswith(f"{name}: line {num_whole + 1} is incomplete")


def test_a_line_that_was_altered_is_an_error_that_names_it(tmp_path):
    with DecisionLog(tmp_path, reviewer="Ada") as log:
        log.append(DECISION, replace(DECISION, key="k1"))
    (name,) = list_logs(tmp_path)
    data = (tmp_path / name).read_bytes()
    for damaged in (data.replace(b'"accept"', b'"agree"', 1), data.replace(b'"key"', b"\xff", 1), b"{}\n" + data):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name}: line 1 is not a decision|{name}: line 1"):
            list(read_log(tmp_path, name))


def test_each_process_has_its_own_file_and_a_log_takes_its_reviewer_only(tmp_path):
    with DecisionLog(tmp_path, reviewer="Ada") as first, DecisionLog(tmp_path, reviewer="Ada") as second:
        first.append(DECISION)
        second.append(replace(DECISION, key="k1"))
        with pytest.raises(ValueError, match="the log of Ada does not take decisions of Bob"):
            first.append(replace(DECISION, reviewer="Bob"))
    assert len(list_logs(tmp_path)) == 2
    with pytest.raises(ValueError, match="logged on a local disk"):
        DecisionLog("s3://bucket/log", reviewer="Ada")


def test_a_failed_write_is_cut_off_and_the_next_decision_starts_another_file(tmp_path):
    code = f"""
import resource, signal, sys
from dataclasses import replace
from pipelines.review.decision_log import DecisionLog
from tests.pipelines.review.test_decision_log import DECISION
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = len(DECISION.to_json()) + 1
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + 7, resource.RLIM_INFINITY))
log, failed = DecisionLog({str(tmp_path)!r}, reviewer="Ada"), []
for number in range(6):
    try:
        log.append(replace(DECISION, key=f"k{{number}}"))
    except OSError:
        failed.append(number)
print(failed)
"""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[2, 5]", done.stderr
    assert sorted(each.key for each in decisions_of(tmp_path)) == ["k0", "k1", "k3", "k4"]
    assert not [each for each in read_logs(tmp_path) if isinstance(each, TornLine)]


def test_lines_that_the_disk_did_not_confirm_do_not_count(tmp_path, monkeypatch):
    """All lines are written, yet the flush fails: the reviewer saw that none was saved."""
    with DecisionLog(tmp_path, reviewer="Ada") as log:
        log.append(DECISION)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
            patch.setattr(os, "fsync", fail)
            log.append(replace(DECISION, key="k1"), replace(DECISION, key="k2"))
        log.append(replace(DECISION, key="k3"))
    assert sorted(each.key for each in decisions_of(tmp_path)) == ["k0", "k3"]


def fail(file: int) -> None:
    raise OSError("no space")


def test_what_was_confirmed_survives_kill_9(tmp_path):
    code = f"""
from dataclasses import replace
from pipelines.review.decision_log import DecisionLog
from tests.pipelines.review.test_decision_log import HOSTILE
log = DecisionLog({str(tmp_path)!r}, reviewer=HOSTILE.reviewer)
for number in range(10**9):
    log.append(replace(HOSTILE, key=f"k{{number}}"))
    print(number, flush=True)
"""
    root, wait = Path(__file__).resolve().parents[3], random.Random(7)
    for round_number in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "0"
        time.sleep(wait.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        confirmed = 1 + sum(line.endswith("\n") for line in process.stdout.readlines())
        process.wait()
        assert len(list_logs(tmp_path)) == round_number + 1
    newest = max(list_logs(tmp_path), key=lambda name: (tmp_path / name).stat().st_mtime)
    kept = [each.decision.key for each in read_log(tmp_path, newest) if isinstance(each, LoggedDecision)]
    assert len(kept) >= confirmed
    assert kept == [f"k{number}" for number in range(len(kept))]


def test_times_have_a_zone():
    assert parse_time("2026-01-31T13:00:00+01:00") == DECISION.time
    with pytest.raises(ValueError, match="needs a zone"):
        parse_time("2026-01-31T13:00:00")
