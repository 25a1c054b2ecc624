"""Decisions of several reviewers: what the page knows is what the logs say.

Covers: `pipelines.review.group_pages`, `pipelines.review.server.name_completion`, `pipelines.review.review_sample`,
`pipelines.review.review_state`.
"""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecor.data.predictions.manifest import read_prediction_set
from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.review import review_session as sessions
from pipelines.review.decision_set import open_decision_set
from pipelines.review.decision_table import iterate_decisions
from pipelines.review.group_pages import first_open, list_groups, members, next_group, num_open, review_progress
from pipelines.review.label_groups import LabelFilter, LabelGroups
from pipelines.review.label_index import LabelIndex, build_label_index
from pipelines.review.review_sample import read_review_sample
from pipelines.review.review_session import ReviewSession
from pipelines.review.server.name_completion import NameCompletion, open_name_completion
from tests.support.review_labels import NAMES, label, write_labels
from tests.support.tiny_splits import VOCABULARY

NUM = 90


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    write_labels(folder, [label(number) for number in range(NUM)])
    return folder


@pytest.fixture(scope="module")
def index(labels: Path) -> LabelIndex:
    return build_label_index(str(labels), read_prediction_set(str(labels)))


def open_session(labels: Path, index: LabelIndex, folder: Path, **settings: Any) -> ReviewSession:
    decisions = open_decision_set(str(folder), labels=str(labels), predictions=read_prediction_set(str(labels)))
    return ReviewSession(index=index, groups=LabelGroups(index), decisions=decisions, **settings)


def said(session: ReviewSession) -> dict[tuple[str, str], tuple[str, Any, str]]:
    """Key and reviewer to verdict, correction and note: as the session has it."""
    return {
        (session.index.keys([number])[0], name): (str(state.verdict), state.after, state.note)
        for number in range(NUM)
        for name, state in session.label_states(number).items()
    }


def logged(session: ReviewSession) -> tuple[dict[tuple[str, str], tuple[str, Any, str]], set[str]]:
    """The same, and the disputed keys, as the logs have it."""
    groups = list(iterate_decisions(session.decisions))
    found = {
        (each.decision.key, each.decision.reviewer): (each.decision.verdict, each.decision.after, each.decision.note)
        for group in groups
        for each in group
    }
    return found, {group[0].decision.key for group in groups if group[0].disputed}


