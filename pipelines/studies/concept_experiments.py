"""Experiments of ConVis on drawn scenes: detect unknown categories, and locate things, by definitions.

These are the experiments of ConVis (arXiv:2405.14563), with the demo's own lexicon. No other experiment here uses the
seeds of their images.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.towers.image_tower import ImageTower
from ecor.config.checks import require
from ecor.convis.concept_features import ConceptFeatures
from ecor.convis.concept_visualization import ConVis
from ecor.data.heatmap import Frame, Heatmap, frame_of
from ecor.demo.lexicon import categories_under
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.evaluation.confidence_intervals import Estimate, Resampling, estimates
from ecor.evaluation.linear_probe import select_probe
from ecor.evaluation.ood_detection import Detection, detection_measures, max_logit
from ecor.explain.attribution import attribute
from ecor.explain.methods.registry import build_method
from ecor.explain.metrics.boxes import BoxRule, hits, overlaps
from ecor.explain.metrics.measure_table import DELTAS
from ecor.probability.factors import max_cosine
from pipelines.studies.concept_pictures import DrawnPictures, SplitName, draw_pictures

PAIRS = (
    ("hoofed animal", "beast of prey"),
    ("bird", "arthropod"),
    ("road vehicle", "aircraft"),
    ("building", "household thing"),
    ("fruit", "tool"),
    ("animal", "made thing"),
)
"""Concepts with known categories, each with a concept of unknown ones: near and far pairs, like the six of ConVis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionRow:
    """Result of one score that detects unknown categories."""

    known: str
    """Concept whose categories are known."""
    unknown: str
    num_known: int
    """Number of known categories."""
    num_unknown: int
    score: str
    detection: Detection


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalisationRow:
    """Result of one method that locates things by maps."""

    pictures: str
    """`named` or `never named`: whether pretraining used the names of the categories."""
    explained: str
    """The category, or its parent; `nothing` for maps that are the same for all pictures."""
    method: str
    max_box_acc: Estimate
    max_box_acc_v2: Estimate


def detection_rows(
    backbone: Backbone,
    concepts: ConceptFeatures,
    *,
    num_train: int,
    num_images: int,
    seed: int,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    resampling: Resampling | None = None,
) -> Iterator[DetectionRow]:
    """For each pair of concepts, detect pictures of the second concept's categories among those of the first.

    Scores: the largest cosine with the definition of a known leaf (ConVis); the cosine with the known concept's own
    definition ("naive"); the largest cosine with a known category's name (ours); the largest logit of a linear probe of
    the known categories.

    Args:
        backbone: the model.
        concepts: encoded definitions.
        num_train: pictures to train the probe; its penalty is chosen on a quarter as many others.
        num_images: test pictures of known categories per pair, and the same number of unknown ones.
        seed: seed of the pictures.
        pairs: known and unknown concept of each pair.
        resampling: bootstrap of the intervals.

    Raises:
        ValueError: for a pair that shares a category, and for an unknown concept.
    """
    for known, unknown in pairs:
        names = {concept: categories_under(concept, lexicon=concepts.lexicon) for concept in (known, unknown)}
        shared = set(names[known]) & set(names[unknown])
        require(not shared, f"{', '.join(sorted(shared))} is both {known} and {unknown}: nothing to tell apart")
        scores = _detection_scores(
            backbone, concepts, root=known, names=names, num_train=num_train, num_images=num_images, seed=seed
        )
        for score, (of_known, of_unknown) in scores.items():
            yield DetectionRow(
                known=known,
                unknown=unknown,
                num_known=len(names[known]),
                num_unknown=len(names[unknown]),
                score=score,
                detection=detection_measures(of_known, of_unknown, resampling=resampling),
            )


