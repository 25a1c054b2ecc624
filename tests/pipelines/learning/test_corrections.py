"""What decisions of one or several reviewers teach, and what they leave out.

Covers: `pipelines.learning.extended_vocabulary`.
"""

from pathlib import Path

import pytest

from ecor.data.vocabulary import vocabulary_from_mapping
from pipelines.learning.corrections import count_left_out, iterate_names, read_reviewed
from pipelines.learning.extended_vocabulary import extend_vocabulary, new_names
from pipelines.review.decision import Correction
from pipelines.review.decision_set import DecisionSet, open_decision_set
from tests.support.drawn_job import decide
from tests.support.prediction_rows import random_table, write_labels

LABEL = {"category": "fox", "rationale": "pointed ears", "confidence": 0.7}


@pytest.fixture
def decisions(tmp_path: Path) -> DecisionSet:
    labels = f"{tmp_path}/labels"
    return open_decision_set(f"{tmp_path}/reviewed", labels=labels, predictions=write_labels(labels, random_table(3)))


def say(decisions: DecisionSet, key: str, verdict: str, *, reviewer: str = "Ada", **said: object) -> None:
    with decisions.open_log(reviewer) as log:
        row = {**LABEL, "key": key}
        log.append(decide(row, decisions.of.labels_digest, verdict, reviewer=reviewer, **said))


def correction(category: str, *rationales: str) -> Correction:
    return Correction(category=category, rationales=rationales)


def test_each_verdict_says_what_it_says(decisions: DecisionSet) -> None:
    say(decisions, "a", "accept")
    say(decisions, "b", "correct", after=correction("Red_Fox", "a bushy tail", "A bushy tail", "pointed ears"))
    say(decisions, "c", "correct", after=correction("owl"))
    for key, verdict in (("d", "rationale_not_visible"), ("e", "wrong"), ("f", "out_of_vocabulary"), ("g", "skip")):
        say(decisions, key, verdict)
    rows = {row["key"]: row for row in read_reviewed(decisions, reviewer=None).to_pylist()}
    shown = {key: (row["use"], row["category"], row["rationales"], row["is_wrong_reason"]) for key, row in rows.items()}
    assert shown == {
        "a": ("taken", "fox", ["pointed ears"], False),
        "b": ("taken", "red fox", ["a bushy tail", "pointed ears"], False),
        "c": ("taken", "owl", [], False),
        "d": ("taken", "fox", [], True),
        "e": ("wrong", None, [], False),
        "f": ("out_of_vocabulary", None, [], False),
        "g": ("skip", None, [], None),
    }
    assert {(row["category_before"], row["rationale_before"]) for row in rows.values()} == {("fox", "pointed ears")}


def test_a_corrected_reason_of_a_right_category_is_a_wrong_reason(decisions: DecisionSet) -> None:
    say(decisions, "a", "correct", after=correction("fox", "a bushy tail"))
    assert read_reviewed(decisions, reviewer=None)["is_wrong_reason"].to_pylist() == [True]


def test_what_reviewers_differ_on_is_left_out_unless_one_is_chosen(decisions: DecisionSet) -> None:
    say(decisions, "a", "accept")
    say(decisions, "a", "wrong", reviewer="Bo")
    say(decisions, "b", "accept")
    say(decisions, "b", "skip", reviewer="Bo")
    say(decisions, "c", "skip", reviewer="Bo")
    both = read_reviewed(decisions, reviewer=None)
    assert dict(zip(both["key"].to_pylist(), both["use"].to_pylist(), strict=True)) == {
        "a": "disputed",
        "b": "taken",
        "c": "skip",
    }
    assert count_left_out(both) == {"disputed": 1, "skip": 1}
    ada = read_reviewed(decisions, reviewer="Ada")
    assert ada["use"].to_pylist() == ["taken", "taken", "other_reviewers"]
    with pytest.raises(ValueError, match=r"Cy has decided nothing in .*; its reviewers are Ada, Bo"):
        read_reviewed(decisions, reviewer="Cy")


def test_a_set_without_decisions_is_refused(decisions: DecisionSet) -> None:
    with pytest.raises(ValueError, match="holds no decision yet"):
        read_reviewed(decisions, reviewer=None)


def test_what_was_undone_counts_no_more(decisions: DecisionSet) -> None:
    say(decisions, "a", "accept")
    say(decisions, "b", "accept")
    say(decisions, "b", "undo", at=1)
    assert read_reviewed(decisions, reviewer=None)["key"].to_pylist() == ["a"]


def test_new_names_enter_the_vocabulary_and_known_ones_do_not_move() -> None:
    before = vocabulary_from_mapping({"fox": ["pointed ears", "a bushy tail"], "owl": ["pointed ears"]})
    named = [("fox", ["pointed ears", "a white chin"]), ("cub", ["pointed ears"]), ("owl", ["a bushy tail"])]
    after = extend_vocabulary(before, named)
    names = {
        category: [after.rationales[i] for i in ids]
        for category, ids in zip(after.categories, after.rationales_of, strict=True)
    }
    assert names == {
        "fox": ["pointed ears", "a bushy tail", "a white chin"],
        "owl": ["pointed ears"],
        "cub": ["pointed ears"],
    }
    assert new_names(after, since=before) == ["cub", "a white chin"]
    assert extend_vocabulary(before, reversed(named)).digest == after.digest


def test_without_new_names_the_vocabulary_stays() -> None:
    before = vocabulary_from_mapping({"fox": ["pointed ears"], "owl": ["round eyes"]})
    assert extend_vocabulary(before, [("fox", ["round eyes"]), ("owl", [])]) is before
    assert extend_vocabulary(before, [("elk", [])]).categories == ("fox", "owl", "elk")


def test_a_name_that_no_vocabulary_holds_is_named() -> None:
    before = vocabulary_from_mapping({"fox": ["pointed ears"]})
    with pytest.raises(ValueError, match=r"reviewers' names.*control character"):
        extend_vocabulary(before, [("f\x07x", [])])


def test_names_are_told_once(decisions: DecisionSet) -> None:
    for key in "abc":
        say(decisions, key, "accept")
    say(decisions, "d", "wrong")
    assert list(iterate_names(read_reviewed(decisions, reviewer=None))) == [("fox", ["pointed ears"])]
