"""Predict labels and heat maps for a batch of images, with a recognizer or a LICO classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from ecor.config.checks import require
from ecor.config.model import Preprocess
from ecor.data.heatmap import Heatmap
from ecor.data.vocabulary import read_vocabulary
from ecor.explain.attribution import explain
from ecor.explain.joint_heatmaps import JointHeatmaps, explain_joint
from ecor.explain.methods.registry import Method, build_prepared_method, missing_requirement
from ecor.explain.methods.settings import read_settings
from ecor.explain.targets import Concept, FreeText, Target, target_feature, target_name
from ecor.lico.class_heatmaps import CLASS_METHODS, class_heatmap
from ecor.lico.classifier import Classifier, load_classifier
from ecor.model import Recognizer
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.reporting import ExplainConfig
from pipelines.reporting.explained_pictures import ImageExplanation, Ranked
from pipelines.storage.lexicons import open_concepts
from pipelines.tracking.model_loading import (
    DEMO_MODEL,
    detect_system,
    load_projection,
    model_folder,
    open_model,
    resolve_device,
)

DEMO_SET = "demo-small"
DEFAULT_METHOD, DEFAULT_CLASS_METHOD = "contrastive_attribution", "grad_cam"
"""Default methods, of a model with rationales and of a classifier (`docs/explanations.md` has the rule)."""
FINEST_SETTINGS: Mapping[str, Mapping[str, Any]] = {"contrastive_attribution": {"largest_grid": 24, "all_grids": True}}
"""By method, settings for pictures that a person looks at, unless others are given: better maps that take longer than
the method's own settings, which bulk scoring has."""
METHOD_WITHOUT_OTHERS = "transformer_attribution"
"""Where a label is explained whose vocabulary is not known: the best method of those that need no other names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchExplanation:
    """Explanations of a batch of images."""

    each: tuple[ImageExplanation, ...]
    heatmaps: tuple[Heatmap, ...]
    """Heat maps; for each image together as many maps as its explanation has titles, in that order."""


class Predictor(Protocol):
    """A model with an attribution method."""

    @property
    def preprocess(self) -> Preprocess:
        """Resizing and cropping of images."""

    @property
    def method(self) -> str:
        """The name of the method."""

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> BatchExplanation:
        """Predict labels and heat maps."""


def open_predictor(
    config: ExplainConfig,
    *,
    texts: Sequence[str],
    concepts: Sequence[str],
    settings: Sequence[str],
    tracking: TrackingConfig,
) -> Predictor:
    """Load the model of `config`, and build its method.

    Args:
        config: model, method, device and precision.
        texts: sentences to look for, besides the model's own labels.
        concepts: concepts of the lexicon to look for.
        settings: settings of the method (`ecor.explain.methods.settings.read_settings`).
        tracking: the registry's server, from `resolve_tracking`.

    Raises:
        ValueError: for an unknown model or method, a missing requirement, a method or precision that does not fit the
            model, or a device that this machine does not have.
    """
    if config.method is not None:
        named = {"projection": config.projection, "concepts": config.lexicon}
        missing = missing_requirement(config.method, named)  # fails before a model is loaded
        require(missing is None, str(missing))
        read_settings(config.method, settings)
    device = resolve_device(config.device)
    folder = config.model if config.model == DEMO_MODEL else model_folder(config.model, tracking=tracking)
    if detect_system(folder) == "lico":
        require(not texts and not concepts, _no_text_message(config))
        return _open_classifier(config, folder=folder, settings=settings, device=device)
    names = None if config.vocabulary is None else read_vocabulary(config.vocabulary)
    model = open_model(
        config.model,
        tracking=tracking,
        names=names,
        demo_set=DEMO_SET,
        device=device,
        precision=config.precision,
    )
    by = config.method or (DEFAULT_METHOD if config.projection is None else "eclip")
    given: dict[str, Any] = {**FINEST_SETTINGS.get(by, {}), **read_settings(by, settings)}
    if config.projection is not None:
        digest = model.backbone.digest
        given.update(load_projection(config.projection, tracking=tracking, backbone_digest=digest))
    sought: list[Target] = [FreeText(sentence=text) for text in texts]
    if by == "convis" or concepts:
        among = open_concepts(config.lexicon, backbone=model.backbone)
        among.of(concepts)  # fails for an unknown one before any image is read
        sought += [Concept(name=name, among=among) for name in concepts]
        given |= {"concepts": among} if by == "convis" else {}
    return RecognizerPredictor(model, method=build_prepared_method(by, given), name=by, sought=sought, config=config)


def _no_text_message(config: ExplainConfig) -> str:
    return f"{config.model} is a classifier, which reads no --text and no --concept: name a model of `ecor train`"


def _open_classifier(
    config: ExplainConfig, *, folder: str, settings: Sequence[str], device: str
) -> "ClassifierPredictor":
    require(
        config.precision in ("auto", "fp32"),
        f"{config.model} is a classifier, which runs in fp32: leave out --precision {config.precision}",
    )
    require(config.vocabulary is None, f"{config.model} is a classifier, whose categories are its own")
    by = config.method or DEFAULT_CLASS_METHOD
    require(by in CLASS_METHODS, f"{by} asks for a text, a classifier has none: choose {', '.join(CLASS_METHODS)}")
    own = read_settings(by, settings)
    return ClassifierPredictor(load_classifier(folder, device=device), method=by, settings=own, config=config)


class RecognizerPredictor:
    """Predict category, rationales, texts and concepts with a model tuned by ECOR, or with plain CLIP."""

    def __init__(
        self, model: Recognizer, *, method: Method, name: str, sought: Sequence[Target], config: ExplainConfig
    ) -> None:
        self.method = name
        self._model, self._by, self._sought, self._config = model, method, sought, config

    @property
    def preprocess(self) -> Preprocess:
        return self._model.backbone.preprocess

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> BatchExplanation:
        model, size = self._model, self._config.batch_size
        num = self._config.num_rationales
        joint = explain_joint(model, pixels, by=self._by, num_rationales=num, batch_size=size)
        heatmaps, cosines_BT = [joint.category, joint.rationales], torch.zeros(len(pixels), 0)
        if self._sought:
            heatmaps.append(explain(model, pixels, self._sought, by=self._by, batch_size=size))
            features = torch.stack([target_feature(model, each) for each in self._sought])
            cosines_BT = model.image_features(pixels).category @ features.T
        answers = [
            self._answer(joint, index=index, cosines=cosines) for index, cosines in enumerate(cosines_BT.tolist())
        ]
        return BatchExplanation(each=tuple(answers), heatmaps=tuple(heatmaps))

    def _answer(self, joint: JointHeatmaps, *, index: int, cosines: Sequence[float]) -> ImageExplanation:
        names, said = self._model.vocabulary, joint.joint
        ids, category = joint.rationale_ids[index].tolist(), int(joint.category_ids[index])
        probs = said.rationale_log_prob[index, : len(ids)].exp().tolist()
        return ImageExplanation(
            category=names.categories[category],
            category_prob=float(said.category_log_prob[index, category].exp()),
            rationales=tuple((names.rationales[each], prob) for each, prob in zip(ids, probs, strict=True)),
            texts=self._ranked(FreeText, cosines),
            concepts=self._ranked(Concept, cosines),
        )

    def _ranked(self, kind: type[FreeText] | type[Concept], cosines: Sequence[float]) -> Ranked:
        found = zip(self._sought, cosines, strict=True)
        return tuple((target_name(target), cosine) for target, cosine in found if isinstance(target, kind))


class ClassifierPredictor:
    """Predict the most probable categories with a classifier trained by LICO."""

    def __init__(
        self, classifier: Classifier, *, method: str, settings: Mapping[str, Any], config: ExplainConfig
    ) -> None:
        self.method = method
        self._classifier, self._settings = classifier, settings
        self._num = min(config.num_rationales, len(classifier.categories))

    @property
    def preprocess(self) -> Preprocess:
        return self._classifier.preprocess

    @torch.no_grad()
    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> BatchExplanation:
        probs = self._classifier(self._classifier.normalise(pixels)).softmax(dim=-1)
        best = probs.topk(self._num, dim=-1)
        answers = []
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            ranked = [(self._classifier.categories[each], prob) for each, prob in zip(ids, values, strict=True)]
            answers.append(
                ImageExplanation(category=ranked[0][0], category_prob=ranked[0][1], others=tuple(ranked[1:]))
            )
        return BatchExplanation(
            each=tuple(answers),
            heatmaps=(class_heatmap(self._classifier, pixels, best.indices, by=self.method, **self._settings),),
        )
