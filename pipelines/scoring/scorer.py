"""Score the decoded images of a part with the pinned model: the scoring actor of `ecor score`."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch
from filelock import FileLock

from ecor.checkpoint import load
from ecor.data.prediction_schema import schema_for
from ecor.data.vocabulary import parse_vocabulary
from ecor.explain.methods.registry import Method
from ecor.model import NOT_FINITE, Recognizer
from pipelines.runtime.prometheus import STEP_SECONDS, observe
from pipelines.scoring.attributions import AttributionSettings, add_evidence
from pipelines.scoring.decoder import Part
from pipelines.scoring.job import ScorerSettings
from pipelines.scoring.scored_part import ScoredPart, StepTimings
from pipelines.scoring.work_units import Rejection
from pipelines.tracking.model_cache import fetch_model


class Scorer:
    """Loads a model once; maps rows with a part to rows with a scored part."""

    def __init__(self, settings: ScorerSettings) -> None:
        self.settings = settings
        torch.set_num_threads(settings.num_threads)
        self.recognizer = open_pinned_model(settings)
        self.provenance = self.recognizer.provenance
        self.opening = _encode_text(self.recognizer)
        self.method = _open_method(self.recognizer, rule=settings.evidence)

    def __call__(self, rows: pa.Table) -> pa.Table:
        assert rows.num_rows == 1, "one part at a time"
        scored = self.score(Part.from_row(rows))
        return scored.to_row()

    def score(self, part: Part) -> ScoredPart:
        """Label a part, batch by batch."""
        seconds = StepTimings(decode=part.decode_s, text=self.opening)
        self.opening = 0.0  # counted with the first part only
        tables = [schema_for(self.settings.scoring).empty_table()]
        kept: list[int] = []
        for start in range(0, len(part.pixels), self.settings.batch_size):
            rows, finite, spent = self._label_batch(part, start=start)
            tables.append(rows)
            kept += [start + index for index in finite]
            seconds += spent
        part = _reject_all_but(kept, part=part, precision=self.recognizer.backbone.precision)
        rows, spent = self._add_heatmaps(pa.concat_tables(tables), part)
        seconds += spent
        steps = (
            ("decode", "encode", "text") if self.settings.evidence is None else ("decode", "encode", "text", "explain")
        )
        for step in steps:
            observe(STEP_SECONDS, getattr(seconds, step), stage="score", step=step)
        return ScoredPart(
            unit=part.unit,
            attempt=part.attempt,
            index=part.index,
            num_parts=part.num_parts,
            rows=rows,
            rejected=part.rejected,
            seconds=seconds,
            num_cut=self.recognizer.text.num_truncated,
        )

    def _add_heatmaps(self, rows: pa.Table, part: Part) -> tuple[pa.Table, StepTimings]:
        """Add heat maps, if asked for."""
        if self.settings.evidence is None or self.method is None:
            return rows, StepTimings()
        began = time.perf_counter()
        explained = add_evidence(
            rows,
            part.pixels,
            recognizer=self.recognizer,
            rule=self.settings.evidence,
            method=self.method,
            scoring=self.settings.scoring,
        )
        return explained, StepTimings(explain=time.perf_counter() - began)

    def _label_batch(self, part: Part, *, start: int) -> tuple[pa.Table, list[int], StepTimings]:
        """Rows of the images whose features are finite, and which of the batch these are."""
        began = time.perf_counter()
        size = self.settings.batch_size
        pixels_B3HW = torch.from_numpy(part.pixels[start : start + size].copy())  # Ray's memory is read-only
        features = self.recognizer.image_features(pixels_B3HW)
        if features.rationale.is_cuda:
            torch.cuda.synchronize()  # so that the time is counted where it was spent
        encoded = time.perf_counter()
        finite = features.is_finite.nonzero()[:, 0].cpu()
        rows = schema_for(self.settings.scoring).empty_table()
        if len(finite):
            rows = self.recognizer.label(
                features.select(finite.to(features.rationale.device)),
                origins=part.origins.slice(start, size).take(finite.numpy()),
                scoring=self.settings.scoring,
                provenance=self.provenance,
            )
        timings = StepTimings(encode=encoded - began, text=time.perf_counter() - encoded)
        return rows, finite.tolist(), timings


def _reject_all_but(kept: Sequence[int], *, part: Part, precision: str) -> Part:
    """The part with the kept images; the others, whose features are not finite, become rejections."""
    if len(kept) == len(part.pixels):
        return part
    origins = part.origins.to_pylist()
    lost = [
        Rejection(
            source=origins[index]["source"],
            stage="score",
            reason="not_finite",
            detail=f"it {NOT_FINITE} ({precision})",
        )
        for index in sorted(set(range(len(part.pixels))) - set(kept))
    ]
    return replace(
        part,
        pixels=part.pixels[list(kept)],
        origins=part.origins.take(pa.array(kept, pa.int64())),
        rejected=(*part.rejected, *lost),
    )


def open_pinned_model(settings: ScorerSettings) -> Recognizer:
    """Load the pinned model on this machine, with its registered name and the vocabulary to score with."""
    model = settings.model
    recognizer = load(
        fetch_model(model, tracking=settings.tracking),
        device="cuda" if settings.use_gpu else "cpu",
        precision=settings.precision,
        text=settings.text,
    ).with_name(model.name, version=model.version)
    if settings.vocabulary is None:
        return recognizer
    return recognizer.with_vocabulary(parse_vocabulary(settings.vocabulary, source="the vocabulary to score with"))


def _encode_text(recognizer: Recognizer) -> float:
    """Encode the text features, and return the seconds; in a shared folder, the first actor of a machine does it."""
    began = time.perf_counter()
    with _lock_folder(recognizer.text_config.cache_dir):
        recognizer.text  # noqa: B018 - made when first asked for
    return time.perf_counter() - began


def _open_method(recognizer: Recognizer, *, rule: AttributionSettings | None) -> Method | None:
    """Build the attribution method; the first actor of a machine encodes the definitions of a lexicon for all."""
    if rule is None:
        return None
    folder = recognizer.text_config.cache_dir
    with _lock_folder(folder):
        return rule.method_for(recognizer, cache_dir=folder)


@contextlib.contextmanager
def _lock_folder(folder: str | None) -> Iterator[None]:
    """Lock a shared folder: one process of a machine at a time."""
    if folder is None:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(os.path.join(folder, ".filling.lock")):  # noqa: PTH118 - a path that fsspec does not see
        yield
