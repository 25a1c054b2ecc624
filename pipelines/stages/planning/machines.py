"""Which machines a plan counts with, which stages run on Ray, and the actors and memory of a node."""

import math
from dataclasses import dataclass, replace

from pipelines.config.infrastructure import PlanConfig, Prices
from pipelines.config.pipeline_file import PipelineConfig
from pipelines.config.stages import ScoreConfig
from pipelines.runtime.actor_resources import Reservation, reserve_resources
from pipelines.runtime.local_run import num_local_cpus, runs_in_process, scores_in_process
from pipelines.scoring.decoder import PART_BYTES
from pipelines.sharding.flows.open_flow import IMAGES_PER_LABEL
from pipelines.stages.planning.estimates import Estimate
from pipelines.stages.planning.score_probe import ScoreProbe

_PARTS_HELD = 3
"""Decoded parts in the memory of a decoder, about."""
_SPARE = 1.1
"""Decoders beyond those that keep up with the scorers (our choice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The nodes that the pipeline is planned for: equal ones, each like this machine."""

    num_nodes: int
    num_cpus: int
    """Of all nodes."""
    num_cpus_here: int
    num_gpus: int
    """Of all nodes."""
    reservation: Reservation
    """Actors of `score`."""
    shards_on_ray: bool
    trains_on_ray: bool
    contests_on_ray: bool
    """`score` on the validation split."""
    scores_on_ray: bool

    @property
    def uses_ray(self) -> bool:
        """Whether any stage does."""
        return self.shards_on_ray or self.trains_on_ray or self.contests_on_ray or self.scores_on_ray

    def money(self, seconds: Estimate, *, prices: Prices) -> Estimate:
        """The price of all CPUs and GPUs for some seconds, whether they work or wait."""
        return seconds.times((self.num_cpus * prices.cpu_hour + self.num_gpus * prices.gpu_hour) / 3600)


def plan_machines(
    config: PipelineConfig, *, plan: PlanConfig, num_shard: int, num_validation: int, num_score: int
) -> Machines:
    """Decide as the stages do.

    Args:
        config: of the pipeline.
        plan: gives the number of nodes.
        num_shard: images to shard.
        num_validation: images of the validation split.
        num_score: images to label at the end.

    Raises:
        ValueError: when the nodes have no GPU, or too few CPUs, for what the settings ask for.
    """
    cpus = num_local_cpus(config.cluster)
    uses_gpu = config.train.use_gpu or config.score.use_gpu
    gpus = config.cluster.num_gpus if config.cluster.num_gpus is not None else (num_gpus_here() or int(uses_gpu))
    is_one = plan.num_nodes == 1
    local = config.cluster
    single = config.train.num_workers == 1 and not config.train.use_gpu and config.train.max_failures == 0
    placed = config.score.use_gpu or config.score.num_scorers is not None or config.score.num_decoders is not None
    machine = {"CPU": float(cpus), "GPU": float(gpus)}
    return Machines(
        num_nodes=plan.num_nodes,
        num_cpus=cpus * plan.num_nodes,
        num_cpus_here=cpus,
        num_gpus=gpus * plan.num_nodes,
        reservation=reserve_resources(config.score, machines=[machine] * plan.num_nodes),
        shards_on_ray=not (is_one and runs_in_process(local, num_images=math.ceil(num_shard / IMAGES_PER_LABEL))),
        trains_on_ray=not (is_one and single and runs_in_process(local, num_images=1)),
        contests_on_ray=placed or not (is_one and scores_in_process(local, num_images=num_validation)),
        scores_on_ray=placed or not (is_one and scores_in_process(local, num_images=num_score)),
    )


def fit_to_machine(config: PipelineConfig) -> tuple[PipelineConfig, list[str]]:
    """The pipeline as this machine can try it out, and what differs."""
    uses_gpu = config.train.use_gpu or config.score.use_gpu
    if not uses_gpu or num_gpus_here():
        return config, []
    train, score = replace(config.train, use_gpu=False), replace(config.score, use_gpu=False)
    note = "the settings use GPUs and this machine has none: all times are of its CPUs; plan on a node of the cluster"
    return replace(config, train=train, score=score), [note]


def num_gpus_here() -> int:
    """GPUs of this machine that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def node_memory_bytes(machines: Machines, *, peak_bytes: int, first_bytes: int) -> int:
    """Main memory that a node needs, about: a process, or a driver, scorers and decoders on each node.

    Args:
        machines: the nodes.
        peak_bytes: peak of the process that has tried all stages out; a scorer needs no more.
        first_bytes: of a process before the first stage; a decoder adds some decoded parts.
    """
    if not machines.uses_ray:
        return peak_bytes
    scorers = math.ceil(machines.reservation.num_scorers / machines.num_nodes)
    decoders = math.ceil(machines.reservation.num_decoders / machines.num_nodes)
    return (1 + scorers) * peak_bytes + decoders * (first_bytes + _PARTS_HELD * PART_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Settings of `score` that the measurements speak for."""

    batch_size: int
    num_scorers: int
    num_decoders: int

    def lines(self) -> list[str]:
        """As lines of the section [score]."""
        return [f"{name} = {getattr(self, name)}" for name in ("batch_size", "num_scorers", "num_decoders")]


def advise(config: ScoreConfig, *, probe: ScoreProbe, machines: Machines) -> Advice:
    """The fastest batch size that was measured, if it is 5 % faster than the configured one; decoders that keep up.

    Args:
        config: of the stage.
        probe: of this machine.
        machines: the nodes.
    """
    best = max(probe.images_per_s, key=lambda size: probe.images_per_s[size])
    is_better = probe.images_per_s[best] > 1.05 * probe.images_per_s[config.batch_size]
    scorers = machines.reservation.num_scorers
    most = max(1, machines.num_cpus - (0 if config.use_gpu else scorers))
    wanted = math.ceil(_SPARE * scorers * probe.decode_s.value / probe.score_s.value)
    return Advice(
        batch_size=best if is_better else config.batch_size,
        num_scorers=scorers,
        num_decoders=min(max(machines.num_nodes, wanted), max(machines.num_nodes, most)),
    )
