"""Train a system (ECOR's prompts, ECLIP or LICO) on shards with Ray Train, recorded in MLflow (`ecor train`).

The output folder, local or in a store, holds `checkpoint/` and `summary.json`, which is written last. During the run it
also holds `run.json` (the settings' digest and the MLflow run) and `ray/` (the states that the same command resumes
from).
"""

import json
import resource
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.vocabulary import Vocabulary
from ecor.storage import filesystem
from ecor.storage.digests import json_digest
from ecor.storage.model_records import (
    CHECKPOINT_FOLDER,
    RECORD,
    ArtifactRecord,
    Checkpoint,
    read_artifact,
    read_checkpoint,
)
from ecor.training.distributed import Rank
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, absolute_address, resolve_tracking
from pipelines.config.training import TrainConfig
from pipelines.runtime.console import say
from pipelines.storage.record_store import require_other_outputs_kept
from pipelines.tracking.model_cache import pin_model
from pipelines.training.events import publish_events
from pipelines.training.initial_tokens import initial_parents, with_local_tokens
from pipelines.training.runs.job import Job, own_rank, parallel_module
from pipelines.training.runs.run_folder import SUMMARY, make_once, recorded_balance, say_recorded_balance
from pipelines.training.runs.saved_states import load_state, save_state
from pipelines.training.sample_use import balance_splits
from pipelines.training.shards_vocabulary import describe_vocabulary, read_shards_vocabulary
from pipelines.training.systems.prompt_trainer import resolve_config
from pipelines.training.systems.registry import build_trainer
from pipelines.training.systems.train_state import TrainEvent, TrainState
from pipelines.training.systems.trainer import Trainer


