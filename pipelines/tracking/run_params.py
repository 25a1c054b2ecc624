"""Log the settings of a run as MLflow parameters."""

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param

_PARAMS_PER_CALL = 100  # MLflow's limits of one log_batch call
_PARAM_LENGTH = 6000


def log_params(client: MlflowClient, *, run_id: str, params: Mapping[str, Any]) -> None:
    """Log nested settings under dotted names, in as few calls as MLflow allows; long values are cut."""
    entries = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in flatten(params)]
    for start in range(0, len(entries), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_CALL])


def flatten(params: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings to dotted names with values."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from flatten(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
