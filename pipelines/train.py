"""Shards in, a checkpoint of learned prompt tokens out: tuning on Ray Train, recorded in MLflow.

The output folder holds `checkpoint/` and `summary.json`, which is written last; while the run goes on also `run.json`
(what is being made, and its MLflow run) and `ray/` (the states that the same command goes on from after an end of any
kind).
"""

import hashlib
import json
import os
import platform
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from queue import Empty
from typing import Any, Literal

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device, prepare_model
from ray.util.queue import Queue
from rich.console import Console

import ecor
from ecor.checkpoint import FOLDER, Checkpoint, publish_folder, read_checkpoint, save_checkpoint
from ecor.config import require
from ecor.shards import VOCABULARY_NAME, read_manifest
from ecor.vocabulary import Vocabulary, read_vocabulary
from pipelines import cluster as cluster_
from pipelines import registry
from pipelines.config import ClusterConfig, TrackingConfig, TrainConfig
from pipelines.loader import Rank, read_split
from pipelines.tuning import Progress, Report, Tuning, settled

SUMMARY, RUN, STATES = "summary.json", "run.json", "ray"
STATE = "state.pt"
_POLL_INTERVAL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
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
    with the same parents is returned as it is.

    Args:
        config: what to tune, on what, with how many workers.
        cluster: where.
        tracking: where the run is recorded.

    Raises:
        ValueError: when a setting does not fit the data, or the output holds another run (naming both digests).
    """
    config, tracking = settled(config), registry.resolved(tracking or TrackingConfig())
    require("://" not in config.output, f"output must be a local or shared folder, got {config.output}")
    output = Path(config.output).absolute()
    parents = _parents(config)
    if config.fresh:
        _clear(output)
    finished = _finished(output, digest=parents["config"])
    if finished is not None:
        return finished
    output.mkdir(parents=True, exist_ok=True)
    with cluster_.connected(cluster or ClusterConfig()), _recorded(output, config, tracking, parents) as run_id:
        return _tuned(output, config=config, parents=parents, tracking=tracking, run_id=run_id)


def _tuned(
    output: Path, *, config: TrainConfig, parents: dict[str, str], tracking: TrackingConfig, run_id: str
) -> Checkpoint:
    messages = Queue(actor_options={"num_cpus": 0})
    job = Job(config=config, parents=parents, tracking=tracking, run_id=run_id, messages=messages)
    trainer = _Trainer(
        _work,
        # As plain fields: Ray's controller unpickles them too, and need not import this module and all it imports
        train_loop_config={each.name: getattr(job, each.name) for each in fields(job)},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if config.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=parents["config"][:16],  # Ray goes on with any run of the same name: the name says what is made
            storage_path=str(output / STATES),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with _told(messages), _polled_often():
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
        except KeyboardInterrupt:
            trainer.stop()
            raise
    with result.checkpoint.as_directory() as state:
        return _published(Path(state), output=output, tracking=tracking, run_id=run_id)


def _published(state: Path, *, output: Path, tracking: TrackingConfig, run_id: str) -> Checkpoint:
    """The last state's model to its place; then the summary, which says that the run is finished."""
    unfinished = output / f".{FOLDER}.{run_id}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(state / FOLDER, unfinished)
    publish_folder(unfinished, output / FOLDER)
    record = read_checkpoint(output)
    summary = {**json.loads((state / SUMMARY).read_text()), "checkpoint_digest": record.digest}
    registry.log_metrics(tracking, run_id=run_id, metrics={f"best_{k}": v for k, v in record.metrics.items()})
    _write_json(output / SUMMARY, summary)
    registry.log_folder(tracking, run_id=run_id, folder=output / FOLDER)
    shutil.rmtree(output / STATES, ignore_errors=True)
    return record


# On every worker


def _work(settings: dict[str, Any]) -> None:
    """One rank's work: tune, report, and at the end save the model into the last state."""
    job = Job(**settings)
    started = time.perf_counter()
    torch.set_num_threads(max(1, int(job.config.cpus_per_worker)))  # Ray leaves one
    rank = _rank()
    tuning = _tuning(job.config, rank=rank)
    module = tuning.module()
    if rank.num_ranks > 1 and tuning.optimizer is not None:
        module = prepare_model(module)
    progress = _saved_progress()
    for report in tuning.reports(module, progress=progress):
        progress = report.progress
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
            _write_json(Path(folder) / SUMMARY, summary)
        _save(progress, rank=rank, folder=Path(folder))


