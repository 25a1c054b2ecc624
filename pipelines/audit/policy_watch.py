"""Watch a policy: have the scores of other labels drifted from those of the labels that were certified?

The scores of all certified labels are in the audit's folder, beside its decisions, so nothing else needs to be stored.
"""

import numpy as np
from jaxtyping import Float

from ecor.config.checks import require
from ecor.storage import filesystem
from pipelines.audit.certificate import Certificate
from pipelines.audit.label_decisions import LABEL_DECISIONS_NAME, read_decisions
from pipelines.reporting.drift.drift_tests import DriftLimits, DriftTest, Quantity, compare


def read_scores(folder: str, *, certificate: Certificate | None = None) -> Float[np.ndarray, " N"]:
    """The scores of all labels of an audit or of a policy, 8 bytes each.

    Args:
        folder: that holds the decisions.
        certificate: of the folder; its numbers of labels and of accepted ones must be those of the decisions.

    Raises:
        ValueError: when there are no decisions, or others than the certificate counts.
    """
    table = read_decisions(folder, columns=["decision", "score"])
    if certificate is not None:
        num_accepted, c = table["decision"].to_pylist().count("accept"), certificate
        require(
            (table.num_rows, num_accepted) == (c.num_labels, c.num_accepted),
            f"{filesystem.join(folder, LABEL_DECISIONS_NAME)} has {table.num_rows:,} labels, {num_accepted:,} "
            f"accepted, its certificate {c.num_labels:,} and {c.num_accepted:,}: copy the whole folder of the audit",
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
