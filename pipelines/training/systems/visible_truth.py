"""Fit the probability that a named rationale is visible, on validation images that list all visible ones."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.scoring import MethodName, ScoringConfig, VisibilityMap
from ecor.data.vocabulary import Vocabulary
from ecor.model import Recognizer
from ecor.probability.joint import Joint, ranked_pairs
from ecor.probability.rationale_visibility import LEAST_IMAGES, fit_visibility_map, visibility_evidence
from pipelines.training.data_loader import SampleIndex

_IMAGES_PER_PASS = 256


def read_visible_rationales(
    split: SampleIndex, *, positions: Int[Tensor, " N"], vocabulary: Vocabulary
) -> list[frozenset[int] | None]:
    """Read the ids of all rationales that each sample shows; None where that is not known.

    Args:
        split: the samples.
        positions: of N samples.
        vocabulary: that gives the ids; a name that it does not have is left out.
    """
    columns = [index["visible_rationales"].to_pylist() for index in split.indexes]
    found: list[frozenset[int] | None] = []
    for position in positions.tolist():
        names = columns[split.shard_of[position]][split.row_of[position]]
        known = None if names is None else [name for name in names if vocabulary.has_rationale(name)]
        found.append(None if known is None else frozenset(map(vocabulary.rationale_id, known)))
    return found


def fit_visibility_maps(
    recognizer: Recognizer,
    features: ImageFeatures,
    *,
    visible: Sequence[frozenset[int] | None],
    methods: Collection[MethodName],
) -> dict[MethodName, VisibilityMap]:
    """Fit a map per decoding method; none where fewer than `LEAST_IMAGES` images have a known truth.

    Args:
        recognizer: the model, with its temperatures.
        features: of held-out images.
        visible: of the same images, as `read_visible_rationales` returns it.
        methods: the decoding methods.
    """
    known = [number for number, each in enumerate(visible) if each is not None]
    if len(known) < LEAST_IMAGES:
        return {}
    chosen, truth = features.select(torch.tensor(known, device=features.category.device)), [visible[i] for i in known]
    found: dict[MethodName, VisibilityMap] = {}
    for method in dict.fromkeys(methods):
        evidence, is_visible = [], []
        for first, joint in _decode(recognizer, chosen, method=method):
            evidence.append(visibility_evidence(joint).cpu())
            is_visible.append(_named_is_visible(joint, truth[first : first + len(evidence[-1])]))
        found[method] = fit_visibility_map(torch.cat(evidence), torch.cat(is_visible))
    return found


def _decode(recognizer: Recognizer, features: ImageFeatures, *, method: MethodName) -> Iterator[tuple[int, Joint]]:
    """Number of the first image and decoded pairs of some images at a time."""
    for first in range(0, len(features), _IMAGES_PER_PASS):
        ids = torch.arange(first, min(first + _IMAGES_PER_PASS, len(features)), device=features.category.device)
        yield first, recognizer.joint(features.select(ids), scoring=ScoringConfig(method=method, top_k=1))


def _named_is_visible(joint: Joint, visible: Sequence[frozenset[int] | None]) -> Bool[Tensor, " B"]:
    named = ranked_pairs(joint, 1).rationales[:, 0].tolist()
    return torch.tensor([rationale in (shown or ()) for rationale, shown in zip(named, visible, strict=True)])
