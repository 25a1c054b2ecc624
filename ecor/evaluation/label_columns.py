"""Read the columns of labels as arrays of name ids, for rules and metrics."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from ecor.data.name_parsing import normalise_name
from ecor.data.predictions.schema import VISIBLE_COLUMN
from ecor.evaluation.correctness import Labels, RankedAnswers, Truth


def read_labels(table: pa.Table) -> Labels:
    """Convert a table of predictions to ids; names that normalise to the same text are one id.

    Args:
        table: has `ecor.data.predictions.schema.PREDICTION_SCHEMA`.

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
