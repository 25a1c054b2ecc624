"""Priorities of labels for the next review: one number per label, the highest is asked for first.

Labels are read part by part; in memory are 20 bytes per label, and for `disagreement` the names of the other labels.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, UInt64

from ecor.config.checks import require
from ecor.data.predictions.parts import iterate_parts, read_predictions
from pipelines.config.learning import AskConfig, StrategyName

_Priority = Callable[[pa.Table], Float[np.ndarray, " n"]]
_PRIOR_STRENGTH = 2.0
"""Reviews that the rate of a larger group counts for (our choice)."""
_COLUMNS: dict[StrategyName, tuple[str, ...]] = {
    "random": (),
    "margin": ("categories",),
    "disagreement": ("category", "rationale", "confidence"),
    "wrong_reason": ("category", "rationale", "category_log_prob"),
    "coverage": ("category", "rationale"),
}


def rank_labels(labels: str, *, reviewed: pa.Table, config: AskConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rank the labels that nobody has reviewed.

    Args:
        labels: folder of labels.
        reviewed: rows of `REVIEWED_SCHEMA`.
        config: strategy, number and seed.

    Returns:
        Positions in the labels of the `config.number` labels to ask for, best first; and their priorities.

    Raises:
        ValueError: for `wrong_reason` without corrections, and other labels that have no image of these.
    """
    priority_of = _priority(labels, reviewed=reviewed, config=config)
    is_reviewed = pd.Index(reviewed["key"].to_pylist())
    found, ties, is_open = [], [], []
    for part in iterate_parts(labels, columns=["key", *_COLUMNS[config.strategy]]):
        keys = part["key"].to_pylist()
        found.append(priority_of(part))
        ties.append(hash_keys(keys, seed=config.seed))
        is_open.append(is_reviewed.get_indexer(keys) < 0)
    priorities = np.concatenate(found) if found else np.zeros(0)
    tie = np.concatenate(ties) if ties else np.zeros(0, dtype=np.uint64)
    chosen = np.flatnonzero(np.concatenate(is_open)) if is_open else np.zeros(0, dtype=np.int64)
    if config.strategy == "coverage":
        priorities = _spread(priorities, tie=tie, among=chosen, reviewed=reviewed)
    order = np.lexsort((tie[chosen], -np.nan_to_num(priorities[chosen], nan=np.inf)))[: config.number]
    return chosen[order], priorities[chosen[order]]


def hash_keys(keys: Sequence[str], *, seed: int) -> UInt64[np.ndarray, " n"]:
    """A number per key that looks random; seed and key alone decide it."""
    salt = str(seed).encode()
    found = (hashlib.blake2b(each.encode(), digest_size=8, key=salt).digest() for each in keys)
    return np.frombuffer(b"".join(found), dtype=np.uint64)


def _priority(labels: str, *, reviewed: pa.Table, config: AskConfig) -> _Priority:
    makers: dict[StrategyName, Callable[[], _Priority]] = {
        "random": lambda: lambda part: np.zeros(part.num_rows),
        "margin": lambda: category_margin,
        "disagreement": lambda: _disagreement(labels, config=config),
        "wrong_reason": lambda: _wrong_reason(reviewed),
        "coverage": lambda: _Strata(reviewed).numbers,
    }
    return makers[config.strategy]()


def category_margin(part: pa.Table) -> Float[np.ndarray, " n"]:
    """Less the difference between the probabilities of the two best categories.

    Of categories, not of pairs: an image may well show several rationales, and its best pairs are then nearly equal
    although all are right (our choice).
    """
    ranked = part["categories"].combine_chunks()
    offsets = ranked.offsets.to_numpy()
    log_probs = ranked.values.field("log_prob").to_numpy(zero_copy_only=False).astype(np.float64)
    first, has_second = offsets[:-1], np.diff(offsets) > 1
    second = np.full(len(first), -np.inf)
    second[has_second] = log_probs[first[has_second] + 1]
    return np.exp(second) - np.exp(log_probs[first])


def _disagreement(labels: str, *, config: AskConfig) -> _Priority:
    """Other labels with another category count 2, with another rationale 1; equal ones by confidence, low first."""
    others = [_OtherLabels(place, beside=labels) for place in config.others]

    def priority(part: pa.Table) -> Float[np.ndarray, " n"]:
        differing = sum(each.differences(part) for each in others)
        return differing - part["confidence"].to_numpy() / 2

    return priority


