"""Seconds of every stage of a pipeline: fixed costs of a rehearsal, and costs per image times the images counted."""

from dataclasses import dataclass

from ecor.data.shard_manifest import MANIFEST_NAME
from ecor.evaluation.record import EVALUATION_NAME
from ecor.storage import filesystem
from pipelines.config.infrastructure import Prices, absolute_address
from pipelines.config.pipeline_file import PipelineConfig
from pipelines.runtime.actor_resources import Reservation
from pipelines.stages.planning.estimates import Cost, Estimate, Spent, cost_once, exact, fixed_cost, total
from pipelines.stages.planning.inputs import ScoreInput, ShardInput
from pipelines.stages.planning.machines import Machines
from pipelines.stages.planning.plan_record import StagePlan
from pipelines.stages.planning.rehearsal import Rehearsal
from pipelines.stages.planning.score_probe import ScoreProbe
from pipelines.stages.planning.shard_probe import ShardProbe
from pipelines.stages.planning.train_probe import TrainProbe, train_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Everything that was measured."""

    database: Cost
    """Of the first contact with MLflow."""
    num_contestants: int
    """Models that are scored on validation: the new one, and the champion of the day if there is one."""
    shard: ShardProbe
    train: TrainProbe
    contest: ScoreProbe
    """Of labels without heat maps."""
    score: ScoreProbe
    rehearsal: Rehearsal


def plan_stages(
    config: PipelineConfig,
    *,
    shards: ShardInput,
    scored: ScoreInput,
    probes: Probes,
    machines: Machines,
    start: Cost,
    prices: Prices | None,
) -> tuple[StagePlan, ...]:
    """Every stage with its cost, its price, where it runs, and whether its output is there.

    Args:
        config: of the pipeline.
        shards: the listed input of `shard`.
        scored: the listed input of `score`.
        probes: what was measured.
        machines: to plan for.
        start: cost of the start of Python, and of imports.
        prices: of the machines; None: no money.
    """
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
    costs = stage_costs(config, shards=shards, scored=scored, probes=probes, machines=machines)
    return tuple(
        StagePlan(
            name=name,
            on_ray=on_ray.get(name, False),
            is_there=name in outputs and filesystem.exists(absolute_address(outputs[name])),
            cost=cost,
            money=None if prices is None else machines.money(cost.wall_s, prices=prices),
        )
        for name, cost in {"start": start, **costs}.items()
    )


def stage_costs(
    config: PipelineConfig,
    *,
    shards: ShardInput,
    scored: ScoreInput,
    probes: Probes,
    machines: Machines,
) -> dict[str, Cost]:
    """The cost of each stage by name, in the order in which they run.

    The contest scores and evaluates the new model on validation, and the champion of the day if one is known.
    """
    valid = {split: probes.shard.valid_share.times(number) for split, number in shards.by_split.items()}
    validation = valid.get(config.train.validation_split, exact(0.0))
    rehearsal = probes.rehearsal
    contest = score_cost(
        probes.contest,
        num_images=validation,
        fixed=_without_images(rehearsal.contest, probe=probes.contest),
        machines=machines,
        on_ray=machines.contests_on_ray,
    )
    final = score_cost(
        probes.score,
        num_images=exact(scored.num_images),
        fixed=_without_images(rehearsal.score, probe=probes.score),
        machines=machines,
        on_ray=machines.scores_on_ray,
    )
    num_cards = min(config.report.max_images, scored.num_images)
    costs = {"mlflow": probes.database}
    costs["shard"] = shard_cost(probes.shard, shards=shards, machines=machines)
    costs["train"] = train_cost(
        probes.train, config.train, num_train=valid.get("train", exact(0.0)), num_validation=validation
    )
    costs["register"] = rehearsal.register
    others = (contest + rehearsal.evaluate_again).times(float(probes.num_contestants - 1))
    costs["contest"] = total([contest, rehearsal.evaluate, others, rehearsal.promote])
    costs["score"] = final
    if scored.has_truth:
        costs["evaluate"] = rehearsal.evaluate_again
    costs["report"] = rehearsal.report + rehearsal.card.times(num_cards)
    return costs


def _without_images(whole: Spent, *, probe: ScoreProbe) -> Cost:
    """What a run of `score` took apart from its images."""
    return fixed_cost(whole, variable=probe.image.times(whole.num_images))


def shard_cost(probe: ShardProbe, *, shards: ShardInput, machines: Machines) -> Cost:
    """Cost of `shard`: the listing as it was measured, and images, which all CPUs of all nodes share."""
    number = exact(float(shards.num_images))
    images = total([probe.inspect.times(number), probe.write.times(probe.valid_share).times(number)])
    share = 1.0 if not machines.shards_on_ray else machines.num_cpus_here / machines.num_cpus
    spread = Cost(wall_s=images.wall_s.times(share), cpu_s=images.cpu_s)
    return total([cost_once(shards.listing), probe.fixed, spread])


def score_cost(probe: ScoreProbe, *, num_images: Estimate, fixed: Cost, machines: Machines, on_ray: bool) -> Cost:
    """Cost of labelling images; on a cluster, the slowest of decoders, scorers and CPUs sets the pace."""
    images = probe.image.times(num_images)
    if not on_ray:
        return fixed + images
    pace = ray_pace(probe, reservation=machines.reservation, num_cpus=machines.num_cpus)
    return fixed + Cost(wall_s=pace.times(num_images), cpu_s=images.cpu_s)


def ray_pace(probe: ScoreProbe, *, reservation: Reservation, num_cpus: int) -> Estimate:
    """Seconds per image of a cluster."""
    limits = [
        probe.decode_s.times(1 / reservation.num_decoders),
        probe.score_s.times(1 / reservation.num_scorers),
        probe.image.cpu_s.times(1 / num_cpus),
    ]
    slowest = limits[0]
    for limit in limits[1:]:
        slowest = slowest.at_least(limit)
    return slowest
