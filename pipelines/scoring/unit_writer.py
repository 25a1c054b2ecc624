"""Write and commit the labels of a unit whose parts are scored one by one, on any machine, in any order.

A unit of one part is written at once. Of a larger unit, each part is stored as a file of its attempt, and the actor
that adds the last part writes the unit. Several actors may act as the last one: they write the same bytes under the
same name, and the ledger accepts one commit.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.runtime.prometheus import STEP_SECONDS, observe
from pipelines.scoring.decoder import from_ipc, to_ipc
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scored_part import KeptRows, ScoredPart, StepTimings
from pipelines.scoring.work_units import CommittedUnit
from pipelines.storage.attempt import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedUnit:
    """A unit that was scored and written here."""

    attempt: Attempt
    committed: CommittedUnit | None
    """The committed unit; None: another job has taken it over and still works on it."""

    @property
    def counts(self) -> bool:
        """Whether this attempt counts."""
        return self.committed is not None and self.committed.part.name.endswith(f"-{self.attempt.name}.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """Report of a part to the driver: counts and times, no rows."""

    unit: str
    seconds: StepTimings
    num_cut: int
    """Sentences of the whole vocabulary that are longer than the text tower reads."""
    saved: SavedUnit | None
    """The unit, once all of its parts are written; until then None."""

    def to_row(self) -> pa.Table:
        """The report as one row of an Arrow table, for Ray Data."""
        return pa.table({"report": [json.dumps(asdict(self))]})

    @classmethod
    def from_rows(cls, table: pa.Table) -> list["PartReport"]:
        """Read all reports of a block of Ray Data."""
        return [cls._from_values(json.loads(text)) for text in table["report"].to_pylist()]

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> "PartReport":
        saved = values["saved"]
        if saved is not None:
            committed = None if saved["committed"] is None else CommittedUnit.from_record(saved["committed"])
            saved = SavedUnit(attempt=Attempt(**saved["attempt"]), committed=committed)
        return cls(**{**values, "seconds": StepTimings(**values["seconds"]), "saved": saved})


class UnitWriter:
    """Writes the units that a job has claimed; any copy of this actor may get any part."""

    def __init__(self, folder: PredictionsFolder, *, parents: Mapping[str, Any]) -> None:
        """`parents` are the digests that go into commit records. Each part brings the claim of its unit."""
        self.folder = folder
        self.parents = dict(parents)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Map rows with scored parts to rows with reports."""
        return pa.concat_tables([self.add(part).to_row() for part in ScoredPart.from_rows(rows)])

    def add(self, part: ScoredPart) -> PartReport:
        """Store a part; with the last part of its unit, write and commit the unit."""
        began = time.perf_counter()
        assert part.attempt is not None, f"{part.unit} was not claimed"
        saved = self._add_piece(part, attempt=part.attempt)
        seconds = part.seconds + StepTimings(write=time.perf_counter() - began)
        observe(STEP_SECONDS, seconds.write, stage="score", step="write")
        return PartReport(unit=part.unit, seconds=seconds, num_cut=part.num_cut, saved=saved)

    def _add_piece(self, part: ScoredPart, *, attempt: Attempt) -> SavedUnit | None:
        if part.num_parts == 1:
            return self._commit([part], attempt=attempt)
        self.folder.pieces.write(attempt, index=part.index, data=to_ipc(part.to_row()))
        pieces = self.folder.pieces.read(attempt, num_pieces=part.num_parts)
        if pieces is None:  # some parts are missing, or the unit was assembled before this part was redone
            committed = self.folder.committed_unit(part.unit)
            return None if committed is None else SavedUnit(attempt=attempt, committed=committed)
        saved = self._commit(
            [each for data in pieces for each in ScoredPart.from_rows(from_ipc(data))], attempt=attempt
        )
        if saved.counts:
            self.folder.pieces.remove(attempt)
        return saved

    def _commit(self, parts: Sequence[ScoredPart], *, attempt: Attempt) -> SavedUnit:
        committed = self.folder.save(
            attempt,
            rows=pa.concat_tables([part.rows for part in parts]),
            rejected=[each for part in parts for each in part.rejected],
            parents=self.parents,
            features=_features_of(parts),
            num_multipicture=sum(part.num_multipicture for part in parts),
        )
        return SavedUnit(attempt=attempt, committed=committed)


def _features_of(parts: Sequence[ScoredPart]) -> KeptRows | None:
    """The features of all parts of a unit; None where they are not kept."""
    kept = [part.features for part in parts if part.features is not None]
    if not kept:
        return None
    return KeptRows(table=pa.concat_tables([each.table for each in kept]), image_side=kept[0].image_side)
