"""`ecor score` in this process: its reader, scorer and writer one after the other, in place of Ray's actors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import pyarrow as pa
import pytest

from pipelines.runtime.actor_resources import Reservation
from pipelines.scoring.dataflow import make_reader, make_scorer_settings
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scorer import Scorer
from pipelines.scoring.unit_writer import PartReport, UnitWriter
from pipelines.scoring.work_units import Unit, unit_to_json
from pipelines.storage.work_ledger import Attempt


def score_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on `pipelines.stages.score.run` starts no cluster; all else is as it is."""
    monkeypatch.setattr("pipelines.runtime.cluster.connect", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr("pipelines.runtime.cluster.cluster_machines", lambda *args, **kwargs: [{"CPU": 1.0}])
    monkeypatch.setattr("pipelines.scoring.dataflow.stream_units", _stream_units)


def _stream_units(
    job: ScoreJob,
    units: Sequence[Unit],
    *,
    folder: PredictionsFolder,
    attempts: Mapping[str, Attempt],
    reservation: Reservation,
) -> Iterator[PartReport]:
    reader, settings = make_reader(job)
    read, score = reader(**settings), Scorer(make_scorer_settings(job, reservation=reservation))
    write = UnitWriter(folder, parents=job.digests)
    for unit in units:
        row = pa.table({"unit": [unit_to_json(unit)], "attempt": [attempts[unit.name].to_json()]})
        for part in read(row):
            yield from PartReport.from_rows(write(score(part)))
