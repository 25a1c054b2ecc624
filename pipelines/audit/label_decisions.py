"""Decide for each label: accept, review or reject; written beside the labels, one part in memory at a time."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.data.predictions.manifest import PredictionSet
from ecor.data.predictions.parts import read_part
from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.storage import filesystem
from pipelines.audit.certificate import Certificate
from pipelines.audit.sampling import ood_column, score_column
from pipelines.runtime.balance import Balance

LABEL_DECISIONS_NAME = "label_decisions.parquet"


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"description": description})


LABEL_DECISIONS_SCHEMA = pa.schema(
    [
        _column("key", pa.string(), "identifies the image, as in the labels"),
        _column("decision", pa.string(), "accept, review or reject"),
        _column("score", pa.float64(), "what the thresholds of the certificate are of: a probability"),
    ],
    metadata={"ecor.schema": "label_decisions", "ecor.schema_version": "1"},
)
"""One row per label, in the order of the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """A certificate as a rule for rows."""

    reasons: bool
    of_category: dict[str, float]
    """Category to the score from which its labels are accepted."""
    of_all: float | None
    """The same for labels of any category."""
    candidates_from: float | None
    """OOD score from which no label is accepted."""
    reject_from: float | None
    """OOD score from which labels are rejected."""

    @classmethod
    def of(cls, certificate: Certificate) -> "Thresholds":
        passed = [group for group in certificate.groups if group.threshold is not None]
        of_category = {name: group.threshold for group in passed for name in group.categories}
        of_all = [group.threshold for group in passed if not group.categories]
        reject = certificate.reject
        return cls(
            reasons=certificate.reasons,
            of_category={name: threshold for name, threshold in of_category.items() if threshold is not None},
            of_all=of_all[0] if of_all else None,
            candidates_from=None if reject is None else reject.candidates_from,
            reject_from=None if reject is None else reject.threshold,
        )


def write_label_decisions(
    labels: str,
    predictions: PredictionSet,
    *,
    certificate: Certificate,
    never_accept: Collection[str] = (),
    never_reject: Collection[str] = (),
    folder: str,
) -> Counter[str]:
    """Write the decisions of all labels; returns how many there are of each.

    Args:
        labels: folder of the labels, which stay as they are.
        predictions: their manifest.
        certificate: a warranty or a policy.
        never_accept: keys of judged labels that are not right.
        never_reject: keys of judged labels whose category is not wrong.
        folder: gets the file.
    """
    thresholds, counts = Thresholds.of(certificate), Counter[str]()
    never = {"accept": pa.array(never_accept, pa.string()), "reject": pa.array(never_reject, pa.string())}
    with (
        filesystem.write_atomically(folder, LABEL_DECISIONS_NAME) as path,
        pq.ParquetWriter(path, LABEL_DECISIONS_SCHEMA, **PARQUET_OPTIONS) as writer,
    ):
        for part in predictions.parts:
            table = read_part(labels, part)
            scores = score_column(table, reasons=thresholds.reasons)
            decided = decide(table, scores, thresholds=thresholds, never=never, labels=labels)
            counts.update(decided.tolist())
            columns = [table["key"].combine_chunks(), pa.array(decided, pa.string()), pa.array(scores)]
            writer.write_table(pa.Table.from_arrays(columns, schema=LABEL_DECISIONS_SCHEMA))
    return counts


def read_decisions(folder: str, *, columns: Sequence[str]) -> pa.Table:
    """Columns of the decisions in the folder of an audit or a policy; ValueError where there are none."""
    path = filesystem.join(folder, LABEL_DECISIONS_NAME)
    try:
        with filesystem.open_file(path) as file:
            return pq.ParquetFile(file).read(columns=list(columns), use_threads=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no {LABEL_DECISIONS_NAME}, the decision and the score of each label: copy the whole "
            f"folder of the audit"
        ) from error
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged ({error}): copy the folder of the audit anew") from error


def balance_decisions(predictions: PredictionSet, *, folder: str) -> Balance:
    """The images that the manifest of the labels names, and the decisions that are in the folder."""
    counts = Counter(read_decisions(folder, columns=["decision"])["decision"].to_pylist())
    return Balance(
        stage="audit",
        num_listed=predictions.num_rows + predictions.num_rejected,
        num_taken=counts["accept"],
        rejected={"unreadable": predictions.num_rejected, "out_of_distribution": counts["reject"]},
        left_out={"review": counts["review"]},
    )


def decide(
    table: pa.Table, scores: np.ndarray, *, thresholds: Thresholds, never: Mapping[str, pa.Array], labels: str
) -> np.ndarray:
    """`accept`, `review` or `reject` for each row."""
    lowest = np.full(table.num_rows, np.inf if thresholds.of_all is None else thresholds.of_all)
    if thresholds.of_category:
        encoded = table["category"].combine_chunks().dictionary_encode()
        of_names = [thresholds.of_category.get(name, np.inf) for name in encoded.dictionary.to_pylist()]
        lowest = np.array(of_names)[encoded.indices.to_numpy()]
    decided = np.where(scores >= lowest, "accept", "review")
    if thresholds.candidates_from is not None:
        ood = ood_column(table, labels=labels)
        decided[ood >= thresholds.candidates_from] = "review"
        if thresholds.reject_from is not None:
            decided[ood >= thresholds.reject_from] = "reject"
    for decision, keys in never.items():
        decided[pc.is_in(table["key"], value_set=keys).to_numpy() & (decided == decision)] = "review"
    return decided
