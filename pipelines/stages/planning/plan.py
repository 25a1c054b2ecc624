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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from ecor.config.checks import require
from ecor.data.shard_manifest import MANIFEST_NAME
from ecor.evaluation.record import EVALUATION_NAME
from ecor.storage import filesystem
from pipelines.config.infrastructure import (
    PlanConfig,
    Prices,
    absolute_address,
    parse_prices,
    sqlite_path,
    tracking_uri,
)
from pipelines.config.pipeline_file import PipelineConfig, read_pipeline
from pipelines.runtime.console import say
from pipelines.runtime.shared_cluster import share_cluster
from pipelines.scoring.work_units import Listed
from pipelines.stages.planning.estimates import Cost, Spent, cost_once
from pipelines.stages.planning.inputs import ScoreInput, ShardInput, list_score_input, list_shard_input
from pipelines.stages.planning.machines import Machines, advise, node_memory_bytes, num_gpus_here, plan_machines
from pipelines.stages.planning.plan_record import Images, Memory, Plan, Refusal, StagePlan, refusals_of
from pipelines.stages.planning.plan_table import print_plan
from pipelines.stages.planning.rehearsal import make_databases, rehearse
from pipelines.stages.planning.score_probe import probe_score
from pipelines.stages.planning.shard_probe import ShardProbe, probe_shard
from pipelines.stages.planning.stage_costs import Probes, stage_costs
from pipelines.stages.planning.train_probe import probe_train
from pipelines.stages.planning.workspace import Workspace, local_cluster, open_workspace
from pipelines.storage.image_bytes import join_source
from pipelines.tracking import model_registry


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
    began, first_bytes = time.perf_counter(), _peak_bytes()
    money, asked = parse_prices(prices), read_pipeline(pipeline)
    require(
        asked.train.system == "ecor",
        f"a pipeline labels pictures, which {asked.train.system} does not: set train.system to ecor",
    )
    here, notes = _fit_to_machine(asked)
    say("plan: listing the input")
    shards = list_shard_input(here, num_probes=config.num_probes, seed=config.seed)
    scored = list_score_input(here.score, shards=shards, num_probes=config.num_probes, seed=config.seed)
    machines = plan_machines(
        asked,
        plan=config,
        num_shard=shards.num_images,
        num_validation=shards.by_split.get(here.train.validation_split, 0),
        num_score=scored.num_images,
    )
    with open_workspace() as workspace, share_cluster():
        probes = _probe(here, shards=shards, scored=scored, machines=machines, workspace=workspace, plan=config)
    start = cost_once(Spent(wall_s=start_s, cpu_s=start_s))
    costs = {"start": start, **stage_costs(asked, shards=shards, scored=scored, probes=probes, machines=machines)}
    found = Plan(
        pipeline=Path(pipeline).name,
        machine=f"{platform.machine()}, {machines.num_cpus_here} CPUs{_gpu_name()}",
        date=datetime.now(UTC).date().isoformat(),
        seed=config.seed,
        images=_images(shards, scored=scored, probes=probes),
        refusals=_refusals(shards, scored=scored, probes=probes),
        max_rejected=asked.shard.max_rejected,
        stages=_stages(asked, costs=costs, machines=machines, prices=money),
        machines=machines,
        memory=Memory(
            node_bytes=node_memory_bytes(machines, peak_bytes=_peak_bytes(), first_bytes=first_bytes),
            model_bytes=probes.score.model_bytes,
            gpu_bytes=torch.cuda.max_memory_allocated() if here.score.use_gpu else None,
        ),
        advice=advise(asked.score, probe=probes.score, machines=machines),
        images_per_s=probes.score.images_per_s,
        notes=(*notes, *_notes(asked, probes=probes, scored=scored)),
        planning_s=time.perf_counter() - began,
    )
    if config.output is not None:
        filesystem.write_json(config.output, found.to_record())
    print_plan(found)
    return found


def _fit_to_machine(config: PipelineConfig) -> tuple[PipelineConfig, list[str]]:
    """The pipeline as this machine can try it out, and what differs."""
    uses_gpu = config.train.use_gpu or config.score.use_gpu
    if not uses_gpu or num_gpus_here():
        return config, []
    train, score = replace(config.train, use_gpu=False), replace(config.score, use_gpu=False)
    note = "the settings use GPUs and this machine has none: all times are of its CPUs; plan on a node of the cluster"
    return replace(config, train=train, score=score), [note]


