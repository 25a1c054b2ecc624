"""Judge explained labels by three rules: strict, DROR's vote and two-stage (DROR, arXiv:2212.06202)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from ecor.data.name_parsing import normalise_name
from ecor.data.prediction_schema import VISIBLE_COLUMN

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


def read_labels(table: pa.Table) -> Labels:
    """Convert a table of predictions to ids; names that normalise to the same text are one id.

    Args:
        table: has `ecor.data.prediction_schema.PREDICTION_SCHEMA`.

    Raises:
        ValueError: when a row has no ranked pair.
    """
    pairs = combine_chunks(table["pairs"])
    if table.num_rows and pc.min(pc.list_value_length(pairs)).as_py() == 0:
        raise ValueError("a row of predictions has no ranked pair: score again with top_k of at least 1")
    category_columns = {
        "category_true": table["category_true"],
        "two_stage": table["two_stage_category"],
        "pairs": struct_field(pairs, "category"),
        "categories": struct_field(combine_chunks(table["categories"]), "category"),
    }
    rationale_columns = {
        "true": table["rationales_true"],
        "visible": table["visible_rationales"],
        "two_stage": table["two_stage_rationale"],
        "pairs": struct_field(pairs, "rationale"),
        "rationales": struct_field(combine_chunks(table["rationales"]), "rationale"),
    }
    category_names, categories = ids_of(category_columns)
    rationale_names, rationales = ids_of(rationale_columns)
    return Labels(
        categories=category_names,
        rationales=rationale_names,
        answers=RankedAnswers(
            keys=tuple(table["key"].to_pylist()),
            pair_categories=categories["pairs"],
            pair_rationales=rationales["pairs"],
            rationales=rationales["rationales"],
            marginal_categories=categories["categories"][:, 0],
            two_stage_categories=categories["two_stage"][:, 0],
            two_stage_rationales=rationales["two_stage"][:, 0],
            confidence=table["confidence"].to_numpy().astype(np.float64),
            category_confidence=first_probability(combine_chunks(table["categories"])),
            rationale_confidence=first_probability(combine_chunks(table["rationales"])),
            visible_confidence=optional_numbers(table, VISIBLE_COLUMN.name),
        ),
        truth=Truth(
            categories=categories["category_true"][:, 0],
            rationales=rationales["true"],
            visible=rationales["visible"],
            visible_known=np.asarray(table["visible_rationales"].is_valid(), dtype=bool),
        ),
    )


def combine_chunks(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def struct_field(lists: pa.Array, name: str) -> pa.Array:
    """One field of lists of structs, as lists."""
    values = lists.flatten().field(name)
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths.to_numpy())]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


def optional_numbers(table: pa.Table, name: str) -> Float[np.ndarray, " N"]:
    """A column of numbers; NaN where it is null, or the table does not have it."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def first_probability(ranked: pa.Array) -> Float[np.ndarray, " N"]:
    """exp of the first `log_prob` of each ranked list; NaN where the list is empty."""
    log_probs = struct_field(ranked, "log_prob")
    has_one = np.asarray(pc.fill_null(pc.list_value_length(log_probs), 0)) > 0
    found = np.full(len(log_probs), np.nan)
    found[has_one] = np.exp(pc.list_element(log_probs.filter(pa.array(has_one)), 0).to_numpy().astype(np.float64))
    return found


def ids_of(
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
) -> tuple[tuple[str, ...], dict[str, Int[np.ndarray, "N _"]]]:
    """Columns of names, or of lists of names, as ids [N, longest] padded with −1; and the names by id, ascending."""
    flattened = {name: flatten_names(column) for name, column in columns.items()}
    encoded = {name: values.dictionary_encode() for name, (values, _) in flattened.items()}
    normal = {name: [normalise_name(text) for text in each.dictionary.to_pylist()] for name, each in encoded.items()}
    names = tuple(sorted(set().union(*normal.values())))
    id_of = {name: index for index, name in enumerate(names)}
    padded = {}
    for name, (_, lengths) in flattened.items():
        lookup = np.array([id_of[text] for text in normal[name]], dtype=np.int64)
        ids = np.full((len(lengths), max(1, int(lengths.max(initial=0)))), -1, dtype=np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        columns_of = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids[rows, columns_of] = lookup[encoded[name].indices.to_numpy()]
        padded[name] = ids
    return names, padded


def flatten_names(column: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, Int[np.ndarray, " N"]]:
    """All names of a column in order, and how many each row has; null is none."""
    array = combine_chunks(column) if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        return array.flatten().drop_null(), lengths.to_numpy().astype(np.int64)
    return array.drop_null(), np.asarray(array.is_valid()).astype(np.int64)
