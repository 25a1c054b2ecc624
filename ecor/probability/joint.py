"""Image and text features in, log P(c, r | I) out (ECOR, arXiv:2404.12839), with the rivals it is measured against.

    P(r | I)        = softmax over r of  s/T_r · v(I) · t(Prompt_R(r))
    P(c | r, I)     = softmax over c of  s/T_c · v(I) · t(Prompt_{c|R}(c, r))      with r held fixed
    log P(c, r | I) = log P(r | I) + log P(c | r, I)

Only K rationales per image are looked at; a table over all pairs is never built.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.config import ScoringConfig, Temperatures, require


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """One image feature per prompt, L2-normalised; the same tensor twice when visual tokens are shared."""

    rationale: Float[Tensor, "B D"]
    """What Prompt_R is compared with."""
    category: Float[Tensor, "B D"]
    """What Prompt_{c|R} is compared with."""

    def __len__(self) -> int:
        return self.rationale.shape[0]

    def select(self, images: Int[Tensor, " N"]) -> "ImageFeatures":
        """The features of some images, in the order given."""
        return ImageFeatures(rationale=self.rationale[images], category=self.category[images])


@runtime_checkable
class Rows(Protocol):
    """Text features as the mathematics needs them: L2-normalised, of any float type, on any device."""

    @property
    def rationales(self) -> Float[Tensor, "R D"]:
        """Prompt_R of every rationale."""

    @property
    def categories(self) -> Float[Tensor, "C D"]:
        """Every category alone, without a rationale."""

    def row(self, rationale: int) -> Float[Tensor, "C D"]:
        """Prompt_{c|R} of one rationale with every category."""

    def column(self, category: int) -> Float[Tensor, "R D"]:
        """Prompt_{c|R} of one category with every rationale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """log P(c, r | I) of the K kept rationales with every category.

    K is that of the image which needed most. An image that needed fewer has −inf in `log_prob` for the rationales
    that were not looked at, as `inverted` has for categories that were not.
    """

    method: str
    """Name of the method that made it."""
    rationales: Int[Tensor, "B K"]
    """Ids of the kept rationales, best first."""
    rationale_log_prob: Float[Tensor, "B K"]
    """log P(r | I); for `inverted` the sum over the kept categories only, a lower bound."""
    log_prob: Float[Tensor, "B K C"]
    """log P(c, r | I), natural logarithm; −inf where not looked at."""
    category_log_prob: Float[Tensor, "B C"]
    """log P(c | I). `joint`: over the rationales looked at, renormalised to sum to one (our choice); others: exact."""
    rest_log_prob: Float[Tensor, " B"]
    """Log of the probability of all pairs that are not in `log_prob`."""
    pairs_exact: Bool[Tensor, " B"]
    """No pair that was not looked at can be among the best `top_k`."""
    category_certain: Bool[Tensor, " B"]
    """The best category of `category_log_prob` stays best whatever the rest holds."""

    @property
    def kept_mass(self) -> Float[Tensor, " B"]:
        """Probability of all pairs in `log_prob`, between 0 and 1."""
        return -torch.expm1(self.rest_log_prob.clamp(max=0.0))

    @property
    def looked_at(self) -> Bool[Tensor, "B K"]:
        """Which kept rationales have pairs in `log_prob`."""
        return self.log_prob.amax(dim=-1) > -math.inf


class RankedPairs(NamedTuple):
    """The best pairs of each image, best first."""

    categories: Int[Tensor, "B k"]
    rationales: Int[Tensor, "B k"]
    log_prob: Float[Tensor, "B k"]


def joint_probability(
    features: ImageFeatures,
    text: Rows,
    *,
    scoring: ScoringConfig,
    logit_scale: float,
    temperatures: Temperatures | None = None,
) -> Joint:
    """log P(c, r | I) by the method that `scoring` names: `joint` (ECOR), `inverted`, `independent` or `pairs` (DROR).

    `logit_scale` is the multiplier s, not its logarithm. `temperatures` divide the logits of each method's own factors
    (our choice for the rivals). All is computed in fp32, also under autocast, and differentiable with respect to the
    features.

    Raises ValueError for an unknown method. Source: ECOR (arXiv:2404.12839); `pairs`: DROR (arXiv:2212.06202).
    """
    methods: dict[str, Callable[..., Joint]] = {
        "joint": joint,
        "inverted": inverted,
        "independent": independent,
        "pairs": pairs,
    }
    require(scoring.method in methods, f"unknown method {scoring.method!r}: choose from {', '.join(methods)}")
    return methods[scoring.method](
        features, text, scoring=scoring, logit_scale=logit_scale, temperatures=temperatures or Temperatures()
    )


