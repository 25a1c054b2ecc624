"""Metrics of explained labels with bootstrap intervals, and paired differences between two models.

Names of metrics (all shares of images, between 0 and 1, unless said otherwise):

    <rule>/rr rw wr ww     right or wrong category, right or wrong rationale; <rule> is strict, dror_vote or two_stage
    <rule>/accuracy        right category, over images whose category is known
    strict/visible_rr      right category, and the rationale is one that the image shows, labelled or not
    strict/visible         the rationale is one that the image shows
    marginal/accuracy      the most probable category whatever the rationale
    rationales/precision@m recall@m hit@m     of the m most probable rationales against all visible ones
    rationales/rr_any@m rr_all@m     right category (strict), and one, or each, of them is visible
    calibration/ece        of the best pair's probability against strict/rr (all of them: `ecor.evaluation.calibration`)
    calibration/error      root mean square error, bias-corrected
    calibration/brier nll  Brier score; negative log-likelihood, in nats
    calibration/category/… calibration/visible/…     the same of the category, and of the rationale being visible
    calibration/rationale_visible/…     the same of `rationale_visible_probability`, for rows that state one
    per_category/rr accuracy     strict, as means over categories
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from ecor.config.checks import require
from ecor.evaluation.confidence_intervals import Estimate, Resampling, Statistic, estimates, mean_estimates
from ecor.evaluation.correctness import RULES, Labels, RankedAnswers, Truth, is_member

HEADLINE = "strict/rr"
"""The metric that promotion compares."""
CUTS = (1, 3, 5)
"""m of the metrics over several rationales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryResult:
    """Strict metrics of the images of one true category."""

    category: str
    num_images: int
    """With a known rationale."""
    rr: Estimate
    rw: float
    wr: float
    ww: float
    accuracy: float


def observations(answers: RankedAnswers, truth: Truth) -> dict[str, Float[np.ndarray, " N"]]:
    """Compute every metric that is a mean over images, image by image; NaN for images it is not defined for.

    Args:
        answers: ranked predictions.
        truth: of the same images.
    """
    has_category, explained = truth.categories >= 0, truth.explained
    found = {}
    for name, rule in RULES.items():
        verdicts = rule(answers, truth)
        for part, values in verdicts.shares().items():
            found[f"{name}/{part}"] = nan_unless(explained, values)
        found[f"{name}/accuracy"] = nan_unless(has_category, verdicts.category)
    found["marginal/accuracy"] = nan_unless(has_category, answers.marginal_categories == truth.categories)
    return found | visible_observations(answers, truth)


def visible_observations(answers: RankedAnswers, truth: Truth) -> dict[str, Float[np.ndarray, " N"]]:
    """Metrics against all rationales that an image shows. An image that shows none has no recall (our choice).

    `rr_all@m` asks of an image that shows fewer than m for as many as it shows (our choice).
    """
    known, shown = truth.visible_known, (truth.visible >= 0).sum(axis=1)
    right = answers.pair_categories[:, 0] == truth.categories
    visible = is_member(answers.pair_rationales[:, 0], truth.visible)
    found = {
        "strict/visible": nan_unless(known, visible),
        "strict/visible_rr": nan_unless(known & (truth.categories >= 0), visible & right),
    }
    hits = np.stack([is_member(column, truth.visible) for column in answers.rationales.T], axis=1)
    some = known & (shown > 0)
    for cut in (m for m in CUTS if m <= hits.shape[1]):
        num_hits = hits[:, :cut].sum(axis=1)
        asked = np.arange(cut) < np.minimum(cut, shown)[:, None]
        found[f"rationales/precision@{cut}"] = nan_unless(known, num_hits / cut)
        found[f"rationales/recall@{cut}"] = nan_unless(some, num_hits / np.maximum(shown, 1))
        found[f"rationales/hit@{cut}"] = nan_unless(some, num_hits > 0)
        found[f"rationales/rr_any@{cut}"] = nan_unless(some, right & (num_hits > 0))
        found[f"rationales/rr_all@{cut}"] = nan_unless(some, right & (hits[:, :cut] | ~asked).all(axis=1))
    return found


def nan_unless(known: np.ndarray, values: np.ndarray) -> Float[np.ndarray, " N"]:
    """The values as numbers, NaN where not known."""
    return np.where(known, values.astype(np.float64), np.nan)


