"""Label the units of a small job in this process: threads decode, this thread scores, writes and commits.

Decoder, scorer and writer are those of `pipelines.scoring.flows.cluster_flow`, and so are records and rows.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

import pyarrow as pa

from pipelines.runtime.actor_resources import Reservation
from pipelines.runtime.local_run import num_local_cpus, restore_torch_threads
from pipelines.scoring.flows.flow_settings import make_reader, make_scorer_settings
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.unit_writer import PartReport, UnitWriter
from pipelines.scoring.work_units import Unit, unit_to_json
from pipelines.storage.attempt import Attempt

_PARTS_AHEAD = 2
_LAST_PART_S = 10.0
"""How long a thread that reads or decodes is waited for when the job ends before it."""


def stream_local_units(
    job: ScoreJob,
    units: Sequence[Unit],
    *,
    folder: PredictionsFolder,
    attempts: Mapping[str, Attempt],
    reservation: Reservation,
) -> Iterator[PartReport]:
    """Label the units and commit each under its attempt; yields a report of each written part, in order.

    Args:
        job: model, input and settings.
        units: the units to label.
        folder: output folder.
        attempts: claimed attempt of each unit, by the unit's name.
        reservation: gives the threads of the image tower.

    Raises:
        ValueError: for a unit that differs from its record, or a model that does not load.
        OSError: for a store that fails.
        TimeoutError: when no part is read and decoded within the no-progress timeout.
    """
    from pipelines.scoring.scorer import Scorer  # torch: a finished job does without

    rows = [pa.table({"unit": [unit_to_json(unit)], "attempt": [attempts[unit.name].to_json()]}) for unit in units]
    reader, settings = make_reader(job, num_threads=num_local_cpus(job.cluster))
    decoder, writer = reader(**settings), UnitWriter(folder, parents=job.digests)
    with restore_torch_threads():
        scorer = Scorer(make_scorer_settings(job, reservation=reservation))
        with _decoded_ahead(decoder, rows, patience_s=job.cluster.no_progress_timeout_s) as parts:
            for part in parts:
                yield from PartReport.from_rows(writer(scorer(part)))


@contextmanager
def _decoded_ahead(
    decoder: Callable[[pa.Table], Iterator[pa.Table]], rows: Sequence[pa.Table], *, patience_s: float
) -> Iterator[Iterator[pa.Table]]:
    """Decoded parts, in order, a few of them ahead in a thread; an error of the thread is raised where it would be."""
    decoded: Queue[pa.Table | BaseException | None] = Queue(_PARTS_AHEAD)
    is_over = Event()

    def decode() -> None:
        try:
            for row in rows:
                for part in decoder(row):
                    decoded.put(part)
                    if is_over.is_set():
                        return
            decoded.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            decoded.put(error)

    def read() -> Iterator[pa.Table]:
        while (found := _wait_for(decoded, patience_s=patience_s)) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    thread = Thread(target=decode, daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        is_over.set()
        deadline = time.monotonic() + _LAST_PART_S
        while thread.is_alive() and time.monotonic() < deadline:
            with suppress(Empty):
                decoded.get_nowait()  # it may wait for a place
            thread.join(0.02)


def _wait_for(decoded: "Queue[Any]", *, patience_s: float) -> Any:
    try:
        return decoded.get(timeout=patience_s)
    except Empty:
        raise TimeoutError(
            f"no image was read and decoded for {patience_s:g} s: look whether the disk or the store answers, or wait "
            "longer with --cluster.no-progress-timeout-s; the same command resumes from here"
        ) from None
