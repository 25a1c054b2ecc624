"""Plan a pipeline before it runs (`ecor plan`): time, money, memory and refusals, from a sample of its images.

The input is listed by the listing of the stages themselves, and no image of it is read but a random sample. The
stages' own functions then work on the sample, in a temporary folder: `shard` and `score` in portions, so that the
time of an image has a mean and an interval (Student's t over the portions); `train` twice, on few and on more images;
the others once. What remains of a stage without its images is its fixed cost (start, model, MLflow). A cost that was
measured once is given plus or minus 15 %. A stage that will run on Ray is tried out on a Ray started here.
"""

import platform
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from ecor.config.checks import require
from ecor.storage import filesystem
from pipelines.config.infrastructure import PlanConfig, parse_prices, sqlite_path, tracking_uri
from pipelines.config.pipeline_file import PipelineConfig, read_pipeline
from pipelines.runtime.console import say
from pipelines.runtime.shared_cluster import share_cluster
from pipelines.scoring.work_units import Listed
from pipelines.stages.planning.estimates import Spent, cost_once
from pipelines.stages.planning.inputs import ScoreInput, ShardInput, list_score_input, list_shard_input
from pipelines.stages.planning.machines import (
    Machines,
    advise,
    fit_to_machine,
    node_memory_bytes,
    num_gpus_here,
    plan_machines,
)
from pipelines.stages.planning.plan_record import Images, Memory, Plan, Refusal, refusals_of
from pipelines.stages.planning.plan_table import print_plan
from pipelines.stages.planning.rehearsal import has_champion, make_databases, makes_database, rehearse
from pipelines.stages.planning.score_probe import ScoreProbe, probe_score
from pipelines.stages.planning.shard_probe import ShardProbe, probe_shard
from pipelines.stages.planning.stage_costs import Probes, plan_stages
from pipelines.stages.planning.train_probe import probe_train
from pipelines.stages.planning.workspace import Workspace, local_cluster, open_workspace
from pipelines.storage.image_bytes import join_source


def run(pipeline: str, *, config: PlanConfig, prices: Sequence[str] = (), start_s: float = 0.0) -> Plan:
    """Plan the pipeline of a TOML file, print the plan, and write it where `config.output` says.

    Args:
        pipeline: the file that `ecor run` takes.
        config: sample, nodes, output.
        prices: such as `2.10/gpu-hour`; none: no money.
        start_s: CPU seconds of the start of this process and its imports, which a run has too.

    Raises:
        ValueError: for a pipeline that would be refused before or at its first images, and for a wrong price.
        OSError: when a disk or a store fails.
    """
    began, first_bytes, money, asked = time.perf_counter(), _peak_bytes(), parse_prices(prices), read_pipeline(pipeline)
    require(asked.train.system == "ecor", f"a pipeline needs train.system ecor, got {asked.train.system}")
    here, notes = fit_to_machine(asked)
    listed = _list(asked, here=here, plan=config)
    with open_workspace() as workspace, share_cluster():
        probes = _probe(here, listed=listed, workspace=workspace, plan=config)
    machines = listed.machines
    found = Plan(
        pipeline=Path(pipeline).name,
        machine=f"{platform.machine()}, {machines.num_cpus_here} CPUs{_gpu_name()}",
        date=datetime.now(UTC).date().isoformat(),
        seed=config.seed,
        images=_images(listed, probes=probes),
        refusals=_refusals(listed, probes=probes),
        max_rejected=asked.shard.max_rejected,
        stages=plan_stages(
            asked,
            shards=listed.shards,
            scored=listed.scored,
            probes=probes,
            machines=machines,
            start=cost_once(Spent(wall_s=start_s, cpu_s=start_s)),
            prices=money,
        ),
        machines=machines,
        memory=Memory(
            node_bytes=node_memory_bytes(machines, peak_bytes=_peak_bytes(), first_bytes=first_bytes),
            model_bytes=probes.score.model_bytes,
            gpu_bytes=torch.cuda.max_memory_allocated() if here.score.use_gpu else None,
        ),
        advice=advise(asked.score, probe=probes.score, machines=machines),
        images_per_s=probes.score.images_per_s,
        notes=(*notes, *_notes(asked, probes=probes, scored=listed.scored)),
        planning_s=time.perf_counter() - began,
    )
    if config.output is not None:
        filesystem.write_json(config.output, found.to_record())
    print_plan(found)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """What is known before an image is read."""

    shards: ShardInput
    scored: ScoreInput
    machines: Machines


def _list(asked: PipelineConfig, *, here: PipelineConfig, plan: PlanConfig) -> _Listed:
    say("plan: listing the input")
    shards = list_shard_input(here, num_probes=plan.num_probes, seed=plan.seed)
    scored = list_score_input(here.score, shards=shards, num_probes=plan.num_probes, seed=plan.seed)
    machines = plan_machines(
        asked,
        plan=plan,
        num_shard=shards.num_images,
        num_validation=shards.by_split.get(here.train.validation_split, 0),
        num_score=scored.num_images,
    )
    return _Listed(shards=shards, scored=scored, machines=machines)


