"""Mosaics of four pictures, to test whether the heat map of a name is highest in its own picture.

This is FIxLIP's recognition game on drawings: a map that follows its text is highest in the picture that the text
describes. Chance is a quarter.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from ecor.explain.metrics.localization import pointing_game_multi
from pipelines.studies.attribution_benchmark.cases import Cases

NUM_TILES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaics:
    """G mosaics of four cases each; no picture shows the name of another one in its mosaic."""

    pixels: UInt8[Tensor, "G 3 H W"]
    tiles: Bool[Tensor, "4 H W"]
    """Places of the four: upper left, upper right, lower left, lower right."""
    members: Int[Tensor, "G 4"]
    """Numbers of the cases."""

    def hits(self, maps: Float[Tensor, "G 4 H W"], *, num_cases: int) -> Float[Tensor, " N"]:
        """Whether each case's own map is highest in its own tile; NaN for cases that are in no mosaic."""
        hits = pointing_game_multi(maps.cpu(), self.tiles.expand(len(maps), -1, -1, -1))
        known = torch.full((num_cases,), float("nan"))
        known[self.members.flatten()] = hits.flatten()
        return known


def make_mosaics(cases: Cases) -> Mosaics | None:
    """Put each case into the first mosaic that it fits; None if no mosaic is complete. Incomplete ones are dropped."""
    members = _groups(cases)
    if not members:
        return None
    height, width = cases.pixels.shape[2:]
    ids = torch.tensor(members)
    upper_left, upper_right, lower_left, lower_right = cases.pixels[ids].unbind(dim=1)
    upper, lower = torch.cat([upper_left, upper_right], dim=3), torch.cat([lower_left, lower_right], dim=3)
    whole = torch.cat([upper, lower], dim=2).float()
    rows, columns = torch.arange(height) < height / 2, torch.arange(width) < width / 2
    return Mosaics(
        pixels=interpolate(whole, size=(height, width), mode="area").round().to(torch.uint8),
        tiles=torch.stack([one[:, None] & other for one in (rows, ~rows) for other in (columns, ~columns)]),
        members=ids,
    )


def _groups(cases: Cases) -> list[list[int]]:
    groups: list[list[int]] = []
    for number in range(len(cases.names)):
        open_groups = (group for group in groups if len(group) < NUM_TILES)
        fitting = (group for group in open_groups if all(_are_disjoint(cases, number, other) for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return [group for group in groups if len(group) == NUM_TILES]


def _are_disjoint(cases: Cases, one: int, other: int) -> bool:
    """Whether neither picture shows the name of the other."""
    return cases.names[one] not in cases.present[other] and cases.names[other] not in cases.present[one]
