"""Tune a model on with reviewers' corrections of its labels, and say which images to review next (`ecor learn`).

    decisions -> reviewed images -> shard -> train (from the model of the labels) -> register
              -> score and evaluate candidate and champion on held-out corrections -> promote, unless worse -> ask

Each stage returns its finished record, so the same command resumes. The folder holds:

learn.json               labels and settings
corrections.parquet      what was said of each reviewed image when the command first ran
reviewed.jsonl, images/  the table of images for `ecor shard`; vocabulary.json
shards/ run/ labels/ evaluation/   outputs of the stages
learned.json             the record
ask.parquet, ask.csv     images to review next
"""

import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecor.config.checks import name_some, require
from ecor.data.predictions.manifest import MANIFEST_NAME, PredictionSet, read_prediction_set
from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.storage import filesystem
from ecor.storage.digests import bytes_sha256
from pipelines.config.identity import describe_changes, output_settings
from pipelines.config.infrastructure import ClusterConfig, TrackingConfig, resolve_tracking
from pipelines.config.learning import LearnConfig
from pipelines.learning.contest import Contest
from pipelines.learning.corrections import REVIEWED_SCHEMA, read_reviewed
from pipelines.learning.learn_record import Learned, find_learned, write_learned
from pipelines.learning.review_list import ASK_NAMES, write_review_list
from pipelines.learning.tuning import clear_products, has_learned, prepare, tune
from pipelines.review.decision_set import read_decision_set
from pipelines.runtime.console import say
from pipelines.runtime.shared_cluster import share_cluster
from pipelines.storage.record_store import RecordStore
from pipelines.tracking import model_registry

SNAPSHOT_NAME, LEARN_RECORD = "corrections.parquet", "learn"


def run(
    config: LearnConfig, *, cluster: ClusterConfig | None = None, tracking: TrackingConfig | None = None
) -> Learned | None:
    """Learn from the corrections, and write the list of images to review next; a finished run is not repeated.

    Args:
        config: labels, decisions about them, and how to tune.
        cluster: where the stages run.
        tracking: MLflow's server.

    Returns:
        The record; None without corrections: then only the list is written.

    Raises:
        ValueError: for decisions about other labels, too few of them, a model or images that are not those of the
            labels, and a folder that holds something else.
        OSError: when a disk, a store or a server fails; the same command resumes.
    """
    predictions = read_prediction_set(config.labels)
    require(predictions.num_rows > 0, f"{config.labels} has no labels: there is nothing to learn from")
    for name in (MANIFEST_NAME, "audit.json"):
        require(
            not filesystem.exists(filesystem.join(config.folder, name)),
            f"{config.folder} holds labels or an audit ({name}): name another --output",
        )
    learned, reviewed = None, REVIEWED_SCHEMA.empty_table()
    if config.corrections is not None:
        decided = _read_decisions(config, predictions)
        _claim_folder(config, predictions)
        reviewed, digest = _take_snapshot(config, decided)
        learned = find_learned(config.folder)
        if learned is None:
            tracking, cluster = resolve_tracking(tracking or TrackingConfig()), cluster or ClusterConfig()
            learned = _learn(config, predictions, reviewed, digest=digest, cluster=cluster, tracking=tracking)
        say(learned.describe_balance())
        say(learned.describe(), to_stdout=True)
        reviewed = _add_decided_since(reviewed, decided)
    reviewed = _add_seen(config, predictions, reviewed)
    write_review_list(config.labels, reviewed=reviewed, config=config.ask, folder=config.folder)
    return learned


def _read_decisions(config: LearnConfig, predictions: PredictionSet) -> pa.Table:
    assert config.corrections is not None
    decisions = read_decision_set(config.corrections)
    require(
        decisions.of.labels_digest == predictions.digest,
        f"{config.corrections} holds decisions about the labels {decisions.of.labels_digest[:12]}…, not about "
        f"{predictions.digest[:12]}… ({config.labels}): name those labels",
    )
    return read_reviewed(decisions, reviewer=config.reviewer)


