"""Build rows of predictions, with names instead of ids, from the joint probability of a batch."""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.schema import PREDICTION_SCHEMA
from ecor.data.vocabulary import Vocabulary
from ecor.probability.joint import Joint, RankedPairs, ranked_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Columns of a row that identify the model."""

    model_name: str
    model_version: str | None
    model_digest: str
    vocabulary_digest: str
    calibrated: bool


def rows_from_joint(
    joint: Joint,
    *,
    vocabulary: Vocabulary,
    scoring: ScoringConfig,
    origins: pa.Table,
    provenance: Provenance,
) -> pa.Table:
    """Rows with `PREDICTION_SCHEMA` of B images; ids become names column by column.

    Pairs that decoding did not evaluate are left out, so a row may hold fewer than `top_k`. The hard rule takes
    the most probable kept rationale, then the most probable category given it.

    Args:
        joint: of B images.
        vocabulary: the one that gave the ids.
        scoring: how many pairs, categories and rationales a row holds.
        origins: B rows with `ecor.data.predictions.schema.ORIGIN_SCHEMA`.
        provenance: of the model.
    """
    assert origins.num_rows == len(joint.log_prob), "one origin per image"
    pairs = ranked_pairs(joint, scoring.top_k)
    categories = joint.category_log_prob.topk(min(scoring.top_k, joint.category_log_prob.shape[1]), dim=-1)
    num_rationales = min(joint.rationales.shape[1], max(scoring.top_k, scoring.keep_rationales))
    rationales = joint.rationale_log_prob.topk(num_rationales, dim=-1)
    rationale_ids = joint.rationales.gather(1, rationales.indices)
    rows = torch.arange(len(joint.log_prob), device=joint.log_prob.device)
    hard_given = joint.log_prob[rows, rationales.indices[:, 0]].argmax(dim=-1)
    category_names, rationale_names = pa.array(vocabulary.categories), pa.array(vocabulary.rationales)
    top_categories = pairs.categories[:, 0]
    columns = {
        **{column: origins[column] for column in origins.column_names},
        "category": _names(category_names, top_categories),
        "rationale": _names(rationale_names, pairs.rationales[:, 0]),
        "confidence": float_column(pairs.log_prob[:, 0].exp()),
        "category_log_prob": float_column(joint.category_log_prob.gather(1, top_categories[:, None])[:, 0]),
        "pairs": _ranked_pairs(pairs, category_names=category_names, rationale_names=rationale_names),
        "categories": _ranked(categories.values, category=(category_names, categories.indices)),
        "rationales": _ranked(rationales.values, rationale=(rationale_names, rationale_ids)),
        "two_stage_category": _names(category_names, hard_given),
        "two_stage_rationale": _names(rationale_names, rationale_ids[:, 0]),
        "kept_mass": float_column(joint.kept_mass),
        "pairs_exact": pa.array(joint.pairs_exact.cpu().numpy()),
        "method": pa.repeat(joint.method, origins.num_rows),
        **{name: pa.repeat(value, origins.num_rows) for name, value in asdict(provenance).items() if value is not None},
    }
    if provenance.model_version is None:
        columns["model_version"] = pa.nulls(origins.num_rows, pa.string())
    return pa.table({name: columns[name] for name in PREDICTION_SCHEMA.names}).cast(PREDICTION_SCHEMA)


def _ranked_pairs(pairs: RankedPairs, *, category_names: pa.Array, rationale_names: pa.Array) -> pa.ListArray:
    return _ranked(
        pairs.log_prob, category=(category_names, pairs.categories), rationale=(rationale_names, pairs.rationales)
    )


def _ranked(log_prob: Float[Tensor, "B k"], **named: tuple[pa.Array, Tensor]) -> pa.ListArray:
    """[B k] log-probabilities, best first, beside their names, as a list of structs per image; −inf is dropped."""
    values_Bk = log_prob.float().cpu().numpy()
    held_Bk = np.isfinite(values_Bk)
    offsets = np.concatenate([[0], held_Bk.sum(axis=1).cumsum()]).astype(np.int32)
    entries = [names.take(pa.array(ids.cpu().numpy()[held_Bk])) for names, ids in named.values()]
    structs = pa.StructArray.from_arrays(
        [*entries, pa.array(values_Bk[held_Bk])],
        fields=[*(pa.field(name, pa.string(), nullable=False) for name in named), _LOG_PROB_FIELD],
    )
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


_LOG_PROB_FIELD = pa.field("log_prob", pa.float32(), nullable=False)


def _names(names: pa.Array, ids: Tensor) -> pa.Array:
    return names.take(pa.array(ids.cpu().numpy()))


def float_column(values: Tensor) -> pa.Array:
    """One 32-bit number per image."""
    return pa.array(values.float().cpu().numpy())
