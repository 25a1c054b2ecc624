"""The model card (Markdown): what a model was tuned on, its settings, figures and limits, from records alone.

Facts that no record holds are named as absent. Nothing else is claimed (after Mitchell et al., Model Cards for Model
Reporting, arXiv:1810.03993; the choice of sections is ours).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ecor.config.checks import require
from ecor.evaluation.confidence_intervals import Estimate
from ecor.evaluation.record import Evaluation, Result
from ecor.storage.model_records import ArtifactRecord, Checkpoint
from pipelines.audit.certificate import Certificate, describe_certificate
from pipelines.cards.markdown_text import bullets, escape, section, table
from pipelines.tracking.model_versions import INITIAL_MODEL, Ancestor, VersionLineage

_FIGURES = {
    "strict/rr": "category and rationale right (rr)",
    "strict/rw": "category right, rationale wrong (rw)",
    "strict/wr": "category wrong, rationale right (wr)",
    "strict/ww": "both wrong (ww)",
    "strict/visible_rr": "category right, rationale visible",
    "strict/accuracy": "category right",
    "marginal/accuracy": "category right, whatever the rationale",
    "calibration/error": "calibration error, root mean square, bias-corrected",
    "calibration/ece": "expected calibration error",
}
_ABSENT = "not recorded"
NO_EVALUATION = "No evaluation was given to this card: accuracy on images that chose nothing is unknown here."
NO_AUDIT = "No audit was given to this card: nothing is promised about this model's labels."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The records that a model card is made from."""

    name: str
    """Registered name and version, or the folder of the checkpoint."""
    checkpoint: Checkpoint | ArtifactRecord
    lineage: VersionLineage | None = None
    """Of a registered version; None for a plain checkpoint."""
    evaluations: tuple[Evaluation, ...] = ()
    certificates: tuple[Certificate, ...] = ()

    def __post_init__(self) -> None:
        digest = self.checkpoint.model_digest
        for certificate in self.certificates:
            require(
                certificate.model_digest == digest,
                f"the audit of {certificate.labels} is of the model {certificate.model_digest[:12]}…, not of "
                f"{digest[:12]}…: name audits of labels of this model",
            )
        for evaluation in self.evaluations:
            of = [str(each.parents.get("model_digest", "unknown"))[:12] for each in evaluation.results]
            require(
                bool(results_of(evaluation, model_digest=digest)),
                f"an evaluation is of the models {', '.join(of)}, not of {digest[:12]}…: evaluate labels of this model",
            )


def results_of(evaluation: Evaluation, *, model_digest: str) -> list[Result]:
    """Results of an evaluation that are of a model's labels."""
    return [each for each in evaluation.results if each.parents.get("model_digest") == model_digest]


def model_card(facts: ModelFacts) -> str:
    """The card as Markdown; the same records give the same text."""
    record = facts.checkpoint
    return (
        "\n\n".join(
            [
                f"# Model card: {escape(facts.name)}",
                "Made from records by `ecor`. Each digest names the record that a fact is from.",
                section("Model", table(("fact", "value"), _identity(facts))),
                section("Tuned on", table(("input", "digest"), _parents(record.parents))),
                section("Lineage", *_lineage(facts)),
                section("Settings", table(("setting", "value"), _settings(record))),
                section("Figures on validation images", *_validation(record)),
                section("Figures on evaluated labels", *_evaluated(facts)),
                section("Calibration", bullets(_calibration(record))),
                section("Certificates", *_certified(facts)),
                section("Known limits", bullets(_limits(facts))),
            ]
        )
        + "\n"
    )


