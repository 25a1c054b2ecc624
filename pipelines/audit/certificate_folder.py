"""Write what belongs to a certificate: a decision per label, the risk-coverage curve, and its log in MLflow."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ecor.data.predictions.manifest import PredictionSet
from ecor.evaluation.risk_control import RiskCoverage
from pipelines.audit.certificate import (
    CERTIFICATE_NAME,
    Certificate,
    describe_certificate,
)
from pipelines.audit.judgements import Judgements
from pipelines.audit.label_decisions import write_label_decisions
from pipelines.audit.sampling import AuditSample
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.review import AuditConfig
from pipelines.reporting.risk_coverage import CURVE_NAME, draw_risk_coverage
from pipelines.runtime.balance import Balance
from pipelines.runtime.console import say
from pipelines.tracking import model_registry

SUMMARY_NAME = "summary.json"


def write_decisions(
    config: AuditConfig,
    predictions: PredictionSet,
    *,
    certificate: Certificate,
    sample: AuditSample,
    judgements: Judgements,
) -> None:
    keys = np.array(sample.keys, dtype=object)
    counts = write_label_decisions(
        config.labels,
        predictions,
        certificate=certificate,
        never_accept=keys[~judgements.is_right(reasons=config.reasons)].tolist(),
        never_reject=keys[~judgements.category_wrong].tolist(),
        folder=config.folder,
    )
    assert (counts["accept"], counts["reject"]) == (certificate.num_accepted, certificate.num_rejected), counts


def write_curve(certificate: Certificate, curve: RiskCoverage, *, folder: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["coverage", "risk", "low", "high"])
    writer.writerows(zip(*(each.tolist() for each in (curve.coverage, curve.risk, curve.low, curve.high)), strict=True))
    (folder / "risk_coverage.csv").write_text(text.getvalue())
    is_whole = len(certificate.groups) == 1 and certificate.reject is None
    draw_risk_coverage(
        curve,
        folder / CURVE_NAME,
        right=certificate.right,
        sure=certificate.sure,
        accepted=certificate.num_accepted / certificate.num_labels if is_whole and certificate.num_accepted else None,
        reasons=certificate.reasons,
    )


def summary_json(balance: Balance) -> bytes:
    """The summary of an audit or a policy, for scripts: what became of all images."""
    return (json.dumps({"stage": "audit", "balance": balance.to_record()}, indent=1) + "\n").encode()


def log_certificate(
    certificate: Certificate, folder: Path, *, balance: Balance, run_id: str | None, tracking: TrackingConfig
) -> Certificate:
    """The certificate with the run of the labels, which gets the folder's files; the certificate lies among them."""
    path = folder / CERTIFICATE_NAME
    path.write_text(certificate.to_json(), encoding="utf-8")
    if run_id is None:
        return certificate
    if not model_registry.has_run(tracking, run_id=run_id):
        say(f"the MLflow run {run_id} of the labels is not on this server: the certificate is not logged there")
        return certificate
    certificate = replace(certificate, run_id=run_id)
    path.write_text(certificate.to_json(), encoding="utf-8")
    model_registry.log_metrics(tracking, run_id=run_id, metrics=_logged_metrics(certificate))
    model_registry.log_balance(tracking, run_id=run_id, balance=balance, within="audit/")
    tags = {"ecor.certificate_digest": certificate.digest, "ecor.certificate": describe_certificate(certificate)[0]}
    model_registry.log_tags(tracking, run_id=run_id, tags=tags)
    model_registry.log_folder(tracking, run_id=run_id, folder=folder.parent)
    return certificate


def _logged_metrics(certificate: Certificate) -> dict[str, float]:
    names = ("right", "sure", "sample_size", "num_accepted", "num_review", "num_rejected")
    return {f"audit/{name}": float(getattr(certificate, name)) for name in names}
