"""Certify a judged sample: a test sequence per group, pooling of small groups, and the rule that rejects labels.

What is tested is fixed before a judgement is seen: the groups depend on how many labels of each are in the sample, and
the labels that may be rejected are set apart by their OOD score, so that no promise speaks of the labels of another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ecor.evaluation.risk_control import (
    CertifiedSet,
    Promise,
    RiskCoverage,
    certify,
    count_above,
    make_test_sequence,
    num_judged_needed,
    risk_coverage,
)
from pipelines.audit.certificate import GroupCertificate, RejectCertificate
from pipelines.audit.judgements import Judgements
from pipelines.audit.sampling import AuditSample, Population
from pipelines.config.review import AuditConfig

POOLED = "pooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryGroup:
    """Labels that get a promise of their own."""

    name: str
    categories: tuple[str, ...]
    members: Bool[np.ndarray, " N"]
    """Labels of the group that may be accepted."""


def certify_groups(
    config: AuditConfig, population: Population, *, sample: AuditSample, judgements: Judgements
) -> tuple[GroupCertificate, ...]:
    """The promise of each group."""
    promise = Promise(right=config.right, sure=config.sure)
    wrong = ~judgements.is_right(reasons=config.reasons)
    may_be_accepted = np.ones(population.num_labels, dtype=bool)
    if config.reject is not None:
        may_be_accepted = ~reject_candidates(population, share=config.reject)
    return tuple(
        _certify_group(group, population, sample=sample, wrong=wrong, promise=promise)
        for group in divide(population, among=may_be_accepted, by_category=config.by is not None, promise=promise)
    )


def divide(
    population: Population, *, among: Bool[np.ndarray, " N"], by_category: bool, promise: Promise
) -> Iterator[CategoryGroup]:
    """The groups: all labels, or a group per category; categories with too few judged labels are pooled."""
    if not by_category:
        yield CategoryGroup(name="", categories=(), members=among)
        return
    size = len(population.categories)
    num_labels = np.bincount(population.groups[among], minlength=size)
    num_judged = np.bincount(population.groups[among & population.is_sampled], minlength=size)
    small = []
    for index in sorted(range(size), key=lambda index: population.categories[index]):
        if num_judged[index] < num_judged_needed(int(num_labels[index]), promise=promise):
            small.append(index)
        elif num_labels[index]:
            name = population.categories[index]
            yield CategoryGroup(name=name, categories=(name,), members=among & (population.groups == index))
    if small:
        names = tuple(population.categories[index] for index in small)
        members = among & np.isin(population.groups, small)
        yield CategoryGroup(name=names[0] if len(names) == 1 else POOLED, categories=names, members=members)


def certify_rejects(
    config: AuditConfig, population: Population, *, sample: AuditSample, judgements: Judgements
) -> RejectCertificate | None:
    """The rule by which labels are rejected: those with the highest OOD scores whose categories are wrong as promised.

    None where it was not asked for.
    """
    if config.reject is None or population.ood_scores is None:
        return None
    promise = Promise(right=config.reject_wrong, sure=config.sure)
    members = reject_candidates(population, share=config.reject)
    scores, rows = population.ood_scores, sample.rows
    found = _test(
        scores, members=members, population=population, bad=rows[~judgements.category_wrong], predicted=None,
        promise=promise,
    )  # fmt: skip
    return RejectCertificate(
        candidates_from=float(scores[members].min()),
        wrong=config.reject_wrong,
        num_labels=int(members.sum()),
        num_judged=int((members & population.is_sampled).sum()),
        threshold=None if found is None else found.threshold,
        num_rejected=0 if found is None else found.num_labels - found.num_wrong,
        p_value=None if found is None else found.p_value,
    )


def audit_curve(
    config: AuditConfig, population: Population, *, sample: AuditSample, judgements: Judgements
) -> RiskCoverage:
    """Share of wrong labels against the share accepted, of all labels of the job, with its band."""
    promise = Promise(right=config.right, sure=config.sure)
    sequence = make_test_sequence(
        population.scores, is_sampled=population.is_sampled, predicted_right=population.scores, promise=promise
    )
    wrong = sample.rows[~judgements.is_right(reasons=config.reasons)]
    return risk_coverage(sequence, num_wrong=count_above(sequence, population.scores[wrong]), sure=config.sure)


def reject_candidates(population: Population, *, share: float) -> Bool[np.ndarray, " N"]:
    """The labels with the highest OOD scores, at most this share of all; equal scores go together."""
    scores = population.ood_scores
    assert scores is not None, "labels with an OOD score"
    rank = min(len(scores) - 1, int(share * len(scores)))
    return scores > np.sort(scores)[::-1][rank]


def _certify_group(
    group: CategoryGroup,
    population: Population,
    *,
    sample: AuditSample,
    wrong: Bool[np.ndarray, " n"],
    promise: Promise,
) -> GroupCertificate:
    num_labels = int(group.members.sum())
    bad = sample.rows[wrong]
    found = _test(
        population.scores, members=group.members, population=population, bad=bad, predicted=population.scores,
        promise=promise,
    )  # fmt: skip
    return GroupCertificate(
        name=group.name,
        categories=group.categories,
        num_labels=num_labels,
        num_judged=int((group.members & population.is_sampled).sum()),
        num_wrong=int(group.members[bad].sum()),
        threshold=None if found is None else found.threshold,
        num_accepted=0 if found is None else found.num_labels - found.num_wrong,
        p_value=None if found is None else found.p_value,
        num_needed=num_judged_needed(num_labels, promise=promise),
    )


def _test(
    scores: Float[np.ndarray, " N"],
    *,
    members: Bool[np.ndarray, " N"],
    population: Population,
    bad: np.ndarray,
    predicted: Float[np.ndarray, " N"] | None,
    promise: Promise,
) -> CertifiedSet | None:
    """Test the labels of `members`; `bad` are the rows of judged labels that count against the promise."""
    sequence = make_test_sequence(
        scores[members],
        is_sampled=population.is_sampled[members],
        predicted_right=None if predicted is None else predicted[members],
        promise=promise,
    )
    num_bad = count_above(sequence, scores[bad[members[bad]]])
    return certify(sequence, num_wrong=num_bad, promise=promise)
