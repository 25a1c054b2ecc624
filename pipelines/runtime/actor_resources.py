"""Divide a cluster's CPUs and GPUs between decoding and scoring actors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecor.config.checks import require
from pipelines.config.stages import ScoreConfig

_SCORING_SHARE = 0.75  # of the CPUs, where there is no GPU: an image tower costs ten times a decoding
_DECODING_SHARE = 0.5  # of the CPUs beside a GPU
_MIN_CPU_SHARE = 0.5  # machines with less than this share of the largest one's CPUs decode only


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """CPUs and GPUs that Ray reserves for the actors of a job; in total never more than the cluster has."""

    num_decoders: int
    cpus_per_decoder: float
    num_scorers: int
    cpus_per_scorer: float
    gpus_per_scorer: float

    @property
    def num_threads(self) -> int:
        """Torch threads of a scorer: its CPUs, rounded up."""
        return max(1, math.ceil(self.cpus_per_scorer))


def reserve_resources(config: ScoreConfig, *, machines: Sequence[Mapping[str, float]]) -> Reservation:
    """Divide the CPUs and GPUs of a cluster between decoders and scorers; both get a share, even of a single CPU.

    An actor runs on one machine. Without GPUs the default is one scorer per machine with three quarters of its CPUs. On
    equal machines, decoders then never block all scorers, nor scorers all decoders, wherever Ray places them. Machines
    with less than half of the CPUs of the largest one only decode. With GPUs each scorer has its own. If there are more
    scorers than GPUs, the rest start when the cluster has grown. Ray counts in steps of 0.0001.

    Args:
        config: settings of the stage.
        machines: amount of each resource by name, for each machine.

    Raises:
        ValueError: when the cluster has no CPU, or no GPU although GPUs are asked for.
    """
    cpus = [machine["CPU"] for machine in machines if machine.get("CPU", 0.0) > 0]
    require(len(cpus) > 0, "the cluster has no CPU to decode on")
    if config.use_gpu:
        num_gpus, cpus_per_scorer = _divide_gpus(machines)
        num_scorers = config.num_scorers or num_gpus
        num_now = min(num_scorers, num_gpus)
    else:
        num_scorers, cpus_per_scorer = _divide_cpus(config, cpus=cpus)
        num_now = num_scorers
    left = sum(cpus) - num_now * cpus_per_scorer
    num_decoders = config.num_decoders or max(len(cpus), int(left))
    return Reservation(
        num_decoders=num_decoders,
        cpus_per_decoder=_round_down(min(1.0, left / max(num_decoders, len(cpus)))),
        num_scorers=num_scorers,
        cpus_per_scorer=cpus_per_scorer,
        gpus_per_scorer=float(config.use_gpu),
    )


def _divide_cpus(config: ScoreConfig, *, cpus: Sequence[float]) -> tuple[int, float]:
    """Number of scorers and CPUs per scorer, from the CPUs of each machine."""
    alike = [number for number in cpus if number >= _MIN_CPU_SHARE * max(cpus)]
    num_scorers = config.num_scorers or len(alike)
    per_machine = math.ceil(num_scorers / len(alike))
    return num_scorers, _round_down(_SCORING_SHARE * min(alike) / per_machine)


def _divide_gpus(machines: Sequence[Mapping[str, float]]) -> tuple[int, float]:
    """Number of GPUs and CPUs per GPU."""
    with_gpus = [machine for machine in machines if machine.get("GPU", 0.0) >= 1]
    require(len(with_gpus) > 0, "use_gpu is set, but the cluster has no GPU: start one with GPUs, or drop it")
    beside = min(_DECODING_SHARE * machine.get("CPU", 0.0) / int(machine["GPU"]) for machine in with_gpus)
    return sum(int(machine["GPU"]) for machine in with_gpus), _round_down(min(1.0, beside))


def _round_down(share: float) -> float:
    return math.floor(share * 10_000 + 1e-6) / 10_000