def _probe(config: PipelineConfig, *, listed: _Listed, workspace: Workspace, plan: PlanConfig) -> Probes:
    """Try out every stage."""
    shards, scored, machines = listed.shards, listed.scored, listed.machines
    place = partial(local_cluster, config.cluster)
    say(f"plan: {shards.num_images:,} images to shard, {scored.num_images:,} to label; trying shard")
    shard = probe_shard(
        shards,
        validation=config.train.validation_split,
        batch_size=config.score.batch_size,
        workspace=workspace,
        cluster=place(on_ray=machines.shards_on_ray),
    )
    say("plan: trying train")
    database = make_databases(workspace)
    train = probe_train(
        config.train,
        small=shard.small,
        large=shard.large,
        workspace=workspace,
        cluster=place(on_ray=machines.trains_on_ray),
        seconds=plan.probe_s,
    )
    say("plan: trying the stages after it")
    rehearsal = rehearse(
        config,
        checkpoint=train.checkpoint,
        shards=shard.large,
        num_images=train.num_validation,
        explained_share=min(1.0, config.score.explain_sample / max(1, scored.num_images)),
        workspace=workspace,
        contest=place(on_ray=machines.contests_on_ray),
        final=place(on_ray=machines.scores_on_ray),
    )
    say("plan: trying score")
    contest, final = _probe_scores(
        config, listed=listed, shard=shard, checkpoint=train.checkpoint, workspace=workspace, plan=plan
    )
    return Probes(
        database=database.first if makes_database(config) else database.opening,
        num_contestants=1 + has_champion(config),
        shard=shard,
        train=train,
        contest=contest,
        score=final,
        rehearsal=rehearsal,
    )


def _probe_scores(
    config: PipelineConfig,
    *,
    listed: _Listed,
    shard: ShardProbe,
    checkpoint: str,
    workspace: Workspace,
    plan: PlanConfig,
) -> tuple[ScoreProbe, ScoreProbe]:
    """`score` as it runs for validation, and as it runs at the end; one probe where both are alike."""
    try_score = partial(
        probe_score,
        num_images=max(1, listed.scored.num_images),
        checkpoint=checkpoint,
        shards=f"{shard.large}/train",
        workspace=workspace,
        cluster=local_cluster(config.cluster, on_ray=False),
        seconds=plan.probe_s,
    )
    own = tuple(Listed(path=join_source(source, root=listed.shards.job.root)) for source in shard.valid)
    plain = replace(config.score, explain=None, keep_features=False, vocabulary=None)
    contest = try_score(plain, files=own, name="probe-contest")
    if config.score == plain and not listed.scored.is_other:
        return contest, contest
    return contest, try_score(config.score, files=listed.scored.files or own, name="probe-score")


def _images(listed: _Listed, *, probes: Probes) -> Images:
    shards = listed.shards
    return Images(
        num_shard=shards.num_images,
        num_score=listed.scored.num_images,
        num_probed=probes.shard.num_probed,
        by_split=shards.by_split,
        num_bytes=shards.num_bytes,
        tar_bytes=probes.shard.tar_bytes.times(probes.shard.valid_share).times(float(shards.num_images)),
    )


def _refusals(listed: _Listed, *, probes: Probes) -> tuple[Refusal, ...]:
    """Of `shard`; and of `score`, where it labels other images."""
    shard, score = probes.shard, probes.score
    found = refusals_of("shard", shard.rejected, num_probed=shard.num_probed, num_images=listed.shards.num_images)
    if listed.scored.files:
        number = listed.scored.num_images
        found += refusals_of("score", score.rejected, num_probed=score.num_probed, num_images=number)
    return found


def _notes(config: PipelineConfig, *, probes: Probes, scored: ScoreInput) -> Iterator[str]:
    """What the figures leave out."""
    if config.shard.since is not None or config.score.since is not None:
        yield "`since` is left out of account: the plan is of all images"
    if probes.shard.num_copies:
        yield f"{probes.shard.num_copies} images of the sample are copies of others in it; the plan counts no copies"
    if config.train.patience < config.train.num_epochs - 1:
        yield (
            f"train: time is that of {config.train.num_epochs} epochs; the low end is that of "
            f"{config.train.patience + 1}, after which it may stop"
        )
    if (workers := config.train.num_workers) > 1:
        yield f"train: one worker was measured, and its steps divided by {workers}"
    if scored.is_other and not scored.files:
        yield "score: its input was sharded before; images of shard.input stand for it"
    if sqlite_path(tracking_uri(config.tracking)) is None:
        yield "the MLflow server was not asked: a champion of the day adds the seconds of `contest` once more"
    if config.cluster.address is not None:
        yield f"{config.cluster.address} was not asked: nodes are taken to be like this machine (--num-nodes)"


def _gpu_name() -> str:
    return f", {torch.cuda.get_device_name()}" if num_gpus_here() else ""


def _peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