def category_results(
    labels: Labels, *, resampling: Resampling
) -> tuple[tuple[CategoryResult, ...], dict[str, Estimate]]:
    """Strict metrics per true category, and their means over categories, each category weighing the same."""
    chosen = labels.truth.explained.nonzero()[0]
    ids, groups = np.unique(labels.truth.categories[chosen], return_inverse=True)
    verdicts = RULES["strict"](labels.answers, labels.truth)
    values = {name: each[chosen] for name, each in verdicts.shares().items()}
    values["accuracy"] = verdicts.category[chosen]
    sizes = np.bincount(groups).tolist()
    shares = {name: (np.bincount(groups, weights=each) / sizes).tolist() for name, each in values.items()}
    by_category = {name: group_means(values[name], groups) for name in ("rr", "accuracy")}
    rr = estimates(by_category["rr"], num_images=len(chosen), sizes=sizes, resampling=resampling)
    results = tuple(
        CategoryResult(
            category=labels.categories[category],
            num_images=sizes[i],
            rr=rr[i],
            **{name: shares[name][i] for name in ("rw", "wr", "ww", "accuracy")},
        )
        for i, category in enumerate(ids)
    )
    means = {
        f"per_category/{name}": estimates(
            mean_of(statistic), num_images=len(chosen), sizes=[len(chosen)], resampling=resampling
        )[0]
        for name, statistic in by_category.items()
    }
    return results, means


def group_means(values: np.ndarray, groups: Int[np.ndarray, " N"]) -> Statistic:
    """The mean of the values of each group; NaN where a sample has none of it."""
    places = (np.arange(len(groups)), groups)
    sums, members = csr_array((values.astype(np.float64), places)), csr_array((np.ones(len(groups)), places))

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (counts @ sums) / (counts @ members)

    return statistic


def mean_of(statistic: Statistic) -> Statistic:
    """The mean of a statistic's numbers where they are defined."""
    return lambda counts: np.nanmean(statistic(counts), axis=1, keepdims=True)


def observations_table(labels: Labels) -> pa.Table:
    """Key and every metric that is a mean over images, image by image; null where not defined."""
    found = observations(labels.answers, labels.truth)
    columns = {metric: pa.array(values, pa.float32(), from_pandas=True) for metric, values in found.items()}
    return pa.table({"key": pa.array(labels.answers.keys, pa.string()), **columns})


def differences(
    first: pa.Table,
    second: pa.Table,
    *,
    names: tuple[str, str] = ("the first", "the second"),
    metrics: Sequence[str] | None = None,
    resampling: Resampling | None = None,
) -> dict[str, Estimate]:
    """First less second, metric by metric, with intervals of the paired difference over the images in both.

    Args:
        first: a table of `observations_table`.
        second: another one.
        names: of both, for errors.
        metrics: names to compare; None: all that both have.
        resampling: level, number and seed; None: the default.

    Raises:
        ValueError: when the tables have no image in common, or one lacks a metric that is asked for.
    """
    common = np.intersect1d(first["key"].to_numpy(), second["key"].to_numpy())
    require(
        len(common) > 0,
        f"{names[0]} and {names[1]} have no image in common: score the same split with both, then compare",
    )
    shared = [each for each in first.column_names if each != "key" and each in second.column_names]
    missing = [each for each in metrics or () if each not in shared]
    require(not missing, f"{names[0]} or {names[1]} has no metric {', '.join(missing)}: there are {', '.join(shared)}")
    ordered = [each.take(key_positions(each["key"].to_numpy(), common)) for each in (first, second)]
    gaps = {
        metric: ordered[0][metric].to_numpy().astype(np.float64) - ordered[1][metric].to_numpy().astype(np.float64)
        for metric in metrics or shared
    }
    return mean_estimates(gaps, resampling=resampling or Resampling())


def key_positions(keys: np.ndarray, wanted: np.ndarray) -> Int[np.ndarray, " N"]:
    """Position of each wanted key."""
    order = np.argsort(keys)
    return order[np.searchsorted(keys[order], wanted)]


def confusions(labels: Labels) -> dict[tuple[str, str], int]:
    """Images per (true category, category of the best pair)."""
    pairs = np.stack([labels.truth.categories, labels.answers.pair_categories[:, 0]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return {
        (labels.categories[true], labels.categories[said]): int(count)
        for (true, said), count in zip(found, counts, strict=True)
    }
