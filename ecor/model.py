"""`Recognizer`, the model a user works with: it labels images with a category and the rationales for it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.checks import require
from ecor.config.model import BackboneConfig, PromptConfig, TemplateConfig
from ecor.config.scoring import ConfidenceMap, MethodName, ScoringConfig, Temperatures, VisibilityMap
from ecor.data.images.decoding import ImageError, Picture, decode_picture
from ecor.data.images.picture_list import as_picture_list, name_picture
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.predictions.prediction_list import Predictions
from ecor.data.predictions.schema import OOD_COLUMN, VISIBLE_COLUMN, origins_table, schema_for
from ecor.data.vocabulary import Vocabulary, read_vocabulary, vocabulary_from_mapping
from ecor.joint_model import JointModel
from ecor.probability.joint import Joint
from ecor.probability.maps.confidence import pair_probability, with_calibrated_category
from ecor.probability.maps.visibility import visible_probability
from ecor.probability.prediction_rows import Provenance, float_column, rows_from_joint

NOT_FINITE = "has a feature of NaN or infinity: the weights overflow in this precision; try fp32, or other weights"
"""What is said of an image that the weights cannot encode."""
Names = Vocabulary | Mapping[str, Sequence[str]] | str | Path
"""A vocabulary, {category: [rationale, …]}, or the path of a vocabulary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maps:
    """Fitted maps of one decoding method."""

    visibility: VisibilityMap | None = None
    confidence: ConfidenceMap | None = None


