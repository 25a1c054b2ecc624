"""Seeds in, small random image and text features out: what tests of probability are made from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ecor.clip.feature_types import ImageFeatures


@dataclass
class TableRows:
    """All sentences in one table [R C D]."""

    table: Tensor
    rationales: Tensor
    categories: Tensor

    def row(self, rationale: int) -> Tensor:
        return self.table[rationale]

    def column(self, category: int) -> Tensor:
        return self.table[:, category]


def world(
    *, num_images=5, num_categories=4, num_rationales=7, dim=6, seed=0, dtype=torch.float32
) -> tuple[ImageFeatures, TableRows]:
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, dim, generator=generator).to(dtype), dim=-1)

    features = ImageFeatures(rationale=unit(num_images), category=unit(num_images))
    return features, TableRows(unit(num_rationales, num_categories), unit(num_rationales), unit(num_categories))
