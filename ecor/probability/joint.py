"""The `Joint` record: log P(c, r | I) of the evaluated pairs, and the probability of all others."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.config.scoring import MethodName


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """log P(c, r | I) of the K kept rationales with every category.

    K is the largest that an image of the batch needed. An image that needed fewer has −inf in `log_prob` for the
    rationales that were not evaluated; `inverted` has −inf for categories that were not.
    """

    method: MethodName
    """Name of the method that made it."""
    rationales: Int[Tensor, "B K"]
    """Ids of the kept rationales, best first."""
    rationale_log_prob: Float[Tensor, "B K"]
    """log P(r | I); for `inverted` the sum over the kept categories only, a lower bound; for `pooled` −inf where the
    rationale was not evaluated."""
    log_prob: Float[Tensor, "B K C"]
    """log P(c, r | I), natural logarithm; −inf where not evaluated."""
    category_log_prob: Float[Tensor, "B C"]
    """log P(c | I). `joint`, `pooled`: over the evaluated rationales, renormalised to sum to one (our choice); others:
    exact."""
    rest_log_prob: Float[Tensor, " B"]
    """Log of the probability of all pairs that are not in `log_prob`."""
    pairs_exact: Bool[Tensor, " B"]
    """No pair that was not evaluated can be among the best `top_k`."""
    category_certain: Bool[Tensor, " B"]
    """The best category of `category_log_prob` is the best for any distribution of the remaining probability."""
    partition_bounds: Float[Tensor, "B 2"] | None = None
    """`pooled`: the true log partition function less the one used lies between these two; both are 0 where all
    rationales were evaluated. A true log P differs from `log_prob` by as much, with the other sign. None: no error."""

    @property
    def kept_mass(self) -> Float[Tensor, " B"]:
        """Probability of all pairs in `log_prob`, between 0 and 1."""
        return -torch.expm1(self.rest_log_prob.clamp(max=0.0))

    @property
    def evaluated(self) -> Bool[Tensor, "B K"]:
        """Which kept rationales were evaluated, so that they have pairs in `log_prob`."""
        return self.log_prob.amax(dim=-1) > -math.inf


class RankedPairs(NamedTuple):
    """The best pairs of each image, best first."""

    categories: Int[Tensor, "B k"]
    rationales: Int[Tensor, "B k"]
    log_prob: Float[Tensor, "B k"]


def ranked_pairs(joint: Joint, k: int) -> RankedPairs:
    """Rank the best k pairs of each image, or all K·C where that is fewer; −inf marks pairs that were not evaluated.

    Args:
        joint: of B images.
        k: pairs per image.
    """
    num_categories = joint.log_prob.shape[-1]
    best = joint.log_prob.flatten(1).topk(min(k, joint.log_prob[0].numel()), dim=-1)
    kept = torch.div(best.indices, num_categories, rounding_mode="floor")
    return RankedPairs(best.indices % num_categories, joint.rationales.gather(1, kept), best.values)
