"""Divide a cluster's CPUs and GPUs between decoding and scoring actors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecor.config import require
from pipelines.config.stages import ScoreConfig

_SCORING_SHARE = 0.75  # of the CPUs, where there is no GPU: an image tower costs ten times a decoding
_DECODING_SHARE = 0.5  # of the CPUs beside a GPU
_MIN_CPU_SHARE = 0.5  # machines with less than this share of the largest one's CPUs decode only


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


def reserve_resources(config: ScoreConfig, *, machines: Sequence[Mapping[str, float]]) -> Reservation:
    """Divide the CPUs and GPUs of a cluster's machines; decoders and scorers both get a share, of a single CPU too.

    An actor is on one machine. Without GPUs there is by default a scorer on each, with three quarters of its CPUs, so
    that on machines that are alike decoders never keep out all scorers, wherever Ray puts them, nor scorers all
    decoders; machines with less than half of the CPUs of the largest one decode only. With GPUs each scorer has one of
    its own: of more scorers than GPUs some begin when the cluster has grown.
    Ray counts reservations in steps of 0.0001.

    Raises ValueError when GPUs are asked for and there is none.
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
    """How many scorers, and the CPUs of each, on machines with so many CPUs."""
    alike = [number for number in cpus if number >= _MIN_CPU_SHARE * max(cpus)]
    num_scorers = config.num_scorers or len(alike)
    per_machine = math.ceil(num_scorers / len(alike))
    return num_scorers, _round_down(_SCORING_SHARE * min(alike) / per_machine)


def _divide_gpus(machines: Sequence[Mapping[str, float]]) -> tuple[int, float]:
    """How many GPUs there are, and how many CPUs go with each."""
    with_gpus = [machine for machine in machines if machine.get("GPU", 0.0) >= 1]
    require(len(with_gpus) > 0, "use_gpu is set, but the cluster has no GPU: start one with GPUs, or drop it")
    beside = min(_DECODING_SHARE * machine.get("CPU", 0.0) / int(machine["GPU"]) for machine in with_gpus)
    return sum(int(machine["GPU"]) for machine in with_gpus), _round_down(min(1.0, beside))


def _round_down(share: float) -> float:
    return math.floor(share * 10_000 + 1e-6) / 10_000
