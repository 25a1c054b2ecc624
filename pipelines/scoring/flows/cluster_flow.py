"""Stream units of images through the cluster: decode on CPUs, score on GPUs or CPUs, write and commit.

Where images are labelled by kept features, these are read instead of decoding. Pixels, features and rows pass from
actor to actor in Ray's object store; the driver gets one report per part.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from pipelines.runtime.actor_arguments import inline_actor_arguments
from pipelines.runtime.actor_resources import Reservation
from pipelines.runtime.ray_data import raise_causes, ray_data_settings
from pipelines.scoring.decoder import PART_BYTES
from pipelines.scoring.flows.flow_settings import ScorerSettings, make_reader, make_scorer_settings
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.unit_writer import PartReport, UnitWriter
from pipelines.scoring.work_units import Unit, unit_to_json
from pipelines.storage.attempt import Attempt

_NUM_BLOCKS = 500
"""Blocks of a job with many units, at least."""
_BLOCKS_PER_DECODER = 16
"""At least: more decoders than blocks would have nothing to do, and the last ones end late."""


def stream_units(
    job: ScoreJob,
    units: Sequence[Unit],
    *,
    folder: PredictionsFolder,
    attempts: Mapping[str, Attempt],
    reservation: Reservation,
) -> Iterator[PartReport]:
    """Label the units and commit each under its attempt; yields a report of each written part, in any order.

    Args:
        job: model, input and settings.
        units: the units to label.
        folder: output folder.
        attempts: claimed attempt of each unit, by the unit's name.
        reservation: CPUs and GPUs of the actors.

    Raises:
        ValueError: for a unit that differs from its record, or a model that does not load.
        OSError: for a store that fails.
        TimeoutError: when the cluster makes no progress.
    """
    writing = {"folder": folder, "parents": job.digests}
    with ray_data_settings(job.cluster, max_block_bytes=PART_BYTES), inline_actor_arguments(), raise_causes():
        parts = _units_dataset(units, attempts=attempts, num_decoders=reservation.num_decoders)
        reader, settings = make_reader(job)
        parts = _map_with_actors(
            parts,
            reader,
            settings,
            cpus=reservation.cpus_per_decoder,
            num_actors=reservation.num_decoders,
        )
        parts = _map_with_actors(
            parts,
            ScorerActor,
            {"settings": make_scorer_settings(job, reservation=reservation)},
            cpus=reservation.cpus_per_scorer,
            gpus=reservation.gpus_per_scorer,
            num_actors=reservation.num_scorers,
        )
        parts = _map_with_actors(parts, UnitWriter, writing, cpus=0, num_actors=reservation.num_scorers)
        for block in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from PartReport.from_rows(block)


def _units_dataset(units: Sequence[Unit], *, attempts: Mapping[str, Attempt], num_decoders: int) -> Dataset:
    """One row per unit, made in this process: `from_arrow` waits for a cluster task without a timeout.

    A block is one task of a decoder. For each, Ray Data takes 40 ms and 20 kB of the driver: many units share blocks.
    """
    rows = [{"unit": unit_to_json(unit), "attempt": attempts[unit.name].to_json()} for unit in units]
    num_blocks = max(_NUM_BLOCKS, _BLOCKS_PER_DECODER * num_decoders)
    return ray.data.from_items(rows, override_num_blocks=min(num_blocks, len(units)))


def _map_with_actors(
    rows: Dataset, actor: type, settings: Mapping[str, Any], *, cpus: float, num_actors: int, gpus: float = 0.0
) -> Dataset:
    """Map rows one by one with a pool of actors, which Ray Data scales with the work."""
    return rows.map_batches(
        actor,
        fn_constructor_kwargs=dict(settings),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cpus,
        num_gpus=gpus or None,
        compute=ActorPoolStrategy(min_size=1, max_size=num_actors),
    )


class ScorerActor:
    """A `Scorer` for Ray Data. An error while it loads the model is raised by the first call: for errors in an actor's
    constructor, Ray keeps the text only, not the type."""

    def __init__(self, settings: ScorerSettings) -> None:
        from pipelines.scoring.scorer import Scorer  # torch: the driver does without

        self._failure: ValueError | OSError | None = None
        try:
            self._scorer = Scorer(settings)
        except (ValueError, OSError) as error:
            self._failure = error

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self._failure is not None:
            raise self._failure
        return self._scorer(rows)
