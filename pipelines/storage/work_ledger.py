"""Claim and commit units of work under a lease, so that an interrupted stage can resume.

Each unit has a chain of records. Each record is created exclusively, under the next number:

    claim    a job works on the unit; the number of the claim is that of the attempt
    commit   the output of the attempt: the unit is done
    lost     the committed output is missing or damaged: the unit must be redone

Committing attempt n and taking it over both create record n + 1, so exactly one of them succeeds: an attempt that was
taken over never counts, and one that counts is never taken over, independent of any clock.

Clocks decide only which job works. A job holds its units by one lease, an object that it renews. Its claims may be
taken over when the lease is released, when its process has ended, or when the lease was not renewed for `lease_s`.
This is decided by the store's modification times alone: that of the lease, and that of the asking job's own lease,
which was renewed just before. The clocks of machines need not agree. A store that counts whole seconds needs a lease
of several seconds.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pipelines.storage.attempt import Attempt
from pipelines.storage.record_store import Record, RecordStore

_OWNERS = "owners"
_RENEWALS_PER_LEASE = 4
_NUM_WRITERS = 16
_POLL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The last record of a unit's chain."""

    number: int
    record: Record


class WorkLedger:
    """The units of one output, as one job reads and claims them; a ledger can be sent to the job's workers."""

    def __init__(self, folder: str | Path, *, lease_s: float = 60.0, owner: str | None = None) -> None:
        """Open the ledger of an output.

        Args:
            folder: any address that fsspec writes; used for this output alone.
            lease_s: seconds for which a renewed lease is valid.
            owner: name of the job; None: a new one.
        """
        self.folder = str(folder)
        self.lease_s = lease_s
        self.owner = owner or uuid.uuid4().hex[:8]
        self.chains = RecordStore(self.folder)
        self.leases = RecordStore(f"{self.folder}/{_OWNERS}")
        self._reported_owners: set[str] = set()

    def read_commits(self) -> dict[str, Record]:
        """Read the commit records of all committed units, sorted by name."""
        heads = self._heads()
        return {unit: heads[unit].record["commit"] for unit in sorted(heads) if "commit" in heads[unit].record}

    def is_unused(self) -> bool:
        """Whether no unit is committed and no job holds a lease."""
        return not self.leases.names() and not self.read_commits()

    def record(self, unit: str) -> Record | None:
        """Read the commit record of a unit; None if it is not done."""
        head = self._head(unit)
        return None if head is None else head.record.get("commit")

    def discard(self, unit: str, record: Mapping[str, Any]) -> None:
        """Mark the committed output `record` as missing or damaged; no-op if it is not the current commit."""
        head = self._head(unit)
        if head is not None and head.record.get("commit") == record:
            self.chains.create(_record_name(unit, head.number + 1), {"lost": True, "owner": self.owner})

    @contextmanager
    def hold_lease(self) -> Iterator[None]:
        """Hold the lease that claims need: renew it in the background, release it at the end."""
        self.renew()
        ended = threading.Event()
        beat = threading.Thread(target=self._renew_until, args=(ended,), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            with suppress(Exception):  # the lease then expires; do not hide the error that ended the block
                self.release()

    def renew(self) -> None:
        """Renew the lease: for `lease_s` no other job takes over this job's claims."""
        self.leases.write(self.owner, _this_process())

    def release(self) -> None:
        """Release the lease: claims that are not committed may be taken over at once."""
        self.leases.remove(self.owner)

    def claim(self, unit: str) -> Attempt | None:
        """Claim a unit; None when it is done, or another job holds it.

        An unfinished attempt of this job is returned again, so that a retried task continues it.
        """
        return self._try_claim(unit, head=None, alive={})

    def claim_all(self, units: Iterable[str]) -> dict[str, Attempt]:
        """Claim those of the units that are neither done nor held by another job."""
        units = list(units)
        if not units:
            return {}  # no record is read
        heads = self._heads()
        owners = {head.record["owner"] for head in heads.values() if "claim" in head.record}
        alive = {owner: self._holds_lease(owner) for owner in owners}
        wanted = [unit for unit in units if not self._is_taken(heads.get(unit), alive=alive)]
        with ThreadPoolExecutor(_NUM_WRITERS) as pool:
            claims = pool.map(lambda unit: self._try_claim(unit, head=heads.get(unit), alive=alive), wanted)
            return {attempt.unit: attempt for attempt in claims if attempt is not None}

    def commit(self, attempt: Attempt, record: Mapping[str, Any]) -> Record | None:
        """Commit the output of an attempt, as JSON values; returns the record that counts for the unit.

        If the attempt was taken over, that is the other job's record, or None while the other job still works.
        """
        entry = {"commit": dict(record), "attempt": attempt.number, "owner": attempt.owner}
        if self.chains.create(_record_name(attempt.unit, attempt.number + 1), entry):
            return json.loads(json.dumps(entry["commit"]))
        head = self._head(
            attempt.unit, start=attempt.number + 1
        )  # our own, if the store lost the reply to the creation
        return None if head is None else head.record.get("commit")

    def wait(self, units: Sequence[str], *, tell: Callable[[str], None]) -> None:
        """Sleep for a short time, before the caller looks again at units that other jobs hold.

        Args:
            units: the units to wait for.
            tell: called with a line for each other job, once per job.
        """
        heads = self._heads()
        held = [heads[unit].record for unit in units if unit in heads and "claim" in heads[unit].record]
        for owner in sorted({each["owner"] for each in held} - self._reported_owners - {self.owner}):
            process = self._process(owner)
            tell(f"waiting for units that process {process.get('pid')} on {process.get('host')} works on")
            self._reported_owners.add(owner)
        time.sleep(min(_POLL_S, self.lease_s / _RENEWALS_PER_LEASE))

    def clear(self) -> None:
        """Remove all records: the output is made anew."""
        self.chains.clear()

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(self.lease_s / _RENEWALS_PER_LEASE):
            with suppress(Exception):  # stores raise many types; the lease lasts a few renewals longer
                self.renew()

    def _heads(self) -> dict[str, _Head]:
        last: dict[str, int] = {}
        for name in self.chains.names():
            unit, _, number = name.rpartition("~")
            last[unit] = max(last.get(unit, 0), int(number))
        names = {unit: _record_name(unit, number) for unit, number in last.items()}
        records = self.chains.read_all(list(names.values()))
        return {unit: _Head(number=last[unit], record=records[name]) for unit, name in names.items() if name in records}

    def _head(self, unit: str, *, start: int = 0) -> _Head | None:
        """Read the last record of a chain, record by record: chains are short, so no folder is listed."""
        head = None
        for number in count(start):
            record = self.chains.read(_record_name(unit, number))
            if record is None:
                break
            head = _Head(number=number, record=record)
        return head

    def _try_claim(self, unit: str, *, head: _Head | None, alive: dict[str, bool]) -> Attempt | None:
        while not self._is_taken(head, alive=alive):
            if head is not None and self._is_own(head):
                return _attempt(unit, head)
            entry = {"claim": True, "owner": self.owner, "took_over": head is not None and "claim" in head.record}
            number = 0 if head is None else head.number + 1
            if self.chains.create(_record_name(unit, number), entry):
                return _attempt(unit, _Head(number=number, record=entry))
            head = self._head(unit, start=number)  # another job was faster
        return None

    def _is_taken(self, head: _Head | None, *, alive: dict[str, bool]) -> bool:
        """Whether a unit is done, or held by a job with a valid lease."""
        if head is None or "lost" in head.record or self._is_own(head):
            return False
        if "commit" in head.record:
            return True
        owner = head.record["owner"]
        if owner not in alive:
            alive[owner] = self._holds_lease(owner)
        return alive[owner]

    def _is_own(self, head: _Head) -> bool:
        return "claim" in head.record and head.record["owner"] == self.owner

    def _holds_lease(self, owner: str) -> bool:
        theirs, now = self.leases.modified_at(owner), self.leases.modified_at(self.owner)
        if theirs is None:
            return False
        if now is None:
            raise ValueError(f"{self.folder}: a job needs hold_lease() to claim units, {self.owner} holds none")
        return (now - theirs).total_seconds() < self.lease_s and not _has_ended(self._process(owner))

    def _process(self, owner: str) -> Record:
        try:
            return self.leases.read(owner) or {}
        except ValueError:
            return {}  # just being written


def _record_name(unit: str, number: int) -> str:
    if not unit:
        raise ValueError("a unit of work needs a name")
    return f"{unit}~{number}"


def _attempt(unit: str, head: _Head) -> Attempt:
    return Attempt(unit=unit, number=head.number, owner=head.record["owner"], took_over=head.record["took_over"])


def _this_process() -> Record:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}


def _start_time(pid: int) -> str | None:
    """Start time of a process of this machine, in kernel ticks (ids are reused); None off Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _has_ended(process: Record) -> bool:
    """Whether a process of this machine has certainly ended, so that its lease need not expire."""
    if process.get("host") != socket.gethostname() or process.get("started") is None:
        return False
    return Path("/proc/self/stat").exists() and _start_time(process["pid"]) != process["started"]
