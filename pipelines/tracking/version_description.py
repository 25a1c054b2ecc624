"""The description of a registered version in MLflow: a model card, unless a person has written another one."""

from pipelines.config.infrastructure import TrackingConfig
from pipelines.tracking.mlflow_client import make_client, silence_mlflow, translate_mlflow_errors
from pipelines.tracking.model_versions import ModelVersion

CARD_NAME, CARD_FIRST_LINE = "model_card.md", "# Model card: "
"""Artifact of a card, and how every card begins."""
_DESCRIPTION_LENGTH = 5000
"""Characters of a description in MLflow's databases (`SqlModelVersion.description`); SQLite does not enforce it."""


def read_description(version: ModelVersion, *, tracking: TrackingConfig) -> str:
    """The description of a registered version; empty: it has none."""
    client = make_client(tracking)
    with silence_mlflow(), translate_mlflow_errors(tracking):
        return client.get_model_version(version.name, str(version.version)).description or ""


def describe_version(version: ModelVersion, card: str, *, tracking: TrackingConfig) -> str:
    """Make a card the description of a version, and the artifact `model_card.md` of its run.

    A description that is no card was written by a person, and stays. A card that is longer than MLflow's databases
    take is cut after a whole section.

    Args:
        version: a registered version.
        card: Markdown.
        tracking: the registry's server.

    Returns:
        What was done, in a few words.
    """
    client = make_client(tracking)
    with silence_mlflow(), translate_mlflow_errors(tracking):
        found = client.get_model_version(version.name, str(version.version))
        if version.run_id is not None:
            client.log_text(version.run_id, card, CARD_NAME)
        written = found.description or ""
        if written and not written.startswith(CARD_FIRST_LINE):
            return "it has a description of another kind, which stays"
        described = _fit_description(card)
        if described == written:
            return "its description is this card already"
        client.update_model_version(version.name, str(version.version), description=described)
    return "its description is the card" + ("" if described == card else f", in part; the whole is {CARD_NAME}")


def _fit_description(card: str) -> str:
    """A card as a description: whole sections from the beginning, and where the rest is."""
    if len(card) <= _DESCRIPTION_LENGTH:
        return card
    ending = f"\n\nThe card goes on in the artifact `{CARD_NAME}` of the training run.\n"
    kept = ""
    for number, part in enumerate(card.split("\n## ")):
        section = f"\n## {part}" if number else part
        if len(kept) + len(section) + len(ending) > _DESCRIPTION_LENGTH:
            break
        kept += section
    return kept.rstrip("\n") + ending