def _identity(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    record = facts.checkpoint
    yield "name", escape(facts.name)
    yield "system", escape(record.system if isinstance(record, ArtifactRecord) else "ecor")
    yield "model digest", record.model_digest
    yield "backbone digest", record.backbone_digest
    yield "vocabulary digest", record.vocabulary_digest
    yield "MLflow run of training", escape(record.run_id or _ABSENT)
    yield "licence", f"{_ABSENT}: look at that of the backbone's weights and of the images"


def _parents(parents: Mapping[str, str]) -> list[tuple[str, str]]:
    rows = [(escape(name), escape(digest)) for name, digest in sorted(parents.items())]
    return rows or [(_ABSENT, "")]


def _lineage(facts: ModelFacts) -> Iterator[str]:
    lineage = facts.lineage or VersionLineage(ancestors=_recorded_ancestors(facts.checkpoint))
    if not lineage.ancestors:
        yield "No earlier model that it was tuned from is recorded."
    else:
        yield table(
            ("tuned from", "version", "model digest"),
            (
                (f"step {step}", escape(each.uri or _ABSENT), escape(each.digest))
                for step, each in enumerate(lineage.ancestors, start=1)
            ),
        )
    yield bullets(
        [
            *(f"promotion to {escape(each)}" for each in lineage.promotions),
            *(f"images that decided about its promotion: `{escape(each[:12])}`" for each in lineage.contests),
        ]
    )


def _recorded_ancestors(record: Checkpoint | ArtifactRecord) -> tuple[Ancestor, ...]:
    digest = record.parents.get(INITIAL_MODEL)
    return () if digest is None else (Ancestor(digest=digest, uri=None),)


def _settings(record: Checkpoint | ArtifactRecord) -> Iterator[tuple[str, str]]:
    if isinstance(record, ArtifactRecord):
        groups: dict[str, Mapping[str, object]] = {"": record.settings, "backbone.": record.backbone.to_record()}
    else:
        model = record.model
        prompts = {name: getattr(model.prompts, name) for name in model.prompts.__dataclass_fields__}
        templates = {name: getattr(model.templates, name) for name in model.templates.__dataclass_fields__}
        groups = {"backbone.": model.backbone.to_record(), "prompts.": prompts, "templates.": templates}
    for prefix, values in groups.items():
        for name, value in sorted(values.items()):
            yield escape(f"{prefix}{name}"), escape("empty" if value == "" else value)


def _validation(record: Checkpoint | ArtifactRecord) -> Iterator[str]:
    shown = {
        name: value
        for name, value in sorted(record.metrics.items())
        if name.startswith("validation_") and not name.endswith("_s")  # seconds
    }
    if not shown:
        yield f"Figures of the saved model on validation images: {_ABSENT}."
        return
    yield "The saved epoch was chosen on these images, which favours it. The record holds no intervals."
    yield table(("figure", "value"), ((escape(name), f"{value:.4g}") for name, value in shown.items()))


def _evaluated(facts: ModelFacts) -> Iterator[str]:
    if not facts.evaluations:
        yield NO_EVALUATION
    for evaluation in facts.evaluations:
        level = f"{100 * evaluation.resampling.confidence:.6g} %"
        for result in results_of(evaluation, model_digest=facts.checkpoint.model_digest):
            yield (
                f"Labels `{result.predictions[:12]}` of {escape(result.parents.get('input', _ABSENT))} (images "
                f"`{str(result.parents.get('input_digest', _ABSENT))[:12]}`), vocabulary "
                f"`{str(result.parents.get('vocabulary_digest', _ABSENT))[:12]}`, method {escape(result.method)}: "
                f"{result.num_images:,} images of known category, {result.num_explained:,} of known rationale. "
                f"{_use_of(result, facts=facts)}Intervals: {level}, bootstrap over images."
            )
            yield table(("figure", "value", "interval", "images"), _figures(result))


def _use_of(result: Result, *, facts: ModelFacts) -> str:
    """Whether the evaluated images took part in the choice of the model, as far as its record says."""
    used = [name for name, each in facts.checkpoint.parents.items() if each == result.parents.get("input_digest")]
    if used:
        return f"The model was made with these images ({escape(used[0])}): the figures may be too good. "
    is_contest = facts.lineage is not None and result.parents.get("input_digest") in facts.lineage.contests
    return "These images decided about its promotion: the figures may be too good. " if is_contest else ""


def _figures(result: Result) -> Iterator[tuple[str, str, str, str]]:
    for name, words in _FIGURES.items():
        found = result.metrics.get(name)
        if found is not None:
            yield words, f"{found.value:.4f}", _interval(found), f"{found.num_images:,}"


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return _ABSENT
    return f"{estimate.low:.4f} to {estimate.high:.4f}"


def _calibration(record: Checkpoint | ArtifactRecord) -> Iterator[str]:
    if isinstance(record, ArtifactRecord):
        yield f"Calibration: {_ABSENT}."
        return
    if record.calibrated_on is None:
        yield "The temperatures were not fitted: confidences are an order, not frequencies."
    else:
        same = "this model's" if record.calibrated_on == record.vocabulary_digest else "another"
        yield f"Temperatures were fitted on {same} vocabulary, `{record.calibrated_on[:12]}`."
    for name, value in sorted(record.temperatures.to_record().items()):
        yield f"{escape(name if name.startswith('pooling_') else f'temperature {name}')}: {value:.4g}"


def _certified(facts: ModelFacts) -> Iterator[str]:
    if not facts.certificates:
        yield NO_AUDIT
    for certificate in facts.certificates:
        yield bullets(
            [
                f"labels {escape(certificate.labels)} (`{certificate.labels_digest[:12]}`), certificate "
                f"`{certificate.digest[:12]}`",
                *(escape(line) for line in describe_certificate(certificate)),
                f"drawn at random: {certificate.sample_size:,} labels, judged by "
                f"{escape(', '.join(certificate.judged_by))}; {certificate.num_skipped:,} that all skipped and "
                f"{certificate.num_disputed:,} on which they differ count as wrong",
                f"vocabulary `{certificate.vocabulary_digest[:12]}`",
                "a promise about these labels only, not about other labels of this model",
            ]
        )


def _limits(facts: ModelFacts) -> Iterator[str]:
    record: Checkpoint | ArtifactRecord = facts.checkpoint
    yield (
        f"The model was made with the vocabulary `{record.vocabulary_digest[:12]}`. Of other names than those of the "
        f"figures above, and of images of another kind, nothing was measured here."
    )
    if isinstance(record, Checkpoint) and record.calibrated_on is not None:
        yield "With another vocabulary, confidences are not calibrated."
    yield "An image that shows none of the categories gets one of them all the same."
    if isinstance(record, Checkpoint) and not record.has_backbone:
        yield "The backbone's weights are not in the checkpoint: they must be available where it is used."
    yield f"Fairness, bias and consent of the people in images: {_ABSENT}."