def rationale_log_prob(
    features: ImageFeatures, text: Rows, *, logit_scale: float, temperatures: Temperatures
) -> Float[Tensor, "B R"]:
    """log P(r | I) of every rationale."""
    scale = logit_scale / temperatures.rationale
    return scaled_similarity(features.rationale, text.rationales, scale=scale).log_softmax(dim=-1)


def category_log_prob(
    features: ImageFeatures, text: Rows, *, logit_scale: float, temperatures: Temperatures
) -> Float[Tensor, "B C"]:
    """log P(c | I) from the sentence of the category alone, as in plain zero-shot CLIP."""
    scale = logit_scale / temperatures.of("category")
    return scaled_similarity(features.category, text.categories, scale=scale).log_softmax(dim=-1)


def category_given_rationale_log_prob(
    features: ImageFeatures,
    text: Rows,
    *,
    rationales: Int[Tensor, "B K"],
    logit_scale: float,
    temperatures: Temperatures,
) -> Float[Tensor, "B K C"]:
    """log P(c | r, I) of every category, for K rationales of each image; a negative id gives NaN.

    With the labelled rationales this is the ablation `oracle`, with `random_rationales` `random`.
    """
    scale = logit_scale / temperatures.category_given_rationale
    return conditional_log_prob(
        features.category, text.row, held=rationales, width=text.categories.shape[0], scale=scale
    )


def rationale_given_category_log_prob(
    features: ImageFeatures,
    text: Rows,
    *,
    categories: Int[Tensor, "B K"],
    logit_scale: float,
    temperatures: Temperatures,
) -> Float[Tensor, "B K R"]:
    """log P(r | c, I) of every rationale, for K categories of each image; a negative id gives NaN.

    The softmax over r of the conditional sentence with c held fixed: the second factor of `inverted`.
    """
    scale = logit_scale / temperatures.of("rationale_given_category")
    return conditional_log_prob(
        features.category, text.column, held=categories, width=text.rationales.shape[0], scale=scale
    )


def conditional_log_prob(
    image: Float[Tensor, "B D"],
    sentences: Callable[[int], Float[Tensor, "N D"]],
    *,
    held: Int[Tensor, "B K"],
    width: int,
    scale: float,
) -> Float[Tensor, "B K N"]:
    """Log-softmax over the `width` sentences of each held name, for K names of each image; a negative id gives NaN.

    One matrix product per distinct name, over the images that have it: a gather of [B K N D] features would cost
    gigabytes.
    """
    dtype = torch.promote_types(image.dtype, torch.float32)
    flat = image.new_full((held.numel(), width), math.nan, dtype=dtype)
    for name, slots in grouped(held.flatten()):
        images = torch.div(slots, held.shape[1], rounding_mode="floor")
        flat[slots] = scaled_similarity(image[images], sentences(name), scale=scale).log_softmax(dim=-1)
    return flat.unflatten(0, tuple(held.shape))


def random_rationales(num_images: int, *, num_rationales: int, generator: torch.Generator) -> Int[Tensor, "B 1"]:
    """A rationale per image, uniform over the vocabulary: what P(c | r, I) is worth without a reason."""
    return torch.randint(num_rationales, (num_images, 1), generator=generator, device=generator.device)


def joint(
    features: ImageFeatures, text: Rows, *, scoring: ScoringConfig, logit_scale: float, temperatures: Temperatures
) -> Joint:
    """ECOR: log P(r | I) + log P(c | r, I) for the K most probable rationales.

    P(c, r | I) ≤ P(r | I): once P(r_{K+1} | I) lies below the n-th best pair, the best n pairs are exact. K doubles
    until then, only for images that still need it, up to `max_keep_rationales` (our decoding; the paper gives none).
    """
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    num_categories = text.categories.shape[0]

    def score(images: Tensor, ids: Tensor) -> Tensor:
        given = category_given_rationale_log_prob(
            features.select(images), text, rationales=ids, logit_scale=logit_scale, temperatures=temperatures
        )
        return log_prob_BR[images].gather(1, ids).unsqueeze(-1) + given

    kept = keep_until_exact(log_prob_BR, score, scoring=scoring, width=num_categories)
    mass_BC = kept.log_prob.logsumexp(dim=1)
    rest = rest_log_prob(log_prob_BR, ids=kept.ids, looked_at=kept.looked_at)
    return Joint(
        method="joint",
        rationales=kept.ids,
        rationale_log_prob=log_prob_BR.gather(1, kept.ids),
        log_prob=kept.log_prob,
        category_log_prob=mass_BC.log_softmax(dim=-1),
        rest_log_prob=rest,
        pairs_exact=kept.exact,
        category_certain=lead(mass_BC.exp()) > rest.exp(),
    )


