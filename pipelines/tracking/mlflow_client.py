"""Make MLflow clients, check that the server answers, and translate MLflow's errors."""

import logging
import os
import sqlite3
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines.config.infrastructure import TrackingConfig, sqlite_path, tracking_uri
from pipelines.config.secrets import mask_secrets, split_credentials

_PROBE_TIMEOUT_S = 10.0
_SQLITE_MAGIC = b"SQLite format 3\0"
"""At the start of every SQLite database that is not empty."""
_MLFLOW_TABLES = {"alembic_version", "experiments"}
"""Of MLflow's tables: the one with its version, and the one that it makes first."""

_PROGRESS_BARS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


def make_client(tracking: TrackingConfig, *, probe: bool = True) -> MlflowClient:
    """Make an MLflow client of a server.

    Args:
        tracking: the server.
        probe: check first that the server answers and, once per user, that it accepts the credentials.

    Raises:
        ValueError: when the server does not answer or refuses the user, or MLflow refuses the URI.
    """
    uri = extract_credentials(tracking)
    if probe:
        _check_database(sqlite_path(uri))
        _check_reachable(uri)
    try:
        with silence_mlflow():
            if probe:
                _check_credentials(uri, os.environ.get("MLFLOW_TRACKING_USERNAME"), _password())
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except _uri_errors() as error:
        raise ValueError(
            refusal_message(error, uri=mask_secrets(uri))
            or f"MLflow does not accept the tracking URI {mask_secrets(uri)}: {mask_secrets(first_line(error))} "
            f"Use sqlite:///<file> or the URL of a server"
        ) from error


def _uri_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises for an address that it does not accept, or whose driver is unknown or not installed."""
    from sqlalchemy.exc import ArgumentError  # of MLflow; slow to import, and servers need none of it

    return MlflowException, ImportError, ArgumentError


def refusal_message(error: Exception, *, uri: str) -> str | None:
    """Return the message for a request that the server refuses, so that a retry cannot help; None for any other error.

    Args:
        error: an error of MLflow.
        uri: address of the server, without credentials.
    """
    if "error code 401" in str(error):
        return (
            f"the MLflow server {uri} refuses the user and password: set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD"
        )
    if "Invalid Host header" in str(error):
        return (
            f"the MLflow server {uri} does not answer to this name (403, invalid Host header): use one that it knows, "
            f"or add this one, with port, to its MLFLOW_SERVER_ALLOWED_HOSTS"
        )
    if getattr(error, "error_code", None) == "PERMISSION_DENIED":
        return (
            f"the MLflow server {uri} does not let this user do that (403, permission denied): ask its administrator "
            f"for the right, or set another user in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return None


def _password() -> str | None:
    """The password of basic authentication, or the token that replaces user and password."""
    return os.environ.get("MLFLOW_TRACKING_PASSWORD") or os.environ.get("MLFLOW_TRACKING_TOKEN")


@lru_cache
def _check_credentials(uri: str, user: str | None, password: str | None) -> None:
    """Send one request with the credentials of the environment; cached, because servers check passwords slowly."""
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)


def extract_credentials(tracking: TrackingConfig) -> str:
    """Move user and password from the URI to MLflow's environment variables, and return the URI without them.

    MLflow's own messages would show them otherwise.
    """
    uri, user, password = split_credentials(tracking_uri(tracking))
    if user is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password or ""
    return uri


def display_uri(tracking: TrackingConfig) -> str:
    """Return the URI for messages and records, with credentials masked."""
    return mask_secrets(tracking_uri(tracking))


@contextmanager
def translate_mlflow_errors(tracking: TrackingConfig) -> Iterator[None]:
    """Translate MLflow's errors into errors that tell the user what to do.

    Raises:
        ValueError: when the server refuses the request.
        OSError: when the server failed, and MLflow's own retries did not help.
    """
    try:
        yield
    except MlflowException as error:
        refusal = refusal_message(error, uri=display_uri(tracking))
        if refusal is not None:
            raise ValueError(refusal) from error
        raise OSError(
            f"the MLflow server {display_uri(tracking)} failed ({mask_secrets(first_line(error))}): run the same "
            f"command again when it answers, to resume"
        ) from error


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _check_database(path: Path | None) -> None:
    """Raise ValueError for a SQLite database that cannot be used: MLflow would retry for minutes, or write into it."""
    if path is None or str(path) == ":memory:":
        return
    if path.is_dir():
        raise ValueError(f"the MLflow database {path} is a folder: name a file in it, as sqlite:///{path}/mlflow.db")
    other = "name another file with --tracking.uri sqlite:///<file>"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        start = _read_start(path)
    except OSError as error:
        raise ValueError(f"the MLflow database {path} cannot be opened or made ({error.strerror}): {other}") from error
    if start and start != _SQLITE_MAGIC:
        raise ValueError(f"{path} is no SQLite database: {other}")
    tables = _list_tables(path) if start else set()
    if tables and not tables & _MLFLOW_TABLES:
        raise ValueError(
            f"{path} is the database of another program, with the table {min(tables)[:40]}, and MLflow would add its "
            f"own: {other}"
        )


def _read_start(path: Path) -> bytes:
    """The first bytes of a database; of one that is still to be made none, if files can be made in its folder."""
    if not path.exists():
        tempfile.TemporaryFile(dir=path.parent).close()
        return b""
    with path.open("rb") as file:
        return file.read(len(_SQLITE_MAGIC))


def _list_tables(path: Path) -> set[str]:
    """The tables of a database; none while another process has locked it. ValueError if it is damaged."""
    try:
        connection = sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True, timeout=1.0)
        with closing(connection):
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        return set()
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"the MLflow database {path} is damaged ({error}): restore it from a copy, or name another file with "
            "--tracking.uri sqlite:///<file>"
        ) from error


def _check_reachable(uri: str) -> None:
    """Fail at once when no server answers; MLflow's own client would retry for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PROBE_TIMEOUT_S).close()  # noqa: S310 (checked)
    except urllib.error.HTTPError:
        return  # a server answers; MLflow's client handles the error
    except OSError as error:
        raise ValueError(
            f"the MLflow server {uri} does not answer ({error}): start it, or name another with --tracking.uri or "
            f"MLFLOW_TRACKING_URI{_proxy_hint(uri)}"
        ) from error


def _proxy_hint(uri: str) -> str:
    """What to do where a proxy stands between this machine and the server; empty where none does."""
    server = urllib.parse.urlsplit(uri)
    proxy = urllib.request.getproxies().get(server.scheme)
    if proxy is None or urllib.request.proxy_bypass(server.hostname or ""):
        return ""
    return (
        f". It was asked through the proxy {mask_secrets(proxy)} of {server.scheme}_proxy: if it is reached without "
        f"one, set NO_PROXY={server.hostname}"
    )


@contextmanager
def silence_mlflow() -> Iterator[None]:
    """Hide log messages and progress bars of MLflow and alembic; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    bars = os.environ.get(_PROGRESS_BARS)
    os.environ[_PROGRESS_BARS] = "false"
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars is None:
            os.environ.pop(_PROGRESS_BARS, None)
        else:
            os.environ[_PROGRESS_BARS] = bars
