"""Optimal transport between feature maps and text tokens by Sinkhorn iterations (LICO, arXiv:2310.09821)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ecor.config.checks import require, require_at_least


@torch.no_grad()
def sinkhorn_plan(
    cost: Float[Tensor, "B N M"], *, epsilon: float, max_iterations: int = 100, tolerance: float = 1e-3
) -> Float[Tensor, "B N M"]:
    """Compute the entropic plan between uniform marginals 1/N and 1/M: Sinkhorn in the log domain (arXiv:1306.0895).

    It ends when the potentials' mean change over rows (and images) is below the tolerance. The last update is of the
    columns, so that those add up exactly.

    Args:
        cost: of moving mass from row n to column m.
        epsilon: weight of the entropy; towards 0 the plan becomes the exact one, and takes more iterations.
        max_iterations: at most.
        tolerance: of the change, in units of cost.

    Raises:
        ValueError: when epsilon is not positive, or there is no iteration.
    """
    require(epsilon > 0, f"epsilon must be positive, got {epsilon}")
    require_at_least("max_iterations", max_iterations, 1)
    num_rows, num_columns = cost.shape[1:]
    log_row, log_column = -math.log(num_rows), -math.log(num_columns)
    scaled = cost / epsilon
    row, column = torch.zeros_like(cost[:, :, 0]), torch.zeros_like(cost[:, 0])
    for _ in range(max_iterations):
        before = row
        row = log_row - (column[:, None] - scaled).logsumexp(dim=2)
        column = log_column - (row[:, :, None] - scaled).logsumexp(dim=1)
        if epsilon * float((row - before).abs().mean()) < tolerance:
            break
    return (row[:, :, None] + column[:, None] - scaled).exp()


def transport_cost(
    image: Float[Tensor, "B N F"],
    language: Float[Tensor, "B M F"],
    *,
    epsilon: float,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
) -> Float[Tensor, " B"]:
    """Transport cost between an image's feature maps and the tokens of its text: sum of plan times cost, per image.

    The cost of two rows is the squared distance of the normalised ones. The plan is held fixed, gradients pass through
    the cost (as LICO's authors do).

    Args:
        image: N flattened feature maps of each image.
        language: M tokens of its text.
        epsilon: as for `sinkhorn_plan`.
        max_iterations: as for `sinkhorn_plan`.
        tolerance: as for `sinkhorn_plan`.

    Raises:
        ValueError: as `sinkhorn_plan`.
    """
    rows, columns = normalize(image, dim=-1), normalize(language, dim=-1)
    cost = 2 - 2 * rows @ columns.transpose(1, 2)
    plan = sinkhorn_plan(cost.detach(), epsilon=epsilon, max_iterations=max_iterations, tolerance=tolerance)
    return (plan * cost).sum(dim=(1, 2))
