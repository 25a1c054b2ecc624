"""Undo after a new start of `ecor review`: the same as if the server had never ended."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecor.data.predictions.manifest import read_prediction_set
from pipelines.review import undo_history
from pipelines.review.decision import Decision, LabelBefore, Verdict
from pipelines.review.decision_log import LoggedDecision
from pipelines.review.decision_set import open_decision_set
from pipelines.review.decision_table import iterate_decisions
from pipelines.review.label_groups import LabelFilter, LabelGroups
from pipelines.review.label_index import LabelIndex, build_label_index
from pipelines.review.review_session import ReviewSession
from pipelines.review.undo_history import UndoHistory
from tests.support.review_labels import label, write_labels

NUM = 60
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("labels")
    write_labels(folder, [label(number) for number in range(NUM)])
    return str(folder)


@pytest.fixture(scope="module")
def index(labels: str) -> LabelIndex:
    return build_label_index(labels, read_prediction_set(labels))


def open_session(labels: str, index: LabelIndex, folder: Path, **settings: Any) -> ReviewSession:
    decisions = open_decision_set(str(folder), labels=labels, predictions=read_prediction_set(labels))
    return ReviewSession(index=index, groups=LabelGroups(index), decisions=decisions, **settings)


def act(session: ReviewSession, step: int, random: np.random.Generator) -> list[int]:
    """One action of a reviewer; what it returns."""
    reviewer, kind = ["Ada", "Grace"][random.integers(2)], random.integers(10)
    number, numbers = int(random.integers(len(session.groups))), np.unique(random.integers(0, 9, 2))
    verdict: Verdict = ("accept", "wrong", "skip", "correct")[random.integers(4)]
    if kind < 4:
        return session.undo(reviewer, action=f"{step}").tolist()
    if kind == 4:
        members = session.groups.members(number)
        num_open = int((~session.state.is_done(reviewer)[members]).sum())
        return [session.accept_group(reviewer, number, chosen=LabelFilter(), num_expected=num_open, action=f"{step}")]
    after = session.mark_new_names("cat", ["an ear"]) if verdict == "correct" else None
    return [session.decide(reviewer, numbers, verdict=verdict, after=after, note="dark" * (step % 2), action=f"{step}")]


def states(session: ReviewSession) -> list[dict[str, Any]]:
    return [session.label_states(number) for number in range(NUM)]


@pytest.mark.parametrize("seed", range(4))
def test_a_server_that_is_killed_before_every_action_undoes_what_one_that_never_ends_does(
    labels: str, index: LabelIndex, tmp_path: Path, seed: int
) -> None:
    lasting = open_session(labels, index, tmp_path / "lasting")
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    num_undone = 0
    for step in range(60):
        expected = act(lasting, step, one)
        killed = open_session(labels, index, tmp_path / "killed")  # its logs are never closed
        assert act(killed, step, other) == expected
        assert states(killed) == states(lasting)
        num_undone += isinstance(expected, list) and len(expected) > 1
    assert num_undone > 3
    last = open_session(labels, index, tmp_path / "killed")
    for reviewer in ("Ada", "Grace"):
        while (expected := lasting.undo(reviewer, action=f"{reviewer} {len(lasting._undos[reviewer])}").tolist()) or (
            last._undos.get(reviewer)
        ):
            assert last.undo(reviewer, action=f"{reviewer} {len(last._undos[reviewer])}").tolist() == expected
    assert states(last) == states(lasting) == [{}] * NUM
    assert list(iterate_decisions(last.decisions)) == list(iterate_decisions(lasting.decisions)) == []


def test_a_group_of_several_writes_is_one_action_after_a_new_start(
    labels: str, index: LabelIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.review.review_session.AT_ONCE", 7)
    session = open_session(labels, index, tmp_path)
    session.decide("Ada", [1], verdict="wrong", action="1")
    session.decide("Ada", np.arange(30), verdict="accept", action="2")
    session = open_session(labels, index, tmp_path)
    assert session.undo("Ada", action="3").tolist() == list(range(30))
    assert session.label_states(1)["Ada"].verdict == "wrong", "what counted before the group counts again"
    session = open_session(labels, index, tmp_path)
    assert session.undo("Ada", action="4").tolist() == [1]
    assert session.undo("Ada", action="5").tolist() == []


def test_in_review_of_a_sample_only_its_labels_are_taken_back(labels: str, index: LabelIndex, tmp_path: Path) -> None:
    session = open_session(labels, index, tmp_path)
    for number in (1, 9, 2, 3):
        session.decide("Ada", [number], verdict="accept", action=f"{number}")
    sampled = open_session(labels, index, tmp_path, sample=np.array([3, 2, 1]))
    assert [sampled.undo("Ada", action=f"u{step}").tolist() for step in range(3)] == [[3], [2], []]


Act = tuple[str, str, list[str]]
"""Log, verdict and keys."""


def history(*actions: Act) -> list[list[str]]:
    """What Ada can undo after actions, one a second."""
    return read(*actions).undoable().get("Ada", [])


def read(*actions: Act) -> UndoHistory:
    """Read the logs of actions, log by log."""
    before = LabelBefore(category="fox", rationale="pointed ears", confidence=0.5)
    made: dict[str, list[LoggedDecision]] = {}
    for second, (log, verdict, keys) in enumerate(actions):
        for key in keys:
            decision = Decision(
                labels_digest="l", key=key, reviewer="Ada", time=NOON + timedelta(seconds=second), before=before,
                verdict=verdict,  # type: ignore[arg-type]
            )  # fmt: skip
            lines = made.setdefault(log, [])
            lines.append(LoggedDecision(decision=decision, log=log, line=len(lines) + 1))
    taken = UndoHistory()
    for log in sorted(made):
        for logged in made[log]:
            taken.add(logged)
    return taken


def test_logs_of_two_servers_at_once_are_in_the_order_of_time() -> None:
    assert history(("b", "accept", ["1"]), ("a", "wrong", ["2"]), ("b", "skip", ["3"])) == [["1"], ["2"], ["3"]]
    # an undo takes back the last decision of its own log, else the last one of all
    actions = [("a", "accept", ["1"]), ("b", "wrong", ["1"]), ("a", "undo", ["1"])]
    assert history(*actions, ("c", "skip", ["2"])) == [["1"], ["2"]]
    assert history(*actions, ("c", "undo", ["1"])) == []
    assert history(("a", "accept", ["1", "2"]), ("b", "undo", ["2"])) == [["1"]]
    assert history(("a", "accept", ["1"]), ("a", "undo", ["1"]), ("a", "undo", ["1"])) == []


def test_imported_decisions_are_no_actions_and_nothing_before_them_is_undone() -> None:
    imported = ("ada+import-20260131T120000Z-00000000.jsonl", "accept", ["2"])
    assert history(("ada-1", "accept", ["1"]), imported, ("ada-2", "accept", ["3"])) == [["3"]]
    assert history(("ada-1", "accept", ["1"]), imported) == []


def test_memory_is_bounded_by_actions_and_by_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo_history, "MOST_UNDOS", 5)
    monkeypatch.setattr(undo_history, "MOST_LABELS", 8)
    single = [("a", "accept", [f"{number}"]) for number in range(100)]
    assert history(*single) == [[f"{number}"] for number in range(95, 100)]
    group = ("a", "accept", [f"g{number}" for number in range(6)])
    assert history(*single, group) == [["98"], ["99"], group[2]]
    assert history(group, group, single[0]) == [group[2], ["0"]]
    kept = read(*single, *[group] * 50)._actions["Ada"]
    assert len(kept) <= 11 and sum(len(each.keys) for each in kept) <= 2 * 8 + 6
    large = ("a", "accept", [f"l{number}" for number in range(9)])
    assert history(*single, large) == [] and history(*single, large, single[0]) == [["0"]]
