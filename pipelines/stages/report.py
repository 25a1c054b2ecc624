"""Write one page of HTML about explained labels: figures, lineage, and a gallery that can be searched."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from rich.console import Console
from rich.progress import track

import ecor
from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set
from ecor.evaluation.record import Evaluation, Result, read_evaluation
from ecor.storage import filesystem
from pipelines.audit.certificate import Certificate, describe_certificate, read_certificate
from pipelines.config.reporting import ReportConfig
from pipelines.reporting.comparison import read_comparisons
from pipelines.reporting.gallery import GallerySample, make_cards, sample_gallery
from pipelines.reporting.html_page import Card, Fact, Page, Plot, render
from pipelines.reporting.metric_tables import metric_tables, read_plots
from pipelines.reporting.page_text import (
    OUTCOME_WORDS,
    figure_words,
    gallery_words,
    page_facts,
    page_lineage,
    page_outcomes,
    page_sentence,
)
from pipelines.reporting.risk_coverage import read_risk_coverage
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import say


def run(config: ReportConfig) -> str:
    """Write the page, and a summary beside it; return the page's address.

    The same labels, pictures, evaluation and settings give the same bytes.

    Raises ValueError when the folder of labels is unfinished or altered, or the evaluation is of other labels.
    """
    started = time.perf_counter()
    _require_page(config.output)
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


def _require_page(path: str) -> None:
    """ValueError for a file that is there and is no page: a report is written over an older one, over nothing else."""
    if not filesystem.is_file(path):
        return
    with filesystem.open_file(path) as file:
        start = file.read(64)
    require(
        not start or start.lstrip().lower().startswith((b"<!doctype html", b"<html")),
        f"{path} exists and is no page: name another --output",
    )


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
        sentence=page_sentence(predictions),
        facts=(*page_facts(predictions, drawn=drawn), *_warranty(certificate)),
        lineage=(*page_lineage(predictions, evaluation=evaluation), *_certificate_lineage(certificate)),
        outcomes=tuple(page_outcomes(drawn, result=result)),
        outcome_words=OUTCOME_WORDS,
        tables=() if evaluation is None or result is None else tuple(metric_tables(evaluation, result)),
        figure_words=() if evaluation is None or result is None else tuple(figure_words(evaluation, result)),
        plots=_plots(config, evaluation=evaluation, result=result),
        cards=cards,
        gallery_words=tuple(gallery_words(drawn, cards=cards)),
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
