"""Write one page of HTML about explained labels: figures, lineage, and a gallery that can be searched."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from rich.console import Console
from rich.progress import track

import ecor
from ecor.config.checks import require
from ecor.data.predictions import PredictionSet, read_prediction_set
from ecor.evaluation.record import Evaluation, Result, read_evaluation
from ecor.storage import filesystem
from pipelines.audit.certificate import Certificate, describe_certificate, read_certificate
from pipelines.config.reporting import ReportConfig
from pipelines.reporting.comparison import read_comparisons
from pipelines.reporting.gallery import GallerySample, make_cards, sample_gallery
from pipelines.reporting.html_page import Card, Fact, MetricValue, Outcome, Page, Plot, render
from pipelines.reporting.metric_tables import metric_cell, metric_tables, read_plots
from pipelines.reporting.risk_coverage import read_risk_coverage
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import percent, say

OUTCOMES = {
    "rr": "right, for the right reason",
    "rw": "right, for a wrong reason",
    "wr": "wrong, though the reason is right",
    "ww": "wrong, and so is the reason",
}
OUTCOME_WORDS = (
    "A label is doubly right when its category is right and the rationale given for it is one that the picture was "
    "labelled with. Judged is the most probable pair of category and rationale (the strict rule).",
)
METHODS = {
    "joint": "rationale first, then the category given the rationale",
    "inverted": "category first, then the rationale given the category",
    "independent": "category and rationale apart from each other",
    "pairs": "one choice among all pairs of category and rationale",
    "pooled": "rationale first, then the category given the rationale, weighed with the category's own evidence",
}


def run(config: ReportConfig) -> str:
    """Write the page, and a summary beside it; return the page's address.

    The same labels, pictures, evaluation and settings give the same bytes.

    Raises ValueError when the folder of labels is unfinished or altered, or the evaluation is of other labels.
    """
    started = time.perf_counter()
    predictions = read_prediction_set(config.predictions)
    evaluation = None if config.evaluation is None else read_evaluation(config.evaluation)
    if evaluation is not None:
        evaluation.of(predictions.digest)  # one of other labels is refused before any picture is read
    certificate = _read_certificate(config, predictions)
    drawn, cards = _gallery(config, predictions)
    balance = balance_page(predictions, drawn=drawn, cards=cards)
    page = _page(config, predictions, evaluation=evaluation, certificate=certificate, drawn=drawn, cards=cards)
    filesystem.write(config.output, render(page).encode())
    seconds = time.perf_counter() - started
    summary = _summary(predictions, page=page, balance=balance, path=config.output, seconds=seconds)
    filesystem.write(
        f"{config.output.removesuffix(PurePosixPath(config.output).suffix)}.summary.json", summary.encode()
    )
    say(f"{len(cards):,} of {drawn.num_rows:,} images on one page in {seconds:.1f} s: {config.output}")
    say_balance(balance)
    return config.output


def _gallery(config: ReportConfig, predictions: PredictionSet) -> tuple[GallerySample, tuple[Card, ...]]:
    """What is drawn from the labels, with its pictures; ValueError where labels beside say nothing of any."""
    others = read_comparisons(config.beside, names=config.beside_names, of=predictions)
    drawn = sample_gallery(config.predictions, predictions, num_rows=config.max_images, seed=config.seed, beside=others)
    cards = _followed(make_cards(drawn.labels, parents=predictions.parents, size_px=config.thumbnail_px), drawn=drawn)
    silent = {each.name for each in others} - {said.name for card in cards for said in card.others}
    require(
        not silent or not cards, f"the labels of {', '.join(sorted(silent))} are of other pictures than this page's"
    )
    return drawn, cards


def _page(
    config: ReportConfig,
    predictions: PredictionSet,
    *,
    evaluation: Evaluation | None,
    certificate: Certificate | None,
    drawn: GallerySample,
    cards: tuple[Card, ...],
) -> Page:
    result = None if evaluation is None else evaluation.of(predictions.digest)
    return Page(
        title=config.title,
        sentence=_sentence(predictions),
        facts=(*_facts(predictions, drawn=drawn), *_warranty(certificate)),
        lineage=(*_lineage(predictions, evaluation=evaluation), *_certificate_lineage(certificate)),
        outcomes=tuple(_outcomes(drawn, result=result)),
        outcome_words=OUTCOME_WORDS,
        tables=() if evaluation is None or result is None else tuple(metric_tables(evaluation, result)),
        figure_words=() if evaluation is None or result is None else tuple(_figure_words(evaluation, result)),
        plots=_plots(config, evaluation=evaluation, result=result),
        cards=cards,
        gallery_words=tuple(_gallery_words(drawn, cards=cards)),
        colophon=f"Written by ecor {ecor.__version__}. This file loads nothing from anywhere.",
    )


def _followed(cards: Iterable[Card], *, drawn: GallerySample) -> tuple[Card, ...]:
    """The cards, while a line on the terminal tells how far they are."""
    console = Console(stderr=True)
    return tuple(
        track(cards, total=len(drawn.labels), description="pictures", console=console, transient=True,
              disable=not console.is_terminal)
    )  # fmt: skip


def balance_page(predictions: PredictionSet, *, drawn: GallerySample, cards: Sequence[Card]) -> Balance:
    """The images that the manifest of the labels names, and those that the page shows."""
    num_missing = sum(card.picture is None for card in cards)
    return Balance(
        stage="report",
        num_listed=predictions.num_rows + predictions.num_rejected,
        num_taken=len(cards) - num_missing,
        rejected={"unreadable": predictions.num_rejected},
        left_out={"beyond_max_images": drawn.num_rows - len(drawn.labels), "not_found_again": num_missing},
    )


def _summary(predictions: PredictionSet, *, page: Page, balance: Balance, path: str, seconds: float) -> str:
    values = {
        "stage": "report",
        "seconds": round(seconds, 3),
        "page": path,
        "predictions_digest": predictions.digest,
        "num_rows": predictions.num_rows,
        "balance": balance.to_record(),
        "num_cards": len(page.cards),
        "num_missing": sum(card.picture is None for card in page.cards),
        "outcomes": {outcome.code: outcome.count for outcome in page.outcomes},
    }
    return json.dumps(values, indent=1) + "\n"


def _plots(config: ReportConfig, *, evaluation: Evaluation | None, result: Result | None) -> tuple[Plot, ...]:
    plots = [] if config.audit is None else list(read_risk_coverage(config.audit))
    if config.evaluation is None or evaluation is None or result is None:
        return tuple(plots)
    return (*plots, *read_plots(config.evaluation, evaluation, result))


def _read_certificate(config: ReportConfig, predictions: PredictionSet) -> Certificate | None:
    """The certificate of these labels; ValueError for one of others, which would be a policy."""
    if config.audit is None:
        return None
    certificate = read_certificate(config.audit)
    require(
        certificate.labels_digest == predictions.digest,
        f"{config.audit} is the audit of the labels {certificate.labels_digest[:12]}…, not of "
        f"{predictions.digest[:12]}…: a certificate is a promise about its own labels only",
    )
    return certificate


def _warranty(certificate: Certificate | None) -> Iterator[Fact]:
    if certificate is not None:
        note = f"by {certificate.sample_size:,} judged labels, drawn at random"
        yield Fact(label="Audited", value=describe_certificate(certificate)[0], note=note)


def _certificate_lineage(certificate: Certificate | None) -> Iterator[Fact]:
    if certificate is not None:
        yield Fact(label="Certificate", value=certificate.digest, note=certificate.method)


def _sentence(predictions: PredictionSet) -> str:
    return (
        f"{predictions.num_rows:,} {_pictures(predictions.num_rows)}, each labelled by {_model(predictions)} with a "
        "category, the rationale that speaks for it, and the probability of both."
    )


def _model(predictions: PredictionSet) -> str:
    name, version = predictions.parents.model_name, predictions.parents.model_version
    return name if version is None else f"{name} version {version}"


def _pictures(number: int) -> str:
    return "picture" if number == 1 else "pictures"


def _facts(predictions: PredictionSet, *, drawn: GallerySample) -> Iterator[Fact]:
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
    yield Fact(label="Decoding", value=scoring.method, note=METHODS[scoring.method])
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


def _lineage(predictions: PredictionSet, *, evaluation: Evaluation | None) -> Iterator[Fact]:
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
    return any(drawn.num_of.get(code) for code in OUTCOMES)


def _outcomes(drawn: GallerySample, *, result: Result | None) -> Iterator[Outcome]:
    total = sum(drawn.num_of.get(code, 0) for code in OUTCOMES)
    for code, words in OUTCOMES.items() if total else ():
        count = drawn.num_of.get(code, 0)
        measured = None if result is None else metric_cell(result, f"strict/{code}")
        yield Outcome(code=code, words=words, share=measured or MetricValue(value=count / total), count=count)


def _figure_words(evaluation: Evaluation, result: Result) -> Iterator[str]:
    resampling = evaluation.resampling
    yield (
        f"Shares of the {result.num_explained:,} pictures whose category and rationale are known (of category alone: "
        f"{result.num_images:,}). After each value stand the ends of its {percent(resampling.confidence)} interval, by "
        f"{resampling.num_resamples:,} bootstrap samples of the pictures."
    )


def _gallery_words(drawn: GallerySample, *, cards: tuple[Card, ...]) -> Iterator[str]:
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
