"""Remember which samples a training run has read, and which of them could not be read, on all ranks."""

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from ecor.training.distributed import Rank
from pipelines.runtime.balance import Balance, add_counts
from pipelines.training.data_loader import Split

UNUSED, READ, UNREADABLE = 0, 1, 2
"""States of a sample, in the order in which they override each other."""
Uses = UInt8[Tensor, " N"]
"""The state of each sample of a split."""


def mark_samples(uses: Uses, positions: Iterable[int] | Tensor, *, readable: Bool[Tensor, " B"]) -> None:
    """Set the states of samples that were just read; one that could not be read once stays unreadable."""
    places = torch.as_tensor(positions, dtype=torch.long)
    states = torch.where(readable.cpu(), READ, UNREADABLE).to(torch.uint8)
    uses[places] = torch.maximum(uses[places], states)


def merge_uses(uses: Uses, *, rank: Rank, before: Uses | None = None) -> Uses:
    """States on all ranks, and those of the run before it resumed; every rank must call."""
    found = rank.all_gather(uses)
    return torch.stack([*found, *([] if before is None else [before])]).amax(dim=0)


def balance_training(
    stage: str, *, num_listed: int, uses: Iterable[Uses], left_out: Iterable[Mapping[str, int]] = ()
) -> Balance:
    """What became of the samples of all splits.

    Args:
        stage: its name.
        num_listed: samples that the manifests name.
        uses: of the samples that can be learned from, of each split.
        left_out: those that cannot, by kind, of each split.
    """
    states = Counter(state for each in uses for state in each.tolist())
    return Balance(
        stage=stage,
        num_listed=num_listed,
        num_taken=states[READ],
        rejected={"unreadable": states[UNREADABLE]},
        left_out=add_counts([{"not_drawn": states[UNUSED]}, *left_out]),
    )


def balance_splits(*splits: Split, uses: Mapping[str, Uses]) -> Balance:
    """What became of the samples of both splits of `ecor train`; `uses` by folder.

    A state that an earlier version saved has no uses: then no sample counts as drawn.
    """
    found = {split.folder: split for split in splits}  # a run may validate on what it learns from
    return balance_training(
        "train",
        num_listed=sum(split.manifest.num_samples for split in found.values()),
        uses=[uses.get(folder, torch.zeros(len(split), dtype=torch.uint8)) for folder, split in found.items()],
        left_out=[split.left_out for split in found.values()],
    )
