"""Register a checkpoint as a version of an MLflow model (`ecor register`)."""

from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import RegisterConfig
from pipelines.runtime.console import say
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion


def run(config: RegisterConfig, *, tracking: TrackingConfig | None = None) -> ModelVersion:
    """Register the checkpoint, set the alias on its version, and print the version.

    Registering the same checkpoint again, packed the same way, returns the version that exists. A version without
    description gets the model card; that of `ecor card` with an evaluation holds more, and stays.

    Raises:
        ValueError: when the folder holds no checkpoint, or the server does not answer.
    """
    from pipelines.cards.version_card import describe_new_version  # reads evaluations, which need torch

    tracking = tracking or TrackingConfig()
    version = model_registry.register_model(config, tracking=tracking)
    describe_new_version(version, checkpoint=config.checkpoint, with_backbone=config.with_backbone, tracking=tracking)
    say(f"registered {version.uri}", to_stdout=True)
    return version
