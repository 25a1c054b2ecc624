"""The certificate of an audit: for which labels the promise holds, by which judgements, and of what."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ecor.config.checks import parse_record, require
from ecor.storage import filesystem
from ecor.storage.digests import json_digest
from pipelines.reporting.drift.drift_tests import DriftLimits, DriftTest, describe_drift

CERTIFICATE_NAME = "certificate.json"
POLICY_NAME = "policy.json"
SCHEMA_VERSION = "1"
METHOD = "fixed-sequence testing with exact hypergeometric tails (Learn then Test, arXiv:2110.01052)"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCertificate:
    """The promise for one group of labels."""

    name: str
    """A category, `pooled` for several, or empty for all labels."""
    categories: tuple[str, ...]
    """Categories of the group; empty for all."""
    num_labels: int
    num_judged: int
    num_wrong: int
    """Of the judged labels."""
    threshold: float | None
    """Labels with a score at or above it are accepted; None: none is."""
    num_accepted: int
    """Labels at or above it, without the judged ones that are wrong."""
    p_value: float | None
    num_needed: int
    """Judged labels, all right, without which nothing can be promised of the group."""

    @property
    def num_more_needed(self) -> int:
        """Judged labels that are missing for any promise."""
        return max(0, self.num_needed - self.num_judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectCertificate:
    """The promise for labels that are rejected: at least a share of their categories is wrong."""

    candidates_from: float
    """OOD score at or above which labels may be rejected, and none is accepted."""
    wrong: float
    """Promised share."""
    num_labels: int
    num_judged: int
    threshold: float | None
    """OOD score at or above which labels are rejected; None: none is."""
    num_rejected: int
    """Labels at or above it, without the judged ones whose category is not wrong."""
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The record of `ecor audit`: a warranty for the labels that were sampled and judged, and for no others."""

    labels: str
    labels_digest: str
    input_digest: str
    model_name: str
    model_version: str | None
    model_digest: str
    vocabulary_digest: str
    right: float
    sure: float
    reasons: bool
    score: str
    """What the thresholds are of."""
    num_labels: int
    sample_size: int
    seed: int
    judged_by: tuple[str, ...]
    num_skipped: int
    """Labels of the sample that all their reviewers skipped: counted as wrong."""
    num_disputed: int
    """Labels of the sample with different verdicts; wrong where these differ about what is promised."""
    judgements_digest: str
    groups: tuple[GroupCertificate, ...]
    reject: RejectCertificate | None = None
    run_id: str | None = None
    """MLflow run that it was logged to."""
    kind: str = "warranty"
    method: str = METHOD
    schema_version: str = SCHEMA_VERSION

    @property
    def num_accepted(self) -> int:
        return sum(group.num_accepted for group in self.groups)

    @property
    def num_rejected(self) -> int:
        return 0 if self.reject is None else self.reject.num_rejected

    @property
    def num_review(self) -> int:
        return self.num_labels - self.num_accepted - self.num_rejected

    @property
    def digest(self) -> str:
        """sha256 of the record without the run and without the address of the labels."""
        return json_digest(asdict(replace(self, run_id=None, labels="")))

    def to_json(self) -> str:
        counts = {name: getattr(self, name) for name in ("num_accepted", "num_review", "num_rejected")}
        return json.dumps({**asdict(self), **counts, "digest": self.digest}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> "Certificate":
        """Raises ValueError, naming `source`, for a text that is not a certificate or was altered by hand."""
        try:
            values: dict[str, Any] = json.loads(text)
            digest = values.pop("digest")
            for name in ("num_accepted", "num_review", "num_rejected"):
                del values[name]
            made = {
                "groups": tuple(_parse_group(each) for each in values.pop("groups")),
                "reject": None if values["reject"] is None else parse_record(RejectCertificate, values["reject"]),
                "judged_by": tuple(values["judged_by"]),
            }
            record = parse_record(cls, {**values, **made})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{source} is not a certificate ({error}): audit again") from error
        require(record.digest == digest, f"{source} was altered: it says {digest}, its content has {record.digest}")
        return record


def read_certificate(folder: str) -> Certificate:
    """The certificate in a folder of `ecor audit`; ValueError where there is none or it was altered."""
    found = find_certificate(folder)
    require(found is not None, f"{folder} holds no {CERTIFICATE_NAME}: not an audit, or its sample is not judged yet")
    assert found is not None
    return found


def find_certificate(folder: str) -> Certificate | None:
    """As `read_certificate`, but None where there is none."""
    path = filesystem.join(folder, CERTIFICATE_NAME)
    try:
        return Certificate.from_json(filesystem.read(path), source=path)
    except FileNotFoundError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The record of `ecor audit --policy`: thresholds of a certificate for other labels. It promises nothing."""

    labels: str
    labels_digest: str
    certificate_digest: str
    certified_labels_digest: str
    """The labels that the certificate is of."""
    num_labels: int
    num_accepted: int
    num_rejected: int
    drift: DriftTest
    """The scores of these labels against those of the labels that the certificate is of."""
    limits: DriftLimits
    """When a difference of the scores is called a drift."""
    kind: str = "policy"

    @property
    def num_review(self) -> int:
        return self.num_labels - self.num_accepted - self.num_rejected

    def describe(self) -> list[str]:
        """The policy in lines for the terminal."""
        words = {self.drift.quantity: "scores of these labels against the certified ones"}
        return [
            f"policy of the audit of {self.certified_labels_digest[:12]}…: accepted {self.num_accepted:,} of "
            f"{self.num_labels:,}; review {self.num_review:,}, reject {self.num_rejected:,}. A policy promises "
            f"nothing: audit these labels for a promise",
            describe_drift((self.drift,), limits=self.limits, words=words),
        ]


def describe_certificate(certificate: Certificate) -> list[str]:
    """The certificate in lines for the terminal."""
    c = certificate
    counts = f"accepted {c.num_accepted:,} of {c.num_labels:,}"
    rest = f"review {c.num_review:,}" + (f", reject {c.num_rejected:,}" if c.reject is not None else "")
    what = "right for a visible reason" if c.reasons else "right"
    promise = f"at least {_percent(c.right)} {what}, with {_percent(c.sure)} confidence"
    if not c.num_accepted:
        lines = [f"accepted 0 of {c.num_labels:,}: the judgements do not show that any are {promise}; {rest}"]
    elif len(c.groups) == 1:
        lines = [f"{counts}: {promise}; {rest}"]
    else:
        num_good = sum(group.num_accepted > 0 for group in c.groups)
        lines = [f"{counts}: {promise}, in each of {num_good} of {len(c.groups)} groups on its own; {rest}"]
    lines += _missing(c)
    if c.reject is not None and c.reject.num_rejected:
        lines.append(
            f"of the {c.num_rejected:,} rejected, at least {_percent(c.reject.wrong)} have a wrong category, with "
            f"{_percent(c.sure)} confidence"
        )
    return lines


def _missing(certificate: Certificate) -> list[str]:
    short = sorted((each for each in certificate.groups if each.num_more_needed), key=lambda each: each.name)
    return [
        f"too few judged: {each.name or 'all'} ({each.num_judged:,} of {each.num_labels:,} labels; "
        f"{each.num_more_needed:,} more are needed, a sample of about {_sample_needed(each, certificate):,})"
        for each in short
    ]


def _sample_needed(group: GroupCertificate, certificate: Certificate) -> int:
    return min(certificate.num_labels, math.ceil(group.num_needed * certificate.num_labels / group.num_labels))


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _parse_group(values: Mapping[str, Any]) -> GroupCertificate:
    return parse_record(GroupCertificate, {**values, "categories": tuple(values["categories"])})
