"""Images (shards, a folder or a table) and a pinned model in, explained labels in Parquet and their manifest out.

Ray Data streams parts of units from decoding actors (CPU) to scoring actors (GPU or CPU); the driver puts the parts of
a unit together, writes its file and commits it. Kill it at any moment and run the same command again: no row is lost,
and none is there twice.
"""

import contextlib
import math
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ecor.checkpoint import load
from ecor.config import Preprocess, TextConfig, require
from ecor.predictions import PredictionParents, PredictionSet, write_manifest
from ecor.vocabulary import Vocabulary, read_vocabulary
from pipelines import pinned, registry
from pipelines.blocks import causes_raised, ray_data_settings
from pipelines.cluster import connected
from pipelines.config import ClusterConfig, ScoreConfig, TrackingConfig, resolved
from pipelines.decoding import PART_BYTES, Decoder, images_per_part
from pipelines.labels import QUARANTINE_NAME, Committed, LabelsFolder
from pipelines.pinned import ModelVersion
from pipelines.scoring import ScoredPart, Scorer, ScorerSettings, Seconds
from pipelines.units import Input, Rejection, Unit, read_input

_SCORING_SHARE = 0.75  # of the CPUs, where there is no GPU: an image tower costs ten times a decoding
_WRITES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What Ray sets aside for the actors of a job; together never more than the cluster has."""

    num_decoders: int
    cpus_per_decoder: float
    num_scorers: int
    cpus_per_scorer: float
    gpus_per_scorer: float

    @property
    def num_threads(self) -> int:
        """Of torch in a scorer: one per CPU, a begun one counted whole."""
        return max(1, math.ceil(self.cpus_per_scorer))


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

    @property
    def vocabulary_digest(self) -> str:
        return self.vocabulary.digest if self.vocabulary else self.model.vocabulary_digest

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for finished units to be kept."""
        config = self.config
        return {
            "input_digest": self.input.digest,
            "model_digest": self.model.digest,
            "vocabulary_digest": self.vocabulary_digest,
            "scoring": asdict(config.scoring),
            "unit_size": config.unit_size,
            "batch_size": config.batch_size,
            "precision": config.precision,
            "use_gpu": config.use_gpu,
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


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has happened so far; the one record here that changes."""

    committed: dict[str, Committed]
    num_images: int = 0
    """Of units done in this attempt, rejected ones included."""
    num_rejected: int = field(init=False)
    """Of all units that are done."""
    seconds: Seconds = field(default_factory=Seconds)

    def __post_init__(self) -> None:
        self.num_rejected = len(self.rejected)

    def add(self, unit: Unit, committed: Committed, write_s: float) -> None:
        """A unit of this attempt is done."""
        self.committed[unit.name] = committed
        self.num_images += unit.num_images
        self.num_rejected += len(committed.rejected)
        self.seconds += Seconds(write=write_s)

    @property
    def rejected(self) -> list[Rejection]:
        return [each for unit in self.committed.values() for each in unit.rejected]


def run(
    config: ScoreConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> PredictionSet:
    """Label every image of the input; units that an earlier attempt has finished are verified and kept.

    Args:
        config: what, with which model, to where.
        cluster: where it runs.
        tracking: MLflow's server; the job is one run there, also after restarts.

    Raises:
        ValueError: when the model or input is not there, the output holds another job's labels, a shard is not what its
            manifest says, or more than `max_rejected` of the images are in quarantine.
    """
    began = time.perf_counter()
    job = _job(config, cluster=cluster or ClusterConfig(), tracking=resolved(tracking or TrackingConfig()))
    folder = LabelsFolder(config.output)
    if config.fresh:
        folder.clear()
    folder.claim(job.identity)
    committed = folder.committed()
    finished = folder.finished()
    if finished is not None and len(committed) == len(job.input.units):
        _say(f"{finished.num_rows} images were scored before, {finished.num_rejected} rejected: {config.output}")
        return finished
    with _recorded(job, folder=folder) as run_id, connected(job.cluster):
        tally = Tally(committed=committed)
        reservation = reserve(config, resources=ray.cluster_resources())
        _score(job, folder=folder, tally=tally, reservation=reservation)
        predictions = _publish(job, folder=folder, tally=tally, run_id=run_id)
        summary = _summary(job, tally=tally, reservation=reservation, seconds=time.perf_counter() - began)
        folder.write_summary({**summary, "run_id": run_id, "digest": predictions.digest})
        _record(job, run_id=run_id, summary=summary, predictions=predictions)
    _tell(summary)
    return predictions


def reserve(config: ScoreConfig, *, resources: Mapping[str, float]) -> Reservation:
    """Divide a cluster's CPUs and GPUs; decoders and scorers both get a share, of a single CPU too.

    Without GPUs scorers get three quarters of the CPUs. Ray counts reservations in steps of 0.0001.

    Raises ValueError when GPUs are asked for and there is none.
    """
    num_cpus, num_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    require(num_cpus > 0, "the cluster has no CPU to decode on")
    require(
        not config.use_gpu or num_gpus > 0,
        "use_gpu is set, but the cluster has no GPU: start one with GPUs, or drop it",
    )
    num_scorers = config.num_scorers or (max(1, int(num_gpus)) if config.use_gpu else 1)
    for_scoring = min(num_scorers, num_cpus / 2) if config.use_gpu else _SCORING_SHARE * num_cpus
    cpus_per_scorer = _rounded_down(for_scoring / num_scorers)
    left = num_cpus - num_scorers * cpus_per_scorer
    num_decoders = config.num_decoders or max(1, int(left))
    return Reservation(
        num_decoders=num_decoders,
        cpus_per_decoder=_rounded_down(min(1.0, left / num_decoders)),
        num_scorers=num_scorers,
        cpus_per_scorer=cpus_per_scorer,
        gpus_per_scorer=_rounded_down(min(1.0, num_gpus / num_scorers)) if config.use_gpu else 0.0,
    )


def _rounded_down(share: float) -> float:
    return math.floor(share * 10_000 + 1e-6) / 10_000


def _job(config: ScoreConfig, *, cluster: ClusterConfig, tracking: TrackingConfig) -> Job:
    model = registry.resolve(config.model, tracking=tracking)
    images = read_input(config.input, unit_size=config.unit_size)
    vocabulary = read_vocabulary(config.vocabulary) if config.vocabulary else None
    preprocess = load(pinned.fetch(model, tracking=tracking)).backbone.preprocess
    return Job(
        config=config,
        model=model,
        tracking=tracking,
        cluster=cluster,
        input=images,
        vocabulary=vocabulary,
        preprocess=preprocess,
    )


def _score(job: Job, *, folder: LabelsFolder, tally: Tally, reservation: Reservation) -> None:
    """Score the units that are not committed yet; `tally` tells of all."""
    pending = {unit.name: unit for unit in job.input.units if unit.name not in tally.committed}
    _check_rejected(job, folder=folder, tally=tally)
    if not pending:
        return
    num_pending = sum(unit.num_images for unit in pending.values())
    with _progress(num_pending) as advance, ThreadPoolExecutor(_WRITES_AT_ONCE) as pool:
        writing: dict[str, Future[tuple[Committed, float]]] = {}
        for parts in _whole_units(_scored(job, pending=list(pending.values()), reservation=reservation)):
            tally.seconds += sum((part.seconds for part in parts), Seconds())
            writing[parts[0].unit] = pool.submit(_saved, parts, folder=folder)
            for unit in [unit for unit, future in writing.items() if future.done()]:
                tally.add(pending[unit], *writing.pop(unit).result())
                advance(pending[unit].num_images)
                _check_rejected(job, folder=folder, tally=tally)
        for unit, future in writing.items():
            tally.add(pending[unit], *future.result())
            advance(pending[unit].num_images)
    _check_rejected(job, folder=folder, tally=tally)
    missing = pending.keys() - tally.committed.keys()
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
    )
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
                Scorer,
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
    """A row, and a block, per unit."""
    return ray.data.from_arrow([pa.table({"unit": [pickle.dumps(unit)]}) for unit in units])


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


def _saved(parts: Sequence[ScoredPart], *, folder: LabelsFolder) -> tuple[Committed, float]:
    """Write and commit a unit; what counts for it, and the seconds it took."""
    began = time.perf_counter()
    rejected = [each for part in parts for each in part.rejected]
    committed = folder.save(parts[0].unit, rows=pa.concat_tables([part.rows for part in parts]), rejected=rejected)
    return committed, time.perf_counter() - began


def _check_rejected(job: Job, *, folder: LabelsFolder, tally: Tally) -> None:
    """Stop the job where it is certain that more than the allowed share of all images is rejected."""
    limit, num_images = job.config.max_rejected, job.input.num_images
    if tally.num_rejected <= limit * num_images:
        return
    rejected = tally.rejected
    folder.write_quarantine(rejected)
    first = rejected[0]
    raise ValueError(
        f"{len(rejected)} of {num_images} images are rejected, more than max_rejected ({limit}); the first is "
        f"{first.source} ({first.reason}: {first.detail}), all are in {folder.folder}/{QUARANTINE_NAME}. "
        f"What is scored is kept: mend the images, or run again with a higher --max-rejected"
    )


def _publish(job: Job, *, folder: LabelsFolder, tally: Tally, run_id: str) -> PredictionSet:
    """Write the quarantine table, then the manifest."""
    folder.remove_losers(tally.committed)
    folder.write_quarantine(tally.rejected)
    predictions = PredictionSet(
        parts=tuple(tally.committed[unit.name].part for unit in job.input.units),
        parents=job.parents,
        scoring=job.config.scoring,
        num_rejected=tally.num_rejected,
        run_id=run_id,
    )
    write_manifest(folder.folder, predictions)
    return predictions


@contextlib.contextmanager
def _recorded(job: Job, *, folder: LabelsFolder) -> Iterator[str]:
    """The job's MLflow run: the one it had before a restart, where this server knows it."""
    tags = {
        "ecor.stage": "score",
        "ecor.model_uri": job.model.uri,
        "ecor.model_asked_for": job.model.asked_for,
        "ecor.output": job.config.output,
        "ecor.input": job.config.input,
        **{f"ecor.{name}": str(job.identity[name]) for name in ("input_digest", "model_digest", "vocabulary_digest")},
    }
    known = folder.run_id if registry.knows_run(job.tracking, run_id=folder.run_id) else None
    with registry.recorded_run(
        job.tracking, name="score", params=asdict(job.config), tags=tags, run_id=known
    ) as run_id:
        folder.remember_run(run_id)
        yield run_id


def _record(job: Job, *, run_id: str, summary: Mapping[str, Any], predictions: PredictionSet) -> None:
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    spent = {f"seconds.{name}": value for name, value in summary["seconds_of"].items()}
    registry.log_metrics(job.tracking, run_id=run_id, metrics={**numbers, **spent})
    registry.log_tags(job.tracking, run_id=run_id, tags={"ecor.predictions_digest": predictions.digest})


def _summary(job: Job, *, tally: Tally, reservation: Reservation, seconds: float) -> dict[str, Any]:
    return {
        "output": job.config.output,
        "model": job.model.uri,
        "num_images": job.input.num_images,
        "num_rows": sum(each.part.num_rows for each in tally.committed.values()),
        "num_rejected": tally.num_rejected,
        "num_units": len(tally.committed),
        "num_images_before": job.input.num_images - tally.num_images,
        "seconds": seconds,
        "images_per_s": tally.num_images / seconds,
        "seconds_of": asdict(tally.seconds),
        "actors": {**asdict(reservation), "threads_per_scorer": reservation.num_threads},
    }


def _tell(summary: Mapping[str, Any]) -> None:
    rejected = f", {summary['num_rejected']} rejected" if summary["num_rejected"] else ""
    before = f" ({summary['num_images_before']} before)" if summary["num_images_before"] else ""
    _say(
        f"scored {summary['num_images']} images{before}{rejected} in {summary['seconds']:.1f} s, "
        f"{summary['images_per_s']:.1f} images/s: {summary['output']}"
    )


def _say(line: str) -> None:
    Console().print(line, highlight=False, soft_wrap=True, markup=False)


def _shared_text(config: ScoreConfig, *, num_scorers: int) -> TextConfig:
    """Several scorers of a machine share one file of text features, in the machine's cache if no folder is named."""
    if config.text.cache_dir is not None or num_scorers == 1:
        return config.text
    return replace(config.text, cache_dir=str(pinned.default_cache_dir().with_name("text")))


@contextlib.contextmanager
def _progress(num_images: int) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left where somebody watches; yields what advances it."""
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} images/s"),
        TimeRemainingColumn(),
    )
    began = time.perf_counter()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("scoring", total=num_images, rate=0.0)

        def advance(num_done: int) -> None:
            bar.advance(task, num_done)
            bar.update(task, rate=bar.tasks[0].completed / (time.perf_counter() - began))

        yield advance
