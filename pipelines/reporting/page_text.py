"""Texts of the report page: facts, lineage, and the words around figures and gallery."""

from collections.abc import Iterator

from ecor.data.predictions.manifest import PredictionSet
from ecor.evaluation.record import Evaluation, Result
from pipelines.reporting.gallery import GallerySample
from pipelines.reporting.html_page import Card, Fact, MetricValue, Outcome
from pipelines.reporting.metric_tables import metric_cell
from pipelines.runtime.console import percent

_OUTCOMES = {
    "rr": "right, for the right reason",
    "rw": "right, for a wrong reason",
    "wr": "wrong, though the reason is right",
    "ww": "wrong, and so is the reason",
}


OUTCOME_WORDS = (
    "A label is doubly right when its category is right and the rationale given for it is one that the picture was "
    "labelled with. Judged is the most probable pair of category and rationale (the strict rule).",
)


METHOD_WORDS = {
    "joint": "rationale first, then the category given the rationale",
    "inverted": "category first, then the rationale given the category",
    "independent": "category and rationale apart from each other",
    "pairs": "one choice among all pairs of category and rationale",
    "pooled": "rationale first, then the category given the rationale, weighed with the category's own evidence",
}


def page_sentence(predictions: PredictionSet) -> str:
    return (
        f"{predictions.num_rows:,} {_pictures(predictions.num_rows)}, each labelled by {_model(predictions)} with a "
        "category, the rationale that speaks for it, and the probability of both."
    )


def _model(predictions: PredictionSet) -> str:
    name, version = predictions.parents.model_name, predictions.parents.model_version
    return name if version is None else f"{name} version {version}"


def _pictures(number: int) -> str:
    return "picture" if number == 1 else "pictures"


def page_facts(predictions: PredictionSet, *, drawn: GallerySample) -> Iterator[Fact]:
    parents, scoring = predictions.parents, predictions.scoring
    yield Fact(label="Model", value=_model(predictions), note=parents.model_digest[:12])
    yield Fact(
        label="Labelled",
        value=f"{predictions.num_rows:,} {_pictures(predictions.num_rows)}",
        note=f"{predictions.num_rejected:,} more could not be read"
        if predictions.num_rejected
        else "none was left out as unreadable",
    )
    known = {code: number for code, number in drawn.num_of.items() if code[0] != "?"}
    if known and not _has_outcomes(drawn):
        right, total = known.get("r?", 0), sum(known.values())
        yield Fact(
            label="Category is right", value=percent(right / total, 1), note=f"{right:,} of {total:,} that are labelled"
        )
    yield Fact(label="Decoding", value=predictions.method, note=METHOD_WORDS[predictions.method])
    yield Fact(
        label="Best pairs are certain",
        value=_of(drawn.num_exact, drawn.num_rows),
        note=f"{scoring.keep_rationales} to {scoring.max_keep_rationales} rationales kept per picture",
    )
    yield Fact(
        label="Calibrated",
        value=_of(drawn.num_calibrated, drawn.num_rows),
        note="with temperatures fitted on this vocabulary",
    )


def _of(number: int, total: int) -> str:
    if number in (0, total):
        return "all" if number else "none"
    return f"{number:,} of {total:,}"


def page_lineage(predictions: PredictionSet, *, evaluation: Evaluation | None) -> Iterator[Fact]:
    parents = predictions.parents
    yield Fact(label="Labels", value=predictions.digest, note=f"in {len(predictions.parts):,} parts")
    yield Fact(label="Pictures", value=parents.input_digest, note=parents.input)
    yield Fact(
        label="Model", value=parents.model_digest, note=f"{_model(predictions)}, asked for as {parents.model_uri}"
    )
    yield Fact(label="Vocabulary", value=parents.vocabulary_digest)
    settings = ", ".join(f"{name} {value}" for name, value in predictions.scoring.to_record().items())
    yield Fact(label="Scoring", value=settings)
    if predictions.run_id:
        yield Fact(label="MLflow run of the labels", value=predictions.run_id)
    if evaluation is not None:
        yield Fact(label="Evaluation", value=evaluation.digest)
    if evaluation is not None and evaluation.run_id:
        yield Fact(label="MLflow run of the evaluation", value=evaluation.run_id)


def _has_outcomes(drawn: GallerySample) -> bool:
    return any(drawn.num_of.get(code) for code in _OUTCOMES)


def page_outcomes(drawn: GallerySample, *, result: Result | None) -> Iterator[Outcome]:
    total = sum(drawn.num_of.get(code, 0) for code in _OUTCOMES)
    for code, words in _OUTCOMES.items() if total else ():
        count = drawn.num_of.get(code, 0)
        measured = None if result is None else metric_cell(result, f"strict/{code}")
        yield Outcome(code=code, words=words, share=measured or MetricValue(value=count / total), count=count)


def figure_words(evaluation: Evaluation, result: Result) -> Iterator[str]:
    resampling = evaluation.resampling
    yield (
        f"Shares of the {result.num_explained:,} pictures whose category and rationale are known (of category alone: "
        f"{result.num_images:,}). After each value stand the ends of its {percent(resampling.confidence)} interval, by "
        f"{resampling.num_resamples:,} bootstrap samples of the pictures."
    )


def gallery_words(drawn: GallerySample, *, cards: tuple[Card, ...]) -> Iterator[str]:
    if len(cards) < drawn.num_rows and len(drawn.num_of) > 1:
        yield (
            f"{len(cards):,} of {drawn.num_rows:,} pictures, drawn from all outcomes"
            f"{' and from agreement and dispute' if any(card.others for card in cards) else ''} in equal parts: "
            "mistakes are more frequent here than among all."
        )
    elif len(cards) < drawn.num_rows:
        yield f"{len(cards):,} of {drawn.num_rows:,} pictures, drawn at random."
    num_explained = sum(bool(card.overlays) for card in cards)
    if num_explained:
        which = "these" if num_explained == len(cards) else f"{num_explained:,} of these"
        yield (
            f"Below the label of {which} pictures stands where the evidence is: for the category given its rationales, "
            "and for each rationale. Every map has its own scale; a darkened margin was not seen by the model."
        )
    missing = sum(card.picture is None for card in cards)
    if missing:
        yield f"{missing:,} of these {len(cards):,} could not be found again: in place of the picture stands why."
