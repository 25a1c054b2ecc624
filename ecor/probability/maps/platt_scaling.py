"""Platt scaling with an offset per named category: a logistic map from evidence to a probability.

Of an image with evidence x, whose label names category c,

    P(so | I) = sigmoid(a + b · x + u_c)

a and b are fitted by likelihood with Platt's targets (Platt 1999, "Probabilistic outputs for support vector machines").
The offsets u_c are ours, not in Platt's paper nor in ECOR's: some categories are easier than others at the same
evidence. They are random intercepts, u_c ~ N(0, τ²), at their most probable values (Breslow and Clayton 1993,
"Approximate inference in generalized linear mixed models"), so a category with few images stays near 0. τ has the
largest marginal likelihood by Laplace's approximation; where no offsets (τ = 0) are as likely, there are none.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from torch import Tensor

LEAST_IMAGES = 50
"""Fewest images that a map is fitted on (our choice: two or three numbers are fitted)."""
LOWEST = 2.0**-24
"""Probabilities are stored as 32-bit floats: log-odds are those of one at least this far from 0 and 1."""
_TOLERANCE = 1e-10
"""Largest slope of the mean loss at the minimum, in nats per unit of a standardised weight."""
_SPREADS = (0.05, 5.0)
"""Between these τ is looked for: a smaller one moves no probability by more than 0.02."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What is known of N held-out images: evidence, the category that the label names, and whether it is so."""

    evidence: Float[Tensor, "N k"]
    categories: Int[Tensor, " N"]
    """Ids of the named categories."""
    is_so: Bool[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.is_so)

    def select(self, which: Bool[Tensor, " N"]) -> "Outcomes":
        """Some of the images.

        Args:
            which: true for those that stay.
        """
        return Outcomes(evidence=self.evidence[which], categories=self.categories[which], is_so=self.is_so[which])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlattScaling:
    """A fitted map."""

    intercept: float
    slopes: tuple[float, ...]
    """One per piece of evidence."""
    offsets: tuple[float, ...] = ()
    """One per category id, 0 for those that no image named; none where the images ask for none."""


