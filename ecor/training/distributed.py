"""Collective operations between ranks: means, ids, features with the gradients DDP needs, and objects."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Identity of a worker among all ranks."""

    index: int = 0
    num_ranks: int = 1
    local_index: int = 0
    """Among the workers of this node."""
    num_local: int = 1
    node: int = 0
    device: str = "cpu"

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in rank order; every rank must call it."""
        if self.num_ranks == 1:
            return [value]
        found = [value] * self.num_ranks
        dist.all_gather_object(found, value)
        return found


def mean_over_ranks(values: Float[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Divide the sum over this rank's images by the mean number of valid images per rank.

    The mean of the result over ranks is the mean over all valid images, also where ranks hold unequal numbers of them.

    Args:
        values: one per image; 0 where not valid.
        valid: which images count.
    """
    count = valid.sum()
    if is_distributed():
        dist.all_reduce(count)
        return values.sum() * dist.get_world_size() / count.clamp(min=1)
    return values.sum() / count.clamp(min=1)


def gather_ids(ids: Int[Tensor, " B"]) -> Int[Tensor, " N"]:
    """The ids of all ranks, in rank order."""
    if not is_distributed():
        return ids
    parts = [torch.empty_like(ids) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, ids.contiguous())
    return torch.cat(parts)


def gather_features(features: Float[Tensor, "B D"]) -> Float[Tensor, "N D"]:
    """The features of all ranks, in rank order, with gradient to each rank's own."""
    return GatherFeatures.apply(features) if is_distributed() else features


class GatherFeatures(Function):
    """all_gather whose backward sums the gradients that all ranks have for this rank's part.

    Every rank computes the same loss of the gathered batch, so the sum is the world size times the gradient, and
    DDP's mean over ranks, to which the other ranks' parts add theirs, makes it whole.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def is_distributed() -> bool:
    """Whether a process group of several ranks is active and gradients are recorded."""
    return torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