def _claim_folder(config: LearnConfig, predictions: PredictionSet) -> None:
    """Fix labels and settings; ValueError for a folder with anything else, or with a run of other settings."""
    if not filesystem.exists(filesystem.join(config.folder, f"{LEARN_RECORD}.json")):
        others = [name for name in filesystem.names_in(config.folder) if name not in ASK_NAMES and name[0] != "."]
        require(
            not others,
            f"{config.folder} holds {name_some(others, most=3)}: name another --output, this command writes and "
            "removes files of these names",
        )
    settings = json.loads(json.dumps({"labels_digest": predictions.digest, **output_settings(config)}))
    found = RecordStore(config.folder).create_or_read(LEARN_RECORD, settings)
    changes = describe_changes(found, settings)
    require(not changes, f"{config.folder} holds a run with other settings: {changes}. Name another --output")


def _take_snapshot(config: LearnConfig, decided: pa.Table) -> tuple[pa.Table, str]:
    """What was said of the images when the command first ran, and its digest: reviewers go on meanwhile."""
    path = filesystem.join(config.folder, SNAPSHOT_NAME)
    if not filesystem.exists(path):
        sink = io.BytesIO()
        pq.write_table(decided, sink, **PARQUET_OPTIONS)
        filesystem.create(path, sink.getvalue())
    data = filesystem.read(path)
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    return table.cast(REVIEWED_SCHEMA), bytes_sha256(data)


def _add_seen(config: LearnConfig, predictions: PredictionSet, reviewed: pa.Table) -> pa.Table:
    """With the images that were reviewed by earlier labels of the same input."""
    for folder in config.ask.seen:
        decisions = read_decision_set(folder)
        require(
            decisions.of.input_digest == predictions.parents.input_digest,
            f"{folder} holds decisions about labels of other images ({decisions.of.labels}): leave it out of ask.seen",
        )
        earlier = read_reviewed(decisions, reviewer=None)
        known = pc.is_in(earlier["key"], value_set=reviewed["key"].combine_chunks())
        reviewed = pa.concat_tables([reviewed, earlier.filter(pc.invert(known))]).combine_chunks()
    return reviewed


def _add_decided_since(reviewed: pa.Table, decided: pa.Table) -> pa.Table:
    """With the images decided on after the snapshot: they are not asked for again; a line counts them."""
    added = decided.filter(pc.invert(pc.is_in(decided["key"], value_set=reviewed["key"].combine_chunks())))
    if added.num_rows:
        say(f"{added.num_rows} images were reviewed since: name another --output to learn from them too")
    return pa.concat_tables([reviewed, added]).combine_chunks()


def _learn(
    config: LearnConfig,
    predictions: PredictionSet,
    reviewed: pa.Table,
    *,
    digest: str,
    cluster: ClusterConfig,
    tracking: TrackingConfig,
) -> Learned:
    try:
        prepared = prepare(config, predictions, reviewed, tracking=tracking)
        with share_cluster():
            tuned = tune(config, predictions, prepared, cluster=cluster, tracking=tracking)
            contest = Contest(config=config, scoring=predictions.scoring, cluster=cluster, tracking=tracking)
            # Images of this input have taught the new model and chosen it: their truth must not judge it.
            seen = predictions.parents.input_digest
            model_registry.record_contest(tuned.candidate, input_digest=seen, tracking=tracking)
            outcome = contest.run(tuned.candidate, initial=prepared.initial)
    except ValueError:
        if not has_learned(config):  # a corrected command, or more reviews, may use the folder
            clear_products(config, names=(SNAPSHOT_NAME, f"{LEARN_RECORD}.json"))
        raise
    learned = Learned(
        labels_digest=predictions.digest,
        corrections_digest=digest,
        initial_model=prepared.initial.version.uri,
        initial_digest=prepared.initial.version.digest,
        outcome=outcome,
        num_train=tuned.num_explained["train"],
        num_validation=tuned.num_explained["validation"],
        new_names=prepared.new_names,
        balance=tuned.balance.to_record(),
    )
    run_id = tuned.candidate.run_id
    if run_id is not None and model_registry.has_run(tracking, run_id=run_id):
        tags = {"ecor.corrections_digest": digest, "ecor.labels_digest": predictions.digest}
        model_registry.log_tags(tracking, run_id=run_id, tags={**tags, "ecor.learned": learned.describe()})
        model_registry.log_balance(tracking, run_id=run_id, balance=tuned.balance, within="learn/")
    write_learned(learned, config.folder)
    return learned
