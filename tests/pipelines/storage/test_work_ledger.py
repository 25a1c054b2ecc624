"""Of many attempts at a unit one counts, everyone agrees which, and an attempt that was taken over never does.

Covers: `pipelines.storage.attempt`, `pipelines.storage.record_store`.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipelines.storage import work_ledger as ledger_room
from pipelines.storage.attempt import Attempt
from pipelines.storage.record_store import RecordStore
from pipelines.storage.work_ledger import WorkLedger
from tests.support.fake_stores import ClockedStore, empty_store, taking_turns

LEASE_S = 60.0
UNITS = ("train/0", "train/1", "test/0")


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "ledger") if request.param == "local" else f"memory://{tmp_path.name}/ledger"


def at_work(folder: str | Path, **changes) -> WorkLedger:
    ledger = WorkLedger(folder, **({"lease_s": LEASE_S} | changes))
    ledger.renew()
    return ledger


def done(ledger: WorkLedger, unit: str, **record) -> dict | None:
    attempt = ledger.claim(unit)
    assert attempt is not None
    return ledger.commit(attempt, record)


# Records


def test_a_record_is_written_once_and_read_by_all(folder):
    records = RecordStore(folder)
    assert records.names() == [] and records.read("a") is None and records.modified_at("a") is None
    assert records.create_or_read("a", {"n": 1}) == {"n": 1}
    assert RecordStore(folder).create_or_read("a", {"n": 2}) == {"n": 1}
    assert not records.create("a", {"n": 3})
    records.write("a", {"n": 4})
    records.write("b", {"n": 5})
    assert records.read_all(["a", "b", "none"]) == {"a": {"n": 4}, "b": {"n": 5}}
    assert records.modified_at("a") is not None
    records.remove("a")
    records.remove("a")
    assert records.names() == ["b"]
    records.clear()
    records.clear()
    assert records.names() == []


@given(names=st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
def test_any_name_is_kept_apart(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    records, ledger = RecordStore(folder / "records"), at_work(folder / "ledger")
    for name in names:
        records.create(name, {"name": name})
        done(ledger, name, name=name)
    assert records.read_all(records.names()) == {name: {"name": name} for name in names}
    assert ledger.read_commits() == {name: {"name": name} for name in sorted(names)}


def test_a_damaged_record_is_an_error_that_names_it(tmp_path):
    (tmp_path / "u~0.json").write_text("{")
    with pytest.raises(ValueError, match=r"u~0\.json is damaged .*delete it"):
        WorkLedger(tmp_path).read_commits()


def test_units_have_names(tmp_path):
    with pytest.raises(ValueError, match="needs a name"):
        at_work(tmp_path).claim("")


# One job after another


def test_a_ledger_begins_empty_and_keeps_what_is_committed(folder):
    ledger = at_work(folder)
    assert ledger.read_commits() == {} and ledger.record("train/1") is None
    assert done(ledger, "train/1", sha256="b", num=2) == {"sha256": "b", "num": 2}
    done(ledger, "train/0")
    assert WorkLedger(folder).read_commits() == {"train/0": {}, "train/1": {"sha256": "b", "num": 2}}
    assert WorkLedger(folder).record("train/1") == {"sha256": "b", "num": 2}
    assert at_work(folder).claim("train/1") is None
    assert set(at_work(folder).claim_all(["train/0", "train/1", "new"])) == {"new"}


def test_to_claim_no_unit_reads_no_record(folder, monkeypatch):
    ledger = at_work(folder)
    monkeypatch.setattr(RecordStore, "names", None)
    assert ledger.claim_all([]) == {}


def test_a_ledger_is_left_when_nothing_is_done_and_nobody_works(folder):
    ledger = WorkLedger(folder, owner="a")
    assert ledger.is_unused()
    with ledger.hold_lease():
        assert not WorkLedger(folder).is_unused()
        attempt = ledger.claim("unit")
        record = ledger.commit(attempt, {"num": 1})
    assert not WorkLedger(folder).is_unused()
    ledger.discard("unit", record)
    assert WorkLedger(folder).is_unused()


def test_what_is_lost_is_done_again_and_told_once(folder):
    ledger, other = at_work(folder), at_work(folder)
    done(ledger, "u", attempt=1)
    ledger.discard("u", {"attempt": 1})
    assert done(other, "u", attempt=2) == {"attempt": 2}
    ledger.discard("u", {"attempt": 1})  # had found the first output damaged
    ledger.discard("never there", {})
    assert ledger.read_commits() == {"u": {"attempt": 2}}
    ledger.clear()
    assert ledger.read_commits() == {}


def test_a_claim_holds_until_it_is_given_back(folder, monkeypatch):
    monkeypatch.setattr(ledger_room, "_POLL_S", 0.01)
    ledger, other = at_work(folder), at_work(folder)
    attempt = ledger.claim("u")
    assert attempt is not None and not attempt.took_over
    assert ledger.claim("u") == attempt, "a task that is tried again goes on with its job's attempt"
    assert ledger.claim_all(["u"]) == {"u": attempt}
    assert other.claim("u") is None and other.claim_all(["u"]) == {}
    told: list[str] = []
    for _ in range(2):
        other.wait(["u", "free"], tell=told.append)
    assert told == [f"waiting for units that process {os.getpid()} on {socket.gethostname()} works on"], "told once"
    ledger.release()
    taken = other.claim("u")
    assert taken is not None and taken.took_over and taken.number > attempt.number and taken.name != attempt.name
    assert ledger.commit(attempt, {"by": "the first"}) is None
    assert other.commit(taken, {"by": "the second"}) == {"by": "the second"}
    assert ledger.commit(attempt, {"by": "the first"}) == {"by": "the second"}
    assert other.commit(taken, {"by": "the second"}) == {"by": "the second"}, "a commit may be repeated"


def test_only_a_job_that_works_claims_what_others_hold(folder):
    at_work(folder).claim("u")
    with pytest.raises(ValueError, match=r"hold_lease\(\)"):
        WorkLedger(folder).claim("u")


def test_a_job_renews_its_lease_as_long_as_it_works(tmp_path):
    ledger, other = WorkLedger(tmp_path, lease_s=0.4), WorkLedger(tmp_path, lease_s=0.4)
    with ledger.hold_lease(), other.hold_lease():
        ledger.claim("u")
        threading.Event().wait(1.0)
        assert other.claim("u") is None
    with other.hold_lease():
        assert other.claim("u") is not None


def test_a_killed_process_of_this_machine_is_not_waited_for(tmp_path):
    script = (
        "import os, signal; from pipelines.storage.work_ledger import WorkLedger; "
        f"ledger = WorkLedger({str(tmp_path)!r}, lease_s=1000); ledger.renew(); ledger.claim('u'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert list((tmp_path / "owners").iterdir())
    taken = at_work(tmp_path, lease_s=1000).claim("u")
    assert taken is not None and taken.took_over


# Many at the same time


def _attempt(folder: Path, number: int) -> tuple[bool, str | None]:
    """Whether this attempt got the unit, and whose record counts for it."""
    ledger = at_work(folder, owner=f"job{number}")
    attempt = ledger.claim("u")
    if attempt is None:
        return False, None
    counting = ledger.commit(attempt, {"by": ledger.owner, "filler": "x" * 10_000})
    return True, counting and counting["by"]


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_of_attempts_at_the_same_time_one_has_the_unit(tmp_path, pool):
    with pool(4) as attempts:
        found = list(attempts.map(_attempt, [tmp_path] * 40, range(40)))
    assert [got for got, _ in found].count(True) == 1
    assert {winner for got, winner in found if got} == {WorkLedger(tmp_path).read_commits()["u"]["by"]}
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["u~0.json", "u~1.json"]


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.integers(0, 5), max_size=60), ends=st.lists(st.booleans(), min_size=3, max_size=3))
def test_whatever_the_order_of_their_store_operations_one_attempt_counts(turns, ends):
    """Three jobs; those that `ends` lose their lease between claim and commit."""
    with empty_store() as folder:
        ledgers = [at_work(folder, owner=f"job{number}") for number in range(3)]
        told: list[dict | None] = []
        claimed: list[Attempt] = []

        def job(ledger: WorkLedger, end: bool) -> None:
            attempt = ledger.claim("u")
            if attempt is None:
                return
            claimed.append(attempt)
            if end:
                ledger.release()
            told.append(ledger.commit(attempt, {"by": attempt.name}))

        deeds = [lambda ledger=ledger, end=end: job(ledger, end) for ledger, end in zip(ledgers, ends, strict=True)]
        taking_turns(deeds, turns=iter(turns))
        records = WorkLedger(folder).read_commits()
        assert len({attempt.number for attempt in claimed}) == len(claimed)
        assert all(record in (None, records.get("u")) for record in told)
        if records:
            assert records["u"]["by"] == max(claimed, key=lambda attempt: attempt.number).name
        commits = [data for data in chain("u") if "commit" in data]
        assert len(commits) == len(records)


def chain(unit: str) -> list[dict]:
    """All that was ever recorded of a unit in the clocked store."""
    records = RecordStore("clocked://ledger")
    names = [name for name in records.names() if name.rpartition("~")[0] == unit]
    return [records.read(name) for name in sorted(names, key=lambda name: int(name.rpartition("~")[2]))]


class LedgerHistory(RuleBasedStateMachine):
    """Jobs come, renew their leases or not, claim, commit late, and go; the store's clock runs."""

    @initialize()
    def begin(self) -> None:
        self.store = empty_store()
        self.folder = self.store.__enter__()
        self.jobs: list[WorkLedger] = []
        self.renewed: dict[str, float] = {}
        self.held: dict[str, dict[str, Attempt]] = {}
        self.last: dict[str, int] = {}
        self.won: dict[str, dict] = {}

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        ClockedStore.now_s += LEASE_S
        ledger = at_work(self.folder, owner="the last one")
        for attempt in ledger.claim_all(UNITS).values():
            assert ledger.commit(attempt, {"by": attempt.name}) == {"by": attempt.name}
        assert set(ledger.read_commits()) == set(UNITS), "no unit is lost"
        self.store.__exit__(None, None, None)

    @rule(seconds=st.sampled_from([1.0, 20.0, LEASE_S - 1, LEASE_S, 500.0]))
    def pass_time(self, seconds: float) -> None:
        ClockedStore.now_s += seconds

    @rule()
    def come(self) -> None:
        if len(self.jobs) < 4:
            ledger = WorkLedger(self.folder, lease_s=LEASE_S, owner=f"job{len(self.jobs)}")
            self.jobs.append(ledger)
            self.held[ledger.owner] = {}
            self.renew(number=len(self.jobs) - 1)

    @rule(number=st.integers(0, 3))
    def renew(self, number: int) -> None:
        if number < len(self.jobs):
            self.jobs[number].renew()
            self.renewed[self.jobs[number].owner] = ClockedStore.now_s

    @rule(number=st.integers(0, 3))
    def release(self, number: int) -> None:
        if number < len(self.jobs):
            self.jobs[number].release()
            self.renewed.pop(self.jobs[number].owner, None)

    @rule(number=st.integers(0, 3), unit=st.sampled_from(UNITS), many=st.booleans())
    def claim(self, number: int, unit: str, many: bool) -> None:
        if number >= len(self.jobs) or self.jobs[number].owner not in self.renewed:
            return
        ledger = self.jobs[number]
        got = ledger.claim_all(UNITS) if many else {unit: ledger.claim(unit)}
        for name, attempt in got.items():
            holder = self._holder(name)
            if attempt is None:
                assert name in self.won or (holder is not None and holder != ledger.owner)
                continue
            assert name not in self.won, "what is done is not claimed"
            if holder not in (None, ledger.owner):
                age = self.renewed[ledger.owner] - self.renewed.get(holder, -1e9)
                assert age >= LEASE_S, "a live lease is respected"
                assert attempt.took_over
            assert attempt.number >= self.last.get(name, 0)
            self.last[name] = attempt.number
            self.held[ledger.owner][name] = attempt

    @rule(number=st.integers(0, 3), unit=st.sampled_from(UNITS))
    def commit(self, number: int, unit: str) -> None:
        if number >= len(self.jobs):
            return
        ledger = self.jobs[number]
        attempt = self.held[ledger.owner].get(unit)
        if attempt is None:
            return
        mine = {"by": attempt.name}
        told = ledger.commit(attempt, mine)
        if attempt.number < self.last[unit]:
            assert told != mine, "an attempt that was taken over never counts"
        elif unit not in self.won:
            assert told == mine, "the last attempt wins, however late"
            self.won[unit] = mine
        assert told == self.won.get(unit)

    @rule(number=st.integers(0, 3), unit=st.sampled_from(UNITS))
    def lose(self, number: int, unit: str) -> None:
        if number < len(self.jobs) and unit in self.won:
            self.jobs[number].discard(unit, self.won.pop(unit))
            self.last[unit] += 1

    @invariant()
    def everyone_agrees(self) -> None:
        if not hasattr(self, "folder"):
            return
        for ledger in self.jobs[:2]:
            assert ledger.read_commits() == {unit: self.won[unit] for unit in sorted(self.won)}
            assert all(ledger.record(unit) == self.won.get(unit) for unit in UNITS)

    def _holder(self, unit: str) -> str | None:
        """Of all that claimed the unit, who did so last and has not committed."""
        links = chain(unit)[:-1] if unit in self.won else chain(unit)
        owners = [owner for owner, held in self.held.items() if unit in held and held[unit].number == self.last[unit]]
        return owners[0] if links and owners else None


LedgerHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedgerHistory = pytest.mark.slow(LedgerHistory.TestCase)


def test_records_on_disk_say_who_did_what(tmp_path):
    ledger = at_work(tmp_path, owner="me")
    done(ledger, "u", num_rows=3)
    assert json.loads((tmp_path / "u~1.json").read_text()) == {"commit": {"num_rows": 3}, "attempt": 0, "owner": "me"}
