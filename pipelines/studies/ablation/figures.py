"""Metrics of a model on test images with full ground truth: one row of the ablation study.

Six ways to choose a category and a rationale are judged by the same rules: the four decodings of `ecor.probability`,
and two that show how much a reason is worth. Of these, `oracle` uses the labelled rationale, and `random` uses any.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures
from ecor.config.checks import require
from ecor.config.scoring import ScoringConfig
from ecor.data.predictions.schema import origins_table
from ecor.evaluation.label_columns import read_labels
from ecor.evaluation.metrics import observations
from ecor.model import Recognizer
from ecor.probability.factors import category_given_rationale_log_prob, random_rationales
from ecor.probability.rationale_sets import ranked_sets, sentence_conditional

Decoding = Literal["joint", "inverted", "independent", "pairs", "pooled", "oracle", "random"]
SetRule = Literal["mixture", "sentence"]
NUM_SETS = 4
"""Candidate sets of rationales per image; each needs the encoding of a long sentence per category."""
FIGURES = {
    "strict/rr": "rr",
    "strict/rw": "rw",
    "strict/wr": "wr",
    "strict/ww": "ww",
    "strict/accuracy": "accuracy",
    "strict/visible": "visible",
    "strict/visible_rr": "visible_rr",
    "dror_vote/rr": "vote_rr",
    "marginal/accuracy": "marginal_accuracy",
}
"""Metrics of `ecor.evaluation.metrics` in a row of the study, and their names there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """N images of the drawn world with ids of a vocabulary, and which of its R rationales each shows."""

    features: ImageFeatures
    categories: Int[Tensor, " N"]
    rationales: Int[Tensor, " N"]
    """Id of the labelled rationale."""
    visible: Bool[Tensor, "N R"]
    num_things: Int[Tensor, " N"]

    def select(self, images: Int[Tensor, " n"]) -> "LabelledImages":
        """Select some of the images, in the given order."""
        return LabelledImages(
            features=self.features.select(images),
            categories=self.categories[images],
            rationales=self.rationales[images],
            visible=self.visible[images],
            num_things=self.num_things[images],
        )


@torch.no_grad()
def row_metrics(
    recognizer: Recognizer, images: LabelledImages, *, decoding: Decoding, seed: int = 0
) -> dict[str, float]:
    """Measure shares of images, between 0 and 1, under the names of `FIGURES`.

    `oracle` and `random` choose no rationale themselves: they have no figures of the vote and of the marginal.

    Args:
        recognizer: the model.
        images: the test images.
        decoding: how category and rationale are chosen.
        seed: seed of the rationales of `random`.
    """
    if decoding == "oracle" or decoding == "random":
        return _given_rationale_metrics(recognizer, images, decoding=decoding, seed=seed)
    names = recognizer.vocabulary
    visible = [[names.rationales[r] for r in row.nonzero().squeeze(1).tolist()] for row in images.visible]
    origins = origins_table(
        [f"{number:06d}" for number in range(len(images.categories))],
        category_true=[names.categories[c] for c in images.categories.tolist()],
        rationales_true=[[names.rationales[r]] for r in images.rationales.tolist()],
        visible_rationales=visible,
    )
    table = recognizer.label(images.features, origins=origins, scoring=ScoringConfig(method=decoding))
    labels = read_labels(table)
    found = observations(labels.answers, labels.truth)
    return {name: float(np.mean(found[metric])) for metric, name in FIGURES.items()}


def _given_rationale_metrics(
    recognizer: Recognizer, images: LabelledImages, *, decoding: Decoding, seed: int
) -> dict[str, float]:
    rationales = images.rationales
    if decoding == "random":
        generator = torch.Generator().manual_seed(seed)
        drawn = random_rationales(
            len(rationales), num_rationales=len(recognizer.vocabulary.rationales), generator=generator
        )
        rationales = drawn.squeeze(1)
    log_prob = category_given_rationale_log_prob(
        images.features,
        recognizer.text,
        rationales=rationales.unsqueeze(1),
        logit_scale=recognizer.backbone.logit_scale,
        temperatures=recognizer.temperatures,
    )
    right = log_prob.squeeze(1).argmax(dim=-1) == images.categories
    labelled = rationales == images.rationales
    visible = images.visible.gather(1, rationales.unsqueeze(1)).squeeze(1)
    return {
        "rr": _share(right & labelled),
        "rw": _share(right & ~labelled),
        "wr": _share(~right & labelled),
        "ww": _share(~right & ~labelled),
        "accuracy": _share(right),
        "visible": _share(visible),
        "visible_rr": _share(right & visible),
    }


@torch.no_grad()
def set_metrics(recognizer: Recognizer, images: LabelledImages, *, size: int, rule: SetRule) -> dict[str, float]:
    """Measure the best category with a set of rationales, as shares of images.

    - `accuracy`: the category is right;
    - `rr`: it is right, and the set holds the labelled rationale;
    - `visible_rr`: it is right, and the image shows the whole set, which needs at least `size` visible rationales;
    - `visible`: mean share of the set that the image shows.

    Args:
        recognizer: the model.
        images: the test images.
        size: rationales per set.
        rule: how a set conditions the category.

    Raises:
        ValueError: for an unknown rule.
    """
    require(rule in ("mixture", "sentence"), f"unknown rule {rule!r} for sets: choose mixture or sentence")
    joint = recognizer.joint(images.features, scoring=ScoringConfig(method="joint"))
    conditional = None
    if rule == "sentence":
        conditional = sentence_conditional(
            images.features,
            lambda members: _long_sentences(recognizer, members),
            logit_scale=recognizer.backbone.logit_scale,
            temperatures=recognizer.temperatures,
        )
    best = ranked_sets(joint, 1, size=size, beam=NUM_SETS, conditional=conditional)
    members = best.rationales[:, 0]
    right = best.categories[:, 0] == images.categories
    visible = images.visible.gather(1, members)
    return {
        "rr": _share(right & (members == images.rationales.unsqueeze(1)).any(dim=1)),
        "accuracy": _share(right),
        "visible": float(visible.float().mean()),
        "visible_rr": _share(right & visible.all(dim=1)),
    }


def _long_sentences(recognizer: Recognizer, rationales: tuple[int, ...]) -> Float[Tensor, "C D"]:
    """Encode Prompt_{c|R} of every category with several rationales, separated by commas."""
    names = recognizer.vocabulary
    joined = ", ".join(names.rationales[r] for r in rationales)
    together = recognizer.with_vocabulary({category: [joined] for category in names.categories})
    return together.encoder.category_features(torch.tensor([0]))[0]


def _share(right: Bool[Tensor, " N"]) -> float:
    return float(right.float().mean())
