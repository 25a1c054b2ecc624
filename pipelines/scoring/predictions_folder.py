"""The output folder of a scoring job: claims, parts, commits and the manifest, safe to interrupt.

manifest.json        the `PredictionSet`, written last
<unit>-<attempt>.parquet   rows of a unit; which attempt counts is decided by its commit record
_pieces/<unit>-<attempt>/   parts of a unit that are scored before the others, until the unit is written
quarantine.parquet   pictures without a label, and why
summary.json         counts, rate, where the time went
vanished.parquet     with `--since`: earlier labels whose image is not listed any more
features/            kept features of the labelled images, if asked for (`pipelines.storage.features_folder`)
_commits/job/        what the folder is for, and its MLflow run
_commits/<digest>/   who works on which unit of such a job, and what counts for it (`pipelines.storage.work_ledger`);
                     its listing (`pipelines.scoring.incremental.listing_record`)
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.clip.image_features import FeatureSet
from ecor.data.predictions.manifest import (
    MANIFEST_NAME,
    PredictionPart,
    PredictionSet,
    read_prediction_set,
    write_prediction_set,
)
from ecor.data.predictions.parts import read_part, write_part
from ecor.storage import filesystem
from ecor.storage.digests import json_digest
from pipelines.config.identity import describe_changes
from pipelines.runtime.retries import Result, retry_in_store
from pipelines.scoring.scored_part import EncodedRows, KeptRows
from pipelines.scoring.work_units import QUARANTINE_SCHEMA, CommittedUnit, Rejection
from pipelines.storage.attempt import Attempt
from pipelines.storage.features_folder import FeaturesFolder
from pipelines.storage.record_store import RecordStore
from pipelines.storage.unit_pieces import UnitPieces
from pipelines.storage.work_ledger import WorkLedger

QUARANTINE_NAME = "quarantine.parquet"
_SUMMARY_NAME = "summary.json"
VANISHED_NAME = "vanished.parquet"
_COMMITS = "_commits"
_PART = re.compile(r".+-\d+-.{8}\.parquet")
"""`<unit>-<attempt>.parquet`, whichever attempt."""
_NUM_VERIFIERS = 8


def ledger_address(folder: str, *, identity: Mapping[str, Any]) -> str:
    """Folder of the commit records of a job, within the folder of its labels."""
    return f"{folder}/{_COMMITS}/{json_digest(dict(identity))[:16]}"


def job_records(folder: str) -> RecordStore:
    """Records of the job that a folder of labels belongs to: `identity` and `run`."""
    return RecordStore(f"{folder}/{_COMMITS}/job")


class PredictionsFolder:
    """A folder of labels of one job; local, or in a store."""

    def __init__(
        self, folder: str, *, identity: Mapping[str, Any], lease_s: float = 60.0, keep_features: bool = False
    ) -> None:
        """Open the folder of a job.

        Args:
            folder: address.
            identity: the values that must be equal for finished units to be reused, as JSON values.
            lease_s: seconds for which a renewed lease is valid.
            keep_features: a unit without its features is not done.
        """
        self.folder = folder.rstrip("/")
        self.keep_features = keep_features
        self.features, self.pieces = FeaturesFolder(self.folder), UnitPieces(self.folder)
        self.identity = dict(identity)
        self.units = WorkLedger(ledger_address(self.folder, identity=self.identity), lease_s=lease_s)
        self.job = job_records(self.folder)

    def claim_folder(self) -> None:
        """Claim the folder for this job; no-op if this job already owns it.

        Raises:
            ValueError: when another job owns it; names each setting that differs, with both values.
        """
        found = self.job.create_or_read("identity", self.identity)
        if changes := describe_changes(found, self.identity):
            raise ValueError(
                f"{self.folder} holds labels of another job: {changes}. Repeat the settings of that job to resume it, "
                f"name another output, or add --fresh"
            )

    def release_folder(self) -> None:
        """Give up the folder if none of this job's units is done, so that a corrected job can claim it.

        Finished labels keep it, also while all their units are done again.
        """
        is_empty = self.job.read("identity") == self.identity and not self.units.read_commits()
        if is_empty and not self._retry(lambda: filesystem.exists(filesystem.join(self.folder, MANIFEST_NAME))):
            self.job.remove("identity")

    def clear(self) -> None:
        """Remove all commits; a running job with other settings then fails."""
        filesystem.remove(filesystem.join(self.folder, MANIFEST_NAME))
        self.pieces.remove_all()
        filesystem.remove(filesystem.join(self.folder, VANISHED_NAME))
        self.features.clear()
        RecordStore(f"{self.folder}/{_COMMITS}").clear()

    def find_manifest(self) -> PredictionSet | None:
        """The manifest, or None."""
        is_there = self._retry(lambda: filesystem.exists(filesystem.join(self.folder, MANIFEST_NAME)))
        return self._retry(lambda: read_prediction_set(self.folder)) if is_there else None

    def publish(self, predictions: PredictionSet, *, features: FeatureSet | None = None) -> None:
        """Write the record of the features, then the manifest; ValueError when another job has claimed the folder."""
        self.claim_folder()
        self.publish_features(features)
        self._retry(lambda: write_prediction_set(self.folder, predictions))

    def publish_features(self, features: FeatureSet | None) -> None:
        """Write the record of the features, if there are any and it is not there."""
        if features is not None:
            self.features.publish(features)

    @contextmanager
    def hold_lease(self) -> Iterator[None]:
        """Hold the lease that claims need."""
        with self.units.hold_lease():
            yield

    def read_commits(self, *, known: Mapping[str, CommittedUnit] | None = None) -> dict[str, CommittedUnit]:
        """Committed units whose files are complete; a unit with a damaged or missing file must be redone.

        If features are to be kept, so must a unit that was done without them.

        Files of `known` units were checked before and are not read again.
        """
        records, known = self.units.read_commits(), known or {}
        found = {unit: CommittedUnit.from_record(record) for unit, record in records.items()}
        new = [unit for unit in found if found[unit] != known.get(unit)]
        with ThreadPoolExecutor(max_workers=_NUM_VERIFIERS) as pool:
            is_whole = dict(zip(new, pool.map(lambda unit: self._is_whole(found[unit]), new), strict=True))
        for unit in [unit for unit in new if not is_whole[unit]]:
            self.units.discard(unit, records[unit])
            del found[unit]
        return found

    def reopen_rejected(self, committed: Mapping[str, CommittedUnit]) -> dict[str, CommittedUnit]:
        """Reopen the units with rejected images; returns the units that stay committed."""
        for unit, record in self.units.read_commits().items():
            if unit in committed and committed[unit].rejected and CommittedUnit.from_record(record) == committed[unit]:
                self.units.discard(unit, record)
        return {unit: each for unit, each in committed.items() if not each.rejected}

    def claim_units(self, units: Iterable[str]) -> dict[str, Attempt]:
        """Claim those units that are not committed and that no other job holds."""
        return self.units.claim_all(units)

    def save(
        self,
        attempt: Attempt,
        *,
        rows: pa.Table | EncodedRows,
        rejected: Sequence[Rejection],
        parents: Mapping[str, Any],
        features: KeptRows | None = None,
        num_multipicture: int = 0,
    ) -> CommittedUnit | None:
        """Write and commit the rows of a unit, and the features of its images; returns the committed unit.

        If another job has taken the unit over, that is its output, or None until it commits.
        """
        name = f"{attempt.unit}-{attempt.name}.parquet"
        part = self._retry(lambda: _write_rows(self.folder, rows, name=name, unit=attempt.unit))
        lost = [asdict(each) for each in rejected]
        record: dict[str, Any] = {"part": asdict(part), "rejected": lost, "parents": dict(parents)}
        record["num_multipicture"] = num_multipicture
        if features is not None:
            kept = self.features.write(attempt, features.table, image_side=features.image_side, rejected=lost)
            record["features"] = asdict(kept)
        counting = self.units.commit(attempt, record)
        return None if counting is None else CommittedUnit.from_record(counting)

    def committed_unit(self, unit: str) -> CommittedUnit | None:
        """The committed unit, or None; its file is not checked."""
        record = self.units.record(unit)
        return None if record is None else CommittedUnit.from_record(record)

    def remember_run(self, run_id: str) -> None:
        """Store the id of this job's MLflow run, to resume it after a restart."""
        self.job.write("run", {"run_id": run_id})

    @property
    def run_id(self) -> str | None:
        """Id of this job's last MLflow run, or None."""
        return (self.job.read("run") or {}).get("run_id")

    def write_quarantine(self, rejected: Sequence[Rejection]) -> None:
        """Write the table of rejected images."""
        table = pa.Table.from_pylist([asdict(each) for each in rejected], schema=QUARANTINE_SCHEMA)
        sink = io.BytesIO()
        pq.write_table(table.sort_by("source"), sink, compression="zstd")
        self._write(QUARANTINE_NAME, sink.getvalue())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write counts and times."""
        self._write(_SUMMARY_NAME, (json.dumps(summary, indent=1) + "\n").encode())

    def remove_uncommitted(self, committed: Mapping[str, CommittedUnit]) -> None:
        """Delete the files of attempts that do not count; call it when every unit is committed."""
        self.pieces.remove_all()
        counting_files = {each.part.name for each in committed.values()}
        for name in self._retry(lambda: filesystem.names_in(self.folder)):
            if _PART.fullmatch(name) and name not in counting_files:
                self._retry(partial(filesystem.remove, filesystem.join(self.folder, name)))
        self.features.remove_all_but(each.features.name for each in committed.values() if each.features is not None)

    def _is_whole(self, unit: CommittedUnit) -> bool:
        try:
            self._retry(lambda: read_part(self.folder, unit.part))
        except ValueError:
            return False
        return not self.keep_features or self.features.is_whole(unit.features)

    def _write(self, name: str, data: bytes) -> None:
        self._retry(lambda: filesystem.write(filesystem.join(self.folder, name), data))

    def _retry(self, operation: Callable[[], Result]) -> Result:
        return retry_in_store(operation, place=self.folder)


def _write_rows(folder: str, rows: pa.Table | EncodedRows, *, name: str, unit: str) -> PredictionPart:
    if isinstance(rows, EncodedRows):
        filesystem.write(filesystem.join(folder, name), rows.data)
        return replace(rows.part, name=name, unit=unit)
    return write_part(folder, rows, name=name, unit=unit)