def log_odds(log_prob: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log p/(1 − p) in double precision, finite also where p rounds to 0 or 1.

    Args:
        log_prob: log p.
    """
    return log_prob.double().exp().clamp(LOWEST, 1 - LOWEST).logit()


def platt_probability(
    evidence: Float[Tensor, "B k"], scaling: PlattScaling, *, categories: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """The probability of the map, between 0 and 1.

    Args:
        evidence: as for the fit.
        scaling: the map.
        categories: ids of the named categories, in the vocabulary of the fit.
    """
    logits = evidence @ evidence.new_tensor(scaling.slopes) + scaling.intercept
    if scaling.offsets:
        logits = logits + evidence.new_tensor(scaling.offsets)[categories]
    return logits.sigmoid()


def fit_platt_scaling(outcomes: Outcomes, *, num_categories: int) -> PlattScaling:
    """Fit intercept, slopes and offsets, in double precision, with Platt's targets.

    The targets are (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2) for n₊ positive and n₋ other images, so that the minimum is finite
    also where evidence separates them. The mean probability of the images is the mean target.

    Args:
        outcomes: of held-out images.
        num_categories: of the vocabulary.
    """
    values, num_positive = outcomes.evidence.double().cpu().numpy(), int(outcomes.is_so.sum())
    targets = np.where(
        outcomes.is_so.cpu().numpy(),
        (num_positive + 1) / (num_positive + 2),
        1 / (len(values) - num_positive + 2),
    )
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    named, groups = np.unique(outcomes.categories.cpu().numpy(), return_inverse=True)
    design = np.column_stack([np.ones(len(values)), (values - mean) / spread])
    weights, by_group = _most_likely(design, targets=targets, groups=groups)
    slopes = weights[1:] / spread
    offsets = np.zeros(num_categories)
    offsets[named] = by_group
    return PlattScaling(
        intercept=float(weights[0] - slopes @ mean),
        slopes=tuple(slopes.tolist()),
        offsets=tuple(offsets.tolist()) if by_group.any() else (),
    )


def _most_likely(
    design: Float[np.ndarray, "N d"], *, targets: Float[np.ndarray, " N"], groups: Int[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " G"]]:
    """Weights, and offsets of the G groups with their most likely spread: 0 if that is as likely as any."""
    num_weights, num_groups = design.shape[1], int(groups.max()) + 1

    def with_spread(spread: float) -> tuple[np.ndarray, float]:
        of_offsets = [1 / spread**2] * num_groups if spread else []
        precision = np.array([0.0] * num_weights + of_offsets)
        return _Regression(design=design, targets=targets, groups=groups, precision=precision).fit()

    plain, likelihood = with_spread(0.0)
    none = plain, np.zeros(num_groups)
    if num_groups == 1:
        return none
    best = minimize_scalar(
        lambda x: -with_spread(math.exp(x))[1],
        bounds=[math.log(each) for each in _SPREADS],
        method="bounded",
        options={"xatol": 1e-6},
    )
    if -best.fun <= likelihood:
        return none
    both, _ = with_spread(math.exp(float(best.x)))
    return both[:num_weights], both[num_weights:]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regression:
    """Logistic regression on N images; of its m parameters the first d are weights, the others offsets of groups."""

    design: Float[np.ndarray, "N d"]
    targets: Float[np.ndarray, " N"]
    groups: Int[np.ndarray, " N"]
    precision: Float[np.ndarray, " m"]
    """Of the normal distribution around 0 that each parameter has before any image is seen; 0 for weights."""

    def fit(self) -> tuple[Float[np.ndarray, " m"], float]:
        """The most probable parameters, and the log likelihood with offsets integrated out (Laplace)."""
        prior, num_weights = float(self.targets.mean()), self.design.shape[1]
        start = np.zeros(len(self.precision))
        start[0] = math.log(prior / (1 - prior))
        found = minimize(
            self._loss,
            start,
            jac=self._slope,
            hessp=self._curvature,
            method="trust-ncg",
            options={"gtol": _TOLERANCE},
        )
        narrower = self._gathered(self._variance(found.x))[num_weights:] / self.precision[num_weights:]
        return np.asarray(found.x), float(-found.fun * len(self.targets) - np.log1p(narrower).sum() / 2)

    def _logits(self, parameters: np.ndarray) -> np.ndarray:
        weights, offsets = np.split(parameters, [self.design.shape[1]])
        plain = self.design @ weights
        return plain + offsets[self.groups] if len(offsets) else plain

    def _gathered(self, values: np.ndarray) -> np.ndarray:
        """The transpose of `_logits`: a value per image becomes one per parameter."""
        num_offsets = len(self.precision) - self.design.shape[1]
        by_group = np.bincount(self.groups, values, num_offsets) if num_offsets else np.empty(0)
        return np.concatenate([self.design.T @ values, by_group])

    def _variance(self, parameters: np.ndarray) -> np.ndarray:
        prob = expit(self._logits(parameters))
        return np.asarray(prob * (1 - prob))

    def _loss(self, parameters: np.ndarray) -> float:
        logits = self._logits(parameters)
        misfit = (np.logaddexp(0.0, logits) - self.targets * logits).sum()
        return float((misfit + (self.precision * parameters**2).sum() / 2) / len(self.targets))

    def _slope(self, parameters: np.ndarray) -> np.ndarray:
        excess = expit(self._logits(parameters)) - self.targets
        return (self._gathered(excess) + self.precision * parameters) / len(self.targets)

    def _curvature(self, parameters: np.ndarray, direction: np.ndarray) -> np.ndarray:
        values = self._variance(parameters) * self._logits(direction)
        return (self._gathered(values) + self.precision * direction) / len(self.targets)
