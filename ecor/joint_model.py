"""CLIP with ECOR's two prompts as one probability model: log P(c, r | I) of images, and digests of what decides it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.feature_types import ImageFeatures
from ecor.clip.image_features import ImageSide
from ecor.clip.prompts import PromptLearner
from ecor.clip.sentence_encoder import SentenceEncoder
from ecor.clip.text_features import TextFeatures, build_text_features
from ecor.config.checks import require
from ecor.config.model import ModelConfig, TemplateConfig, TextConfig
from ecor.config.scoring import ConfidenceMap, MethodName, ScoringConfig, Temperatures, VisibilityMap
from ecor.data.templates import check_templates
from ecor.data.vocabulary import Vocabulary
from ecor.probability.decoders import joint_probability
from ecor.probability.factors import max_cosine
from ecor.probability.joint import Joint
from ecor.probability.prediction_rows import Provenance
from ecor.storage.digests import bytes_sha256, json_digest


class JointModel:
    """P(c, r | I) of frozen towers, learned prompts and the names they choose from (arXiv:2404.12839).

    `ecor.Recognizer` is built on it: it turns these probabilities into labels.
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
        method: MethodName | None = None,
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
            confidence_maps: the same for the confidence of the best pair and the category.
            method: the decoding that it was tuned for, and decodes by where none is named; None: `joint`.
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
        self.method: MethodName = method or "joint"
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
            content["visibility"] = {method: each.to_record() for method, each in self.visibility.items()}
        if self.confidence_maps:
            content["confidence_maps"] = {method: each.to_record() for method, each in self.confidence_maps.items()}
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
        """What its rows say of the model."""
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
        """Compute log P(c, r | I) by the method that `scoring` names, or the model's own, with its temperatures.

        Args:
            images: pixels as `ecor.data.images.preprocessing.image_to_pixels` makes them, or their features.
            scoring: how to decode; None: the default.
        """
        features = images if isinstance(images, ImageFeatures) else self.image_features(images)
        return joint_probability(
            features,
            self.text,
            scoring=self.own_scoring(scoring),
            logit_scale=self.backbone.logit_scale,
            temperatures=self.temperatures,
        )

    def own_scoring(self, scoring: ScoringConfig | None) -> ScoringConfig:
        """The settings with this model's own method where they name none; None: the default."""
        return (scoring or ScoringConfig()).for_model(self.method)

    @torch.no_grad()
    def ood_score(self, images: UInt8[Tensor, "B 3 H W"] | ImageFeatures) -> Float[Tensor, " B"]:
        """Out-of-distribution score of each image: 1 − the largest cosine with a category's own sentence.

        High is out of distribution. ConVis's score (arXiv:2405.14563), with the sentences that the model was tuned with
        in place of definitions (ours): sentences of categories alone, so that the score does not depend on rationales.
        """
        features = images if isinstance(images, ImageFeatures) else self.image_features(images)
        return 1 - max_cosine(features.category, self.text.categories)
