"""Draft a first vocabulary, and prune it by images (`ecor words`).

The output folder is published whole; the record is written last:

vocabulary.json     {category: [rationale, …]}: what other commands take as --vocabulary
candidates.parquet  every rationale that was drafted, with its numbers and why it was dropped
quarantine.parquet  images that could not be read
index.html          the page: pictures for each rationale that is kept
words.json          settings, digests and counts
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecor.clip.loading import load_backbone
from ecor.config.checks import require
from ecor.data.predictions.schema import PARQUET_OPTIONS
from ecor.data.vocabulary import Vocabulary
from ecor.drafting.evidence import draft_vocabulary
from ecor.drafting.selection import preference_order, select_candidates
from ecor.model import Recognizer
from ecor.storage import filesystem
from pipelines.config.identity import output_settings
from pipelines.config.infrastructure import TrackingConfig, absolute_address, resolve_tracking
from pipelines.config.learning import WordsConfig
from pipelines.reporting.search.result_folder import (
    PAGE_NAME,
    find_result,
    new_result_folder,
    publish_result,
    say_recorded_balance,
)
from pipelines.runtime.console import say
from pipelines.scoring.inputs import ImageInput, read_input
from pipelines.scoring.predictors import DEMO_SET
from pipelines.scoring.work_units import QUARANTINE_SCHEMA, Rejection
from pipelines.stages.words.candidate_table import candidates_table, describe_decisions
from pipelines.stages.words.draft import Draft, draft_rationales
from pipelines.stages.words.measured_draft import MeasuredDraft, measure_draft
from pipelines.stages.words.words_page import draw_words_page
from pipelines.tracking.model_loading import open_model, resolve_device

RECORD_NAME, VOCABULARY_NAME, TABLE_NAME = "words.json", "vocabulary.json", "candidates.parquet"
QUARANTINE_NAME = "quarantine.parquet"
_UNIT_SIZE = 512


def run(config: WordsConfig, *, tracking: TrackingConfig | None = None) -> dict[str, Any]:
    """Draft, measure, prune, write the result, and print what was kept; a finished result is returned as it is.

    Args:
        config: categories, sources, images, limits.
        tracking: where the registry is, for a model that is named `models:/…`.

    Returns:
        The record `words.json`.

    Raises:
        ValueError: for a list, source, model or input that cannot be read, a draft without a rationale, images of which
            none can be encoded, and an output folder that holds something else.
        OSError: when a disk or a store fails.
    """
    device = resolve_device(config.device)
    _require_folder(config)
    draft = draft_rationales(config)
    names = draft_vocabulary(draft.categories, draft.candidates, keep=[not each for each in draft.verdicts])
    require(
        bool(names.rationales),
        f"no rationale was drafted for any of the {len(draft.categories)} categories in {config.categories}: give "
        "--captions or --descriptors, or name their synsets as `crane: crane.n.04`",
    )
    listed = None
    if config.images is not None:
        listed = read_input(config.images, unit_size=_UNIT_SIZE, without=absolute_address(config.output))
    model = None if listed is None else _open_model(config, names=names, tracking=tracking, device=device)
    identity = _identity(config, draft, listed=listed, model=model)
    record = find_result(config.output, name=RECORD_NAME, identity=identity)
    if record is None:
        measured = None
        if listed is not None and model is not None:
            measured = measure_draft(config, draft, listed=listed, model=model)
        record = _write(config, draft, measured=measured, identity=identity)
    for line in record["lines"]:
        say(line, to_stdout=True)
    say(f"vocabulary: {filesystem.join(config.output, VOCABULARY_NAME)}", to_stdout=True)
    say(f"page: {filesystem.join(config.output, PAGE_NAME)}")
    say_recorded_balance(record)
    return record


def _require_folder(config: WordsConfig) -> None:
    """Refuse an output that cannot be written before any work; other checks follow when the result is looked for."""
    require(
        not filesystem.is_file(config.output),
        f"{config.output} is a file: --output names a folder, which gets {VOCABULARY_NAME} and more",
    )


def _identity(
    config: WordsConfig, draft: Draft, *, listed: ImageInput | None, model: Recognizer | None
) -> dict[str, Any]:
    """Settings and digests of all that shapes the result."""
    return {
        **draft.digests,
        "images": None if listed is None else listed.digest,
        "model": None if model is None else model.digest,
        "precision": None if model is None else model.backbone.precision,
        **output_settings(config),
    }


def _open_model(config: WordsConfig, *, names: Vocabulary, tracking: TrackingConfig | None, device: str) -> Recognizer:
    """The model that is named, or a CLIP that is not tuned, with the names of the draft."""
    if config.model is None:
        return Recognizer.zero_shot(names, backbone=load_backbone(config.backbone, device=device))
    tracking = resolve_tracking(tracking or TrackingConfig())
    return open_model(config.model, tracking=tracking, names=names, demo_set=DEMO_SET, device=device)


def _write(
    config: WordsConfig, draft: Draft, *, measured: MeasuredDraft | None, identity: dict[str, Any]
) -> dict[str, Any]:
    evidence = None if measured is None else measured.found.evidence
    decisions = select_candidates(draft.candidates, draft.verdicts, evidence=evidence, pruning=config.pruning)
    best_first = preference_order(len(decisions), evidence)
    vocabulary = draft_vocabulary(
        draft.categories,
        [draft.candidates[index] for index in best_first],
        keep=[decisions[index].is_kept for index in best_first],
    )
    lines = (*draft.lines, *(() if measured is None else measured.lines))
    lines += tuple(
        describe_decisions(
            draft.candidates,
            decisions,
            evidence=evidence,
            pruning=config.pruning,
        )
    )
    rejected = () if measured is None else measured.encoded.rejected
    record: dict[str, Any] = {
        "stage": "words",
        "identity": identity,
        "synsets": dict(draft.synsets),
        "vocabulary_digest": vocabulary.digest,
        "num_categories": len(vocabulary.categories),
        "num_candidates": len(decisions),
        "num_pairs": vocabulary.num_pairs,
        "lines": list(lines),
    }
    if measured is not None:
        record["balance"] = measured.balance.to_record()
    page = draw_words_page(config, draft, decisions, measured=measured, lines=lines)
    table = candidates_table(draft.candidates, decisions, evidence=evidence)
    _publish(config, vocabulary, page=page, table=table, rejected=rejected, record=record)
    return record


def _publish(
    config: WordsConfig,
    vocabulary: Vocabulary,
    *,
    page: str,
    table: pa.Table,
    rejected: Sequence[Rejection],
    record: dict[str, Any],
) -> None:
    with new_result_folder() as scratch:
        (scratch / VOCABULARY_NAME).write_text(vocabulary.to_json() + "\n", encoding="utf-8")
        pq.write_table(table, scratch / TABLE_NAME, **PARQUET_OPTIONS)
        if rejected:
            rows = pa.Table.from_pylist([asdict(each) for each in rejected], schema=QUARANTINE_SCHEMA)
            pq.write_table(rows, scratch / QUARANTINE_NAME, **PARQUET_OPTIONS)
        (scratch / PAGE_NAME).write_text(page, encoding="utf-8")
        publish_result(scratch, config.output, name=RECORD_NAME, record=record)
