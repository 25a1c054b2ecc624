"""Linear probes: logistic regression on the features of a frozen tower."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """logits = weight · feature + bias."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]

    def logits(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """One logit per class."""
        return features @ self.weight.T + self.bias


def fit_probe(features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, penalty: float) -> LinearProbe:
    """Fit a probe: least cross-entropy plus `penalty` times the squared weights, by L-BFGS.

    Fitted in doubles, so that the same minimum is found on every processor; the result has the features' type.

    Args:
        features: of training images.
        labels: classes 0 to the largest label.
        penalty: 0 or more.
    """
    dtype, features = features.dtype, features.double()
    weight = features.new_zeros(int(labels.max()) + 1, features.shape[1]).requires_grad_()
    bias = features.new_zeros(len(weight)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(features @ weight.T + bias, labels) + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return LinearProbe(weight=weight.detach().to(dtype), bias=bias.detach().to(dtype))


def select_probe(
    features: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    *,
    validation: tuple[Float[Tensor, "M D"], Int[Tensor, " M"]],
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2),
) -> LinearProbe:
    """Fit a probe for each penalty, and return the one that gets most validation images right; the first of equals.

    Args:
        features: of training images.
        labels: classes 0 to the largest label.
        validation: features and labels to choose by.
        penalties: on the squared weights.
    """
    fits = [fit_probe(features, labels, penalty=penalty) for penalty in penalties]
    held_out, truth = validation
    return max(fits, key=lambda fit: int((fit.logits(held_out).argmax(1) == truth).sum()))
