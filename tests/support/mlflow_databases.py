"""MLflow databases for tests: copies of one that MLflow has made, which takes it seconds for each new file."""

import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from pipelines.config.infrastructure import TrackingConfig
from pipelines.tracking.mlflow_client import silence_mlflow


def new_database(folder: Path, *, experiment: str = "ecor") -> TrackingConfig:
    """An empty MLflow database in an existing folder."""
    path = folder / "mlflow.db"
    path.write_bytes(_empty_database())
    return TrackingConfig(uri=f"sqlite:///{path}", experiment=experiment)


@cache
def _empty_database() -> bytes:
    """Made once per process, by MLflow."""
    with tempfile.TemporaryDirectory() as folder, silence_mlflow():
        path = Path(folder) / "empty.db"
        MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
        return path.read_bytes()
