"""Shards in, a checkpoint of learned prompt tokens out: tuning on Ray Train, recorded in MLflow.

The output folder, local or in a store, holds `checkpoint/` and `summary.json`, which is written last; while the run
goes on also `run.json` (what is being made, and its MLflow run) and `ray/` (the states that the same command goes on
from after an end of any kind).
"""

import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from ray.train.torch import prepare_model
from ray.util.queue import Queue

from ecor import store
from ecor.checkpoint import FOLDER, RECORD, Checkpoint, read_checkpoint, save_checkpoint
from ecor.shards import VOCABULARY_NAME, read_manifest
from ecor.vocabulary import Vocabulary, read_vocabulary
from pipelines import cluster as cluster_
from pipelines import registry
from pipelines.config import ClusterConfig, TrackingConfig, TrainConfig, located, resolved
from pipelines.loader import Rank, read_split
from pipelines.metrics import RETRIES, TRAINING_STEPS, count
from pipelines.ray_train import (
    STATES,
    SUMMARY,
    alone,
    clear,
    fitted,
    is_finished,
    own_rank,
    recorded,
    save_state,
    saved_state,
)
from pipelines.tuning import Progress, Report, Tuning, settled

_PLACEMENT = (
    "shards",
    "output",
    "text",
    "num_workers",
    "cpus_per_worker",
    "use_gpu",
    "checkpoint_every_steps",
    "max_failures",
    "cache_dir",
    "fresh",
)
"""Settings that say where and how a run is made, not what it makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every worker is told."""

    config: TrainConfig
    parents: dict[str, str]
    tracking: TrackingConfig
    run_id: str
    messages: Queue
    """Lines for whoever started the run."""


