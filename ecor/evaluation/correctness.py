"""Judge explained labels by three rules: strict, DROR's vote and two-stage (DROR, arXiv:2212.06202)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

VOTES = 5
"""Number of pairs in DROR's rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedAnswers:
    """Ranked predictions of N images as ids; −1 where there is none."""

    keys: tuple[str, ...]
    pair_categories: Int[np.ndarray, "N k"]
    pair_rationales: Int[np.ndarray, "N k"]
    """The most probable pairs, best first."""
    rationales: Int[np.ndarray, "N m"]
    """The most probable rationales, whatever the category, best first."""
    marginal_categories: Int[np.ndarray, " N"]
    """The most probable category, whatever the rationale."""
    two_stage_categories: Int[np.ndarray, " N"]
    two_stage_rationales: Int[np.ndarray, " N"]
    """The most probable rationale, and the most probable category given it."""
    confidence: Float[np.ndarray, " N"]
    """Probability of the best pair."""
    category_confidence: Float[np.ndarray, " N"]
    """P(c | I) of the most probable category; NaN where the row has none."""
    rationale_confidence: Float[np.ndarray, " N"]
    """P(r | I) of the most probable rationale; NaN where the row has none."""
    visible_confidence: Float[np.ndarray, " N"]
    """Stated probability that the image shows the rationale of the best pair; NaN where the row states none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """True labels of N images, as the same ids; −1 where unknown."""

    categories: Int[np.ndarray, " N"]
    rationales: Int[np.ndarray, "N L"]
    """All labelled ones; a row of −1 where there is none."""
    visible: Int[np.ndarray, "N V"]
    """All that the image shows."""
    visible_known: Bool[np.ndarray, " N"]
    """Whether `visible` is complete; an image may show none."""

    @property
    def explained(self) -> Bool[np.ndarray, " N"]:
        """Images whose category and at least one rationale are known."""
        return (self.categories >= 0) & (self.rationales >= 0).any(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A table of predictions with names as ids."""

    categories: tuple[str, ...]
    rationales: tuple[str, ...]
    """Names by id: those that occur in the table."""
    answers: RankedAnswers
    truth: Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Correctness:
    """Whether category and rationale are right, for N images; meaningless for images without known truth."""

    category: Bool[np.ndarray, " N"]
    rationale: Bool[np.ndarray, " N"]

    def shares(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """`rr`, `rw`, `wr`, `ww` (category, then rationale): each image is in exactly one."""
        return {
            "rr": self.category & self.rationale,
            "rw": self.category & ~self.rationale,
            "wr": ~self.category & self.rationale,
            "ww": ~self.category & ~self.rationale,
        }


def strict_rule(answers: RankedAnswers, truth: Truth) -> Correctness:
    """Judge category and rationale of the most probable pair, each on its own.

    Args:
        answers: ranked predictions.
        truth: of the same images.
    """
    return Correctness(
        category=answers.pair_categories[:, 0] == truth.categories,
        rationale=is_member(answers.pair_rationales[:, 0], truth.rationales),
    )


def two_stage_rule(answers: RankedAnswers, truth: Truth) -> Correctness:
    """Judge the most probable rationale, and the most probable category given it: the hard form of ECOR's order.

    Args:
        answers: ranked predictions.
        truth: of the same images.
    """
    return Correctness(
        category=answers.two_stage_categories == truth.categories,
        rationale=is_member(answers.two_stage_rationales, truth.rationales),
    )


def dror_vote_rule(answers: RankedAnswers, truth: Truth) -> Correctness:
    """DROR's released protocol on the best five pairs, with ids where its code compares substrings.

    Pairs are scanned in order up to the first that is true (a hit). The category is the most frequent one so far, of
    equals the first seen. Where it is right, the rationale is right on a hit; where it is wrong, the rationale is right
    when it stands with that category among the five. The scan stops at the truth: a rule for benchmarks only.

    Args:
        answers: ranked predictions.
        truth: of the same images.
    """
    categories, rationales = answers.pair_categories[:, :VOTES], answers.pair_rationales[:, :VOTES]
    rationale_true = np.stack([is_member(column, truth.rationales) for column in rationales.T], axis=1)
    hits = (categories == truth.categories[:, None]) & rationale_true & (categories >= 0)
    hit = hits.any(axis=1)
    last = np.where(hit, hits.argmax(axis=1), categories.shape[1] - 1)
    scanned = (np.arange(categories.shape[1]) <= last[:, None]) & (categories >= 0)
    same = (categories[:, :, None] == categories[:, None, :]) & scanned[:, None, :]
    votes = np.where(scanned, same.sum(axis=2), -1)
    predicted = np.take_along_axis(categories, votes.argmax(axis=1)[:, None], axis=1)
    category = predicted[:, 0] == truth.categories
    with_predicted = ((categories == predicted) & rationale_true).any(axis=1)
    return Correctness(category=category, rationale=np.where(category, hit, with_predicted))


RULES: Mapping[str, Callable[[RankedAnswers, Truth], Correctness]] = {
    "strict": strict_rule,
    "dror_vote": dror_vote_rule,
    "two_stage": two_stage_rule,
}
"""By name; `strict` is what promotion, galleries and calibration use."""


def is_member(ids: Int[np.ndarray, " N"], sets: Int[np.ndarray, "N L"]) -> Bool[np.ndarray, " N"]:
    """Whether each id is in its row's set; −1 never is."""
    return ((ids[:, None] == sets) & (ids[:, None] >= 0)).any(axis=1)