@pytest.mark.parametrize("seed", range(3))
def test_after_any_actions_the_session_says_what_the_logs_say(
    labels: Path, index: LabelIndex, tmp_path: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    session = open_session(labels, index, tmp_path, known_names=frozenset({"fox"}))
    for step in range(150):
        reviewer = ["Ada", "Grace", "Ed"][random.integers(3)]
        kind = random.integers(10)
        if kind == 0:
            session.undo(reviewer, action=f"undo {step}")
        elif kind == 1:
            group = int(random.integers(len(session.groups)))
            left = num_open(session, reviewer, session.groups.members(group))
            session.accept_group(reviewer, group, chosen=LabelFilter(), num_expected=left, action=f"group {step}")
        else:
            verdict = ["accept", "wrong", "skip", "correct", "rationale_not_visible"][random.integers(5)]
            after = (
                session.mark_new_names(["fox", "cat"][random.integers(2)], ["an ear"]) if verdict == "correct" else None
            )
            numbers = random.integers(0, 12, size=1 + random.integers(2))
            session.decide(
                reviewer,
                np.unique(numbers),
                verdict=verdict,
                after=after,
                note=["", "dark"][step % 2],
                action=f"{step}",
            )
        if step % 50 == 49:
            found, disputed = logged(session)
            assert said(session) == found
            assert {index.keys([number])[0] for number in np.flatnonzero(session.state.disputed)} == disputed
    session.close()
    again = open_session(labels, index, tmp_path)
    assert said(again) == said(session)
    assert again.state.disputed.tolist() == session.state.disputed.tolist()


def test_the_table_is_written_while_decisions_go_on(labels: Path, index: LabelIndex, tmp_path: Path) -> None:
    session = open_session(labels, index, tmp_path)
    session.decide("Ada", [0], verdict="accept", action="1")
    writer = threading.Thread(target=session.write_table, daemon=True)
    with session.lock:
        writer.start()
        writer.join(timeout=30)
        assert not writer.is_alive(), "the table waits for the lock of decisions"
    session.close()


def test_a_group_is_accepted_as_it_was_seen_or_not_at_all(labels: Path, index: LabelIndex, tmp_path: Path) -> None:
    session = open_session(labels, index, tmp_path)
    chosen = LabelFilter(name="fox")
    found = list_groups(session, "Ada", chosen=chosen, seen="open", order="size", start=0, limit=5)
    assert len(found.groups) == 5 and found.num_groups == 20 and found.num_labels == 60
    group = found.groups[0]
    numbers = members(session, "Ada", group.number, chosen=chosen, seen="open")
    assert len(numbers) == group.size == 3 and first_open(session, "Ada", numbers) == 0
    session.decide("Ada", numbers[:1], verdict="wrong", action="1")
    session.decide("Grace", numbers, verdict="skip", action="2")
    assert first_open(session, "Ada", numbers) == 1
    with pytest.raises(ValueError, match="has 2 open images now, not 3: look at it again"):
        session.accept_group("Ada", group.number, chosen=chosen, num_expected=3, action="3")
    assert session.accept_group("Ada", group.number, chosen=chosen, num_expected=2, action="4") == 2
    assert session.accept_group("Ada", group.number, chosen=chosen, num_expected=2, action="4") == 2  # sent twice
    verdicts = [session.state.of("Ada", number).verdict for number in numbers.tolist()]
    assert verdicts == ["wrong", "accept", "accept"]
    assert len(members(session, "Ada", group.number, chosen=chosen, seen="open")) == 3  # they stay in their place
    assert len(members(session, "Ada", group.number, chosen=chosen, seen="accept")) == 2
    left = list_groups(session, "Ada", chosen=chosen, seen="open", order="size", start=0, limit=50)
    assert left.num_labels == 57 and group.number not in [each.number for each in left.groups]
    progress = review_progress(session, "Ada")
    assert (progress.num_done, progress.num_done_by_anyone, progress.num_disputed) == (3, 3, 0)
    assert session.undo("Ada", action="5").tolist() == numbers[1:].tolist()
    assert len(session.undo("Ada", action="5")) == 0  # sent twice
    assert review_progress(session, "Ada").num_done == 1
    session.close()


def test_the_next_group_follows_in_the_list_and_has_open_labels(
    labels: Path, index: LabelIndex, tmp_path: Path
) -> None:
    session, chosen = open_session(labels, index, tmp_path), LabelFilter(name="whale")
    found = list_groups(session, "Ada", chosen=chosen, seen="", order="unsure", start=0, limit=50)
    order = [group.number for group in found.groups]
    assert len(order) == 10 and [group.low for group in found.groups] == pytest.approx(np.arange(10) / 10)
    following = [next_group(session, "Ada", number, chosen=chosen, order="unsure") for number in order]
    assert following == [*order[1:], order[0]]
    session.decide("Ada", session.groups.members(order[1]), verdict="accept", action="1")
    assert next_group(session, "Ada", order[0], chosen=chosen, order="unsure") == order[2]
    assert next_group(session, "Grace", order[0], chosen=chosen, order="unsure") == order[1]
    for number in order[2:]:
        session.decide("Ada", session.groups.members(number), verdict="accept", action=f"{number}")
    assert next_group(session, "Ada", order[0], chosen=chosen, order="unsure") is None
    session.close()


def test_reviewers_at_once_lose_nothing_and_write_into_logs_of_their_own(
    labels: Path, index: LabelIndex, tmp_path: Path
) -> None:
    session = open_session(labels, index, tmp_path)
    names = ["Ada", "Grace", "Ed", "Joan"]

    def review(name: str) -> None:
        for number in range(NUM):
            session.decide(name, [number], verdict="accept", action=f"{name} {number}")

    threads = [threading.Thread(target=review, args=(name,)) for name in names for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    found, disputed = logged(session)
    assert len(found) == NUM * len(names) and not disputed
    logs = sorted((tmp_path / "log").iterdir())
    assert [path.name.partition("-")[0] for path in logs] == ["ada", "ed", "grace", "joan"]
    assert {len(path.read_text().splitlines()) for path in logs} == {NUM}  # an action that is sent twice counts once


def test_a_full_disk_confirms_what_it_has_and_the_rest_can_be_repeated(
    labels: Path, index: LabelIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(labels, index, tmp_path)
    monkeypatch.setattr(sessions, "AT_ONCE", 4)
    flush, num_flushed = os.fsync, 0

    def fail_third(file: int) -> None:
        nonlocal num_flushed
        num_flushed += 1
        if num_flushed == 4:  # the first flush is that of the folder
            raise OSError(errno.ENOSPC, "no space left")
        flush(file)

    monkeypatch.setattr(os, "fsync", fail_third)
    with pytest.raises(OSError, match="no space"):
        session.decide("Ada", np.arange(20), verdict="accept", action="1")
    assert session.state.is_done("Ada").sum() == 8
    assert session.undo("Ada", action="2").tolist() == list(range(8))
    assert session.decide("Ada", np.arange(20), verdict="accept", action="3") == 20
    session.close()
    # the third part reached the log though it was not confirmed, then counts again: nothing that was confirmed is lost
    assert {key for key, _ in logged(session)[0]} == set(index.keys(range(20)))


def test_decisions_about_other_keys_are_refused(labels: Path, index: LabelIndex, tmp_path: Path) -> None:
    session = open_session(labels, index, tmp_path / "decisions")
    session.decide("Ada", [1], verdict="accept", action="1")
    session.close()
    write_labels(tmp_path / "few", [label(number) for number in range(50, 60)])
    few = build_label_index(str(tmp_path / "few"), read_prediction_set(str(tmp_path / "few")))
    with pytest.raises(ValueError, match="1 decisions about keys that no label has"):
        ReviewSession(index=few, groups=LabelGroups(few), decisions=session.decisions)
    for wrong in ({"numbers": [NUM]}, {"numbers": [-1]}, {"verdict": "undo"}, {"verdict": "nice"}):
        with pytest.raises(ValueError, match=r"there are labels|verdict must be"):
            session.decide("Ada", **{"numbers": [1], "verdict": "accept", "action": "2", **wrong})


def test_a_sample_is_reviewed_in_its_order_and_never_by_groups(labels: Path, index: LabelIndex, tmp_path: Path) -> None:
    table = tmp_path / "sample.csv"
    table.write_text('"key","category"\n"0007","fox"\n"0002","whale"\n"0005",""\n')
    sample = read_review_sample(str(table), index=index)
    assert sample.tolist() == [7, 2, 5]
    session = open_session(labels, index, tmp_path / "decisions", sample=sample)
    with pytest.raises(ValueError, match="judged image by image"):
        session.accept_group("Ada", 0, chosen=LabelFilter(), num_expected=3, action="1")
    session.decide("Ada", [2, 3], verdict="accept", action="2")
    progress = review_progress(session, "Ada")
    assert (progress.num_labels, progress.num_done) == (3, 1)
    session.close()
    for text, problem in (
        ("key\n0007\n0007\n", "comes twice"),
        ("key\nnobody\n", "no key of these labels"),
        ("key,category\n0007,owl\n", "is not the label's"),
        ("key\n", "has no rows"),
        ("name\n0007\n", "key"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=problem):
            read_review_sample(str(table), index=index)


def test_names_complete_at_their_beginning_first_and_new_ones_are_marked(
    labels: Path, index: LabelIndex, tmp_path: Path
) -> None:
    names = NameCompletion(
        categories=("red fox", "fox", "foxglove", "arctic fox", "firefoxes"), rationales=("an ear",), origin="here"
    )
    assert names.complete("Fox", kind="category") == ["fox", "foxglove", "red fox", "arctic fox", "firefoxes"]
    assert names.complete("", kind="category", first=["Arctic_fox"])[:2] == ["arctic fox", "red fox"]
    assert names.complete("zebra", kind="category") == []
    assert names.complete("e", kind="rationale") == ["an ear"]
    session = open_session(labels, index, tmp_path, known_names=names.all)
    after = session.mark_new_names(" Red_Fox ", ["An  ear", "a TAIL", "an ear"])
    assert (after.category, after.rationales, after.new_names) == ("red fox", ("an ear", "a tail"), ("a tail",))
    for category, rationales in (("  ", []), ("fox", ["-"]), ("fox", [f"part {n}" for n in range(60)])):
        with pytest.raises(ValueError, match=r"name|at most 50"):
            session.mark_new_names(category, rationales)


def test_known_names_are_those_of_the_labels_vocabulary(labels: Path, index: LabelIndex, tmp_path: Path) -> None:
    predictions = read_prediction_set(str(labels))
    found = open_name_completion(None, predictions=predictions, index=index)
    assert found.origin == "the labels" and set(found.categories) == {category for category, _ in NAMES}
    given = tmp_path / "vocabulary.json"
    given.write_text(VOCABULARY.to_json())
    named = open_name_completion(str(given), predictions=predictions, index=index)
    assert (named.categories, named.rationales) == (VOCABULARY.categories, VOCABULARY.rationales)
    given.write_text(vocabulary_from_mapping({"cup": ["a handle"]}).to_json())
    with pytest.raises(ValueError, match="name the vocabulary of the labels"):
        open_name_completion(str(given), predictions=predictions, index=index)
