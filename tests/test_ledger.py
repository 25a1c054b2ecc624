"""Of many attempts at a unit one counts, and everyone agrees which."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ledger import Ledger


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "ledger") if request.param == "local" else f"memory://{tmp_path.name}/ledger"


def test_a_ledger_begins_empty_and_keeps_what_is_committed(folder):
    ledger = Ledger(folder)
    assert ledger.committed() == {}
    assert ledger.commit("train/1", {"sha256": "b", "num": 2}) == {"sha256": "b", "num": 2}
    ledger.commit("train/0", {})
    assert Ledger(folder).committed() == {"train/0": {}, "train/1": {"sha256": "b", "num": 2}}


def test_the_first_attempt_counts(folder):
    assert Ledger(folder).commit("u", {"attempt": 1}) == {"attempt": 1}
    assert Ledger(folder).commit("u", {"attempt": 2}) == {"attempt": 1}
    assert Ledger(folder).committed() == {"u": {"attempt": 1}}


def test_what_is_discarded_can_be_committed_again(folder):
    ledger = Ledger(folder)
    ledger.commit("u", {"attempt": 1})
    ledger.discard("u")
    ledger.discard("never there")
    assert ledger.commit("u", {"attempt": 2}) == {"attempt": 2}
    ledger.clear()
    ledger.clear()
    assert ledger.committed() == {}


@given(names=st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
def test_any_name_is_kept_apart(names, tmp_path_factory):
    ledger = Ledger(tmp_path_factory.mktemp("names"))
    for name in names:
        ledger.commit(name, {"name": name})
    assert ledger.committed() == {name: {"name": name} for name in sorted(names)}


def _attempt(folder: Path, number: int) -> int:
    return Ledger(folder).commit("u", {"attempt": number, "filler": "x" * 10_000})["attempt"]


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_attempts_at_the_same_time_agree_on_one(tmp_path, pool):
    with pool(4) as attempts:
        winners = set(attempts.map(_attempt, [tmp_path] * 40, range(40)))
    assert winners == {Ledger(tmp_path).committed()["u"]["attempt"]}
    assert [path.name for path in tmp_path.iterdir()] == ["u.json"]


def test_a_damaged_record_is_an_error_that_names_it(tmp_path):
    (tmp_path / "u.json").write_text("{")
    with pytest.raises(ValueError, match=r"u\.json is damaged .*delete it"):
        Ledger(tmp_path).committed()


def test_units_have_names(tmp_path):
    with pytest.raises(ValueError, match="needs a name"):
        Ledger(tmp_path).commit("", {})
