"""Serve a local page to review labels by keyboard (`ecor review`). The labels never change.

Decisions are appended to the logs of a decision set (`pipelines.review.decision_set`) while they are made; the table
`decisions.parquet` is written when the server stops, or on request on the page; `summary.json`, which says what became
of all images, when the server stops.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet, read_prediction_set
from ecor.storage import filesystem
from pipelines.config.infrastructure import TrackingConfig, resolve_tracking
from pipelines.config.review import ReviewConfig
from pipelines.review.decision_set import open_decision_set
from pipelines.review.decision_table import DecisionTable
from pipelines.review.label_groups import LabelGroups
from pipelines.review.label_index import build_label_index
from pipelines.review.review_sample import read_review_sample
from pipelines.review.review_session import ReviewSession
from pipelines.review.server.app import make_app
from pipelines.review.server.label_details import LabelDetails
from pipelines.review.server.model_maps import Explainer, ModelMaps
from pipelines.review.server.name_completion import open_name_completion
from pipelines.review.server.picture_cache import PictureCache
from pipelines.review.server.security import Access
from pipelines.review.server.serve import bind_socket, page_address, serve_until_stopped
from pipelines.review.server.service import ReviewService
from pipelines.runtime.balance import Balance, say_balance
from pipelines.runtime.console import progress_bar, say
from pipelines.storage.image_source import ImageSource

SUMMARY_NAME = "summary.json"


def run(config: ReviewConfig, *, tracking: TrackingConfig | None = None) -> DecisionTable:
    """Serve the page until it is stopped, then write the table of decisions.

    Args:
        config: labels, decisions, and where the page is served.
        tracking: where the registry is, for a model that is named `models:/…`.

    Raises:
        ValueError: for labels, a sample, a vocabulary or a folder of decisions that do not fit, and an address that
            cannot be served at.
    """
    predictions = read_prediction_set(config.labels)
    access = Access(host=config.host)
    with bind_socket(config.host, config.port) as listening:
        service = open_service(config, predictions, tracking=tracking)
        session = service.session
        app = make_app(service, access=access)

        def say_address() -> None:
            if not config.is_loopback:
                say(f"{config.host} can be reached from the network, and the connection is not encrypted")
            say(f"review {config.labels} at {page_address(listening, access=access)}", to_stdout=True)
            say("Ctrl-C ends the review; decisions are on the disk as soon as the page shows them")

        try:
            serve_until_stopped(app, listening, started=say_address)
        finally:
            session.close()
            if service.model_maps is not None:
                service.model_maps.close()
    return _write_table(session, config=config, predictions=predictions)


def open_service(
    config: ReviewConfig, predictions: PredictionSet, *, tracking: TrackingConfig | None = None
) -> ReviewService:
    """Read the labels and the decisions so far."""
    require(predictions.num_rows > 0, f"{config.labels} has no labels: there is nothing to review")
    with progress_bar("reading labels", total=predictions.num_rows, unit="labels") as advance:
        index = build_label_index(config.labels, predictions, advance=advance)
    names = open_name_completion(config.vocabulary, predictions=predictions, index=index)
    sample = None if config.sample is None else read_review_sample(config.sample, index=index)
    session = ReviewSession(
        index=index,
        groups=LabelGroups(index),
        decisions=open_decision_set(config.decisions_folder, labels=config.labels, predictions=predictions),
        sample=sample,
        known_names=names.all,
    )
    for line in session.torn:
        say(str(line))
    details = LabelDetails(config.labels, index=index)
    model_maps = _plan_model_maps(config, predictions, tracking=tracking or TrackingConfig())
    pictures = PictureCache(
        index=index,
        source=ImageSource(predictions.parents),
        details=details,
        thumbnail_px=config.thumbnail_px,
        note_digest=session.note_digest,
        model_maps=model_maps,
    )
    return ReviewService(
        session=session,
        pictures=pictures,
        details=details,
        names=names,
        model_maps=model_maps,
        title=config.labels,
        reviewer=config.reviewer.strip(),
        next_steps=_next_steps(config),
    )


def _plan_model_maps(config: ReviewConfig, predictions: PredictionSet, *, tracking: TrackingConfig) -> ModelMaps | None:
    """Maps by the model of the settings, which is not loaded yet; None where they name none."""
    if config.model is None:
        return None
    address, tracking = config.model, resolve_tracking(tracking)

    def open_explainer() -> Explainer:
        from pipelines.review.server.label_explainer import LabelExplainer  # torch takes seconds to import
        from pipelines.scoring.predictors import DEMO_SET, METHOD_WITHOUT_OTHERS
        from pipelines.tracking.model_loading import open_model, resolve_device

        device = resolve_device(config.device)
        model = open_model(address, tracking=tracking, demo_set=DEMO_SET, device=device)
        return LabelExplainer(model, method=METHOD_WITHOUT_OTHERS)

    return ModelMaps(open_explainer, model=address, labels_model_digest=predictions.parents.model_digest)


def _next_steps(config: ReviewConfig) -> tuple[str, ...]:
    if config.sample is None:
        return ()
    return (f"Certify: repeat the command of the audit with --judged {config.decisions_folder}",)


def _write_table(session: ReviewSession, *, config: ReviewConfig, predictions: PredictionSet) -> DecisionTable:
    table = session.write_table()
    balance = balance_review(predictions, session=session, decisions=table.path)
    summary = {"stage": "review", "balance": balance.to_record()}
    filesystem.write_json(filesystem.join(config.decisions_folder, SUMMARY_NAME), summary)
    say(
        f"{table.num_rows:,} decisions on {table.num_images:,} images, {table.num_disputed:,} disputed: {table.path}",
        to_stdout=True,
    )
    say_balance(balance)
    return table


def balance_review(predictions: PredictionSet, *, session: ReviewSession, decisions: str) -> Balance:
    """The images that the manifest of the labels names, those in the table of decisions, and those that are open."""
    table = pq.ParquetFile(pa.BufferReader(filesystem.read(decisions))).read(columns=["key"], use_threads=False)
    keys = list(dict.fromkeys(table["key"].to_pylist()))
    is_open = np.ones(len(session.index), dtype=bool)
    is_open[session.index.find(keys)] = False
    left_out = {"undecided": int(is_open.sum())}
    if session.sample is not None:
        num_in_sample = int(is_open[session.sample].sum())
        left_out = {"undecided": num_in_sample, "not_in_sample": left_out["undecided"] - num_in_sample}
    return Balance(
        stage="review",
        num_listed=predictions.num_rows + predictions.num_rejected,
        num_taken=len(keys),
        rejected={"unreadable": predictions.num_rejected},
        left_out=left_out,
    )