def _probe(
    config: PipelineConfig,
    *,
    shards: ShardInput,
    scored: ScoreInput,
    machines: Machines,
    workspace: Workspace,
    plan: PlanConfig,
) -> Probes:
    """Try out every stage."""
    in_process, on_ray = (local_cluster(config.cluster, on_ray=each) for each in (False, True))
    validation = config.train.validation_split
    say(f"plan: {shards.num_images:,} images to shard, {scored.num_images:,} to label; trying shard")
    shard = probe_shard(
        shards,
        validation=validation,
        batch_size=config.score.batch_size,
        workspace=workspace,
        cluster=on_ray if machines.shards_on_ray else in_process,
    )
    say("plan: trying train")
    database = make_databases(workspace)
    train = probe_train(
        config.train,
        small=shard.small,
        large=shard.large,
        workspace=workspace,
        cluster=on_ray if machines.trains_on_ray else in_process,
        seconds=plan.probe_s,
    )
    say("plan: trying score")
    try_score = partial(
        probe_score,
        checkpoint=train.checkpoint,
        shards=f"{shard.large}/train",
        workspace=workspace,
        cluster=in_process,
        seconds=plan.probe_s,
    )
    own = _sample_of(shards, probe=shard)
    plain = replace(config.score, explain=None, keep_features=False, vocabulary=None)
    contest = try_score(plain, files=own, name="probe-contest")
    is_same = replace(config.score, vocabulary=None) == plain and not scored.is_other
    final = contest if is_same else try_score(config.score, files=scored.files or own, name="probe-score")
    say("plan: trying the stages after it")
    rehearsal = rehearse(
        config,
        checkpoint=train.checkpoint,
        shards=shard.large,
        num_images=train.num_validation,
        image=contest.image,
        workspace=workspace,
        contest=on_ray if machines.contests_on_ray else in_process,
        final=on_ray if machines.scores_on_ray else in_process,
    )
    return Probes(
        database=database.first if _makes_database(config) else database.opening,
        num_contestants=1 + _has_champion(config),
        shard=shard,
        train=train,
        contest=contest,
        score=final,
        rehearsal=rehearsal,
    )


def _sample_of(shards: ShardInput, *, probe: ShardProbe) -> tuple[Listed, ...]:
    return tuple(Listed(path=join_source(source, root=shards.job.root)) for source in probe.valid)


def _makes_database(config: PipelineConfig) -> bool:
    """Whether the first stage has to make a SQLite database for MLflow."""
    path = sqlite_path(tracking_uri(config.tracking))
    return path is not None and not path.exists()


def _has_champion(config: PipelineConfig) -> bool:
    """Whether a SQLite database of this machine knows a champion; a server is not asked."""
    path = sqlite_path(tracking_uri(config.tracking))
    if path is None or not path.exists():
        return False
    champion = f"models:/{config.register.name}@{config.promote.alias}"
    return model_registry.find_version(champion, tracking=config.tracking) is not None


def _images(shards: ShardInput, *, scored: ScoreInput, probes: Probes) -> Images:
    valid = probes.shard.valid_share.times(float(shards.num_images))
    return Images(
        num_shard=shards.num_images,
        num_score=scored.num_images,
        num_probed=probes.shard.num_probed,
        by_split=shards.by_split,
        num_bytes=shards.num_bytes,
        tar_bytes=probes.shard.tar_bytes.times(valid),
    )


def _refusals(shards: ShardInput, *, scored: ScoreInput, probes: Probes) -> tuple[Refusal, ...]:
    """Of `shard`; and of `score`, where it labels other images."""
    found = refusals_of(
        "shard", probes.shard.rejected, num_probed=probes.shard.num_probed, num_images=shards.num_images
    )
    if not scored.is_other or not scored.files:
        return found
    others = probes.score
    return found + refusals_of("score", others.rejected, num_probed=others.num_probed, num_images=scored.num_images)


def _stages(
    config: PipelineConfig, *, costs: Mapping[str, Cost], machines: Machines, prices: Prices | None
) -> tuple[StagePlan, ...]:
    on_ray = {
        "shard": machines.shards_on_ray,
        "train": machines.trains_on_ray,
        "contest": machines.contests_on_ray,
        "score": machines.scores_on_ray,
    }
    outputs = {
        "shard": f"{config.shard.output}/train/{MANIFEST_NAME}",
        "train": f"{config.train.output}/summary.json",
        "score": f"{config.score.output}/{MANIFEST_NAME}",
        "evaluate": f"{config.evaluate.output}/{EVALUATION_NAME}",
    }
    return tuple(
        StagePlan(
            name=name,
            on_ray=on_ray.get(name, False),
            is_there=name in outputs and filesystem.exists(absolute_address(outputs[name])),
            cost=cost,
            money=None if prices is None else machines.money(cost.wall_s, prices=prices),
        )
        for name, cost in costs.items()
    )


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
    if config.train.num_workers > 1:
        yield f"train: one worker was measured, and its steps divided by {config.train.num_workers}"
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
