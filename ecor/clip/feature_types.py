"""Types of image features and text features that the probabilities are computed from."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """One image feature per prompt, L2-normalised; the same tensor twice when visual tokens are shared."""

    rationale: Float[Tensor, "B D"]
    """Feature for Prompt_R."""
    category: Float[Tensor, "B D"]
    """Feature for Prompt_{c|R}."""

    def __len__(self) -> int:
        return self.rationale.shape[0]

    @property
    def is_finite(self) -> Bool[Tensor, " B"]:
        """Which images have features without NaN; weights or a precision that overflow give others."""
        return (self.rationale.isfinite() & self.category.isfinite()).all(dim=-1)

    def select(self, images: Int[Tensor, " N"]) -> "ImageFeatures":
        """The features of some images, in the order given."""
        return ImageFeatures(rationale=self.rationale[images], category=self.category[images])


@runtime_checkable
class TextFeatureTable(Protocol):
    """Text features as the mathematics needs them: L2-normalised, of any float type, on any device."""

    @property
    def rationales(self) -> Float[Tensor, "R D"]:
        """Prompt_R of every rationale."""

    @property
    def categories(self) -> Float[Tensor, "C D"]:
        """Every category alone, without a rationale."""

    def row(self, rationale: int) -> Float[Tensor, "C D"]:
        """Prompt_{c|R} of one rationale with every category."""

    def column(self, category: int) -> Float[Tensor, "R D"]:
        """Prompt_{c|R} of one category with every rationale."""


@runtime_checkable
class TableInMemory(Protocol):
    """A `TextFeatureTable` that may have all sentences in memory."""

    @property
    def table(self) -> Float[Tensor, "R C D"] | None:
        """Prompt_{c|R} of every pair, or None where rows are read or encoded one by one."""


def unit_features(features: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """L2-normalised, in fp32 (fp64 stays)."""
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
