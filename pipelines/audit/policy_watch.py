"""Watch a policy: have the scores of other labels drifted from those of the labels that were certified?

The scores of all certified labels are in the audit's folder, beside its decisions, so nothing else needs to be stored.
"""

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from ecor.config.checks import require
from ecor.storage import filesystem
from pipelines.audit.certificate import Certificate
from pipelines.audit.label_decisions import LABEL_DECISIONS_NAME
from pipelines.reporting.drift.drift_tests import DriftLimits, DriftTest, Quantity, compare


def read_scores(folder: str, *, certificate: Certificate | None = None) -> Float[np.ndarray, " N"]:
    """The scores of all labels of an audit or of a policy, 8 bytes each.

    Args:
        folder: that holds the decisions.
        certificate: of the folder; its numbers of labels and of accepted ones must be those of the decisions.

    Raises:
        ValueError: when there are no decisions, or others than the certificate counts.
    """
    path = filesystem.join(folder, LABEL_DECISIONS_NAME)
    try:
        with filesystem.open_file(path) as file:
            table = pq.ParquetFile(file).read(columns=["decision", "score"], use_threads=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no {LABEL_DECISIONS_NAME}, with whose scores those of other labels are compared: copy the "
            f"whole folder of the audit"
        ) from error
    if certificate is not None:
        num_accepted = table["decision"].to_pylist().count("accept")
        require(
            (table.num_rows, num_accepted) == (certificate.num_labels, certificate.num_accepted),
            f"{path} has {table.num_rows:,} labels, {num_accepted:,} accepted, its certificate "
            f"{certificate.num_labels:,} and {certificate.num_accepted:,}: copy the whole folder of the audit",
        )
    return table["score"].to_numpy()


def score_drift(
    certified: Float[np.ndarray, " N"], scores: Float[np.ndarray, " M"], *, name: str, limits: DriftLimits
) -> DriftTest:
    """Compare the scores of certified labels with those of others, as two samples.

    Args:
        certified: scores of all certified labels.
        scores: scores of the other labels.
        name: what the scores are (`Certificate.score`).
        limits: rate of false alarms and smallest effect.

    Raises:
        ValueError: when one of the two has no labels.
    """
    require(bool(len(certified) and len(scores)), "there are no labels to compare: score some first")
    (found,) = compare(
        iter([Quantity(name=name, before=certified, after=scores, is_name=False)]), paired=False, limits=limits
    )
    return found
