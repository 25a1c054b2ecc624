"""Find the labels that are right as often as promised, from a judged random sample of them (`ecor audit`).

The first run draws the sample and writes it; a run with judgements certifies. The labels never change. The folder
holds:

audit.json                 labels and settings, fixed before the first judgement
sample.csv                 the labels to judge, in random order
judged.json                which judgements, by digest: the first ones count
judgements.parquet         what was judged
label_decisions.parquet    accept, review or reject for every label
risk_coverage.csv, .png    share of wrong labels against the share accepted
summary.json               what became of all images
certificate.json           the promise, written last
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import MANIFEST_NAME, PredictionSet, read_prediction_set
from ecor.evaluation.risk_control import Promise, num_judged_needed
from ecor.storage import filesystem
from pipelines.audit.certificate import (
    CERTIFICATE_NAME,
    POLICY_NAME,
    Certificate,
    Policy,
    describe_certificate,
    find_certificate,
    read_certificate,
)
from pipelines.audit.certificate_folder import SUMMARY_NAME, log_certificate, summary_json, write_curve, write_decisions
from pipelines.audit.certification import audit_curve, certify_groups, certify_rejects, divide, reject_candidates
from pipelines.audit.judgements import Judgements, judgements_table, read_judgements, truth_judgements
from pipelines.audit.label_decisions import balance_decisions, write_label_decisions
from pipelines.audit.policy_watch import read_scores, score_drift
from pipelines.audit.provenance import check_truth_is_independent
from pipelines.audit.sampling import SAMPLE_NAME, AuditSample, Population, draw_sample, encode_sample, score_name
from pipelines.config.identity import describe_changes, output_settings
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.review import AuditConfig
from pipelines.reporting.drift.drift_tests import DriftLimits
from pipelines.runtime.balance import say_balance
from pipelines.runtime.console import say
from pipelines.storage.record_store import RecordStore

AUDIT_RECORD, JUDGED_NAME = "audit", "judged"


def run(config: AuditConfig, *, tracking: TrackingConfig | None = None) -> Certificate | Policy | None:
    """Draw the sample of an audit, or certify the labels by its judgements.

    A finished audit with the same settings and judgements is returned as it is.

    Returns:
        The certificate; a policy with `--policy`; None when the sample waits for its judgements.

    Raises:
        ValueError: for labels that cannot be audited, judgements that do not fit the sample, truth that chose the
            model, and an output of another audit.
    """
    predictions = read_prediction_set(config.labels)
    if config.policy is not None:
        return _apply_policy(config, predictions)
    tracking = tracking or TrackingConfig()
    if config.truth:
        check_truth_is_independent(predictions, tracking=tracking)
    population, sample = draw_sample(config, predictions)
    _check_sample_size(config, population)
    _claim_folder(config, predictions)
    finished = find_certificate(config.folder)
    if finished is None or config.truth or config.judged is not None:
        judgements = _judge(config, predictions, sample=sample)
        if judgements is None:
            return None
        _claim_judgements(config, judgements)
        finished = finished or _certify(
            config, predictions, population, sample=sample, judgements=judgements, tracking=tracking
        )
    for line in describe_certificate(finished):
        say(line, to_stdout=True)
    say_balance(balance_decisions(predictions, folder=config.folder))
    return finished


def _apply_policy(config: AuditConfig, predictions: PredictionSet) -> Policy:
    """Apply the thresholds of a certificate to other labels of the same model and vocabulary."""
    assert config.policy is not None
    certificate = read_certificate(config.policy)
    for name in ("model_digest", "vocabulary_digest"):
        ours, theirs = getattr(predictions.parents, name), getattr(certificate, name)
        require(ours == theirs, f"{config.labels} has {name} {ours[:12]}…, the policy {theirs[:12]}…: audit the labels")
    for name in (MANIFEST_NAME, f"{AUDIT_RECORD}.json", CERTIFICATE_NAME):
        require(
            not filesystem.exists(filesystem.join(config.folder, name)),
            f"{config.folder} holds labels, or an audit of them ({name}): name another --output for the policy",
        )
    certified = read_scores(config.policy, certificate=certificate)
    counts = write_label_decisions(config.labels, predictions, certificate=certificate, folder=config.folder)
    limits = DriftLimits()
    policy = Policy(
        labels=config.labels,
        labels_digest=predictions.digest,
        certificate_digest=certificate.digest,
        certified_labels_digest=certificate.labels_digest,
        num_labels=predictions.num_rows,
        num_accepted=counts["accept"],
        num_rejected=counts["reject"],
        drift=score_drift(certified, read_scores(config.folder), name=certificate.score, limits=limits),
        limits=limits,
    )
    balance = balance_decisions(predictions, folder=config.folder)
    filesystem.write(filesystem.join(config.folder, SUMMARY_NAME), summary_json(balance))
    filesystem.write_json(filesystem.join(config.folder, POLICY_NAME), asdict(policy))
    for line in policy.describe():
        say(line, to_stdout=True)
    say_balance(balance)
    return policy


def _check_sample_size(config: AuditConfig, population: Population) -> None:
    """ValueError before people judge a sample that can promise nothing; a line on categories that are pooled."""
    promise = Promise(right=config.right, sure=config.sure)
    num_sampled, num_labels = int(population.is_sampled.sum()), population.num_labels
    needed = num_judged_needed(num_labels, promise=promise)
    require(
        num_sampled >= needed,
        f"a sample of {num_sampled:,} of {num_labels:,} labels can promise nothing, even if all are right: "
        f"--sample-size must be at least {needed:,}",
    )
    if config.reject is not None:
        require(
            bool(reject_candidates(population, share=config.reject).any()),
            f"--reject {config.reject}: no label has an OOD score above the rest (equal scores go together, and the "
            f"share of {num_labels:,} labels may be less than one): give a larger share",
        )
    if config.by is not None:
        everything = np.ones(num_labels, dtype=bool)
        *_, last = divide(population, among=everything, by_category=True, promise=promise)
        if len(last.categories) > 1:
            say(f"{len(last.categories)} categories are pooled: too few of their labels are in the sample")


def _claim_folder(config: AuditConfig, predictions: PredictionSet) -> None:
    """Fix labels and settings before the first judgement; ValueError, naming what differs, for another audit's."""
    require(
        not filesystem.exists(filesystem.join(config.folder, MANIFEST_NAME)),
        f"{config.folder} holds labels or shards: name another --output",
    )
    settings = {"labels_digest": predictions.digest, **output_settings(config)}
    found = RecordStore(config.folder).create_or_read(AUDIT_RECORD, settings)
    changes = describe_changes(found, settings)
    require(
        not changes,
        f"{config.folder} holds an audit with other settings: {changes}. Repeat its settings, or name another "
        "--output: it draws another sample, to be judged anew",
    )


