"""Register a checkpoint as a version of an MLflow model (`ecor register`)."""

from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.stages import RegisterConfig
from pipelines.runtime.console import say
from pipelines.tracking import model_registry
from pipelines.tracking.model_versions import ModelVersion


def run(config: RegisterConfig, *, tracking: TrackingConfig | None = None) -> ModelVersion:
    """Register the checkpoint, set the alias on its version, and print the version.

    Registering the same checkpoint again, packed the same way, returns the version that exists.

    Raises:
        ValueError: when the folder holds no checkpoint, or the server does not answer.
    """
    version = model_registry.register_model(config, tracking=tracking or TrackingConfig())
    say(f"registered {version.uri}", to_stdout=True)
    return version
