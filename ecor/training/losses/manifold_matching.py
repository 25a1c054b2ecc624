"""Manifold matching between images and language (LICO, arXiv:2310.09821)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize


def pairwise_distances(rows: Float[Tensor, "N F"]) -> Float[Tensor, "N N"]:
    """Euclidean distances of rows; equal rows have no gradient, where that of the root is infinite."""
    return torch.cdist(rows[None], rows[None], compute_mode="donot_use_mm_for_euclid_dist")[0]


def log_manifold(
    rows: Float[Tensor, "N F"], *, temperature: Float[Tensor, ""] | float, known: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, "N N"]:
    """log A, with A_ij = softmax over j of −D_ij / temperature, D the distances of normalised rows (Eq. 1).

    Rows that are not `known` are near to none. The diagonal counts, as in the authors' code.
    """
    logits = -pairwise_distances(normalize(rows, dim=-1)) / temperature
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
    """KL(A^G || A^F) between the neighbourhoods of texts and of images; the mean over rows.

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