class Recognizer(JointModel):
    """CLIP with ECOR's two prompts and the names it chooses from (arXiv:2404.12839).

    Without learned tokens it is zero-shot CLIP: the same numbers as open_clip's. `with_vocabulary` gives the same model
    with other names. The temperatures then stay, and rows are marked uncalibrated. So are those of a decoding that has
    a factor without a fitted temperature.
    """

    @classmethod
    def zero_shot(
        cls, vocabulary: Names, *, backbone: Backbone | None = None, templates: TemplateConfig | None = None
    ) -> "Recognizer":
        """Build plain CLIP with hand-written sentences: no learned token.

        Args:
            vocabulary: a vocabulary, {category: [rationale, …]}, or the path of a vocabulary file.
            backbone: frozen towers; None: the embedded model.
            templates: the words around the names; None: the default.

        Raises:
            ValueError: when the vocabulary cannot be read (`read_vocabulary`), or a template lacks a placeholder.
        """
        backbone = backbone or load_backbone(BackboneConfig())
        prompts = PromptLearner(PromptConfig(rationale_tokens=0, category_tokens=0, visual_tokens=0), backbone)
        names = as_vocabulary(vocabulary)
        return cls(backbone=backbone, prompts=prompts, vocabulary=names, templates=templates, name="zero-shot")

    def _like(self, **changes: Any) -> "Recognizer":
        kept = ("backbone", "prompts", "vocabulary", "templates", "temperatures", "calibrated_on")
        maps = ("visibility", "confidence_maps")
        parts = {part: getattr(self, part) for part in (*kept, *maps, "method", "text_config", "name", "version")}
        return Recognizer(**{**parts, **changes})

    def with_vocabulary(self, vocabulary: Names) -> "Recognizer":
        """Return the same model choosing from other names (zero-shot transfer); towers and tokens are shared.

        Args:
            vocabulary: a vocabulary, {category: [rationale, …]}, or the path of a vocabulary file.

        Raises:
            ValueError: when the vocabulary cannot be read (`read_vocabulary`).
        """
        return self._like(vocabulary=as_vocabulary(vocabulary))

    def with_temperatures(
        self,
        temperatures: Temperatures,
        *,
        visibility: Mapping[MethodName, VisibilityMap] | None = None,
        confidence_maps: Mapping[MethodName, ConfidenceMap] | None = None,
    ) -> "Recognizer":
        """Return the same model with temperatures that were fitted on its vocabulary.

        Args:
            temperatures: fitted.
            visibility: by decoding method, the map that was fitted with them, if any.
            confidence_maps: the same for the confidence of the best pair and the category.
        """
        maps = {"visibility": visibility or {}, "confidence_maps": confidence_maps or {}}
        like = self._like(temperatures=temperatures, calibrated_on=self.vocabulary.digest, **maps)
        like._text = self._text
        return like

    def with_name(self, name: str, *, version: str | None = None) -> "Recognizer":
        """Return the same model with another name, for the rows it makes.

        Args:
            name: of the model.
            version: in the registry.
        """
        like = self._like(name=name, version=version)
        like._text = self._text
        return like

    def label(
        self,
        images: UInt8[Tensor, "B 3 H W"] | ImageFeatures,
        *,
        origins: pa.Table,
        scoring: ScoringConfig | None = None,
        provenance: Provenance | None = None,
    ) -> pa.Table:
        """Label a batch, and return one row per image with the columns of `ecor.data.predictions.schema.schema_for`.

        Args:
            images: B pictures as pixels, or their features.
            origins: B rows with `ecor.data.predictions.schema.ORIGIN_SCHEMA`, in the same order.
            scoring: how to decode; None: the default, by the model's own method.
            provenance: `Recognizer.provenance` kept from before, so that its digests are not computed for each batch.
        """
        scoring, provenance = self.own_scoring(scoring), provenance or self.provenance
        features = images if isinstance(images, ImageFeatures) else self.image_features(images)
        joint = self.joint(features, scoring=scoring)
        is_fitted_weight = scoring.pooling_weight in (None, self.temperatures.pooling_weight)
        has_temperatures = provenance.calibrated and self.temperatures.cover(joint.method) and is_fitted_weight
        maps = self._maps_of(joint.method) if has_temperatures else _Maps()
        lacks_map = scoring.calibrated_confidence is True and maps.confidence is None
        calibrated = has_temperatures and not lacks_map
        if scoring.calibrated_confidence is False:
            maps = replace(maps, confidence=None)
        rows = rows_from_joint(
            with_calibrated_category(joint, maps.confidence),
            vocabulary=self.vocabulary,
            scoring=scoring,
            origins=origins,
            provenance=replace(provenance, calibrated=calibrated),
        )
        if scoring.ood_score:
            rows = rows.append_column(OOD_COLUMN, float_column(self.ood_score(features)))
        return self._with_mapped_columns(rows, features, joint=joint, scoring=scoring, maps=maps)

    def _maps_of(self, method: str) -> "_Maps":
        visibility = {str(name): each for name, each in self.visibility.items()}
        confidence = {str(name): each for name, each in self.confidence_maps.items()}
        return _Maps(visibility=visibility.get(method), confidence=confidence.get(method))

    def _with_mapped_columns(
        self, rows: pa.Table, features: ImageFeatures, *, joint: Joint, scoring: ScoringConfig, maps: "_Maps"
    ) -> pa.Table:
        """Replace the confidence and add the visibility, where they are asked for and there is a map.

        The evidence depends a little on how many pairs are decoded. So where that was set, images are decoded again, as
        they were for the fit: by the default.
        """
        confidence, visibility = maps.confidence, maps.visibility if scoring.visible_probability else None
        as_fitted = ScoringConfig(method=scoring.method, pooling_weight=scoring.pooling_weight)
        if (confidence or visibility) and as_fitted.search != scoring.search:
            joint = self.joint(features, scoring=as_fitted)
        if confidence:
            column = float_column(pair_probability(joint, confidence))
            place = rows.schema.get_field_index("confidence")
            rows = rows.set_column(place, rows.schema.field(place), column)
        if not scoring.visible_probability:
            return rows
        if visibility is None:
            return rows.append_column(VISIBLE_COLUMN, pa.nulls(len(features), pa.float32()))
        return rows.append_column(VISIBLE_COLUMN, float_column(visible_probability(joint, visibility)))

    def predict(
        self,
        images: Iterable[Picture],
        *,
        vocabulary: Names | None = None,
        scoring: ScoringConfig | None = None,
        batch_size: int = 64,
    ) -> Predictions:
        """Label pictures with a category, the reason for it, and how sure the model is.

        Args:
            images: PIL images, arrays [H W 3] of 8-bit RGB, paths, or bytes of image files; a pandas Series is read by
                position, whatever its index.
            vocabulary: other names than the model's own (zero-shot transfer); None: its own.
            scoring: method and number of pairs to keep; None: the default, by the model's own method.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: when a picture cannot be read or encoded, `images` is no list of pictures, or `batch_size` is
                below 1; the message names the picture, the type or the number.

        Example:
            >>> import ecor
            >>> model = ecor.Recognizer.zero_shot({"fox": ["pointed ears"], "whale": ["a tail fin"]})
            >>> model.predict(["a.jpg"]).to_pandas()  # doctest: +SKIP
        """
        require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
        pictures = as_picture_list(images)
        model = self if vocabulary is None else self.with_vocabulary(vocabulary)
        provenance = model.provenance
        tables = [schema_for(scoring or ScoringConfig()).empty_table()]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(pictures), batch_size):
                indices = range(start, min(start + batch_size, len(pictures)))
                pixels = list(pool.map(lambda index: model._pixels(pictures[index], index=index), indices))
                sources = [name_picture(pictures[index], index=index) for index in indices]
                origins = origins_table([f"{index:08d}" for index in indices], source=sources)
                features = model.image_features(torch.from_numpy(np.stack(pixels)))
                for place in (~features.is_finite).nonzero()[:1, 0].tolist():
                    raise ValueError(f"{sources[place]} {NOT_FINITE}")
                tables.append(model.label(features, origins=origins, scoring=scoring, provenance=provenance))
        return Predictions(pa.concat_tables(tables))

    def _pixels(self, picture: Picture, *, index: int) -> UInt8[np.ndarray, "3 H W"]:
        try:
            return image_to_pixels(decode_picture(picture), preprocess=self.backbone.preprocess)
        except (ImageError, OSError) as error:
            raise ValueError(f"{name_picture(picture, index=index)} cannot be read: {error}") from error


def as_vocabulary(names: Names) -> Vocabulary:
    """Return a vocabulary from any form a user has it in.

    Raises:
        ValueError: when it cannot be read (`read_vocabulary`, `vocabulary_from_mapping`).
    """
    if isinstance(names, Vocabulary):
        return names
    return vocabulary_from_mapping(names) if isinstance(names, Mapping) else read_vocabulary(names)