def run(
    config: TrainConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> Checkpoint:
    """Tune prompt tokens on a split, keep those that validate best, calibrate them, and save the model.

    Run again after an end of any kind, it goes on from the last saved state, in the same MLflow run; a finished output
    with the same parents is returned as it is. One that another job works on is waited for.

    Args:
        config: what to tune, on what, with how many workers.
        cluster: where.
        tracking: where the run is recorded.

    Raises:
        ValueError: when a setting does not fit the data, or the output holds another run (naming both digests).
        OSError: when another job has taken the run over meanwhile, or a worker died.
    """
    config, tracking = settled(config), resolved(tracking or TrackingConfig())
    output = located(config.output)
    parents = _parents(config)
    made_of = "settings and shards"
    if not config.fresh and is_finished(output, digest=parents["config"], made_of=made_of):
        return read_checkpoint(output)
    cluster = cluster or ClusterConfig()
    with alone(output, lease_s=cluster.lease_s) as fence:
        if config.fresh:
            clear(output, products=[FOLDER])
        if is_finished(output, digest=parents["config"], made_of=made_of):
            return read_checkpoint(output)
        record = recorded(
            output,
            name="train",
            digest=parents["config"],
            params=asdict(config),
            parents=parents,
            tracking=tracking,
            products=[FOLDER],
        )
        with cluster_.connected(cluster, stage="train"), record as run_id:
            return _tuned(
                output,
                config=config,
                parents=parents,
                tracking=tracking,
                run_id=run_id,
                patience_s=cluster.no_progress_timeout_s,
                fence=fence,
            )


def _tuned(
    output: str,
    *,
    config: TrainConfig,
    parents: dict[str, str],
    tracking: TrackingConfig,
    run_id: str,
    patience_s: float,
    fence: Callable[[], None],
) -> Checkpoint:
    messages = Queue(actor_options={"num_cpus": 0})
    job = Job(config=config, parents=parents, tracking=tracking, run_id=run_id, messages=messages)
    last_state = fitted(
        _work,
        {each.name: getattr(job, each.name) for each in fields(job)},
        placement=config,
        output=output,
        name=parents["config"][:16],
        messages=messages,
        patience_s=patience_s,
    )
    with last_state.as_directory() as state:
        fence()
        return _published(Path(state), output=output, tracking=tracking, run_id=run_id)


def _published(state: Path, *, output: str, tracking: TrackingConfig, run_id: str) -> Checkpoint:
    """The last state's model to its place; then the summary, which says that the run is finished."""
    store.replace_folder(state / FOLDER, store.inside(output, FOLDER), last=RECORD)
    record = read_checkpoint(output)
    summary = {**json.loads((state / SUMMARY).read_text()), "checkpoint_digest": record.digest}
    registry.log_metrics(tracking, run_id=run_id, metrics={f"best_{k}": v for k, v in record.metrics.items()})
    store.write_json(store.inside(output, SUMMARY), summary)
    registry.log_folder(tracking, run_id=run_id, folder=state / FOLDER)
    store.remove(store.inside(output, STATES))
    return record


# On every worker


def _work(settings: dict[str, Any]) -> None:
    """One rank's work: tune, report, and at the end save the model into the last state."""
    job = Job(**settings)
    started = time.perf_counter()
    torch.set_num_threads(max(1, int(job.config.cpus_per_worker)))  # Ray leaves one
    rank = own_rank()
    tuning = _tuning(job.config, rank=rank)
    module = tuning.module()
    if rank.num_ranks > 1 and tuning.optimizer is not None:
        module = prepare_model(module)
    progress = _saved_progress()
    num_steps = 0 if progress is None else progress.step
    count(RETRIES, int(progress is not None and rank.index == 0), kind="training resumed")
    for report in tuning.reports(module, progress=progress):
        progress = report.progress
        if rank.index == 0:
            count(TRAINING_STEPS, progress.step - num_steps, stage="train")
            num_steps = progress.step
        if rank.index == 0:
            registry.log_metrics(job.tracking, run_id=job.run_id, metrics=report.metrics, step=progress.step)
            if report.epoch is not None:
                job.messages.put(_line(report, num_epochs=job.config.num_epochs))
        if report.is_due:
            _save(progress, rank=rank)
    assert progress is not None, "a run makes at least one report"
    recognizer = tuning.finished_recognizer(progress)
    with tempfile.TemporaryDirectory() as folder:
        if rank.index == 0:
            metrics = progress.epochs[progress.best_epoch]
            save_checkpoint(recognizer, Path(folder) / FOLDER, parents=job.parents, metrics=metrics, run_id=job.run_id)
            summary = _summary(tuning, progress, job=job, seconds=time.perf_counter() - started)
            store.write_json(Path(folder) / SUMMARY, summary)
        _save(progress, rank=rank, folder=Path(folder))


def _tuning(config: TrainConfig, *, rank: Rank) -> Tuning:
    vocabulary = _vocabulary(config)
    return Tuning(
        config,
        vocabulary=vocabulary,
        train=read_split(f"{config.shards}/train", vocabulary=vocabulary),
        validation=read_split(f"{config.shards}/{config.validation_split}", vocabulary=vocabulary),
        rank=rank,
        cache_dir=Path(config.cache_dir or Path(tempfile.gettempdir()) / "ecor-cache"),
    )


def _saved_progress() -> Progress | None:
    state = saved_state()
    return None if state is None else Progress(**state)


def _save(progress: Progress, *, rank: Rank, folder: Path | None = None) -> None:
    state = {each.name: getattr(progress, each.name) for each in fields(progress)}
    save_state(state, step=progress.step, rank=rank, folder=folder)


def _line(report: Report, *, num_epochs: int) -> str:
    """An epoch in a line, fit for 80 columns: figures of validation, and the time that all epochs would take."""
    assert report.epoch is not None
    metrics = report.metrics
    seconds_left = (num_epochs - report.epoch - 1) * (metrics["train_s"] + metrics["validation_s"])
    return (
        f"epoch {report.epoch + 1}/{num_epochs}  "
        f"loss {metrics['validation_loss']:.3f}  RR {metrics['validation_rr']:.1%}  "
        f"accuracy {metrics['validation_accuracy']:.1%}  {metrics['images_per_s']:.0f} images/s  "
        f"{seconds_left:.0f} s left"
    )


def _summary(tuning: Tuning, progress: Progress, *, job: Job, seconds: float) -> dict[str, Any]:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpu = tuning.backbone.device.type == "cuda"
    return {
        "digest": job.parents["config"],
        "parents": job.parents,
        "run_id": job.run_id,
        "num_train": len(tuning.train),
        "num_validation": len(tuning.validation),
        "num_unlabelled": tuning.train.num_unlabelled + tuning.validation.num_unlabelled,
        "num_steps": progress.step,
        "num_epochs": len(progress.epochs),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epochs,
        "tuning_s": progress.seconds,
        "opening_s": tuning.opening_s,
        "total_s": seconds,
        "peak_memory_bytes": peak_kib * 1024,
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


# On the driver


def _vocabulary(config: TrainConfig) -> Vocabulary:
    return read_vocabulary(f"{config.shards}/{VOCABULARY_NAME}")


def _parents(config: TrainConfig) -> dict[str, str]:
    """Digests of what the run is made from; `config` is the digest of the settings and of all the others."""
    names = {"train_manifest": "train", "validation_manifest": config.validation_split}
    manifests = {name: read_manifest(f"{config.shards}/{split}").digest for name, split in names.items()}
    parents = {**manifests, "vocabulary": _vocabulary(config).digest}
    settings = {name: value for name, value in asdict(config).items() if name not in _PLACEMENT}
    content = json.dumps({"settings": settings, "parents": parents}, sort_keys=True)
    return {**parents, "config": hashlib.sha256(content.encode()).hexdigest()}