def _rank() -> Rank:
    context = ray.train.get_context()
    return Rank(
        index=context.get_world_rank(),
        num_ranks=context.get_world_size(),
        local_index=context.get_local_rank(),
        num_local=context.get_local_world_size(),
        node=context.get_node_rank(),
        device=str(get_device()),
    )


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
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Progress(**torch.load(Path(folder) / STATE, weights_only=True))


def _save(progress: Progress, *, rank: Rank, folder: Path | None = None) -> None:
    """Hand the state to Ray; all ranks meet here. What `folder` holds already goes with it."""
    checkpoint = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        if rank.index == 0:
            torch.save({each.name: getattr(progress, each.name) for each in fields(progress)}, folder / STATE)
            checkpoint = ray.train.Checkpoint.from_directory(str(folder))
        ray.train.report({"step": progress.step}, checkpoint=checkpoint)


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


def _clear(output: Path) -> None:
    for name in (SUMMARY, RUN):
        (output / name).unlink(missing_ok=True)
    for name in (FOLDER, STATES):
        shutil.rmtree(output / name, ignore_errors=True)


def _finished(output: Path, *, digest: str) -> Checkpoint | None:
    """The checkpoint of a run that is finished here; ValueError when the output is of another run."""
    for name in (SUMMARY, RUN):
        if (output / name).is_file():
            found = json.loads((output / name).read_text())["digest"]
            require(
                found == digest,
                f"{output} holds run {found}, the settings and shards given make run {digest}: "
                f"choose another output, or start over with --fresh",
            )
    return read_checkpoint(output) if (output / SUMMARY).is_file() else None


@contextmanager
def _recorded(output: Path, config: TrainConfig, tracking: TrackingConfig, parents: dict[str, str]) -> Iterator[str]:
    """The MLflow run, reattached to after an end of any kind; closed with the outcome."""
    path = output / RUN
    run_id = json.loads(path.read_text())["run_id"] if path.is_file() else None
    run_id = registry.start_training_run(
        tracking, name="train", params=asdict(config), tags={**_environment(), **parents}, run_id=run_id
    )
    _write_json(path, {"digest": parents["config"], "run_id": run_id})
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
        path.unlink(missing_ok=True)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except ValueError:
        if not any((output / STATES).glob("*/checkpoint_*")):
            _clear(output)  # nothing was learned: the mended command may have the folder
        raise
    finally:
        registry.finish_run(tracking, run_id=run_id, status=status)


def _environment() -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "open_clip_torch", "ray")}
    return {"ecor": ecor.__version__, "python": platform.python_version(), "platform": platform.platform(), **versions}


@contextmanager
def _told(messages: Queue) -> Iterator[None]:
    """Print the workers' lines as they come."""
    console, ended = Console(stderr=True), threading.Event()

    def tell() -> None:
        while not ended.is_set() or not messages.empty():
            try:
                console.print(messages.get(timeout=1), highlight=False, soft_wrap=True)
            except Empty:
                continue
            except RayError:
                return  # the queue went with the cluster

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)
        messages.shutdown()


@contextmanager
def _polled_often() -> Iterator[None]:
    """Ray takes one report from a worker per poll, by default one in two seconds; more would wait."""
    given = os.environ.get(_POLL_INTERVAL)
    os.environ[_POLL_INTERVAL] = given or "0.2"
    try:
        yield
    finally:
        if given is None:
            del os.environ[_POLL_INTERVAL]


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's own Ctrl-C handler would stay in place, swallow the interrupt and end the process; this one has none."""

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def stop(self) -> None:
        """End the run's workers; their last saved state stays."""
        with suppress(RayError, AttributeError):
            ray.get(self._controller.abort.remote(), timeout=30)


def _cause(error: TrainingFailedError) -> Exception:
    """A worker's ValueError is the user's mistake and says what to do; all else stays as Ray tells it."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", None) or failure
        if isinstance(cause, ValueError):
            return ValueError(str(cause))
    return error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(path)
