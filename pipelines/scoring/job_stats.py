"""Counts, rates and times of a scoring job, and which job did which of its units."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ecor.clip.image_features import FeatureSet
from ecor.data.predictions.manifest import PredictionSet
from pipelines.runtime.balance import Balance
from pipelines.runtime.prometheus import (
    IMAGES_QUARANTINED,
    IMAGES_SCORED,
    IMAGES_SEEN,
    RETRIES,
    UNITS_DONE,
    count,
)
from pipelines.scoring.feature_units import describe
from pipelines.scoring.flows.flow import Flow
from pipelines.scoring.incremental.increment import describe_reuse
from pipelines.scoring.incremental.reused_units import ReusedUnit
from pipelines.scoring.inputs import Input
from pipelines.scoring.job import ScoreJob
from pipelines.scoring.predictions_folder import PredictionsFolder
from pipelines.scoring.scored_part import StepTimings
from pipelines.scoring.unit_writer import PartReport, SavedUnit
from pipelines.scoring.work_units import CommittedUnit, Rejection, Unit


@dataclass(slots=True, kw_only=True)
class JobStats:
    """Counts and times of a job so far; mutable."""

    committed: dict[str, CommittedUnit]
    num_images: int = 0
    """Images of units done by this job, rejected ones included."""
    num_rejected: int = field(init=False)
    """Rejected images of all units that are done."""
    num_kept: int = field(init=False)
    """Units that were done before this job started."""
    num_done: int = 0
    """Units done by this job, those taken over included."""
    num_taken_over: int = 0
    """Units taken over from a job that ended before it committed them."""
    num_by_others: int = 0
    """Units that another job committed in the meantime."""
    num_cut: int = 0
    """Sentences of the vocabulary that the text tower truncates; 0 if nothing was scored."""
    seconds: StepTimings = field(default_factory=StepTimings)

    def __post_init__(self) -> None:
        self.num_rejected = len(self.rejected)
        self.num_kept = len(self.committed)

    def add_part(self, report: PartReport) -> None:
        """Add the times of a part that this job has scored."""
        self.seconds += report.seconds
        self.num_cut = report.num_cut

    def add(self, unit: Unit, saved: SavedUnit) -> None:
        """Add a unit that this job has scored; the attempt that counts may be another job's."""
        self.num_images += num_labelled(unit)
        if saved.committed is None:
            return
        self.num_done += saved.counts
        self.num_taken_over += saved.counts and saved.attempt.took_over
        self.num_by_others += not saved.counts
        self.committed[unit.name] = saved.committed
        self.num_rejected += len(saved.committed.rejected)

    def add_others(self, committed: Mapping[str, CommittedUnit]) -> None:
        """Add units that other jobs have committed."""
        new = {unit: each for unit, each in committed.items() if unit not in self.committed}
        self.committed.update(new)
        self.num_by_others += len(new)
        self.num_rejected += sum(len(each.rejected) for each in new.values())

    def replace_units(self, committed: Mapping[str, CommittedUnit]) -> None:
        """Take what counts now: another job may have done a unit again, or declared it lost."""
        self.committed = dict(committed)
        self.num_rejected = len(self.rejected)

    @property
    def num_rows(self) -> int:
        """Rows of the Parquet files of all units that are done."""
        return sum(each.part.num_rows for each in self.committed.values())

    def balance(self, images: Input) -> Balance:
        """What became of all that is listed; the units of `images` are done."""
        return images.balance("score", num_taken=self.num_rows, rejected=self.rejected)

    @property
    def rejected(self) -> list[Rejection]:
        return [each for unit in self.committed.values() for each in unit.rejected]

    def summary(self, *, num_images: int, seconds: float) -> dict[str, Any]:
        """Counts and rates of a job of `num_images` images that took `seconds`."""
        return {
            "num_images": num_images,
            "num_rows": self.num_rows,
            "num_rejected": self.num_rejected,
            "num_multipicture": sum(each.num_multipicture for each in self.committed.values()),
            "num_units": len(self.committed),
            "num_units_kept": self.num_kept,
            "num_units_done": self.num_done,
            "num_units_taken_over": self.num_taken_over,
            "num_units_by_others": self.num_by_others,
            "num_sentences_cut": self.num_cut,
            "num_images_before": num_images - self.num_images,
            "seconds": seconds,
            "images_per_s": self.num_images / seconds,
            "seconds_of": asdict(self.seconds),
        }


