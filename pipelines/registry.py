"""Checkpoints in, registered and pinned model versions out; and the folder of a pinned one, on any machine."""

from pipelines.tracking import (
    finish_run,
    log_evaluation,
    log_folder,
    log_metrics,
    recorded_run,
    resolved,
    start_training_run,
)

__all__ = [
    "finish_run",
    "log_evaluation",
    "log_folder",
    "log_metrics",
    "recorded_run",
    "resolved",
    "start_training_run",
]
