"""`Recognizer`, the model a user works with: it labels images with a category and the rationales for it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.image_features import ImageSide
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.clip.text_features import TextFeatures, build_text_features
from ecor.config.checks import require
from ecor.config.model import BackboneConfig, ModelConfig, PromptConfig, TemplateConfig, TextConfig
from ecor.config.scoring import ConfidenceMap, MethodName, ScoringConfig, Temperatures, VisibilityMap
from ecor.data.images.decoding import ImageError, Picture, decode_picture
from ecor.data.images.picture_list import as_picture_list, name_picture
from ecor.data.images.preprocessing import image_to_pixels
from ecor.data.prediction_list import Predictions
from ecor.data.prediction_schema import OOD_COLUMN, VISIBLE_COLUMN, origins_table, schema_for
from ecor.data.templates import check_templates
from ecor.data.vocabulary import Vocabulary, read_vocabulary, vocabulary_from_mapping
from ecor.probability.decoders import joint_probability
from ecor.probability.factors import max_cosine
from ecor.probability.joint import Joint
from ecor.probability.platt_scaling import pair_log_odds, pair_probability
from ecor.probability.prediction_rows import Provenance, float_column, rows_from_joint
from ecor.probability.rationale_visibility import visibility_evidence, visible_probability
from ecor.storage.digests import bytes_sha256, json_digest

NOT_FINITE = "has a feature of NaN or infinity: the weights overflow in this precision; try fp32, or other weights"
"""What is said of an image that the weights cannot encode."""
Names = Vocabulary | Mapping[str, Sequence[str]] | str | Path
"""A vocabulary, {category: [rationale, …]}, or the path of a vocabulary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maps:
    """Fitted maps of one decoding method."""

    visibility: VisibilityMap | None = None
    confidence: ConfidenceMap | None = None