def run(
    config: TrainConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> Checkpoint | ArtifactRecord:
    """Train the system `config.system` on a split, keep the epoch that validates best, and save it.

    ECOR tunes prompt tokens and calibrates them. The same command resumes from the last saved state, in the same MLflow
    run. A finished output with the same parents is returned as it is. An output that another job works on is waited
    for.

    Args:
        config: what to learn, on what, with how many workers.
        cluster: where.
        tracking: where the run is recorded.

    Raises:
        ValueError: when a setting does not fit the data, or the output holds another run (naming both digests).
        OSError: when another job has taken the run over meanwhile, or a worker died.
    """
    asked, config = config, resolve_config(config)
    tracking = resolve_tracking(tracking or TrackingConfig())
    if asked.prompts.visual_tokens and not config.prompts.visual_tokens:
        say(
            f"{config.backbone.name}: its image tower takes no visual tokens (it is no open_clip ViT): text tokens are "
            f"learned, {config.prompts.category_tokens} per prompt, with a learning rate of {config.fit.learning_rate}"
        )
    initial = None if config.init_from is None else pin_model(config.init_from, tracking=tracking)
    config = config if initial is None else replace(config, init_from=initial.uri)
    require_other_outputs_kept(config.output, record=SUMMARY, key="checkpoint_digest", stage="ecor train")
    for line in describe_vocabulary(_vocabulary(config), shards=config.shards, system=config.system):
        say(line)
    make_once(
        config,
        name="train",
        parents=_parents(config, initial={} if initial is None else initial_parents(initial, tracking=tracking)),
        made_of="settings and shards" if initial is None else "settings, shards and first model",
        products=[CHECKPOINT_FOLDER],
        work=_work,
        publish=partial(_publish, config=config, tracking=tracking),
        cluster=cluster,
        tracking=tracking,
        is_short=True,
    )
    say_recorded_balance(config.output)
    return _read(config)


def _publish(state: Path, run_id: str, *, config: TrainConfig, tracking: TrackingConfig) -> None:
    """The last state's model to its place; then the summary, which says that the run is finished."""
    from pipelines.tracking import model_registry  # MLflow, which most workers do without

    output = absolute_address(config.output)
    last = RECORD if config.system == "ecor" else f"{config.system}.json"
    filesystem.replace_folder(state / CHECKPOINT_FOLDER, filesystem.join(output, CHECKPOINT_FOLDER), last=last)
    record = _read(config)
    summary = {**json.loads((state / SUMMARY).read_text()), "checkpoint_digest": record.digest}
    model_registry.log_metrics(tracking, run_id=run_id, metrics={f"best_{k}": v for k, v in record.metrics.items()})
    if (balance := recorded_balance(summary)) is not None:
        model_registry.log_balance(tracking, run_id=run_id, balance=balance)
    filesystem.write_json(filesystem.join(output, SUMMARY), summary)
    model_registry.log_folder(tracking, run_id=run_id, folder=state / CHECKPOINT_FOLDER)


def _read(config: TrainConfig) -> Checkpoint | ArtifactRecord:
    output = absolute_address(config.output)
    return read_checkpoint(output) if config.system == "ecor" else read_artifact(output, config.system)


# On every worker


def _work(settings: dict[str, Any]) -> None:
    """One rank's work: learn, report, and at the end save the model into the last state."""
    job: Job[TrainConfig] = Job(**settings)
    started = time.perf_counter()
    torch.set_num_threads(max(1, int(job.config.cpus_per_worker)))  # Ray leaves one
    rank = own_rank()
    config = with_local_tokens(job.config, parents=job.parents, tracking=job.tracking)
    learning = build_trainer(config, vocabulary=_vocabulary(config), rank=rank)
    module = learning.module()
    if learning.optimizer is not None:
        module = parallel_module(module, rank=rank)
    progress = _saved_progress(job.states)
    if rank.index == 0:
        for line in _cut_sentences(learning):
            job.messages.put(line)
    reports = learning.reports(module, progress=progress)
    for report in publish_events(
        reports,
        job=job,
        rank=rank,
        stage="train",
        resumed=progress,
        num_steps=learning.num_steps,
        describe=partial(_line, learning=learning),
    ):
        progress = report.progress
        if report.is_due:
            _save(progress, rank=rank)
    assert progress is not None, "a run makes at least one report"
    save = learning.prepare_save(progress)
    with tempfile.TemporaryDirectory() as folder:
        if rank.index == 0:
            metrics = progress.epochs[progress.best_epoch]
            save(Path(folder) / CHECKPOINT_FOLDER, parents=job.parents, metrics=metrics, run_id=job.run_id)
            summary = _summary(learning, progress, job=job, seconds=time.perf_counter() - started)
            filesystem.write_json(Path(folder) / SUMMARY, summary)
        _save(progress, rank=rank, folder=Path(folder))


def _saved_progress(folder: str) -> TrainState | None:
    state = load_state(folder)
    return None if state is None else TrainState(**state)


def _save(progress: TrainState, *, rank: Rank, folder: Path | None = None) -> None:
    state = {each.name: getattr(progress, each.name) for each in fields(progress)}
    save_state(state, step=progress.step, rank=rank, folder=folder)


def _cut_sentences(learning: Trainer) -> list[str]:
    num_cut, length = learning.num_sentences_cut, learning.backbone.context_length
    return [f"{num_cut} sentences of the vocabulary are cut: the text tower reads {length} tokens"] if num_cut else []


def _line(report: TrainEvent, *, learning: Trainer) -> str | None:
    """An epoch in a line that fits 80 columns: figures of validation, and the time that all epochs would take."""
    if report.epoch is None:
        return None
    metrics, num_epochs = report.metrics, learning.config.num_epochs
    seconds_left = (num_epochs - report.epoch - 1) * (metrics["train_s"] + metrics["validation_s"])
    return (
        f"epoch {report.epoch + 1}/{num_epochs}  {learning.describe_metrics(metrics)}  "
        f"{metrics['images_per_s']:.0f} images/s  {seconds_left:.0f} s left"
    )


def _summary(learning: Trainer, progress: TrainState, *, job: Job[TrainConfig], seconds: float) -> dict[str, Any]:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpu = learning.backbone.device.type == "cuda"
    return {
        "digest": job.parents["config"],
        "parents": job.parents,
        "run_id": job.run_id,
        "system": job.config.system,
        "num_train": len(learning.train),
        "num_validation": len(learning.validation),
        "balance": balance_splits(learning.train, learning.validation, uses=progress.uses).to_record(),
        "num_unlabelled": learning.train.num_unlabelled + learning.validation.num_unlabelled,
        "num_sentences_cut": learning.num_sentences_cut,
        "num_unreadable": progress.epochs[-1]["num_unreadable"],
        "unreadable": progress.unreadable,
        "num_steps": progress.step,
        "num_epochs": len(progress.epochs),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epochs,
        "tuning_s": progress.seconds,
        "opening_s": learning.opening_s,
        "total_s": seconds,
        "peak_memory_bytes": peak_kib * 1024,
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


# On the driver


def _vocabulary(config: TrainConfig) -> Vocabulary:
    return read_shards_vocabulary(config.shards)


def _parents(config: TrainConfig, *, initial: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Digests of what the run is made from; `config` is the digest of the settings and of all the others.

    Args:
        config: resolved settings.
        initial: of the model that tuning starts from (`initial_parents`), if there is one.
    """
    names = {"train_manifest": "train", "validation_manifest": config.validation_split}
    manifests = {name: read_shard_manifest(f"{config.shards}/{split}").digest for name, split in names.items()}
    parents = {**manifests, "vocabulary": _vocabulary(config).digest, **initial}
    return {**parents, "config": json_digest({"settings": output_settings(config), "parents": parents})}
