"""Pretrain a small CLIP on captioned shards or on drawings with Ray Train, recorded in MLflow (`ecor pretrain`).

The output folder holds `model.json` and `weights.safetensors`, as plain open_clip takes them (`add_model_config` of the
folder, then `create_model("model", pretrained=<the weights' path>)`), and `summary.json`, which is written last.
"""

import json
import resource
import shutil
import tempfile
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ecor.config.checks import require
from ecor.data.shard_manifest import read_shard_manifest
from ecor.demo.corpus import corpus_digest
from ecor.demo.worlds.registry import get_world
from ecor.storage import filesystem
from ecor.storage.digests import file_sha256, json_digest
from ecor.training.contrastive import write_weights
from ecor.training.distributed import Rank
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, absolute_address, resolve_tracking
from pipelines.config.training import PretrainConfig
from pipelines.training.caption_source import balance_samples, build_architecture, open_captions
from pipelines.training.events import publish_events
from pipelines.training.pretrainer import PretrainEvent, Pretraining, PretrainState
from pipelines.training.runs.job import Job, own_rank, parallel_module
from pipelines.training.runs.run_folder import SUMMARY, make_once, recorded_balance, say_recorded_balance
from pipelines.training.runs.saved_states import load_state, save_state

MODEL, WEIGHTS = "model.json", "weights.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A finished small CLIP."""

    folder: str
    model: str
    """Path of open_clip's model config: `--backbone.name`."""
    weights: str
    """Path of the weights: `--backbone.pretrained`."""
    weights_sha256: str
    digest: str
    """Of the settings and of all that the run was made from."""
    run_id: str
    """Of the MLflow run."""
    metrics: dict[str, float]
    """The last of the curves; for drawings with zero-shot figures on validation drawings."""

    @property
    def backbone_options(self) -> str:
        """The options of `ecor` that use it as backbone."""
        return f"--backbone.name {self.model} --backbone.pretrained {self.weights}"