class _OtherLabels:
    """Category and rationale by key of another set of labels."""

    def __init__(self, place: str, *, beside: str) -> None:
        table = read_predictions(place, columns=["key", "category", "rationale"])
        self._places = pd.Index(table["key"].to_pylist())
        require(self._places.is_unique, f"{place} has keys twice: score again")
        self._names = {name: table[name].dictionary_encode().combine_chunks() for name in ("category", "rationale")}
        parts = iterate_parts(beside, columns=["key"])
        is_known = any((self._places.get_indexer(part["key"].to_pylist()) >= 0).any() for part in parts)
        require(is_known, f"{place} has no image of {beside}: name labels of the same images")

    def differences(self, part: pa.Table) -> Float[np.ndarray, " n"]:
        """2 for another category, 1 for another rationale alone, 0 otherwise and for an unknown image."""
        places = self._places.get_indexer(part["key"].to_pylist())
        known = places >= 0
        differs = {}
        for name, theirs in self._names.items():
            names = np.array(theirs.dictionary.to_pylist(), dtype=object)[theirs.indices.to_numpy()[places]]
            differs[name] = known & (names != np.array(part[name].to_pylist(), dtype=object))
        return np.where(differs["category"], 2.0, np.where(differs["rationale"], 1.0, 0.0))


def _wrong_reason(reviewed: pa.Table) -> _Priority:
    """Probability of the category times the rate at which reviewers called the reason of such labels wrong."""
    rates = WrongReasonRates(reviewed)

    def priority(part: pa.Table) -> Float[np.ndarray, " n"]:
        names = zip(part["category"].to_pylist(), part["rationale"].to_pylist(), strict=True)
        rate = np.array([rates.of(category, rationale) for category, rationale in names])
        return rate * np.exp(part["category_log_prob"].to_numpy().astype(np.float64))

    return priority


class WrongReasonRates:
    """How often the category of a label is right and its reason wrong, by category and rationale of the label.

    Few reviews of a pair are shrunk to the rate of the rationale, and that to the rate of all (our choice).
    """

    def __init__(self, reviewed: pa.Table) -> None:
        known = reviewed.filter(reviewed["is_wrong_reason"].is_valid()).to_pandas()
        require(len(known) > 0, "wrong_reason learns from corrections: name --corrections with judged reasons")
        wrong = known["is_wrong_reason"].astype(float)
        self._overall = (wrong.sum() + 1) / (len(known) + 2)
        by_rationale = wrong.groupby(known["rationale_before"]).agg(["sum", "count"])
        self._of_rationale = {
            name: _shrink(each["sum"], each["count"], to=self._overall) for name, each in by_rationale.iterrows()
        }
        by_pair = wrong.groupby([known["category_before"], known["rationale_before"]]).agg(["sum", "count"])
        self._of_pair = {
            pair: _shrink(each["sum"], each["count"], to=self._of_rationale[pair[1]])
            for pair, each in by_pair.iterrows()
        }

    def of(self, category: str, rationale: str) -> float:
        """The rate for a label."""
        return self._of_pair.get((category, rationale), self._of_rationale.get(rationale, self._overall))


def _shrink(num_wrong: float, num: float, *, to: float) -> float:
    return (num_wrong + _PRIOR_STRENGTH * to) / (num + _PRIOR_STRENGTH)


class _Strata:
    """Numbers the pairs of category and rationale; reviewed ones come first, in the order of `reviewed`."""

    def __init__(self, reviewed: pa.Table) -> None:
        self._number_of: dict[tuple[str, str], int] = {}
        self.of_reviewed = self._numbers(reviewed, names=("category_before", "rationale_before"))

    def numbers(self, part: pa.Table) -> Float[np.ndarray, " n"]:
        return self._numbers(part, names=("category", "rationale")).astype(np.float64)

    def _numbers(self, table: pa.Table, *, names: tuple[str, str]) -> np.ndarray:
        pairs = zip(*(table[name].to_pylist() for name in names), strict=True)
        return np.array([self._number_of.setdefault(pair, len(self._number_of)) for pair in pairs], dtype=np.int64)


def _spread(strata: np.ndarray, *, tie: np.ndarray, among: np.ndarray, reviewed: pa.Table) -> Float[np.ndarray, " N"]:
    """Less the number of labels of the same stratum that are reviewed, or are asked for before this one."""
    numbers = strata.astype(np.int64)
    counts = np.bincount(_Strata(reviewed).of_reviewed, minlength=int(numbers.max(initial=-1)) + 1)
    order = among[np.lexsort((tie[among], numbers[among]))]
    ordered = numbers[order]
    is_first = np.r_[True, ordered[1:] != ordered[:-1]] if len(ordered) else np.zeros(0, dtype=bool)
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(ordered)), 0))
    found = np.zeros(len(strata))
    found[order] = -(np.arange(len(ordered)) - starts + counts[ordered])
    return found
