"""Points of the training curves: means over a few steps and all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor

from ecor.training.distributed import Rank


class TrainingCurve:
    """Sums of the metrics of a few steps; they stay on the device until a point of the curve is needed."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0

    def add(self, terms: dict[str, Tensor], *, gradient_norm: Tensor, learning_rate: float) -> None:
        loss = torch.stack(list(terms.values())).sum()
        rate = torch.tensor(learning_rate, device=loss.device)
        point = {**terms, "loss": loss, "gradient_norm": gradient_norm.detach(), "learning_rate": rate}
        self._sums = {name: self._sums.get(name, 0) + value for name, value in point.items()}
        self._num_steps += 1

    def mean_over(self, rank: Rank) -> dict[str, float]:
        """Return means over the steps and the ranks; every rank must call."""
        means = torch.stack(list(self._sums.values())) / self._num_steps
        if rank.num_ranks > 1:
            dist.all_reduce(means)
            means /= rank.num_ranks
        return dict(zip(self._sums, means.tolist(), strict=True))
