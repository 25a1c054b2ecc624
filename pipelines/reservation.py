"""A cluster's CPUs and GPUs in, what each actor of a scoring job gets of them out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ecor.config import require
from pipelines.config import ScoreConfig

_SCORING_SHARE = 0.75  # of the CPUs, where there is no GPU: an image tower costs ten times a decoding


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


def reserve(config: ScoreConfig, *, resources: Mapping[str, float]) -> Reservation:
    """Divide a cluster's CPUs and GPUs; decoders and scorers both get a share, of a single CPU too.

    Without GPUs scorers get three quarters of the CPUs. Ray counts reservations in steps of 0.0001.

    Raises ValueError when GPUs are asked for and there is none.
    """
    num_cpus, num_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    require(num_cpus > 0, "the cluster has no CPU to decode on")
    require(
        not config.use_gpu or num_gpus > 0,
        "use_gpu is set, but the cluster has no GPU: start one with GPUs, or drop it",
    )
    num_scorers = config.num_scorers or (max(1, int(num_gpus)) if config.use_gpu else 1)
    for_scoring = min(num_scorers, num_cpus / 2) if config.use_gpu else _SCORING_SHARE * num_cpus
    cpus_per_scorer = _rounded_down(for_scoring / num_scorers)
    left = num_cpus - num_scorers * cpus_per_scorer
    num_decoders = config.num_decoders or max(1, int(left))
    return Reservation(
        num_decoders=num_decoders,
        cpus_per_decoder=_rounded_down(min(1.0, left / num_decoders)),
        num_scorers=num_scorers,
        cpus_per_scorer=cpus_per_scorer,
        gpus_per_scorer=_rounded_down(min(1.0, num_gpus / num_scorers)) if config.use_gpu else 0.0,
    )


def _rounded_down(share: float) -> float:
    return math.floor(share * 10_000 + 1e-6) / 10_000
