"""What images show of drafted rationales: how often each speaks, and whether it separates its category.

Not in the paper. Similarities are cosines of CLIP's features; the statistics are SciPy's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, mannwhitneyu


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Numbers of P pairs of a category and a rationale; NaN for a category with too few images."""

    num_images: Int[np.ndarray, " P"]
    """Images of the category."""
    speaks: Float[np.ndarray, " P"]
    """Share of these in which the rationale is among the `top_k` most similar ones of all rationales."""
    chance: float
    """The same share of a rationale that is drawn at random."""
    auc: Float[np.ndarray, " P"]
    """Probability that an image of the category is more similar to the rationale than an image of another category."""
    q_value: Float[np.ndarray, " P"]
    """Of the Mann-Whitney test of that, corrected for all pairs."""


def measure_pairs(
    similarity: Float[np.ndarray, "N R"],
    *,
    image_categories: Int[np.ndarray, " N"],
    categories: Int[np.ndarray, " P"],
    rationales: Int[np.ndarray, " P"],
    top_k: int,
    min_images: int,
) -> Measurement:
    """Measure P pairs on N images.

    AUC is U / (n m) of the Mann-Whitney test (Mann and Whitney, 1947), one-sided, by its normal approximation. The
    correction is that of Benjamini and Hochberg (1995).

    Args:
        similarity: cosine of each image with each of R rationales.
        image_categories: id of each image's category; -1 for an image of none of them.
        categories: id of the category of each pair.
        rationales: id of the rationale of each pair.
        top_k: most similar rationales of an image that speak in it; at most half of all.
        min_images: of its category, and of others, that a pair needs.
    """
    num_rationales = similarity.shape[1]
    top_k = min(top_k, max(1, num_rationales // 2))
    speaks_NR = _among_top(similarity, top_k=top_k)
    sizes = np.array([(image_categories == each).sum() for each in categories], dtype=np.int64)
    speaks, auc, p_value = (np.full(len(categories), np.nan) for _ in range(3))
    for category in np.unique(categories).tolist():
        pairs, own = np.flatnonzero(categories == category), image_categories == category
        if min(own.sum(), (~own).sum()) < min_images:
            continue
        ids = rationales[pairs]
        speaks[pairs] = speaks_NR[own][:, ids].mean(axis=0)
        values = similarity[:, ids].astype(np.float64)
        test = mannwhitneyu(values[own], values[~own], alternative="greater", method="asymptotic", axis=0)
        auc[pairs] = test.statistic / (int(own.sum()) * int((~own).sum()))
        p_value[pairs] = np.nan_to_num(test.pvalue, nan=1.0)  # of equal values everywhere
    return Measurement(
        num_images=sizes, speaks=speaks, chance=top_k / num_rationales, auc=auc, q_value=_corrected(p_value)
    )


def near_duplicates(
    features: Float[np.ndarray, "P D"],
    *,
    categories: Int[np.ndarray, " P"],
    order: Sequence[int],
    max_similarity: float,
) -> Int[np.ndarray, " P"]:
    """Per pair the earlier one of its category that it repeats; -1 where it repeats none.

    Args:
        features: of the rationale of each pair, L2-normalised.
        categories: id of the category of each pair.
        order: the pairs to compare, best first; a later one repeats an earlier one that repeats none.
        max_similarity: cosine from which two rationales are near duplicates.
    """
    repeats = np.full(len(features), -1)
    kept: dict[int, list[int]] = {}
    for pair in order:
        earlier = kept.setdefault(int(categories[pair]), [])
        cosines = features[earlier] @ features[pair]
        if earlier and cosines.max() >= max_similarity:
            repeats[pair] = earlier[int(cosines.argmax())]
        else:
            earlier.append(pair)
    return repeats


def _among_top(similarity: Float[np.ndarray, "N R"], *, top_k: int) -> Bool[np.ndarray, "N R"]:
    best = np.argpartition(-similarity, top_k - 1, axis=1)[:, :top_k]
    found = np.zeros(similarity.shape, dtype=bool)
    np.put_along_axis(found, best, True, axis=1)
    return found


def _corrected(p_value: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    is_measured = np.isfinite(p_value)
    q_value = np.full(len(p_value), np.nan)
    if is_measured.any():
        q_value[is_measured] = false_discovery_control(p_value[is_measured])
    return q_value
