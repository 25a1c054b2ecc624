"""Register a checkpoint as a version of an MLflow model (`ecor register`)."""

from dataclasses import replace

from ecor.storage.model_records import Checkpoint
from pipelines.cards.model_card import ModelFacts, model_card
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import RegisterConfig
from pipelines.runtime.console import say
from pipelines.tracking import model_registry, version_description
from pipelines.tracking.model_versions import ModelVersion, read_model_record


def run(config: RegisterConfig, *, tracking: TrackingConfig | None = None) -> ModelVersion:
    """Register the checkpoint, set the alias on its version, and print the version.

    Registering the same checkpoint again, packed the same way, returns the version that exists. A version without
    description gets the model card; that of `ecor card` with an evaluation holds more, and stays.

    Raises:
        ValueError: when the folder holds no checkpoint, or the server does not answer.
    """
    tracking = tracking or TrackingConfig()
    version = model_registry.register_model(config, tracking=tracking)
    if not version_description.has_description(version, tracking=tracking):
        checkpoint = read_model_record(config.checkpoint)
        if isinstance(checkpoint, Checkpoint):  # the version holds the backbone, even where the checkpoint does not
            checkpoint = replace(checkpoint, has_backbone=checkpoint.has_backbone or config.with_backbone)
        facts = ModelFacts(name=f"{version.name}, version {version.version}", checkpoint=checkpoint)
        version_description.describe_version(version, model_card(facts), tracking=tracking)
    say(f"registered {version.uri}", to_stdout=True)
    return version
