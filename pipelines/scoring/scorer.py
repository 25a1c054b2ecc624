"""Score a part's decoded images, or their kept features, with the pinned model: the scoring actor of `ecor score`."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch
from filelock import FileLock

from ecor.checkpoint import load
from ecor.clip.feature_types import ImageFeatures, unit_features
from ecor.clip.image_features import feature_arrays, features_table
from ecor.data.predictions.schema import schema_for
from ecor.data.vocabulary import parse_vocabulary
from ecor.explain.methods.registry import Method
from ecor.model import NOT_FINITE, Recognizer
from pipelines.runtime.prometheus import STEP_SECONDS, observe
from pipelines.scoring.attributions import AttributionSettings, add_evidence
from pipelines.scoring.decoder import Part
from pipelines.scoring.feature_units import EncodedPart
from pipelines.scoring.flows.flow_settings import ScorerSettings
from pipelines.scoring.scored_part import KeptRows, ScoredPart, StepTimings
from pipelines.scoring.work_units import Rejection
from pipelines.tracking.model_cache import fetch_model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Labels of a batch of images."""

    rows: pa.Table
    finite: tuple[int, ...]
    """Images of the batch that have a row."""
    features: ImageFeatures
    """Of these images."""
    seconds: StepTimings


class Scorer:
    """Loads a model once; maps rows with a part to rows with a scored part."""

    def __init__(self, settings: ScorerSettings) -> None:
        self.settings = settings
        torch.set_num_threads(settings.num_threads)
        self.recognizer = open_pinned_model(settings)
        self.provenance = self.recognizer.provenance
        _check_image_side(self.recognizer, settings=settings)
        self.opening = _encode_text(self.recognizer)
        self.method = _open_method(self.recognizer, rule=settings.evidence)

    def __call__(self, rows: pa.Table) -> pa.Table:
        assert rows.num_rows == 1, "one part at a time"
        is_encoded = "features" in rows.column_names
        return self.score(EncodedPart.from_row(rows) if is_encoded else Part.from_row(rows)).to_row()

    def score(self, part: Part | EncodedPart) -> ScoredPart:
        """Label a part, batch by batch."""
        seconds = StepTimings(decode=part.decode_s, text=self.opening)
        self.opening = 0.0  # counted with the first part only
        batches = [self._label_batch(part, start=start) for start in self._starts(part)]
        seconds = sum((each.seconds for each in batches), start=seconds)
        rows = pa.concat_tables([schema_for(self.settings.scoring).empty_table(), *(each.rows for each in batches)])
        if isinstance(part, Part):
            kept = [
                start + index for start, each in zip(self._starts(part), batches, strict=True) for index in each.finite
            ]
            part = _reject_all_but(kept, part=part, precision=self.recognizer.backbone.precision)
            rows, spent = self._add_heatmaps(rows, part)
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
            num_multipicture=part.num_multipicture,
            seconds=seconds,
            num_cut=self.recognizer.text.num_truncated,
            features=self._keep_features([each.features for each in batches], keys=rows["key"].to_pylist()),
        )

    def _starts(self, part: Part | EncodedPart) -> range:
        return range(0, part.num_images, self.settings.batch_size)

    def _keep_features(self, features: Sequence[ImageFeatures], *, keys: Sequence[str]) -> KeptRows | None:
        """The features of the labelled images in fp16, if they are to be kept."""
        image_side = self.settings.image_side
        if not self.settings.keep_features or image_side is None:
            return None
        empty = torch.zeros(0, self.recognizer.backbone.embed_dim, dtype=torch.float16)
        rationale = torch.cat([empty, *(each.rationale.half().cpu() for each in features)]).numpy()
        category = None
        if self.recognizer.prompts.has_two_features:
            category = torch.cat([empty, *(each.category.half().cpu() for each in features)]).numpy()
        return KeptRows(table=features_table(keys, rationale=rationale, category=category), image_side=image_side)

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

    def _label_batch(self, part: Part | EncodedPart, *, start: int) -> _Batch:
        """Rows of the images whose features are finite, and which of the batch these are."""
        began = time.perf_counter()
        size = self.settings.batch_size
        features = self._features(part, images=slice(start, start + size))
        if features.rationale.is_cuda:
            torch.cuda.synchronize()  # so that the time is counted where it was spent
        encoded = time.perf_counter()
        finite = features.is_finite.nonzero()[:, 0].cpu()
        features = features.select(finite.to(features.rationale.device))
        rows = schema_for(self.settings.scoring).empty_table()
        if len(finite):
            rows = self.recognizer.label(
                features,
                origins=part.origins.slice(start, size).take(finite.numpy()),
                scoring=self.settings.scoring,
                provenance=self.provenance,
            )
        timings = StepTimings(encode=encoded - began, text=time.perf_counter() - encoded)
        return _Batch(rows=rows, finite=tuple(finite.tolist()), features=features, seconds=timings)

    def _features(self, part: Part | EncodedPart, *, images: slice) -> ImageFeatures:
        """Features of a batch: computed, or as they were kept."""
        if isinstance(part, Part):
            pixels_B3HW = torch.from_numpy(part.pixels[images].copy())  # Ray's memory is read-only
            return self.recognizer.image_features(pixels_B3HW)
        kept = part.features.slice(images.start, images.stop - images.start)
        rationale, category = (
            unit_features(torch.from_numpy(array.copy()).to(self.recognizer.device)) for array in feature_arrays(kept)
        )
        return ImageFeatures(rationale=rationale, category=category)


def _check_image_side(recognizer: Recognizer, *, settings: ScorerSettings) -> None:
    """The driver has compared records; what was loaded decides."""
    expected = settings.image_side
    if expected is not None and (found := recognizer.image_side) != expected:
        raise ValueError(
            f"{settings.model.uri} has image side {found.digest}, its record says {expected.digest}: save the model "
            "again"
        )


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
