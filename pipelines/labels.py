"""Scored units in, a folder of labels out that can be left and taken up again at any moment.

manifest.json        the `PredictionSet`, written last
<unit>-<attempt>.parquet   rows of a unit; which attempt counts is decided by its commit record
quarantine.parquet   pictures without a label, and why
summary.json         counts, rate, where the time went
_commits/            job (what the folder is for), run (its MLflow run), and a commit record per unit
"""

import io
import json
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.predictions import MANIFEST_NAME, PredictionPart, PredictionSet, read_manifest, read_part, write_part
from pipelines.ledger import Ledger
from pipelines.units import Rejection

QUARANTINE_NAME = "quarantine.parquet"
SUMMARY_NAME = "summary.json"
QUARANTINE_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in Rejection.__slots__])
"""A row per rejected picture; see `pipelines.units.Rejection`."""
_VERIFIED_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A unit that is done."""

    part: PredictionPart
    rejected: tuple[Rejection, ...]


class LabelsFolder:
    """A folder of labels of one job; any address fsspec writes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder.rstrip("/")
        self.attempt = uuid.uuid4().hex[:8]
        self.units = Ledger(f"{self.folder}/_commits/units")
        self.job = Ledger(f"{self.folder}/_commits/job")

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Make the folder this job's, or find that it is.

        Raises ValueError, naming each thing that differs with both values, when it is another job's.
        """
        found = self.job.commit("identity", identity)
        differing = [name for name in identity if found.get(name) != identity[name]]
        if differing:
            told = "; ".join(f"{name} was {found.get(name)}, is {identity[name]}" for name in differing)
            raise ValueError(f"{self.folder} holds labels of another job: {told}. Name another output, or add --fresh")

    def clear(self) -> None:
        """Forget what was done here; the files of a job that is running here at the same time are lost to it."""
        fs, root = fsspec.url_to_fs(self.folder)
        if fs.exists(f"{root}/{MANIFEST_NAME}"):
            fs.rm_file(f"{root}/{MANIFEST_NAME}")
        self.units.clear()
        self.job.clear()

    def finished(self) -> PredictionSet | None:
        """The manifest, if it is there."""
        fs, root = fsspec.url_to_fs(self.folder)
        return read_manifest(self.folder) if fs.exists(f"{root}/{MANIFEST_NAME}") else None

    def committed(self) -> dict[str, Committed]:
        """Units that are done and whose files are whole; a damaged or missing one is to be done again."""
        records = {unit: _committed(record) for unit, record in self.units.committed().items()}
        with ThreadPoolExecutor(max_workers=_VERIFIED_AT_ONCE) as pool:
            is_whole = dict(
                zip(records, pool.map(lambda each: self._is_whole(each.part), records.values()), strict=True)
            )
        for unit in records:
            if not is_whole[unit]:
                self.units.discard(unit)
        return {unit: record for unit, record in records.items() if is_whole[unit]}

    def save(self, unit: str, *, rows: pa.Table, rejected: Sequence[Rejection]) -> Committed:
        """Write a unit's rows and commit them; returns what counts, which may be an earlier attempt's."""
        part = write_part(self.folder, rows, name=f"{unit}-{self.attempt}.parquet", unit=unit)
        record = {"part": asdict(part), "rejected": [asdict(each) for each in rejected]}
        return _committed(self.units.commit(unit, record))

    def remember_run(self, run_id: str) -> None:
        """Keep the MLflow run of this job, to go on in it after a restart."""
        self.job.discard("run")
        self.job.commit("run", {"run_id": run_id})

    @property
    def run_id(self) -> str | None:
        """The MLflow run that this job was last recorded in."""
        return self.job.committed().get("run", {}).get("run_id")

    def write_quarantine(self, rejected: Sequence[Rejection]) -> None:
        """Write the table of pictures without a label."""
        table = pa.Table.from_pylist([asdict(each) for each in rejected], schema=QUARANTINE_SCHEMA)
        sink = io.BytesIO()
        pq.write_table(table.sort_by("source"), sink, compression="zstd")
        self._write(QUARANTINE_NAME, sink.getvalue())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write counts and times."""
        self._write(SUMMARY_NAME, (json.dumps(summary, indent=1) + "\n").encode())

    def remove_losers(self, committed: Mapping[str, Committed]) -> None:
        """Delete the files of attempts that do not count; call it when every unit is committed, and none can win."""
        fs, root = fsspec.url_to_fs(self.folder)
        kept = {each.part.name for each in committed.values()} | {QUARANTINE_NAME}
        for path in fs.glob(f"{root}/*-????????.parquet"):
            if path.rpartition("/")[2] not in kept:
                fs.rm_file(path)

    def _is_whole(self, part: PredictionPart) -> bool:
        try:
            read_part(self.folder, part)
        except ValueError:
            return False
        return True

    def _write(self, name: str, data: bytes) -> None:
        fs, root = fsspec.url_to_fs(self.folder)
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(f"{root}/{name}", data)


def _committed(record: Mapping[str, Any]) -> Committed:
    return Committed(
        part=PredictionPart(**record["part"]), rejected=tuple(Rejection(**each) for each in record["rejected"])
    )
