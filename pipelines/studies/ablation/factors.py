"""Measure why the joint wins or loses: dependence, entropy and calibration of its two factors.

The order P(r | I) · P(c | r, I) can differ from two separate answers only where category and rationale depend on each
other given the image. It helps only where a true reason makes the true category more probable. This module measures
both, and how reliable the confidence of each factor is.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ecor.data.vocabulary import Vocabulary
from ecor.model import Recognizer
from ecor.probability.factors import category_given_rationale_log_prob, category_log_prob, rationale_log_prob
from ecor.probability.temperature_scaling import reliability
from pipelines.studies.ablation.figures import LabelledImages

IMAGES_AT_ONCE = 100
"""Images per block: memory holds all rationales with all categories of one block."""


@torch.no_grad()
def factor_metrics(recognizer: Recognizer, images: LabelledImages) -> dict[str, float]:
    """Measure the two factors of the joint on N images, under these names:

    - `misfit`: share of images whose best category and best rationale, found separately, do not belong together;
    - `dependence`: mean mutual information of category and rationale given the image, Σ P(c, r | I) log P(c, r | I) /
      (P(c | I) P(r | I)), nats; zero where the order does not matter;
    - `entropy`, `entropy_given`: mean entropy of P(c | I) and of P(c | r, I) under P(r | I), nats; their difference is
      the dependence;
    - `true_given_visible`, `true_given_hidden`: mean P(true c | r, I) over rationales that the image shows, and over
      those that it does not show;
    - `ece_rationale`, `ece_category`, `ece_category_given`: expected calibration errors (15 bins) of the best of P(r |
      I) against the labelled rationale, of the best of P(c | I) by the category's own sentence, and of the best of P(c
      | r, I) with the labelled rationale given.
    """
    parts = [
        _part_metrics(recognizer, images.select(part))
        for part in torch.arange(len(images.categories)).split(IMAGES_AT_ONCE)
    ]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    figures = {name: float(values.nanmean()) for name, values in found.items() if not name.startswith("ece_")}
    for name in ("rationale", "category", "category_given"):
        confidence, right = found[f"ece_{name}_confidence"].numpy(), found[f"ece_{name}_right"].bool().numpy()
        figures[f"ece_{name}"] = reliability(confidence, right).error
    return figures


def _part_metrics(recognizer: Recognizer, images: LabelledImages) -> dict[str, Float[Tensor, " N"]]:
    scale, temperatures = recognizer.backbone.logit_scale, recognizer.temperatures
    log_NR = rationale_log_prob(images.features, recognizer.text, logit_scale=scale, temperatures=temperatures)
    log_NC = category_log_prob(images.features, recognizer.text, logit_scale=scale, temperatures=temperatures)
    every = torch.arange(log_NR.shape[1]).expand(len(log_NR), -1)
    given_NRC = category_given_rationale_log_prob(
        images.features, recognizer.text, rationales=every, logit_scale=scale, temperatures=temperatures
    )
    prob_NR = log_NR.exp()
    marginal_NC = (log_NR.unsqueeze(2) + given_NRC).logsumexp(dim=1)
    entropy = -(marginal_NC.exp() * marginal_NC).sum(dim=1)
    entropy_given = -(prob_NR * (given_NRC.exp() * given_NRC).sum(dim=2)).sum(dim=1)
    truth = images.categories.view(-1, 1, 1).expand(-1, log_NR.shape[1], 1)
    true_NR = given_NRC.gather(2, truth).squeeze(2).exp()
    own_NC = given_NRC[torch.arange(len(truth)), images.rationales]
    best_c, best_r = log_NC.argmax(dim=1), log_NR.argmax(dim=1)
    return {
        "misfit": (~_membership(recognizer.vocabulary)[best_c, best_r]).float(),
        "dependence": entropy - entropy_given,
        "entropy": entropy,
        "entropy_given": entropy_given,
        "true_given_visible": _mean_where(true_NR, images.visible),
        "true_given_hidden": _mean_where(true_NR, ~images.visible),
        "ece_rationale_confidence": prob_NR.amax(dim=1),
        "ece_rationale_right": (best_r == images.rationales).float(),
        "ece_category_confidence": log_NC.exp().amax(dim=1),
        "ece_category_right": (best_c == images.categories).float(),
        "ece_category_given_confidence": own_NC.exp().amax(dim=1),
        "ece_category_given_right": (own_NC.argmax(dim=1) == images.categories).float(),
    }


def _membership(vocabulary: Vocabulary) -> Bool[Tensor, "C R"]:
    belongs = torch.zeros(len(vocabulary.categories), len(vocabulary.rationales), dtype=torch.bool)
    for category, rationales in enumerate(vocabulary.rationales_of):
        belongs[category, list(rationales)] = True
    return belongs


def _mean_where(values: Float[Tensor, "N R"], chosen: Bool[Tensor, "N R"]) -> Float[Tensor, " N"]:
    """Mean over the chosen rationales of each image; NaN where there is none."""
    return (values * chosen).sum(dim=1) / chosen.sum(dim=1)
