"""Features of images and of language in, how far the two disagree out: LICO's two losses (arXiv:2310.09821)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from ecor.config import require, require_at_least


def distances(rows: Float[Tensor, "N F"]) -> Float[Tensor, "N N"]:
    """Euclidean; equal rows have no gradient, where that of the root is infinite."""
    return torch.cdist(rows[None], rows[None], compute_mode="donot_use_mm_for_euclid_dist")[0]


def log_manifold(
    rows: Float[Tensor, "N F"], *, temperature: Float[Tensor, ""] | float, known: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, "N N"]:
    """log A, with A_ij = softmax over j of −D_ij / temperature, D the distances of normalised rows (Eq. 1).

    Rows that are not `known` are near to none. The diagonal counts, as in the authors' code.
    """
    logits = -distances(normalize(rows, dim=-1)) / temperature
    if known is not None:
        logits = logits.masked_fill(~known, -math.inf if bool(known.any()) else 0.0)
    return logits.log_softmax(dim=-1)


def manifold_matching(
    image: Float[Tensor, "N F"],
    language: Float[Tensor, "N G"],
    *,
    temperature: Float[Tensor, ""] | float,
    known: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, ""]:
    """KL(A^G || A^F): who is near to whom among the images, as among their texts; the mean over rows.

    Args:
        image: flattened features of the N images of the whole batch, of all ranks.
        language: of the text of each.
        temperature: of both softmaxes; positive.
        known: images that have a text; the others take no part.
    """
    known = torch.ones(len(image), dtype=torch.bool, device=image.device) if known is None else known
    log_f, log_g = (log_manifold(rows, temperature=temperature, known=known) for rows in (image, language))
    both = known[:, None] & known
    divergence = torch.where(both, log_g.exp() * (log_g.masked_fill(~both, 0.0) - log_f.masked_fill(~both, 0.0)), 0.0)
    return divergence.sum() / known.sum().clamp(min=1)


@torch.no_grad()
def transport_plan(
    cost: Float[Tensor, "B N M"], *, epsilon: float, max_iterations: int = 100, tolerance: float = 1e-3
) -> Float[Tensor, "B N M"]:
    """The entropic plan between uniform marginals 1/N and 1/M: Sinkhorn in the log domain (arXiv:1306.0895).

    It ends when the potentials' mean change over rows (and images) is below the tolerance. The last update is of the
    columns, so that those add up exactly.

    Args:
        cost: of moving mass from row n to column m.
        epsilon: weight of the entropy; towards 0 the plan becomes the exact one, and takes more iterations.
        max_iterations: at most.
        tolerance: of the change, in units of cost.

    Raises:
        ValueError: for an epsilon that is not positive, or no iteration.
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
    """What it costs to move an image's feature maps onto the tokens of its text: sum of plan times cost, per image.

    The cost of two rows is the squared distance of the normalised ones. The plan is held fixed, gradients pass through
    the cost (as LICO's authors do); arguments as `transport_plan`.
    """
    rows, columns = normalize(image, dim=-1), normalize(language, dim=-1)
    cost = 2 - 2 * rows @ columns.transpose(1, 2)
    plan = transport_plan(cost.detach(), epsilon=epsilon, max_iterations=max_iterations, tolerance=tolerance)
    return (plan * cost).sum(dim=(1, 2))
