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
from ecor.config.checks import require
from ecor.convis.concept_features import ConceptFeatures
from ecor.demo.lexicon import categories_under
from ecor.demo.worlds.familiar import FAMILIAR
from ecor.evaluation.confidence_intervals import Estimate, Resampling, estimates
from ecor.evaluation.linear_probe import select_probe
from ecor.evaluation.ood_detection import Detection, detection_measures, max_logit
from ecor.explain.metrics.boxes import BoxRule, hits, overlaps
from ecor.explain.metrics.measure_table import DELTAS
from ecor.probability.factors import max_cosine
from pipelines.studies.concept_maps import method_maps
from pipelines.studies.concept_pictures import SplitName, draw_pictures

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
        for target, method_name, maps in method_maps(backbone, concepts, pictures, explained=explained, steps=steps):
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


def _encode_images(backbone: Backbone, pixels: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    with torch.no_grad():
        return torch.cat([backbone.encode_image(batch, fp32=True) for batch in pixels.split(64)])
