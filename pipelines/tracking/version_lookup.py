"""Find a registered version, and say what the registry holds instead."""

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def look_up_version(client: MlflowClient, *, name: str, version: str | None, alias: str | None) -> Any:
    """Get MLflow's record of a version; None if it does not exist."""
    try:
        if alias is not None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def describe_registry(client: MlflowClient, *, name: str) -> str:
    try:
        model = client.get_registered_model(name)
    except MlflowException:
        names = sorted(each.name for each in client.search_registered_models())
        return f"registered models are {', '.join(names)}" if names else "no model is registered there"
    versions = sorted((str(each.version) for each in client.search_model_versions(f"name = '{name}'")), key=int)
    aliases = ", ".join(f"{alias} (version {version})" for alias, version in sorted(model.aliases.items()))
    return f"{name} has the versions {', '.join(versions) or 'none'} and the aliases {aliases or 'none'}"
