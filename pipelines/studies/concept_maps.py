"""Maps of one concept by each method that ConVis is compared with, on the drawings."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ecor.clip.backbone import Backbone
from ecor.clip.towers.image_tower import ImageTower
from ecor.convis.concept_features import ConceptFeatures
from ecor.convis.concept_visualization import ConVis
from ecor.data.heatmap import Frame, Heatmap, frame_of
from ecor.explain.attribution import attribute
from ecor.explain.methods.registry import build_method
from pipelines.studies.concept_pictures import DrawnPictures


def method_maps(
    backbone: Backbone,
    concepts: ConceptFeatures,
    pictures: DrawnPictures,
    *,
    explained: Mapping[str, Sequence[str]],
    steps: int,
) -> Iterator[tuple[str, str, Float[Tensor, "N H W"]]]:
    """Yield the explained target, the name of the method, and its maps on the drawings."""
    tower, names = ImageTower(backbone=backbone), list(zip(*explained.values(), strict=True))
    frame = frame_of(pictures.source_size, preprocess=backbone.preprocess)
    texts = torch.stack([concepts.of(each) for each in names])
    for method_name, chosen in (
        ("convis", ConVis(concepts=concepts, steps=steps)),
        ("convis, reference", ConVis(concepts=concepts, compat="reference", steps=steps)),
    ):
        fits = (chosen.fit(tower, image) for image in pictures.pixels.split(1))
        scores = torch.cat([fitted.maps(each) for fitted, each in zip(fits, names, strict=True)])
        yield from _maps_on_drawings(scores, method_name=method_name, explained=explained, frame=frame)
    for method_name in ("itsm", "grad_eclip"):
        scores = attribute(tower, pictures.pixels, texts, method=build_method(method_name)).scores
        yield from _maps_on_drawings(scores, method_name=method_name, explained=explained, frame=frame)
    blind = {"centre": _gaussian(pictures.source_size), "random": noise(pictures.source_size, num=len(names))}
    for method_name, maps in blind.items():
        yield "nothing", method_name, maps.expand(len(names), -1, -1)


def _maps_on_drawings(
    scores: Float[Tensor, "N T h w"], *, method_name: str, explained: Mapping[str, Sequence[str]], frame: Frame
) -> Iterator[tuple[str, str, Float[Tensor, "N H W"]]]:
    heatmap = Heatmap(scores=scores.cpu(), method=method_name, texts=tuple(explained), input_size=frame.input_size)
    maps = torch.stack([heatmap.on_source(index, frame=frame) for index in range(len(scores))])
    for place, target in enumerate(explained):
        yield target, method_name, maps[:, place]


def _gaussian(size: tuple[int, int]) -> Float[Tensor, "1 H W"]:
    """A Gaussian in the middle; its standard deviation is a quarter of the side."""
    down, across = (torch.linspace(-1, 1, length) for length in size)
    return torch.exp(-2 * (down[:, None] ** 2 + across**2))[None]


def noise(size: tuple[int, int], *, num: int) -> Float[Tensor, "N H W"]:
    return torch.rand(num, *size, generator=torch.Generator().manual_seed(0))