def _claim_judgements(config: AuditConfig, judgements: Judgements) -> None:
    """Fix the judgements before anything is computed of them; ValueError for others than the first."""
    found = RecordStore(config.folder).create_or_read(JUDGED_NAME, {"judgements_digest": judgements.digest})
    require(
        found["judgements_digest"] == judgements.digest,
        f"{config.folder} was judged before, and by other judgements of this sample: the first judgements count; "
        "audit with another --seed and --output to judge anew",
    )


def _judge(config: AuditConfig, predictions: PredictionSet, *, sample: AuditSample) -> Judgements | None:
    """The judgements of the sample; None, after its file is written, where there are none yet."""
    if config.truth:
        return truth_judgements(sample, reasons=config.reasons)
    if config.judged is not None:
        return read_judgements(config.judged, sample=sample, predictions=predictions)
    path = filesystem.join(config.folder, SAMPLE_NAME)
    if filesystem.create(path, encode_sample(sample)):  # one that people are filling in is never overwritten
        say(f"drew {len(sample.rows):,} of {predictions.num_rows:,} labels: {path}")
    say(
        f"judge every row of {path} in its column verdict, then repeat the command with --judged {path}", to_stdout=True
    )
    return None


def _certify(
    config: AuditConfig,
    predictions: PredictionSet,
    population: Population,
    *,
    sample: AuditSample,
    judgements: Judgements,
    tracking: TrackingConfig,
) -> Certificate:
    parents = predictions.parents
    certificate = Certificate(
        labels=config.labels,
        labels_digest=predictions.digest,
        **{name: getattr(parents, name) for name in ("input_digest", "model_name", "model_version", "model_digest")},
        vocabulary_digest=parents.vocabulary_digest,
        right=config.right,
        sure=config.sure,
        reasons=config.reasons,
        score=score_name(reasons=config.reasons),
        num_labels=population.num_labels,
        sample_size=len(sample.rows),
        seed=config.seed,
        judged_by=judgements.judged_by,
        num_skipped=judgements.num_skipped,
        num_disputed=judgements.num_disputed,
        judgements_digest=judgements.digest,
        groups=certify_groups(config, population, sample=sample, judgements=judgements),
        reject=certify_rejects(config, population, sample=sample, judgements=judgements),
    )
    write_decisions(config, predictions, certificate=certificate, sample=sample, judgements=judgements)
    curve = audit_curve(config, population, sample=sample, judgements=judgements)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "audit"
        folder.mkdir()
        pq.write_table(judgements_table(sample, judgements), folder / "judgements.parquet", compression="zstd")
        write_curve(certificate, curve, folder=folder)
        balance = balance_decisions(predictions, folder=config.folder)
        (folder / SUMMARY_NAME).write_bytes(summary_json(balance))
        run_id = predictions.run_id
        certificate = log_certificate(certificate, folder, balance=balance, run_id=run_id, tracking=tracking)
        filesystem.publish_files(folder, config.folder, last=CERTIFICATE_NAME)
    return certificate
