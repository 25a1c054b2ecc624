"""Read the records of a model, and of what was measured of it, for its card. MLflow is not imported."""

from collections.abc import Sequence

from ecor.evaluation.record import read_evaluation
from pipelines.audit.certificate import read_certificate
from pipelines.cards.model_card import ModelFacts
from pipelines.tracking.model_versions import VersionLineage, read_model_record


def read_model_facts(
    name: str,
    *,
    folder: str,
    lineage: VersionLineage | None = None,
    evaluations: Sequence[str] = (),
    audits: Sequence[str] = (),
) -> ModelFacts:
    """Read what a model card is made from.

    Args:
        name: of the model, for people.
        folder: of its checkpoint.
        lineage: of a registered version; None: what the checkpoint records.
        evaluations: folders of evaluations of its labels.
        audits: folders of audits of its labels.

    Raises:
        ValueError: for a record of another model, and as the readers of the records.
    """
    return ModelFacts(
        name=name,
        checkpoint=read_model_record(folder),
        lineage=lineage,
        evaluations=tuple(read_evaluation(each) for each in evaluations),
        certificates=tuple(read_certificate(each) for each in audits),
    )