def inverted(
    features: ImageFeatures, text: Rows, *, scoring: ScoringConfig, logit_scale: float, temperatures: Temperatures
) -> Joint:
    """The other order: log P(c | I) + log P(r | c, I), the second a softmax over r of the conditional sentence.

    Categories are kept instead of rationales, `keep_rationales` of them to begin with, under the same bound. The
    Joint holds the rationales with the best pairs, at least `top_k` of them, so that it holds the best pairs.
    """
    log_prob_BC = category_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    num_rationales, num_categories = text.rationales.shape[0], log_prob_BC.shape[1]

    def score(images: Tensor, ids: Tensor) -> Tensor:
        given = rationale_given_category_log_prob(
            features.select(images), text, categories=ids, logit_scale=logit_scale, temperatures=temperatures
        )
        return log_prob_BC[images].gather(1, ids).unsqueeze(-1) + given

    kept = keep_until_exact(log_prob_BC, score, scoring=scoring, width=num_rationales)
    num_kept = min(num_rationales, max(scoring.top_k, scoring.keep_rationales))
    rationales = kept.log_prob.amax(dim=1).topk(num_kept, dim=-1).indices
    held_BKk = kept.log_prob.gather(2, rationales.unsqueeze(1).expand(-1, kept.ids.shape[1], -1)).transpose(1, 2)
    log_prob = held_BKk.new_full((len(features), num_kept, num_categories), -math.inf)
    log_prob = log_prob.scatter(2, kept.ids.unsqueeze(1).expand(-1, num_kept, -1), held_BKk)
    return Joint(
        method="inverted",
        rationales=rationales,
        rationale_log_prob=held_BKk.logsumexp(dim=-1),
        log_prob=log_prob,
        category_log_prob=log_prob_BC,
        rest_log_prob=log_complement(log_prob.flatten(1).logsumexp(dim=-1)),
        pairs_exact=kept.exact,
        category_certain=torch.ones_like(kept.exact),
    )


def independent(
    features: ImageFeatures, text: Rows, *, scoring: ScoringConfig, logit_scale: float, temperatures: Temperatures
) -> Joint:
    """log P(c | I) + log P(r | I): the best n pairs lie within the n best rationales, so they are always exact."""
    log_prob_BR = rationale_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    log_prob_BC = category_log_prob(features, text, logit_scale=logit_scale, temperatures=temperatures)
    num_kept = min(log_prob_BR.shape[1], max(scoring.top_k, scoring.keep_rationales))
    kept = log_prob_BR.topk(num_kept, dim=-1)
    certain = log_prob_BR.new_ones(len(features), dtype=torch.bool)
    return Joint(
        method="independent",
        rationales=kept.indices,
        rationale_log_prob=kept.values,
        log_prob=kept.values.unsqueeze(-1) + log_prob_BC.unsqueeze(1),
        category_log_prob=log_prob_BC,
        rest_log_prob=rest_log_prob(log_prob_BR, ids=kept.indices, looked_at=torch.ones_like(kept.indices).bool()),
        pairs_exact=certain,
        category_certain=certain,
    )


def pairs(
    features: ImageFeatures, text: Rows, *, scoring: ScoringConfig, logit_scale: float, temperatures: Temperatures
) -> Joint:
    """DROR: one softmax over all pairs of Prompt_{c|R}, streamed row by row; its sums over c and over r are exact.

    Keeps the rationales with the best pairs, at least `top_k` of them, so that the best pairs are exact too.
    """
    temperatures = replace(temperatures, category_given_rationale=temperatures.of("pair"))
    scale = logit_scale / temperatures.category_given_rationale
    best, totals, category_total = [], [], None
    for rationale in range(text.rationales.shape[0]):
        logits = scaled_similarity(features.category, text.row(rationale), scale=scale)
        best.append(logits.amax(dim=-1))
        totals.append(logits.logsumexp(dim=-1))
        category_total = logits if category_total is None else torch.logaddexp(category_total, logits)
    assert category_total is not None, "a vocabulary has at least one rationale"
    total_BR = torch.stack(totals, dim=1)
    partition = total_BR.logsumexp(dim=-1, keepdim=True)
    num_kept = min(total_BR.shape[1], max(scoring.top_k, scoring.keep_rationales))
    ids = torch.stack(best, dim=1).topk(num_kept, dim=-1).indices
    log_prob_BR = total_BR - partition
    log_prob = log_prob_BR.gather(1, ids).unsqueeze(-1) + category_given_rationale_log_prob(
        features, text, rationales=ids, logit_scale=logit_scale, temperatures=temperatures
    )
    certain = total_BR.new_ones(len(features), dtype=torch.bool)
    return Joint(
        method="pairs",
        rationales=ids,
        rationale_log_prob=log_prob_BR.gather(1, ids),
        log_prob=log_prob,
        category_log_prob=category_total - partition,
        rest_log_prob=rest_log_prob(log_prob_BR, ids=ids, looked_at=torch.ones_like(ids).bool()),
        pairs_exact=certain,
        category_certain=certain,
    )