def run(
    config: PretrainConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> Pretrained:
    """Train a CLIP from random weights on captioned images.

    The same command resumes from the last saved state, in the same MLflow run. A finished output of the same settings
    and images is returned as it is. An output that another job works on is waited for.

    Args:
        config: what to train, on what, with how many workers.
        cluster: where.
        tracking: where the run is recorded.

    Raises:
        ValueError: when a setting does not fit the model or the images, or the output holds another run (naming both
            digests).
        OSError: when another job has taken the run over meanwhile, or a worker died.
    """
    config, tracking = resolve_pretrain_config(config), resolve_tracking(tracking or TrackingConfig())
    make_once(
        config,
        name="pretrain",
        parents=_parents(config),
        made_of="settings and images",
        products=[MODEL, WEIGHTS],
        work=_work,
        publish=partial(_publish, output=absolute_address(config.output), tracking=tracking),
        cluster=cluster,
        tracking=tracking,
    )
    say_recorded_balance(config.output)
    return read_pretrained(config.output)


def resolve_pretrain_config(config: PretrainConfig) -> PretrainConfig:
    """The settings with places that every worker finds."""
    return replace(
        config,
        shards=config.shards and absolute_address(config.shards),
        model=absolute_address(config.model) if config.model.endswith(".json") else config.model,
        cache_dir=config.cache_dir and absolute_address(config.cache_dir),
    )


def read_pretrained(folder: str | Path) -> Pretrained:
    """The record of a finished output; ValueError when there is none, or when its weights were altered."""
    folder = absolute_address(str(folder))
    model, weights, summary_file = (filesystem.join(folder, name) for name in (MODEL, WEIGHTS, SUMMARY))
    require(filesystem.exists(summary_file), f"{folder} holds no finished pretraining: run `ecor pretrain` to its end")
    summary = json.loads(filesystem.read(summary_file))
    found = file_sha256(weights) if filesystem.exists(weights) else "missing"
    require(
        found == summary["weights_sha256"],
        f"{weights} is {found}, its run wrote {summary['weights_sha256']}: start over with --fresh",
    )
    return Pretrained(
        folder=folder,
        model=model,
        weights=weights,
        **{name: summary[name] for name in ("weights_sha256", "digest", "run_id", "metrics")},
    )


def _publish(state: Path, run_id: str, *, output: str, tracking: TrackingConfig) -> None:
    from pipelines.tracking import model_registry  # MLflow, which most workers do without

    if (balance := recorded_balance(json.loads((state / SUMMARY).read_text()))) is not None:
        model_registry.log_balance(tracking, run_id=run_id, balance=balance)
    with tempfile.TemporaryDirectory() as scratch:
        for name in (MODEL, WEIGHTS, SUMMARY):
            shutil.copyfile(state / name, Path(scratch) / name)
        filesystem.publish_files(Path(scratch), output, last=SUMMARY)  # which says that the run is finished
        model_registry.log_folder(tracking, run_id=run_id, folder=scratch)


# On every worker


def _work(settings: dict[str, Any]) -> None:
    """One rank's work: train, report, and at the end save the model into the last state."""
    job: Job[PretrainConfig] = Job(**settings)
    torch.set_num_threads(max(1, int(job.config.cpus_per_worker)))  # Ray leaves one
    rank = own_rank()
    backbone = build_architecture(job.config)
    if job.config.shards is None and rank.index == 0:
        job.messages.put(f"{job.config.num_images} drawings, made unless an earlier run did: 100,000 take minutes")
    source = open_captions(job.config, backbone=backbone, rank=rank)
    pretraining = Pretraining(job.config, backbone=backbone, source=source, rank=rank)
    module = pretraining.module()
    state = load_state(job.states)
    progress = PretrainState(**state) if state else None
    reports = pretraining.reports(parallel_module(module, rank=rank), progress=progress)
    describe = partial(_line, num_steps=job.config.last_step, batch_size=job.config.batch_size)
    for report in publish_events(
        reports,
        job=job,
        rank=rank,
        stage="pretrain",
        resumed=progress,
        num_steps=job.config.last_step,
        describe=describe,
    ):
        if report.progress is not None:
            _save(report, pretraining=pretraining, job=job, rank=rank)


def _save(report: PretrainEvent, *, pretraining: Pretraining, job: Job[PretrainConfig], rank: Rank) -> None:
    """The state, and with the last one the model; all ranks meet here."""
    assert report.progress is not None
    state = {each.name: getattr(report.progress, each.name) for each in fields(report.progress)}
    with tempfile.TemporaryDirectory() as scratch:
        if rank.index == 0 and report.step == job.config.last_step:
            architecture = pretraining.backbone.architecture["model_cfg"]
            filesystem.write_json(Path(scratch) / MODEL, architecture)
            write_weights(pretraining.weights(), Path(scratch) / WEIGHTS)
            filesystem.write_json(
                Path(scratch) / SUMMARY, _summary(report, folder=Path(scratch), job=job, pretraining=pretraining)
            )
        save_state(state, step=report.step, rank=rank, folder=Path(scratch))


def _summary(
    report: PretrainEvent, *, folder: Path, job: Job[PretrainConfig], pretraining: Pretraining
) -> dict[str, Any]:
    assert report.progress is not None
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "digest": job.parents["config"],
        "parents": job.parents,
        "run_id": job.run_id,
        "weights_sha256": file_sha256(folder / WEIGHTS),
        "num_steps": report.step,
        "num_samples": report.step * job.config.batch_size,
        "num_tokens": len(pretraining.table.rows),
        "balance": balance_samples(pretraining.source, progress=report.progress, config=job.config).to_record(),
        "num_unreadable": report.progress.num_unreadable,
        "unreadable": report.unreadable,
        "training_s": report.progress.seconds,
        "metrics": report.figures,
        "peak_memory_bytes": peak_kib * 1024,
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if job.config.use_gpu else None,
    }


def _line(report: PretrainEvent, *, num_steps: int, batch_size: int) -> str:
    """A point of the curves, fit for 80 columns; and what the source judges, a line each."""
    metrics = report.metrics
    seconds_left = (num_steps - report.step) * batch_size / metrics["images_per_s"]
    terms = "  ".join(f"{name} {metrics[name]:.3f}" for name in ("contrastive", "attributes") if name in metrics)
    line = f"step {report.step}/{num_steps}  {terms}  {metrics['images_per_s']:.0f} images/s  {seconds_left:.0f} s left"
    return "\n".join([line, *(f"  {name} {value:.1%}" for name, value in report.judged.items())])


# On the driver


def _parents(config: PretrainConfig) -> dict[str, str]:
    """Digests of what the run is made from; `config` is the digest of the settings and of all the others."""
    if config.shards is not None:
        images = {"manifest": read_shard_manifest(f"{config.shards}/{config.split}").digest}
    else:
        images = {"drawings": corpus_digest(get_world(config.world), num_images=config.num_images, seed=config.seed)}
    parents = {**images, "architecture": json_digest(build_architecture(config).architecture)}
    return {**parents, "config": json_digest({"settings": output_settings(config), "parents": parents})}
