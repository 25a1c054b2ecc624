"""Settings of decoding, and the temperatures of its factors."""

from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Literal

from ecor.config.checks import require, require_at_least

MethodName = Literal["joint", "inverted", "independent", "pairs", "pooled"]
Factor = Literal["rationale", "category_given_rationale", "category", "rationale_given_category", "pair"]
FACTORS: dict[MethodName, tuple[Factor, ...]] = {
    "joint": ("rationale", "category_given_rationale"),
    "inverted": ("category", "rationale_given_category"),
    "independent": ("rationale", "category"),
    "pairs": ("pair",),
    "pooled": ("rationale", "category_given_rationale", "category"),
}
"""The softmaxes that each decoding multiplies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """How P(c, R | I) is decoded."""

    method: MethodName | None = None
    """None: the one that the model was tuned for; by default that is `pooled`, ECOR's joint times P(c | I)^λ (ours, not
    the paper's: see `docs/shipped.md`). `joint`: as in the paper, the rationale, then the category given it; it is also
    that of models without tuning, and of those of earlier versions. Or a rival: `inverted`, `independent`, `pairs`
    (DROR)."""
    pooling_weight: float | None = None
    """λ of `pooled`; 0 is `joint`. None: that of the model's temperatures, or 1 where they have none."""
    top_k: int = 5
    """Ranked (category, rationale) pairs kept per image."""
    keep_rationales: int = 8
    """K, the rationales kept per image to begin with; K grows until the top pairs are exact."""
    max_keep_rationales: int = 64
    """Upper limit of K; rows that are not proven exact by then have pairs_exact = False."""
    ood_score: bool = False
    """Give each row an `ood_score`: how unlike all categories of the vocabulary its image is."""
    visible_probability: bool = False
    """Give each row a `rationale_visible_probability`: how probable it is that the image shows the named rationale.
    Null where the model has no such map for the method and vocabulary. Ours, not the paper's."""
    calibrated_confidence: bool | None = None
    """State as `confidence` how probable it is that the best pair is right, by a map that was fitted on validation
    images, and P(c | I) by a map that was fitted with it (ours, not the paper's). Where the model has none for the
    method and vocabulary, the decoded probabilities stay. None: by the map where there is one; True: and say of
    the other rows that they are not calibrated; False: always the decoded probabilities."""

    def __post_init__(self) -> None:
        if self.pooling_weight is not None:
            require_at_least("pooling_weight", self.pooling_weight, 0)
            require(
                self.method in (None, "pooled"), f"pooling_weight is a setting of the method pooled, not {self.method}"
            )
        require_at_least("top_k", self.top_k, 1)
        require_at_least("keep_rationales", self.keep_rationales, 1)
        require(
            self.max_keep_rationales >= self.keep_rationales,
            f"max_keep_rationales ({self.max_keep_rationales}) must be at least keep_rationales "
            f"({self.keep_rationales})",
        )

    @property
    def search(self) -> tuple[int, int, int]:
        """What decides how many rationales are evaluated."""
        return self.top_k, self.keep_rationales, self.max_keep_rationales

    def for_model(self, method: MethodName) -> "ScoringConfig":
        """The same with the method that a model was tuned for, where none is named.

        Raises:
            ValueError: when a pooling weight is set, and the model was tuned for another method than `pooled`.
        """
        return self if self.method else replace(self, method=method)

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests; settings that older records lack only if they are set."""
        optional = ("ood_score", "visible_probability", "calibrated_confidence")
        values = {name: value for name, value in asdict(self).items() if name not in optional or value is not False}
        return {name: value for name, value in values.items() if name != "pooling_weight" or value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperatures:
    """One per factor; log-probabilities are log_softmax(logits / temperature). 1 is uncalibrated.

    And the weight of pooled decoding, which belongs to them.
    """

    rationale: float = 1.0
    """Of P(r | I): `joint`, `independent` and `pooled`."""
    category_given_rationale: float = 1.0
    """Of P(c | r, I): `joint` and `pooled`."""
    category: float | None = None
    """Of P(c | I): `inverted`, `independent`, `pooled`. None: not fitted, that of P(c | r, I) is used (our choice)."""
    rationale_given_category: float | None = None
    """Of P(r | c, I): `inverted`. None: not fitted, that of P(r | I) is used."""
    pair: float | None = None
    """Of P(c, r | I): `pairs`. None: not fitted, that of P(c | r, I) is used."""
    pooling_weight: float | None = None
    """No temperature: λ of `pooled`. None: not set, 1 is used (our choice)."""
    pooling_temperature: float | None = None
    """Of `pooled` as a whole, with its `pooling_weight`. None: not fitted, 1 is used, as in earlier versions."""

    def __post_init__(self) -> None:
        for name, value in self.to_record().items():
            if name != "pooling_weight":
                require(value > 0, f"{name.removesuffix('_temperature')} temperature must be positive, got {value}")
        if self.pooling_weight is not None:
            require_at_least("pooling_weight", self.pooling_weight, 0)

    def of(self, factor: Factor) -> float:
        """The factor's own temperature, or the one used in its place."""
        stand_in = self.rationale if factor == "rationale_given_category" else self.category_given_rationale
        return self.to_record().get(factor, stand_in)

    def to_record(self) -> dict[str, float]:
        """Fitted values by name, for records and digests (older records have the first two only)."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in found.items() if value is not None}

    def cover(self, method: MethodName) -> bool:
        """Whether every factor of a decoding method has a fitted temperature, and `pooled` a weight."""
        fitted = self.to_record()
        return all(factor in fitted for factor in FACTORS[method]) and (
            method != "pooled" or self.pooling_weight is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibilityMap:
    """Logistic map from evidence to the probability that an image shows the rationale of its label.

    Not in the paper: see `ecor.probability.maps.visibility`.
    """

    intercept: float
    rationale_log_odds: float
    """Weight of the log-odds of P(r | I) of the named rationale."""
    category_log_odds: float
    """Weight of the log-odds of P(c | I) of the named category."""
    num_images: int
    """Validation images that it was fitted on."""
    category_offsets: tuple[float, ...] = ()
    """Added for the named category, by category id; empty: none, as in older records."""

    def __post_init__(self) -> None:
        _require_finite(self, "intercept", "rationale_log_odds", "category_log_odds")
        _require_finite_offsets(self, "category_offsets")
        require_at_least("num_images", self.num_images, 1)

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests, without those that were not fitted."""
        return _fitted(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceMap:
    """Logistic maps from log-odds to the probability that the most probable pair is right, and that the category is.

    Not in the paper: see `ecor.probability.maps.confidence`.
    """

    intercept: float
    pair_log_odds: float
    """Weight of the log-odds of P(c, r | I), as decoding states them."""
    num_images: int
    """Validation images that it was fitted on."""
    category_intercept: float | None = None
    """Of the most probable category; None: not fitted, as in older records."""
    category_log_odds: float | None = None
    """Weight of the log-odds of P(c | I), as decoding states them; None: not fitted."""
    pair_offsets: tuple[float, ...] = ()
    """Added for the category of the most probable pair, by category id; empty: none, as in older records."""
    category_offsets: tuple[float, ...] = ()
    """Added for the most probable category, by category id; empty: none, as in older records."""
    others_temperature: float | None = None
    """By which the other categories share what the most probable one leaves; None: not fitted, 1 is used."""

    def __post_init__(self) -> None:
        _require_finite(self, "intercept", "pair_log_odds", "category_intercept", "category_log_odds")
        _require_finite_offsets(self, "pair_offsets", "category_offsets")
        require_at_least("num_images", self.num_images, 1)
        warmth = self.others_temperature
        require(warmth is None or warmth > 0, f"others_temperature must be positive, got {warmth}")

    def to_record(self) -> dict[str, Any]:
        """Values by name for records and digests, without those that were not fitted."""
        return _fitted(self)


def _require_finite(map_: VisibilityMap | ConfidenceMap, *names: str) -> None:
    for name in names:
        value = getattr(map_, name)
        require(value is None or isfinite(value), f"{name} must be a finite number, got {value}")


def _require_finite_offsets(map_: VisibilityMap | ConfidenceMap, *names: str) -> None:
    for name in names:
        for value in getattr(map_, name):
            require(isfinite(value), f"{name} must be finite numbers, got {value}")


def _fitted(map_: VisibilityMap | ConfidenceMap) -> dict[str, Any]:
    return {name: value for name, value in asdict(map_).items() if value is not None and value != ()}