def _detection_scores(
    backbone: Backbone,
    concepts: ConceptFeatures,
    *,
    root: str,
    names: Mapping[str, Sequence[str]],
    num_train: int,
    num_images: int,
    seed: int,
) -> dict[str, tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]]:
    """Compute each score for pictures of known and of unknown categories."""
    known = names[root]

    def features(categories: Sequence[str], *, split: SplitName, num: int) -> tuple[Tensor, Tensor]:
        pictures = draw_pictures(categories, split=split, num_images=num, seed=seed, backbone=backbone)
        labels = torch.tensor([categories.index(name) for name in pictures.categories])
        return _encode_images(backbone, pictures.pixels), labels

    probe = select_probe(
        *features(known, split="train", num=num_train),
        validation=features(known, split="validation", num=max(len(known), num_train // 4)),
    )
    tested = [features(each, split="test", num=num_images)[0] for each in names.values()]
    texts = {
        "definitions of known leaves": concepts.features[concepts.leaves(root)],
        "definition of the known concept": concepts.of([root]),
        "names of known categories": backbone.encode_text(list(known), fp32=True),
    }
    found = {score: [max_cosine(each, of) for each in tested] for score, of in texts.items()}
    found["largest logit of a linear probe"] = [max_logit(each, probe) for each in tested]
    return {
        score: (of_known.cpu().numpy(), of_unknown.cpu().numpy()) for score, (of_known, of_unknown) in found.items()
    }


def localisation_rows(
    backbone: Backbone,
    concepts: ConceptFeatures,
    *,
    num_images: int,
    seed: int,
    rule: BoxRule,
    steps: int = 14,
    resampling: Resampling | None = None,
) -> Iterator[LocalisationRow]:
    """Locate the one thing in a picture by maps: MaxBoxAcc and V2, at the best threshold over all pictures.

    Methods: ConVis (and as its reference weighs patches), ITSM and Grad-ECLIP of the definition's feature, a Gaussian
    in the middle of every picture, and noise.

    Args:
        backbone: the model.
        concepts: encoded definitions.
        num_images: pictures of categories that pretraining named, and the same number of those that it never named.
        seed: seed of the pictures.
        rule: rule that makes boxes from maps.
        steps: steps of ConVis from one side of the picture to the other.
        resampling: bootstrap of the intervals.
    """
    named = tuple(FAMILIAR.categories[place] for place in FAMILIAR.named)
    for kind, categories in (("named", named), ("never named", FAMILIAR.unnamed)):
        order = random.Random(seed).sample(categories, len(categories))
        pictures = draw_pictures(order, split="test", num_images=num_images, seed=seed, backbone=backbone, alone=True)
        explained = {
            "the category": list(pictures.categories),
            "what it is a kind of": [concepts.lexicon.parents(name)[0] for name in pictures.categories],
        }
        for target, method_name, maps in _method_maps(backbone, concepts, pictures, explained=explained, steps=steps):
            acc, v2 = box_estimates(maps, pictures.boxes, rule=rule, resampling=resampling)
            yield LocalisationRow(
                pictures=kind, explained=target, method=method_name, max_box_acc=acc, max_box_acc_v2=v2
            )


def box_estimates(
    maps: Float[Tensor, "N H W"],
    boxes: Int[Tensor, "N 4"],
    *,
    rule: BoxRule,
    resampling: Resampling | None = None,
) -> tuple[Estimate, Estimate]:
    """Estimate MaxBoxAcc at 0.5 and MaxBoxAccV2 with intervals over images.

    The best threshold is found again for each resample.
    """
    largest = hits(overlaps(maps, boxes, rule=rule, largest_only=True), delta=0.5, rule=rule).double().numpy()
    found = overlaps(maps, boxes, rule=rule, largest_only=False)
    any_region = np.stack([hits(found, delta=delta, rule=rule).double().numpy() for delta in DELTAS])

    def statistic(counts: Float[np.ndarray, "S N"]) -> Float[np.ndarray, "S 2"]:
        weights = counts / counts.sum(axis=1, keepdims=True)
        v2 = np.mean([(weights @ each).max(axis=1) for each in any_region], axis=0)
        return np.stack([(weights @ largest).max(axis=1), v2], axis=1)

    num = len(maps)
    acc, v2 = estimates(statistic, num_images=num, sizes=[num] * 2, resampling=resampling or Resampling())
    return acc, v2


def _method_maps(
    backbone: Backbone,
    concepts: ConceptFeatures,
    pictures: DrawnPictures,
    *,
    explained: Mapping[str, Sequence[str]],
    steps: int,
) -> Iterator[tuple[str, str, Float[Tensor, "N H W"]]]:
    """Yield the explained target, the name of the method, and its maps on the drawings."""
    tower, names = ImageTower(backbone=backbone), list(zip(*explained.values(), strict=True))
    frame = frame_of(pictures.source_size, preprocess=backbone.preprocess)
    texts = torch.stack([concepts.of(each) for each in names])
    for method_name, chosen in (
        ("convis", ConVis(concepts=concepts, steps=steps)),
        ("convis, reference", ConVis(concepts=concepts, compat="reference", steps=steps)),
    ):
        fits = (chosen.fit(tower, image) for image in pictures.pixels.split(1))
        scores = torch.cat([fitted.maps(each) for fitted, each in zip(fits, names, strict=True)])
        yield from _maps_on_drawings(scores, method_name=method_name, explained=explained, frame=frame)
    for method_name in ("itsm", "grad_eclip"):
        scores = attribute(tower, pictures.pixels, texts, method=build_method(method_name)).scores
        yield from _maps_on_drawings(scores, method_name=method_name, explained=explained, frame=frame)
    blind = {"centre": _gaussian(pictures.source_size), "random": _noise(pictures.source_size, num=len(names))}
    for method_name, maps in blind.items():
        yield "nothing", method_name, maps.expand(len(names), -1, -1)


def _maps_on_drawings(
    scores: Float[Tensor, "N T h w"], *, method_name: str, explained: Mapping[str, Sequence[str]], frame: Frame
) -> Iterator[tuple[str, str, Float[Tensor, "N H W"]]]:
    heatmap = Heatmap(scores=scores.cpu(), method=method_name, texts=tuple(explained), input_size=frame.input_size)
    maps = torch.stack([heatmap.on_source(index, frame=frame) for index in range(len(scores))])
    for place, target in enumerate(explained):
        yield target, method_name, maps[:, place]


def _gaussian(size: tuple[int, int]) -> Float[Tensor, "1 H W"]:
    """A Gaussian in the middle; its standard deviation is a quarter of the side."""
    down, across = (torch.linspace(-1, 1, length) for length in size)
    return torch.exp(-2 * (down[:, None] ** 2 + across**2))[None]


def _noise(size: tuple[int, int], *, num: int) -> Float[Tensor, "N H W"]:
    return torch.rand(num, *size, generator=torch.Generator().manual_seed(0))


def _encode_images(backbone: Backbone, pixels: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    with torch.no_grad():
        return torch.cat([backbone.encode_image(batch, fp32=True) for batch in pixels.split(64)])
