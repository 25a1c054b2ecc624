"""The plan of a pipeline as a record: counts, refusals, seconds and money per stage, memory, advice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

from pipelines.stages.planning.estimates import Cost, Estimate, share_of, total
from pipelines.stages.planning.machines import Advice, Machines

FORMAT = 1
"""Version of the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Images that will be rejected for one reason."""

    stage: str
    reason: str
    num_in_sample: int
    num_images: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage."""

    name: str
    on_ray: bool
    is_there: bool
    """Its output exists; whether it has the same parents is checked by the stage itself."""
    cost: Cost
    money: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What is listed."""

    num_shard: int
    """Images to shard."""
    num_score: int
    """Images to label at the end."""
    num_probed: int
    by_split: Mapping[str, int]
    num_bytes: int | None
    """Of the encoded images; None where the listing has no sizes."""
    tar_bytes: Estimate
    """Of the shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of main memory per node, of the model, and of a GPU."""

    node_bytes: int
    model_bytes: int
    gpu_bytes: int | None
    """Peak of a GPU; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pipeline will take."""

    pipeline: str
    machine: str
    """Where the sample was tried out."""
    date: str
    seed: int
    images: Images
    refusals: tuple[Refusal, ...]
    max_rejected: float
    stages: tuple[StagePlan, ...]
    machines: Machines
    memory: Memory
    advice: Advice
    images_per_s: Mapping[int, float]
    """Of one scorer, by batch size."""
    notes: tuple[str, ...]
    planning_s: float

    @property
    def cost(self) -> Cost:
        """Of all stages, those too whose output exists."""
        return total([stage.cost for stage in self.stages])

    @property
    def money(self) -> Estimate | None:
        """Of all stages; None without prices."""
        prices = [stage.money for stage in self.stages if stage.money is not None]
        return reduce(add, prices) if prices else None

    def to_record(self) -> dict[str, Any]:
        """JSON values; seconds, bytes, and money in the currency of the prices."""
        return {"format": FORMAT, **asdict(self), "total": asdict(self.cost)}


def refusals_of(stage: str, rejected: Mapping[str, int], *, num_probed: int, num_images: int) -> tuple[Refusal, ...]:
    """Refusals to come, by reason and in all.

    Args:
        stage: name of the stage.
        rejected: images of the sample by reason.
        num_probed: images of the sample.
        num_images: images of the input. Where all of them were probed, the numbers are exact.
    """
    counts = dict(sorted(rejected.items(), key=lambda each: (-each[1], each[0])))
    if len(counts) != 1:
        counts |= {"in all": sum(rejected.values())}
    found = []
    for reason, number in counts.items():
        share = share_of(number, total=num_probed)
        if num_probed >= num_images:
            share = Estimate(value=share.value, low=share.value, high=share.value)
        found.append(
            Refusal(stage=stage, reason=reason, num_in_sample=number, num_images=share.times(float(num_images)))
        )
    return tuple(found)