def summary_line(summary: Mapping[str, Any]) -> str:
    """Format a summary as one line."""
    num_units = {name: summary[f"num_units_{name}"] for name in ("kept", "done", "taken_over", "by_others")}
    before = f" ({summary['num_images_before']} before)" if summary["num_images_before"] else ""
    rejected = f", {summary['num_rejected']} rejected" if summary["num_rejected"] else ""
    taken_over = f" ({num_units['taken_over']} taken over)" if num_units["taken_over"] else ""
    by_others = f", {num_units['by_others']} by another job" if num_units["by_others"] else ""
    cut = f", {summary['num_sentences_cut']} sentences cut" if summary["num_sentences_cut"] else ""
    return (
        f"scored {summary['num_images']} images{before}{rejected}{cut} in {summary['seconds']:.1f} s, "
        f"{summary['images_per_s']:.1f} images/s ({summary['precision']}); "
        f"units: {num_units['kept']} kept, {num_units['done']} done{taken_over}{by_others}: {summary['output']}"
    )


def num_labelled(unit: Unit) -> int:
    """Images of a unit that a model looks at; none if the rows of an earlier job are reused."""
    return 0 if isinstance(unit, ReusedUnit) else unit.num_images


def count_unit(saved: SavedUnit, *, num_images: int) -> None:
    """Tell Prometheus of a unit that was scored here, with `num_images` images that a model has looked at."""
    if saved.committed is None or not saved.counts:
        count(UNITS_DONE, stage="score", how="by another job")
        return
    count(UNITS_DONE, stage="score", how="taken over" if saved.attempt.took_over else "done")
    count(RETRIES, int(saved.attempt.took_over), kind="taken over")
    count(IMAGES_SEEN, num_images, stage="score")
    count(IMAGES_SCORED, saved.committed.part.num_rows if num_images else 0)
    for rejection in saved.committed.rejected:
        count(IMAGES_QUARANTINED, stage="score", reason=rejection.reason)


def summarise_job(job: ScoreJob, *, tally: JobStats, flow: Flow, balance: Balance, began: float) -> dict[str, Any]:
    return {
        "output": job.config.output,
        "model": job.model.uri,
        "precision": job.config.precision,
        **tally.summary(num_images=job.input.num_images, seconds=time.perf_counter() - began),
        "num_left_out": balance.num_left_out,
        "balance": balance.to_record(),
        "actors": {**asdict(flow.reservation), "threads_per_scorer": flow.reservation.num_threads},
        "in_process": flow.is_local,
        **describe_reuse(job),
    }


def describe_features(job: ScoreJob, *, features: FeatureSet | None) -> dict[str, Any]:
    """Of the summary: which features were labelled, or were kept."""
    if job.kept is not None:
        return {"from_features": describe(job.kept)}
    if features is None:
        return {}
    facts = {"digest": features.digest, "image_side": asdict(features.image_side)}
    return {"kept_features": facts, "num_feature_bytes": features.num_bytes}


def log_job(job: ScoreJob, *, run_id: str, summary: Mapping[str, Any], predictions: PredictionSet) -> None:
    """Log the counts, times, balance and digest of a finished job to its MLflow run."""
    from pipelines.tracking import model_registry

    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    spent = {f"seconds.{name}": value for name, value in summary["seconds_of"].items()}
    reuse = {f"since.{name}": value for name, value in summary.get("since", {}).items() if isinstance(value, int)}
    model_registry.log_metrics(job.tracking, run_id=run_id, metrics={**numbers, **spent, **reuse})
    model_registry.log_balance(job.tracking, run_id=run_id, balance=Balance.from_record(summary["balance"]))
    model_registry.log_tags(job.tracking, run_id=run_id, tags={"ecor.predictions_digest": predictions.digest})


@contextmanager
def open_mlflow_run(job: ScoreJob, *, folder: PredictionsFolder) -> Iterator[str]:
    """The job's MLflow run: the one it had before a restart, where this server knows it."""
    tags = {
        "ecor.stage": "score",
        "ecor.model_uri": job.model.uri,
        "ecor.model_asked_for": job.model.asked_for,
        "ecor.output": job.config.output,
        "ecor.input": job.input_address,
        **{f"ecor.{name}": digest for name, digest in job.digests.items()},
    }
    from pipelines.tracking import model_registry  # MLflow: not for a finished job

    known = folder.run_id if model_registry.has_run(job.tracking, run_id=folder.run_id) else None
    with model_registry.recorded_run(
        job.tracking, name="score", params=asdict(job.config), tags=tags, run_id=known
    ) as run_id:
        folder.remember_run(run_id)
        yield run_id
