"""Select the images that get heat maps while scoring, and add the maps to their rows."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ecor.config.checks import require
from ecor.config.scoring import ScoringConfig
from ecor.convis.concept_features import encode_concepts
from ecor.convis.lexicon import ListLexicon, lexicon_digest
from ecor.data.heatmap_codec import EVIDENCE_COLUMN, MOST_CELLS, Evidence, quantize
from ecor.data.predictions.schema import schema_with
from ecor.explain.joint_heatmaps import explain_joint
from ecor.explain.methods.registry import Method, build_method, build_prepared_method, missing_requirement
from ecor.explain.methods.settings import read_settings
from ecor.model import Recognizer
from ecor.storage.digests import bytes_sha256
from pipelines.config.stages import EvidenceImages, ScoreConfig
from pipelines.storage.lexicons import open_lexicon

_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionSettings:
    """Which images get heat maps, by which method, and how many."""

    method: str
    top: int
    """Rationales per image."""
    images: EvidenceImages
    share: float
    """Share of all images that get heat maps."""
    seed: int
    settings: Mapping[str, Tensor] = field(default_factory=dict)
    """Trained tensors of the method."""
    lexicon: ListLexicon | None = None
    """Of the method `convis`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method that differ from its defaults."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that must be equal for finished units to be reused, as JSON values."""
        trained = bytes_sha256(save(dict(self.settings))) if self.settings else None
        values = {name: getattr(self, name) for name in ("method", "top", "images", "share", "seed")}
        more: dict[str, Any] = {} if self.lexicon is None else {"lexicon": lexicon_digest(self.lexicon)}
        if self.options:
            more["options"] = json.loads(json.dumps(dict(self.options), sort_keys=True))
        return {**values, "trained": trained, **more}

    def method_for(self, recognizer: Recognizer, *, cache_dir: str | Path | None = None) -> Method:
        """Build the method; the model's text tower encodes the definitions of a lexicon.

        Args:
            recognizer: the model to explain.
            cache_dir: folder for the features of the definitions, shared by actors.
        """
        settings: dict[str, Any] = {**self.settings, **self.options}
        if self.lexicon is not None:
            settings["concepts"] = encode_concepts(recognizer.backbone, self.lexicon, cache_dir=cache_dir)
        return build_prepared_method(self.method, settings)


def read_attribution_settings(
    config: ScoreConfig, *, num_images: int, projection: Mapping[str, Tensor] | None = None
) -> AttributionSettings | None:
    """Read the attribution settings of a scoring job; None if no heat maps are asked for.

    Args:
        config: method, and which images.
        num_images: number of images of the input.
        projection: the loaded `config.explain_projection`.

    Raises:
        ValueError: for an unknown method, a missing requirement, or a setting that the method does not have.
    """
    if config.explain is None:
        for name in ("projection", "lexicon", "settings"):
            require(not getattr(config, f"explain_{name}"), f"explain_{name} is of a method: name it with --explain")
        return None
    settings = dict(projection or {})
    lexicon = None if config.explain_lexicon is None else open_lexicon(config.explain_lexicon)
    missing = missing_requirement(config.explain, {**settings, "concepts": lexicon})
    require(missing is None, f"{missing} (--explain-{str(missing).rpartition(' ')[2]})")
    options = read_settings(config.explain, config.explain_settings)
    build_method(config.explain, **options)  # fails early for a value out of range
    shares = {
        "all": 1.0,
        "sample": min(1.0, config.explain_sample / max(1, num_images)),
        "uncertain": config.explain_share,
    }
    return AttributionSettings(
        method=config.explain,
        top=config.explain_top,
        images=config.explain_images,
        share=shares[config.explain_images],
        seed=config.explain_seed,
        settings=settings,
        lexicon=lexicon,
        options=options,
    )


def select_rows(rows: pa.Table, *, rule: AttributionSettings) -> list[int]:
    """Positions of the rows that get heat maps, in order.

    A sample depends on the seed and each image's key alone, so its size is approximate. `uncertain` takes the rows with
    the least confident best pair among those given, so that no image waits for all others (our choice).
    """
    if rule.images == "sample":
        limit = rule.share * 2**128
        return [index for index, key in enumerate(rows["key"].to_pylist()) if _hash_rank(key, seed=rule.seed) < limit]
    if rule.images == "uncertain":
        order = np.argsort(rows["confidence"].to_numpy(), kind="stable")
        return sorted(order[: math.ceil(rule.share * len(order))].tolist())
    return list(range(rows.num_rows))


def add_evidence(
    rows: pa.Table,
    pixels: UInt8[np.ndarray, "B 3 H W"],
    *,
    recognizer: Recognizer,
    rule: AttributionSettings,
    method: Method,
    scoring: ScoringConfig,
) -> pa.Table:
    """Add `EVIDENCE_COLUMN` to the rows of B images: heat maps for the selected rows, else null.

    `method` is `rule.method_for(recognizer)`, built once.
    """
    found: list[dict[str, Any] | None] = [None] * rows.num_rows
    asked = select_rows(rows, rule=rule)
    for start in range(0, len(asked), _BATCH):
        indices = asked[start : start + _BATCH]
        evidence = _compute_evidence(pixels[indices], recognizer=recognizer, rule=rule, method=method, scoring=scoring)
        for index, each in zip(indices, evidence, strict=True):
            found[index] = asdict(each)
    column = pa.array(found, type=EVIDENCE_COLUMN.type)
    return pa.Table.from_arrays([*rows.columns, column], schema=schema_with([*rows.column_names, EVIDENCE_COLUMN.name]))


def _compute_evidence(
    pixels: UInt8[np.ndarray, "B 3 H W"],
    *,
    recognizer: Recognizer,
    rule: AttributionSettings,
    method: Method,
    scoring: ScoringConfig,
) -> Sequence[Evidence]:
    joint = explain_joint(
        recognizer, torch.from_numpy(pixels), by=method, num_rationales=rule.top, scoring=scoring, batch_size=_BATCH
    )
    names, preprocess = recognizer.vocabulary, recognizer.backbone.preprocess
    category, rationales = _reduce_maps(joint.category.scores), _reduce_maps(joint.rationales.scores)
    rows = []
    for index, ids in enumerate(joint.rationale_ids.tolist()):
        maps = [quantize(category[index, 0], rationale=None)]
        maps += [
            quantize(rationales[index, rank], rationale=names.rationales[number]) for rank, number in enumerate(ids)
        ]
        rows.append(
            Evidence(
                method=rule.method,
                category=names.categories[int(joint.category_ids[index])],
                input_height=preprocess.image_size[0],
                input_width=preprocess.image_size[1],
                resize_mode=preprocess.resize_mode,
                maps=tuple(maps),
            )
        )
    return rows


def _reduce_maps(scores: Float[Tensor, "B T h w"]) -> Float[np.ndarray, "B T _ _"]:
    """Average maps down to the stored size, for methods with one value per pixel."""
    height, width = (min(length, MOST_CELLS) for length in scores.shape[-2:])
    return adaptive_avg_pool2d(scores, (height, width)).cpu().numpy()


def _hash_rank(key: str, *, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest())
