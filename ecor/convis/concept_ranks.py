"""Ranks of concepts among a lexicon on one image, and the maps that they give."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecor.config.checks import require
from ecor.convis.concept_features import ConceptFeatures
from ecor.data.heatmap import Heatmap

ROUNDING = 1e-6
"""Of a cosine in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Patches of one size, one at each top with each left; they may reach over the picture's edge."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    """In pixels of the picture, negative outside."""
    size: tuple[int, int]
    """Height and width."""

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def spread(self, values: Float[Tensor, "*leading N"], *, over: tuple[int, int]) -> Float[Tensor, "*leading H W"]:
        """Sum, at each pixel of a picture, the values of the patches that contain it.

        Args:
            values: one per patch, row by row.
            over: H and W of the picture.
        """
        rows, columns = (
            _contains(starts, length=length, side=side).to(values)
            for starts, length, side in zip((self.tops, self.lefts), over, self.size, strict=True)
        )
        return torch.einsum("...yx,yh,xw->...hw", values.unflatten(-1, (len(rows), len(columns))), rows, columns)


class ConceptRanks:
    """Ranks of all concepts of a lexicon for the patches of B images; made by `ConVis.fit`."""

    def __init__(
        self,
        *,
        concepts: ConceptFeatures,
        features: Float[Tensor, "B N D"],
        grids: tuple[Windows, ...],
        input_size: tuple[int, int],
        weigh_patches: bool,
    ) -> None:
        self.concepts = concepts
        self.features = features
        """Of patches, normalised, one grid after the other."""
        self.grids = grids
        self.input_size = input_size
        self.weigh_patches = weigh_patches

    @cached_property
    def ranks(self) -> Int[Tensor, "B N S"]:
        """Number of concepts with a higher similarity to the patch than each concept: 0 is best, ties share a rank."""
        every = self.features @ self.concepts.features.to(self.features).T
        return ranks_among(every, every)

    def map(self, concept: str) -> Float[Tensor, "B H W"]:
        """Map of one concept and its descendants; values as in `maps`."""
        return self.maps([concept])[:, 0]

    def maps(self, concepts: Sequence[str]) -> Float[Tensor, "B T H W"]:
        """Make one map per concept: the mean share of the lexicon that its best kind beats or equals, between 0 and 1.

        Raises:
            ValueError: when no concept is given, or the lexicon lacks one.
        """
        require(len(concepts) > 0, "no concept to explain")
        best = [self.ranks[..., self.concepts.kinds(name)].amin(dim=-1) for name in concepts]
        return self._spread(torch.stack(best, dim=1))

    def text_maps(self, texts: Float[Tensor, "T D"] | Float[Tensor, "B T D"]) -> Float[Tensor, "B T H W"]:
        """Make maps of normalised text features, each ranked among the concepts as one without kinds."""
        every = self.features @ self.concepts.features.to(self.features).T
        own = self.features @ texts.to(self.features).mT
        return self._spread(ranks_among(own, every).mT)

    def heatmap(self, concepts: Sequence[str]) -> Heatmap:
        """Make a `Heatmap` of `maps`, with the concepts as names of its texts.

        Raises:
            ValueError: as `maps`.
        """
        return Heatmap(scores=self.maps(concepts), method="convis", texts=tuple(concepts), input_size=self.input_size)

    def _spread(self, ranks: Int[Tensor, "B T N"]) -> Float[Tensor, "B T H W"]:
        values = 1 - ranks.float() / len(self.concepts.features)
        parts = values.split([len(grid) for grid in self.grids], dim=-1)
        sums = [grid.spread(part, over=self.input_size) for grid, part in zip(self.grids, parts, strict=True)]
        counts = [
            grid.spread(torch.ones_like(part[0, 0]), over=self.input_size)
            for grid, part in zip(self.grids, parts, strict=True)
        ]
        if self.weigh_patches:
            return torch.stack(sums).sum(dim=0) / torch.stack(counts).sum(dim=0)
        return torch.stack([each / count for each, count in zip(sums, counts, strict=True)]).mean(dim=0)


def ranks_among(
    similarity: Float[Tensor, "*leading T"], every: Float[Tensor, "*leading S"]
) -> Int[Tensor, "*leading T"]:
    """Count the values in `every` above each similarity; values within rounding count as equal (ours).

    Args:
        similarity: T values.
        every: S values to rank among.
    """
    ascending = every.sort(dim=-1).values
    return every.shape[-1] - torch.searchsorted(ascending, similarity.contiguous() + ROUNDING, right=True)


def _contains(starts: Sequence[int], *, length: int, side: int) -> Float[Tensor, "N L"]:
    places, first = torch.arange(length), torch.tensor(starts)[:, None]
    return ((places >= first) & (places < first + side)).float()