class Recognizer:
    """CLIP with ECOR's two prompts and the names it chooses from (arXiv:2404.12839).

    Without learned tokens it is zero-shot CLIP: the same numbers as open_clip's. `with_vocabulary` gives the same model
    with other names. The temperatures then stay, and rows are marked uncalibrated. So are those of a decoding that has
    a factor without a fitted temperature.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        prompts: PromptLearner,
        vocabulary: Vocabulary,
        templates: TemplateConfig | None = None,
        temperatures: Temperatures | None = None,
        calibrated_on: str | None = None,
        visibility: Mapping[MethodName, VisibilityMap] | None = None,
        confidence_maps: Mapping[MethodName, ConfidenceMap] | None = None,
        text_config: TextConfig | None = None,
        name: str = "unsaved",
        version: str | None = None,
    ) -> None:
        """Put the parts together; text features are made when they are first needed.

        Args:
            backbone: frozen towers.
            prompts: learned tokens for that backbone.
            vocabulary: categories and rationales to choose from.
            templates: the words around the names; None: the default.
            temperatures: one per factor; None: all 1.
            calibrated_on: digest of the vocabulary that the temperatures were fitted on, if any.
            visibility: by decoding method, the map that was fitted with these temperatures, if any.
            confidence_maps: the same for the confidence of the best pair.
            text_config: where text features are kept; None: the default.
            name: of the model, for the rows it makes.
            version: in the registry, for the rows it makes.

        Raises:
            ValueError: when a template lacks a placeholder, or has another one.
        """
        self.backbone = backbone
        self.prompts = prompts
        self.vocabulary = vocabulary
        self.templates = templates or TemplateConfig()
        self.temperatures = temperatures or Temperatures()
        self.calibrated_on = calibrated_on
        self.visibility = dict(visibility or {})
        self.confidence_maps = dict(confidence_maps or {})
        self.text_config = text_config or TextConfig()
        self.name = name
        self.version = version
        self._text: TextFeatures | None = None
        check_templates(self.templates)
        require(
            bool(vocabulary.rationales),
            f"the vocabulary has {len(vocabulary.categories)} categories and no rationale, and every label names one: "
            "add rationales, as {category: [rationale, …]}",
        )

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
        parts = {part: getattr(self, part) for part in (*kept, *maps, "text_config", "name", "version")}
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
            confidence_maps: the same for the confidence of the best pair.
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

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def config(self) -> ModelConfig:
        """Backbone, prompt and template settings of the model."""
        return ModelConfig(backbone=self.backbone.config, prompts=self.prompts.config, templates=self.templates)

    @property
    def calibrated(self) -> bool:
        """Whether the temperatures were fitted on this vocabulary."""
        return self.calibrated_on == self.vocabulary.digest

    @property
    def digest(self) -> str:
        """sha256 of all that decides its numbers except the vocabulary, which each row names beside it."""
        content: dict[str, Any] = {
            "backbone": self.backbone.digest,
            "prompts": asdict(self.prompts.config),
            "tokens": bytes_sha256(safetensors_bytes(self.tokens())),
            "templates": asdict(self.templates),
            "temperatures": self.temperatures.to_record(),
            "calibrated_on": self.calibrated_on,
        }
        if self.visibility:
            content["visibility"] = {method: asdict(each) for method, each in self.visibility.items()}
        if self.confidence_maps:
            content["confidence_maps"] = {method: asdict(each) for method, each in self.confidence_maps.items()}
        return json_digest(content)

    @property
    def image_side(self) -> ImageSide:
        """What decides the features of an image. Text tokens, templates, names and temperatures have no part in it."""
        visual = self.prompts.visual
        tokens = None if visual is None else bytes_sha256(safetensors_bytes({"visual": visual.detach().cpu().clone()}))
        digest = json_digest({"tower": self.backbone.image_tower_digest, "visual_tokens": tokens})
        return ImageSide(model_digest=digest, precision=self.backbone.precision)

    @property
    def provenance(self) -> Provenance:
        return Provenance(
            model_name=self.name,
            model_version=self.version,
            model_digest=self.digest,
            vocabulary_digest=self.vocabulary.digest,
            calibrated=self.calibrated,
        )

    def tokens(self) -> dict[str, Tensor]:
        """A copy of the learned tokens on the CPU, by name."""
        return {name: value.detach().cpu().clone() for name, value in self.prompts.state_dict().items()}

    @property
    def encoder(self) -> SentenceEncoder:
        """Encodes this model's sentences; gradients reach the text tokens."""
        return SentenceEncoder(
            self.backbone,
            vocabulary=self.vocabulary,
            templates=self.templates,
            rationale_context=self.prompts.rationale_context,
            category_context=self.prompts.category_context,
        )

    @property
    def text(self) -> TextFeatures:
        """Features of all sentences, encoded on first use. Make a new Recognizer after the tokens have changed."""
        if self._text is None:
            with torch.no_grad():
                self._text = build_text_features(self.encoder, config=self.text_config, device=self.device)
        return self._text

    @torch.no_grad()
    def image_features(self, images: UInt8[Tensor, "B 3 H W"]) -> ImageFeatures:
        """L2-normalised features of pixels as `ecor.data.images.preprocessing.image_to_pixels` makes them."""
        return self.prompts.image_features(self.backbone, images)

    @torch.no_grad()
    def joint(self, images: UInt8[Tensor, "B 3 H W"] | ImageFeatures, *, scoring: ScoringConfig | None = None) -> Joint:
        """Compute log P(c, r | I) by the method that `scoring` names, with this model's temperatures.

        Args:
            images: pixels as `ecor.data.images.preprocessing.image_to_pixels` makes them, or their features.
            scoring: how to decode; None: the default.
        """
        features = images if isinstance(images, ImageFeatures) else self.image_features(images)
        return joint_probability(
            features,
            self.text,
            scoring=scoring or ScoringConfig(),
            logit_scale=self.backbone.logit_scale,
            temperatures=self.temperatures,
        )

    @torch.no_grad()
    def ood_score(self, images: UInt8[Tensor, "B 3 H W"] | ImageFeatures) -> Float[Tensor, " B"]:
        """Out-of-distribution score of each image: 1 − the largest cosine with a category's own sentence.

        High is out of distribution. ConVis's score (arXiv:2405.14563), with the sentences that the model was tuned with
        in place of definitions (ours): sentences of categories alone, so that the score does not depend on rationales.
        """
        features = images if isinstance(images, ImageFeatures) else self.image_features(images)
        return 1 - max_cosine(features.category, self.text.categories)

    def label(
        self,
        images: UInt8[Tensor, "B 3 H W"] | ImageFeatures,
        *,
        origins: pa.Table,
        scoring: ScoringConfig | None = None,
        provenance: Provenance | None = None,
    ) -> pa.Table:
        """Label a batch, and return one row per image with the columns of `ecor.data.prediction_schema.schema_for`.

        Args:
            images: B pictures as pixels, or their features.
            origins: B rows with `ecor.data.prediction_schema.ORIGIN_SCHEMA`, in the same order.
            scoring: how to decode; None: the default.
            provenance: `Recognizer.provenance` kept from before, so that its digests are not computed for each batch.
        """
        scoring, provenance = scoring or ScoringConfig(), provenance or self.provenance
        features = images if isinstance(images, ImageFeatures) else self.image_features(images)
        joint = self.joint(features, scoring=scoring)
        is_fitted_weight = scoring.pooling_weight in (None, self.temperatures.pooling_weight)
        has_temperatures = provenance.calibrated and self.temperatures.cover(scoring.method) and is_fitted_weight
        maps = self._maps_of(scoring.method) if has_temperatures else _Maps()
        calibrated = has_temperatures and not (scoring.calibrated_confidence and maps.confidence is None)
        rows = rows_from_joint(
            joint,
            vocabulary=self.vocabulary,
            scoring=scoring,
            origins=origins,
            provenance=replace(provenance, calibrated=calibrated),
        )
        if scoring.ood_score:
            rows = rows.append_column(OOD_COLUMN, float_column(self.ood_score(features)))
        return self._with_mapped_columns(rows, features, scoring=scoring, maps=maps)

    def _maps_of(self, method: str) -> "_Maps":
        visibility = {str(name): each for name, each in self.visibility.items()}
        confidence = {str(name): each for name, each in self.confidence_maps.items()}
        return _Maps(visibility=visibility.get(method), confidence=confidence.get(method))

    def _with_mapped_columns(
        self, rows: pa.Table, features: ImageFeatures, *, scoring: ScoringConfig, maps: "_Maps"
    ) -> pa.Table:
        """Replace the confidence and add the visibility, where they are asked for and there is a map.

        The evidence depends a little on how many pairs are decoded, so it is decoded as it was for the fit.
        """
        confidence = maps.confidence if scoring.calibrated_confidence else None
        visibility = maps.visibility if scoring.visible_probability else None
        if confidence or visibility:
            as_fitted = ScoringConfig(method=scoring.method, pooling_weight=scoring.pooling_weight, top_k=1)
            joint = self.joint(features, scoring=as_fitted)
        if confidence:
            column = float_column(pair_probability(pair_log_odds(joint), confidence))
            place = rows.schema.get_field_index("confidence")
            rows = rows.set_column(place, rows.schema.field(place), column)
        if not scoring.visible_probability:
            return rows
        if visibility is None:
            return rows.append_column(VISIBLE_COLUMN, pa.nulls(len(features), pa.float32()))
        known = visible_probability(visibility_evidence(joint), visibility)
        return rows.append_column(VISIBLE_COLUMN, float_column(known))

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
            scoring: method and number of pairs to keep; None: the default.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: when a picture cannot be read or encoded, or `images` is no list of pictures; the message names
                the picture or the type.

        Example:
            >>> import ecor
            >>> model = ecor.Recognizer.zero_shot({"fox": ["pointed ears"], "whale": ["a tail fin"]})
            >>> model.predict(["a.jpg"]).to_pandas()  # doctest: +SKIP
        """
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
