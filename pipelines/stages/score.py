"""Images (shards, a folder or a table) and a pinned model in, explained labels in Parquet and their manifest out.

Ray Data streams parts of units from decoding actors (CPU) to scoring actors (GPU or CPU); the driver puts the parts of
a unit together, writes its file and commits it. Kill it at any moment and run the same command again: no row is lost,
and none is there twice.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from ecor.checkpoint import load
from ecor.config import Preprocess, TextConfig
from ecor.data.predictions import PredictionParents, PredictionSet
from ecor.data.vocabulary import Vocabulary, read_vocabulary
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, resolve_tracking
from pipelines.config.stages import ScoreConfig
from pipelines.runtime.cluster import connect, machines
from pipelines.runtime.console import progress_bar, say
from pipelines.runtime.prometheus import (
    IMAGES_QUARANTINED,
    IMAGES_SCORED,
    IMAGES_SEEN,
    RETRIES,
    STEP_SECONDS,
    UNITS_DONE,
    count,
    observe,
)
from pipelines.runtime.ray_data import causes_raised, ray_data_settings
from pipelines.scoring.attributions import AttributionSettings, rule_of
from pipelines.scoring.decoder import PART_BYTES, Decoder, images_per_part
from pipelines.scoring.job_stats import JobStats, Saved, summary_line
from pipelines.scoring.predictions_folder import QUARANTINE_NAME, Committed, PredictionsFolder
from pipelines.scoring.resources import Reservation, reserve
from pipelines.scoring.scorer import ScoredPart, ScorerActor, ScorerSettings, StepTimings
from pipelines.scoring.work_units import Input, Unit, read_input, unit_to_json
from pipelines.storage.work_ledger import Attempt
from pipelines.tracking import model_cache, model_registry
from pipelines.tracking.model_cache import ModelVersion
from pipelines.tracking.model_loading import projection_of

_WRITES_AT_ONCE = 4
_DIGESTS = ("input_digest", "model_digest", "vocabulary_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that is settled before the first image is read."""

    config: ScoreConfig
    model: ModelVersion
    tracking: TrackingConfig
    cluster: ClusterConfig
    input: Input
    vocabulary: Vocabulary | None
    """Other names than the model's own."""
    preprocess: Preprocess
    evidence: AttributionSettings | None
    """Which images get maps of where the evidence is."""

    @property
    def vocabulary_digest(self) -> str:
        return self.vocabulary.digest if self.vocabulary else self.model.vocabulary_digest

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for finished units to be kept; all rows of a folder name one model."""
        return {
            "input_digest": self.input.digest,
            "model_name": self.model.name,
            "model_version": self.model.version,
            "model_digest": self.model.digest,
            "vocabulary_digest": self.vocabulary_digest,
            **output_settings(self.config),
            **({} if self.evidence is None else {"evidence": self.evidence.identity}),
        }

    @property
    def parents(self) -> PredictionParents:
        return PredictionParents(
            input=self.config.input,
            input_digest=self.input.digest,
            model_uri=self.model.asked_for,
            model_name=self.model.name,
            model_version=self.model.version,
            model_digest=self.model.digest,
            vocabulary_digest=self.vocabulary_digest,
        )


def run(
    config: ScoreConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> PredictionSet:
    """Label every image of the input; units that an earlier attempt has finished are verified and kept.

    Args:
        config: what, with which model, to where.
        cluster: where it runs. Units that another job works on are left to it, until it finishes them or ends.
        tracking: MLflow's server; the job is one run there, also after restarts.

    Raises:
        ValueError: when the model or input is not there, the output holds another job's labels (also those of another
            version of the model, which an alias may mean by now), a shard is not what its manifest says, or more than
            `max_rejected` of the images are in quarantine.
        OSError: when MLflow's server is gone for good; the same command goes on in the same run.
    """
    began = time.perf_counter()
    job = _job(config, cluster=cluster or ClusterConfig(), tracking=resolve_tracking(tracking or TrackingConfig()))
    folder = PredictionsFolder(config.output, identity=job.identity, lease_s=job.cluster.lease_s)
    if config.fresh:
        folder.clear()
    folder.take()
    with folder.hold_lease(), _left_if_refused(folder):
        attempts, committed = _begun(job, folder=folder)
        finished = folder.finished()
        if finished is not None and len(committed) == len(job.input.units):
            say(
                f"{finished.num_rows} images were scored before, {finished.num_rejected} rejected; units: "
                f"{len(committed)} kept, 0 done: {config.output}",
                to_stdout=True,
            )
            return finished
        with _recorded(job, folder=folder) as run_id, connect(job.cluster, stage="score"):
            tally = JobStats(committed=committed)
            reservation = reserve(config, machines=machines(job.cluster, use_gpu=config.use_gpu))
            _score(job, folder=folder, tally=tally, reservation=reservation, attempts=attempts)
            predictions = _settled(job, folder=folder, tally=tally, run_id=run_id)
            summary = {
                "output": config.output,
                "model": job.model.uri,
                **tally.summary(num_images=job.input.num_images, seconds=time.perf_counter() - began),
                "actors": {**asdict(reservation), "threads_per_scorer": reservation.num_threads},
            }
            # MLflow first: with a manifest there, the next attempt would have nothing left to do or to record
            _record(job, run_id=run_id, summary=summary, predictions=predictions)
            folder.publish(predictions)
            folder.write_summary({**summary, "run_id": run_id, "digest": predictions.digest})
    say(summary_line(summary), to_stdout=True)
    return predictions


@contextlib.contextmanager
def _left_if_refused(folder: PredictionsFolder) -> Iterator[None]:
    try:
        yield
    except ValueError:
        folder.leave()
        raise


def _job(config: ScoreConfig, *, cluster: ClusterConfig, tracking: TrackingConfig) -> Job:
    model = model_registry.resolve(config.model, tracking=tracking)
    images = read_input(config.input, unit_size=config.unit_size)
    vocabulary = read_vocabulary(config.vocabulary) if config.vocabulary else None
    preprocess = load(model_cache.fetch(model, tracking=tracking)).backbone.preprocess
    projection = None
    if config.explain_projection is not None:
        digest = model.backbone_digest
        projection = projection_of(config.explain_projection, tracking=tracking, backbone_digest=digest)
    return Job(
        config=config,
        model=model,
        tracking=tracking,
        cluster=cluster,
        input=images,
        vocabulary=vocabulary,
        preprocess=preprocess,
        evidence=rule_of(config, num_images=images.num_images, projection=projection),
    )


def _begun(job: Job, *, folder: PredictionsFolder) -> tuple[dict[str, Attempt], dict[str, Committed]]:
    """Units claimed by this job, and units that are done; waits as long as others hold all that is not done.

    Where an earlier run has stopped because too many pictures were rejected, they may have been mended: the units that
    they are in are not done.
    """
    committed = folder.committed()
    is_finished = len(committed) == len(job.input.units) and folder.finished() is not None
    if not is_finished and _is_too_many(JobStats(committed=committed).num_rejected, job=job):
        committed = folder.look_again(committed)
    while True:
        pending = [unit.name for unit in job.input.units if unit.name not in committed]
        attempts = folder.begin(pending)
        if attempts or not pending:
            return attempts, committed
        folder.units.wait(pending, tell=partial(say, to_stdout=True))
        committed = folder.committed(known=committed)


def _score(
    job: Job, *, folder: PredictionsFolder, tally: JobStats, reservation: Reservation, attempts: Mapping[str, Attempt]
) -> None:
    """Score the units of `attempts`, then what other jobs have left, until all are done; `tally` tells of all."""
    _check_rejected(job, folder=folder, tally=tally)
    while len(tally.committed) < len(job.input.units):
        if attempts:
            _score_claimed(job, folder=folder, tally=tally, reservation=reservation, attempts=attempts)
        pending = [unit.name for unit in job.input.units if unit.name not in tally.committed]
        attempts = folder.begin(pending)
        if pending and not attempts:
            folder.units.wait(pending, tell=partial(say, to_stdout=True))
            tally.add_others(folder.committed(known=tally.committed))
            _check_rejected(job, folder=folder, tally=tally)


def _score_claimed(
    job: Job, *, folder: PredictionsFolder, tally: JobStats, reservation: Reservation, attempts: Mapping[str, Attempt]
) -> None:
    units = {unit.name: unit for unit in job.input.units if unit.name in attempts}
    seen = set()
    with (
        progress_bar("scoring", total=sum(unit.num_images for unit in units.values()), unit="images") as advance,
        ThreadPoolExecutor(_WRITES_AT_ONCE) as pool,
    ):
        writing: dict[str, Future[Saved]] = {}

        def add(unit: str) -> None:
            saved = writing.pop(unit).result()
            tally.add(units[unit], saved)
            _count(saved, num_images=units[unit].num_images)
            advance(units[unit].num_images)

        for parts in _whole_units(_scored(job, pending=list(units.values()), reservation=reservation)):
            tally.seconds += sum((part.seconds for part in parts), StepTimings())
            tally.num_cut = parts[0].num_cut
            unit = parts[0].unit
            seen.add(unit)
            writing[unit] = pool.submit(_saved, parts, folder=folder, attempt=attempts[unit], job=job)
            for name in [name for name, future in writing.items() if future.done()]:
                add(name)
                _check_rejected(job, folder=folder, tally=tally)
        for name in list(writing):
            add(name)
    _check_rejected(job, folder=folder, tally=tally)
    missing = units.keys() - seen
    assert not missing, f"Ray Data ended without the units {sorted(missing)[:5]}"


def _scored(job: Job, *, pending: Sequence[Unit], reservation: Reservation) -> Iterator[ScoredPart]:
    """Scored parts as they come: units in, decoding actors, scoring actors, parts out."""
    config = job.config
    settings = ScorerSettings(
        model=job.model,
        tracking=job.tracking,
        vocabulary=job.vocabulary.to_json() if job.vocabulary else None,
        scoring=config.scoring,
        text=_shared_text(config, num_scorers=reservation.num_scorers),
        batch_size=config.batch_size,
        precision=config.precision,
        use_gpu=config.use_gpu,
        num_threads=reservation.num_threads,
        evidence=job.evidence,
    )
    # Ray tells stderr once per job that an actor "has constructor arguments in the object store and max_restarts > 0"
    # (ray issues 53727, 57733): Ray Data puts the arguments of every actor there, and holds them until the job ends. No
    # setting silences that line alone, and without restarts a dead actor would end the job.
    with ray_data_settings(job.cluster, max_block_bytes=PART_BYTES), causes_raised():
        parts = (
            _from_units(pending)
            .map_batches(
                Decoder,
                fn_constructor_kwargs={
                    "preprocess": job.preprocess,
                    "num_images": images_per_part(job.preprocess, batch_size=config.batch_size),
                },
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=reservation.cpus_per_decoder,
                compute=ActorPoolStrategy(min_size=1, max_size=reservation.num_decoders),
            )
            .map_batches(
                ScorerActor,
                fn_constructor_args=(settings,),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=reservation.cpus_per_scorer,
                num_gpus=reservation.gpus_per_scorer or None,
                compute=ActorPoolStrategy(min_size=1, max_size=reservation.num_scorers),
            )
        )
        for block in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from ScoredPart.from_rows(block)


def _from_units(units: Sequence[Unit]) -> Dataset:
    """A row, and a block, per unit; made here: `from_arrow` would wait for a task on the cluster, without end."""
    return ray.data.from_items([{"unit": unit_to_json(unit)} for unit in units], override_num_blocks=len(units))


def _whole_units(parts: Iterator[ScoredPart]) -> Iterator[list[ScoredPart]]:
    """The parts of each unit in order, as soon as all of them are there; one that comes twice counts once."""
    waiting: dict[str, dict[int, ScoredPart]] = {}
    for part in parts:
        held = waiting.setdefault(part.unit, {})
        held[part.index] = part
        if len(held) == part.num_parts:
            del waiting[part.unit]
            yield [held[index] for index in range(part.num_parts)]
    assert not waiting, f"parts are missing of the units {sorted(waiting)[:5]}"


def _saved(parts: Sequence[ScoredPart], *, folder: PredictionsFolder, attempt: Attempt, job: Job) -> Saved:
    """Write and commit a unit."""
    began = time.perf_counter()
    committed = folder.save(
        attempt,
        rows=pa.concat_tables([part.rows for part in parts]),
        rejected=[each for part in parts for each in part.rejected],
        parents={name: job.identity[name] for name in _DIGESTS},
    )
    return Saved(attempt=attempt, committed=committed, write_s=time.perf_counter() - began)


def _count(saved: Saved, *, num_images: int) -> None:
    """Tell Prometheus of a unit that was scored here."""
    observe(STEP_SECONDS, saved.write_s, stage="score", step="write")
    if saved.committed is None or not saved.is_ours:
        count(UNITS_DONE, stage="score", how="by another job")
        return
    count(UNITS_DONE, stage="score", how="taken over" if saved.attempt.took_over else "done")
    count(RETRIES, int(saved.attempt.took_over), kind="taken over")
    count(IMAGES_SEEN, num_images, stage="score")
    count(IMAGES_SCORED, saved.committed.part.num_rows)
    for rejection in saved.committed.rejected:
        count(IMAGES_QUARANTINED, stage="score", reason=rejection.reason)


def _check_rejected(job: Job, *, folder: PredictionsFolder, tally: JobStats) -> None:
    """Stop the job where it is certain that more than the allowed share of all images is rejected."""
    if not _is_too_many(tally.num_rejected, job=job):
        return
    rejected = tally.rejected
    folder.write_quarantine(rejected)
    first = rejected[0]
    raise ValueError(
        f"{len(rejected)} of {job.input.num_images} images are rejected, more than max_rejected "
        f"({job.config.max_rejected}); the first is {first.source} ({first.reason}: {first.detail}), all are in "
        f"{folder.folder}/{QUARANTINE_NAME}. Mend the images and {job.input.once_mended}, or run again with a higher "
        f"--max-rejected, which keeps what is scored"
    )


def _is_too_many(num_rejected: int, *, job: Job) -> bool:
    return num_rejected > job.config.max_rejected * job.input.num_images


def _settled(job: Job, *, folder: PredictionsFolder, tally: JobStats, run_id: str) -> PredictionSet:
    """What is to be published, when all else in the folder is as it stays."""
    folder.remove_losers(tally.committed)
    folder.write_quarantine(tally.rejected)
    return PredictionSet(
        parts=tuple(tally.committed[unit.name].part for unit in job.input.units),
        parents=job.parents,
        scoring=job.config.scoring,
        num_rejected=tally.num_rejected,
        run_id=run_id,
    )


@contextlib.contextmanager
def _recorded(job: Job, *, folder: PredictionsFolder) -> Iterator[str]:
    """The job's MLflow run: the one it had before a restart, where this server knows it."""
    tags = {
        "ecor.stage": "score",
        "ecor.model_uri": job.model.uri,
        "ecor.model_asked_for": job.model.asked_for,
        "ecor.output": job.config.output,
        "ecor.input": job.config.input,
        **{f"ecor.{name}": str(job.identity[name]) for name in _DIGESTS},
    }
    known = folder.run_id if model_registry.knows_run(job.tracking, run_id=folder.run_id) else None
    with model_registry.recorded_run(
        job.tracking, name="score", params=asdict(job.config), tags=tags, run_id=known
    ) as run_id:
        folder.remember_run(run_id)
        yield run_id


def _record(job: Job, *, run_id: str, summary: Mapping[str, Any], predictions: PredictionSet) -> None:
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    spent = {f"seconds.{name}": value for name, value in summary["seconds_of"].items()}
    model_registry.log_metrics(job.tracking, run_id=run_id, metrics={**numbers, **spent})
    model_registry.log_tags(job.tracking, run_id=run_id, tags={"ecor.predictions_digest": predictions.digest})


def _shared_text(config: ScoreConfig, *, num_scorers: int) -> TextConfig:
    """Several scorers of a machine share one file of text features, in the machine's cache if no folder is named."""
    if config.text.cache_dir is not None or num_scorers == 1:
        return config.text
    return replace(config.text, cache_dir=str(model_cache.default_cache_dir().with_name("text")))