def ranked_pairs(joint: Joint, k: int) -> RankedPairs:
    """The best k pairs of each image, or all K·C where that is fewer; −inf marks pairs that were not looked at."""
    num_categories = joint.log_prob.shape[-1]
    best = joint.log_prob.flatten(1).topk(min(k, joint.log_prob[0].numel()), dim=-1)
    kept = torch.div(best.indices, num_categories, rounding_mode="floor")
    return RankedPairs(best.indices % num_categories, joint.rationales.gather(1, kept), best.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """First factors that were looked at, with the second factor for each."""

    ids: Int[Tensor, "B K"]
    """Best first."""
    log_prob: Float[Tensor, "B K N"]
    """−inf where the image did not need it."""
    looked_at: Bool[Tensor, "B K"]
    exact: Bool[Tensor, " B"]


def keep_until_exact(
    first_log_prob: Float[Tensor, "B F"],
    score: Callable[[Tensor, Tensor], Tensor],
    *,
    scoring: ScoringConfig,
    width: int,
) -> Kept:
    """Look at the best K of the first factor, K doubling for the images whose best `top_k` pairs are not yet exact.

    `score(images [b], ids [b k])` gives [b k N] log-probabilities of pairs, each at most the first factor's.
    """
    num_images, num_first = first_log_prob.shape
    enough = math.ceil(scoring.top_k / width)
    limit = min(num_first, max(scoring.max_keep_rationales, enough))
    num_kept = min(limit, max(scoring.keep_rationales, enough))
    ordered = first_log_prob.topk(min(num_first, limit + 1), dim=-1)
    exact = first_log_prob.new_zeros(num_images, dtype=torch.bool)
    best = first_log_prob.new_full((num_images, min(scoring.top_k, width * limit)), -math.inf)
    blocks, masks, seen = [], [], 0
    while num_kept > seen and not bool(exact.all()):
        images = (~exact).nonzero().squeeze(1)
        block = score(images, ordered.indices[images, seen:num_kept])
        blocks.append(block.new_full((num_images, num_kept - seen, width), -math.inf).index_copy(0, images, block))
        masks.append((~exact).unsqueeze(1).expand(-1, num_kept - seen))
        with torch.no_grad():
            candidates = torch.cat([best[images], block.flatten(1)], dim=1)
            best[images] = candidates.topk(best.shape[1], dim=-1).values
            if num_kept == num_first:
                exact = torch.ones_like(exact)
            else:
                exact = exact | (best[:, -1] > ordered.values[:, num_kept])
        seen, num_kept = num_kept, min(limit, 2 * num_kept)
    return Kept(
        ids=ordered.indices[:, :seen],
        log_prob=torch.cat(blocks, dim=1),
        looked_at=torch.cat(masks, dim=1),
        exact=exact,
    )


def scaled_similarity(image: Float[Tensor, "B D"], text: Float[Tensor, "N D"], *, scale: float) -> Float[Tensor, "B N"]:
    """Logits s · v · t in fp32 (fp64 stays), also under autocast."""
    dtype = torch.promote_types(image.dtype, torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        return scale * image.to(dtype) @ text.to(device=image.device, dtype=dtype).T


def grouped(ids: Int[Tensor, " N"]) -> Iterator[tuple[int, Int[Tensor, " n"]]]:
    """The distinct ids in ascending order, each with its positions; negative ids (unknown) are left out."""
    order = ids.argsort(stable=True)
    values, counts = torch.unique_consecutive(ids[order], return_counts=True)
    for value, slots in zip(values.tolist(), order.split(counts.tolist()), strict=True):
        if value >= 0:
            yield value, slots


def rest_log_prob(
    log_prob: Float[Tensor, "B R"], *, ids: Int[Tensor, "B K"], looked_at: Bool[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Log of what all but the ids looked at hold together, summed rather than subtracted from one."""
    seen = torch.zeros_like(log_prob, dtype=torch.bool).scatter(1, ids, looked_at)
    return log_prob.masked_fill(seen, -math.inf).logsumexp(dim=-1)


def log_complement(log_prob: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log(1 − p), −inf where p rounds to one."""
    return torch.log1p(-log_prob.exp().clamp(max=1.0))


def lead(prob: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """The largest value less the second, or itself where there is only one."""
    best = prob.topk(min(2, prob.shape[-1]), dim=-1).values
    return best[:, 0] - best[:, 1] if best.shape[1] == 2 else torch.full_like(best[:, 0], math.inf)
