"""Start, log to and finish MLflow runs, without MLflow's global state.

Every client is made for the URI of a `TrackingConfig`.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

from ecor.config.checks import require
from pipelines.config.infrastructure import TrackingConfig, sqlite_path, tracking_uri
from pipelines.config.secrets import mask_secrets
from pipelines.runtime.balance import Balance
from pipelines.tracking.mlflow_client import (
    display_uri,
    first_line,
    make_client,
    refusal_message,
    silence_mlflow,
    translate_mlflow_errors,
)
from pipelines.tracking.run_params import log_params

ARTIFACTS_BESIDE_DATABASE = "mlartifacts"
_METRICS_PER_CALL = 1000
_log = logging.getLogger(__name__)


def start_training_run(
    tracking: TrackingConfig,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> str:
    """Open an MLflow run, or reopen `run_id` after a restart, and return its id.

    Args:
        tracking: the server; pass `resolve_tracking(tracking)` to workers, which have another current folder.
        name: the run's name.
        params: settings; nested mappings become dotted names, values longer than MLflow's limit are cut.
        tags: digests and lineage.
        run_id: run to resume; its parameters stay as they are.

    Raises:
        ValueError: when the server does not answer, or `run_id` is not known there.
        OSError: when the server fails.
    """
    client = make_client(tracking)
    with translate_mlflow_errors(tracking):
        if run_id is not None:
            _reopen(client, run_id=run_id, uri=display_uri(tracking))
        else:
            with silence_mlflow():
                run_id = client.create_run(_experiment_id(client, tracking=tracking), run_name=name).info.run_id
            log_params(client, run_id=run_id, params=params)
        client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])
    return run_id


def has_run(tracking: TrackingConfig, *, run_id: str | None) -> bool:
    """Whether the server has this run; False for None."""
    if run_id is None:
        return False
    try:
        return make_client(tracking).get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def log_metrics(
    tracking: TrackingConfig, *, run_id: str, metrics: Mapping[str, float], step: int | None = None
) -> None:
    """Add a point to the curve of each metric.

    Args:
        tracking: the server.
        run_id: the run.
        metrics: values by name.
        step: position on the x axis; None: 0.

    Raises:
        ValueError: when the server refuses the request.
        OSError: when the server fails.
    """
    now = get_current_time_millis()
    points = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
    client = make_client(tracking, probe=False)
    with translate_mlflow_errors(tracking):
        for start in range(0, len(points), _METRICS_PER_CALL):
            client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_CALL])


def log_balance(tracking: TrackingConfig, *, run_id: str, balance: Balance, within: str = "") -> None:
    """Log what became of all that a stage listed, as metrics `balance/…` of its run, or `<within>balance/…`."""
    log_metrics(tracking, run_id=run_id, metrics=balance.metrics(within=within))


def log_folder(tracking: TrackingConfig, *, run_id: str, folder: str | Path) -> None:
    """Upload every file of a local folder as an artifact of the run.

    Args:
        tracking: the server.
        run_id: the run.
        folder: local folder.

    Raises:
        ValueError: when the server refuses the request.
        OSError: when the server fails.
    """
    with silence_mlflow(), translate_mlflow_errors(tracking):
        make_client(tracking, probe=False).log_artifacts(run_id, str(folder))


def log_tags(tracking: TrackingConfig, *, run_id: str, tags: Mapping[str, str]) -> None:
    """Add tags that are known only at the end of a run: digests and locations of its output.

    Args:
        tracking: the server.
        run_id: the run.
        tags: values by name.

    Raises:
        ValueError: when the server refuses the request.
        OSError: when the server fails.
    """
    client = make_client(tracking, probe=False)
    with translate_mlflow_errors(tracking):
        client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])


def finish_run(
    tracking: TrackingConfig, *, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED"
) -> None:
    """Close the run with its outcome.

    If the run failed and the server does not answer, this is only a warning, so that it does not hide or delay the
    error.

    Args:
        tracking: the server.
        run_id: the run.
        status: the outcome.

    Raises:
        ValueError: when the server refuses to close a finished run.
        OSError: when the server fails to close a finished run.
    """
    if status == "FINISHED":
        with translate_mlflow_errors(tracking):
            make_client(tracking, probe=False).set_terminated(run_id, status)
        return
    try:
        make_client(tracking).set_terminated(run_id, status)
    except (ValueError, MlflowException) as error:
        _log.warning("the MLflow run %s stays open: %s", run_id, mask_secrets(first_line(error)))


def log_evaluation(
    tracking: TrackingConfig, *, metrics: Mapping[str, float], folder: Path, tags: Mapping[str, str]
) -> str:
    """Record an evaluation as a run of its own; returns the run's id.

    Args:
        tracking: the server.
        metrics: values by name.
        folder: local folder of tables and plots.
        tags: digests and lineage.

    Raises:
        ValueError: when the server does not answer or refuses the request.
        OSError: when the server fails.
    """
    with recorded_run(tracking, name="evaluate", params={}, tags=tags) as run_id:
        log_metrics(tracking, run_id=run_id, metrics=metrics)
        log_folder(tracking, run_id=run_id, folder=folder)
    return run_id


@contextmanager
def recorded_run(
    tracking: TrackingConfig,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> Iterator[str]:
    """Open a run for the block, and close it as FINISHED, KILLED (Ctrl-C) or FAILED (any other error).

    Args and errors are those of `start_training_run` and `finish_run`.
    """
    run_id = start_training_run(tracking, name=name, params=params, tags=tags, run_id=run_id)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        finish_run(tracking, run_id=run_id, status=status)


def _experiment_id(client: MlflowClient, *, tracking: TrackingConfig) -> str:
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is not None:
        require(
            experiment.lifecycle_stage == "active",
            f"the experiment {tracking.experiment} was deleted on {display_uri(tracking)}: restore it, or name another",
        )
        return experiment.experiment_id
    try:
        return client.create_experiment(tracking.experiment, artifact_location=_artifact_location(tracking))
    except MlflowException:  # another process created it first
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            raise
        return experiment.experiment_id


def _artifact_location(tracking: TrackingConfig) -> str | None:
    """Folder of artifacts: beside the database for SQLite; None where the server decides."""
    path = sqlite_path(tracking_uri(tracking))
    return None if path is None else (path.parent / ARTIFACTS_BESIDE_DATABASE).as_uri()


def _reopen(client: MlflowClient, *, run_id: str, uri: str) -> None:
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if refusal_message(error, uri=uri) is not None:  # a run of another user
            raise
        raise ValueError(
            f"the MLflow run {run_id} is not on {uri}: name the server that has it, or add --fresh"
        ) from error
