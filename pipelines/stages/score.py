"""Label every image of a folder, a table or a split with a pinned model (`ecor score`).

Units of the input are decoded, scored, written and committed by workers; this driver claims units, counts, and
publishes the manifest. Kill it at any moment and run the same command again: no row is lost, and none is there twice.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ecor.clip.image_features import FeatureSet
from ecor.data.predictions.manifest import PredictionSet
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, absolute_address, resolve_tracking
from pipelines.config.stages import ScoreConfig
from pipelines.runtime.balance import say_balance, say_multipicture
from pipelines.runtime.console import progress_bar, say
from pipelines.scoring.flows.flow import Flow, open_flow
from pipelines.scoring.incremental.increment import prepare_listing, say_reuse, write_vanished
from pipelines.scoring.job import ScoreJob, plan_job
from pipelines.scoring.job_stats import (
    JobStats,
    count_unit,
    describe_features,
    log_job,
    num_labelled,
    open_mlflow_run,
    summarise_job,
    summary_line,
)
from pipelines.scoring.predictions_folder import QUARANTINE_NAME, PredictionsFolder
from pipelines.scoring.work_units import CommittedUnit
from pipelines.storage.attempt import Attempt
from pipelines.storage.features_folder import FeaturesFolder
from pipelines.storage.record_store import require_other_outputs_kept


def run(
    config: ScoreConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> PredictionSet:
    """Label every image of the input; units that an earlier attempt has finished are verified and kept.

    Args:
        config: what, with which model, to where.
        cluster: where it runs. Units that another job works on are left to it, until it finishes them or ends.
        tracking: MLflow's server; the job is one run there, also after restarts.

    Raises:
        ValueError: when the model or input is not there, the output holds another job's labels (also those of another
            version of the model, which an alias may mean by now), a shard is not what its manifest says, or more than
            `max_rejected` of the images are in quarantine.
        OSError: when MLflow's server is gone for good; the same command resumes in the same run.
    """
    began = time.perf_counter()
    config = _with_features_of(config)
    job = plan_job(config, cluster=cluster or ClusterConfig(), tracking=resolve_tracking(tracking or TrackingConfig()))
    if (line := job.input.describe_left_out()) is not None:
        say(line)
    folder = PredictionsFolder(
        absolute_address(config.output),
        identity=job.identity,
        lease_s=job.cluster.lease_s,
        keep_features=config.keep_features,
    )
    require_other_outputs_kept(config.output, record="summary.json", key="num_units", stage="ecor score")
    if config.fresh:
        folder.clear()
    folder.claim_folder()
    with folder.hold_lease(), _left_if_refused(folder):
        job = prepare_listing(job, folder=folder)
        attempts, committed = _claim_units(job, folder=folder)
        finished = folder.find_manifest()
        if finished is not None and _is_of(finished, committed, job=job):
            folder.publish_features(_feature_set(job, committed=committed, predictions=finished))
            _say_finished(finished, committed=committed, job=job)
            return finished
        with open_mlflow_run(job, folder=folder) as run_id, open_flow(job) as flow:
            tally = JobStats(committed=committed)
            _score(job, folder=folder, tally=tally, flow=flow, attempts=attempts)
            balance = tally.balance(job.input)
            predictions = _collect_predictions(job, folder=folder, tally=tally, run_id=run_id)
            summary = summarise_job(job, tally=tally, flow=flow, balance=balance, began=began)
            features = _feature_set(job, committed=tally.committed, predictions=predictions)
            _publish(job, folder=folder, predictions=predictions, features=features, summary=summary)
            folder.remove_uncommitted(tally.committed)  # last: the manifest before may name them
    say(summary_line(summary), to_stdout=True)
    say_reuse(job)
    say_multipicture(summary["num_multipicture"])
    say_balance(balance)
    return predictions


def _with_features_of(config: ScoreConfig) -> ScoreConfig:
    """An output folder with features keeps them complete, also where a later run does not ask for it.

    So do new labels, where the earlier ones have features.
    """
    if config.features is not None:
        return config
    places = [config.since, None if config.fresh else config.output]
    is_kept = any(FeaturesFolder(absolute_address(place)).has_record() for place in places if place is not None)
    return replace(config, keep_features=True) if is_kept else config


def _is_of(finished: PredictionSet, committed: Mapping[str, CommittedUnit], *, job: ScoreJob) -> bool:
    """Whether a manifest names the files that count; not if its job ended just before it replaced the manifest."""
    counting = {unit: each.part for unit, each in committed.items()}
    return len(committed) == len(job.input.units) and {part.unit: part for part in finished.parts} == counting


def _feature_set(
    job: ScoreJob, *, committed: Mapping[str, CommittedUnit], predictions: PredictionSet
) -> FeatureSet | None:
    parts = [committed[unit.name].features for unit in job.input.units]
    return job.feature_set(parts, labels_digest=predictions.digest)


def _say_finished(finished: PredictionSet, *, committed: dict[str, CommittedUnit], job: ScoreJob) -> None:
    scored = f"{finished.num_rows} images were scored before, {finished.num_rejected} rejected"
    say(f"{scored}; units: {len(finished.parts)} kept, 0 done: {job.config.output}", to_stdout=True)
    say_reuse(job)
    say_balance(JobStats(committed=committed).balance(job.input))


@contextlib.contextmanager
def _left_if_refused(folder: PredictionsFolder) -> Iterator[None]:
    try:
        yield
    except ValueError:
        folder.release_folder()
        raise


def _claim_units(job: ScoreJob, *, folder: PredictionsFolder) -> tuple[dict[str, Attempt], dict[str, CommittedUnit]]:
    """Units claimed by this job, and units that are done; waits as long as others hold all that is not done.

    Where an earlier run has stopped because too many pictures were rejected, they may have been mended: the units that
    they are in are not done.
    """
    committed = folder.read_commits()
    is_finished = len(committed) == len(job.input.units) and folder.find_manifest() is not None
    if not is_finished and job.exceeds_rejected(JobStats(committed=committed).num_rejected):
        committed = folder.reopen_rejected(committed)
    while True:
        pending = [unit.name for unit in job.input.units if unit.name not in committed]
        attempts = folder.claim_units(pending)
        if attempts or not pending:
            return attempts, committed
        folder.units.wait(pending, tell=partial(say, to_stdout=True))
        committed = folder.read_commits(known=committed)


def _score(
    job: ScoreJob,
    *,
    folder: PredictionsFolder,
    tally: JobStats,
    flow: Flow,
    attempts: Mapping[str, Attempt],
) -> None:
    """Score the units of `attempts`, then what other jobs have left, until all are done; `tally` tells of all."""
    _check_rejected(job, folder=folder, tally=tally)
    while len(tally.committed) < len(job.input.units):
        if attempts:
            _score_claimed(job, folder=folder, tally=tally, flow=flow, attempts=attempts)
        pending = [unit.name for unit in job.input.units if unit.name not in tally.committed]
        attempts = folder.claim_units(pending)
        if pending and not attempts:
            folder.units.wait(pending, tell=partial(say, to_stdout=True))
            tally.add_others(folder.read_commits(known=tally.committed))
            _check_rejected(job, folder=folder, tally=tally)
        if not pending:
            tally.replace_units(folder.read_commits(known=tally.committed))


def _score_claimed(
    job: ScoreJob,
    *,
    folder: PredictionsFolder,
    tally: JobStats,
    flow: Flow,
    attempts: Mapping[str, Attempt],
) -> None:
    units = {unit.name: unit for unit in job.input.units if unit.name in attempts}
    num_claimed = len(units)
    with progress_bar("scoring", total=sum(unit.num_images for unit in units.values()), unit="images") as advance:
        for report in flow.stream(
            job, list(units.values()), folder=folder, attempts=attempts, reservation=flow.reservation
        ):
            tally.add_part(report)
            unit = units.pop(report.unit, None) if report.saved is not None else None
            if report.saved is None or unit is None:  # parts are missing, or the unit was reported before
                continue
            tally.add(unit, report.saved)
            count_unit(report.saved, num_images=num_labelled(unit))
            advance(unit.num_images)
            _check_rejected(job, folder=folder, tally=tally)
    # A store that lists a part too late may leave a unit unwritten: it is done again
    assert len(units) < num_claimed, f"Ray Data ended without the units {sorted(units)[:5]}"


def _check_rejected(job: ScoreJob, *, folder: PredictionsFolder, tally: JobStats) -> None:
    """Stop the job where it is certain that more than the allowed share of all images is rejected."""
    if not job.exceeds_rejected(tally.num_rejected):
        return
    rejected = tally.rejected
    folder.write_quarantine(rejected)
    first = rejected[0]
    raise ValueError(
        f"{len(rejected)} of {job.input.num_images} images are rejected, more than max_rejected "
        f"({job.config.max_rejected}); the first is {first.source} ({first.reason}: {first.detail}), all are in "
        f"{folder.folder}/{QUARANTINE_NAME}. Mend the images and {job.input.once_mended}, or run again with a higher "
        f"--max-rejected, which keeps what is scored"
    )


def _collect_predictions(job: ScoreJob, *, folder: PredictionsFolder, tally: JobStats, run_id: str) -> PredictionSet:
    """What is to be published."""
    folder.write_quarantine(tally.rejected)
    return PredictionSet(
        parts=tuple(tally.committed[unit.name].part for unit in job.input.units),
        parents=job.parents,
        scoring=job.config.scoring,
        num_rejected=tally.num_rejected,
        run_id=run_id,
    )


def _publish(
    job: ScoreJob,
    *,
    folder: PredictionsFolder,
    predictions: PredictionSet,
    features: FeatureSet | None,
    summary: Mapping[str, Any],
) -> None:
    """MLflow first: with a manifest there, the next attempt would have nothing left to do or to record."""
    assert predictions.run_id is not None
    write_vanished(job, folder=folder)
    summary = {**summary, **describe_features(job, features=features)}
    log_job(job, run_id=predictions.run_id, summary=summary, predictions=predictions)
    folder.publish(predictions, features=features)
    folder.write_summary({**summary, "run_id": predictions.run_id, "digest": predictions.digest})
