"""Concept Visualization (ConVis, arXiv:2405.14563), the grid algorithm: map a concept's rank among a lexicon.

ConVis (arXiv:2405.14563), its grid algorithm. A patch's rank of a concept is how many concepts of the lexicon resemble
the patch more; a concept ranks as its best kind does. The map is the mean rank of the patches that cover a pixel.
Ranks of all concepts are had at once (`ConVis.fit`); the map of any concept is then a gather and a minimum.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from ecor.clip.towers.image_tower import Capability, ImageTower, full_precision
from ecor.config.checks import require, require_at_least
from ecor.config.choices import Compat
from ecor.config.model import Preprocess
from ecor.convis.concept_features import ConceptFeatures
from ecor.convis.concept_ranks import ConceptRanks, Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class ConVis:
    """Concept Visualization; training-free, and the same for tuned and plain towers.

    Texts that are no concepts rank among the lexicon's as if they stood in it without any kinds (ours), so that
    categories and rationales have maps too. The authors' other algorithm, random sampling of patches, is not here; nor
    is the power (20) that their pictures raise maps to, which changes no rank of pixels.
    """

    concepts: ConceptFeatures | None = None
    """Features of the lexicon's concepts (`encode_concepts`); required."""
    explained: tuple[str, ...] = ()
    """Concept of each text; empty: the texts are ranked themselves."""
    patches: tuple[float, ...] = (4 / 7, 2 / 7)
    """Sizes of patches, in shares of the picture's sides."""
    steps: int = 14
    """Steps between patches from one side of the picture to the other."""
    seed: int = 0
    """Of the noise around the picture; the same for all pictures (ours)."""
    batch_size: int = 64
    """Patches per forward pass."""
    compat: Compat | None = None
    """As the reference implementation: each patch weighs the same, and more of the large ones contain a pixel (4 to 1),
    where otherwise each size weighs the same; and patches lack their last row and column."""
    requires: ClassVar[Capability | None] = None
    needs: ClassVar[frozenset[str]] = frozenset({"lexicon", "perturbation"})

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        require(
            bool(self.patches) and all(2 / self.steps <= share <= 1 for share in self.patches),
            f"patches must be shares from two steps ({2 / self.steps:.2f}) to 1, got {self.patches}",
        )

    def __call__(
        self, tower: ImageTower, pixels: Float[Tensor, "B 3 H W"], texts: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T H W"]:
        require(
            len(self.explained) in (0, texts.shape[1]), f"{len(self.explained)} concepts for {texts.shape[1]} texts"
        )
        maps = []
        for image, own in zip(pixels.split(1), texts.split(1), strict=True):
            fitted = self.fit(tower, image)
            maps.append(fitted.maps(self.explained) if self.explained else fitted.text_maps(own))
        return torch.cat(maps)

    @torch.no_grad()
    def fit(self, tower: ImageTower, images: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> "ConceptRanks":
        """Encode every patch with the tower: the slow step, done once for all concepts.

        Args:
            tower: whose image features are compared with the concepts'.
            images: 8-bit, or normalised as the tower takes them.

        Raises:
            ValueError: when there are no `concepts`, or they are of another tower.
        """
        require(
            self.concepts is not None,
            "convis ranks concepts: give it concepts=encode_concepts(backbone, lexicon), once for all pictures",
        )
        assert self.concepts is not None
        width = self.concepts.features.shape[1]
        require(
            width == tower.backbone.embed_dim, f"concepts have {width} features, the tower {tower.backbone.embed_dim}"
        )
        pixels = tower.pixels(images)
        size = (pixels.shape[-2], pixels.shape[-1])
        grids = tuple(windows_of(size, share=share, steps=self.steps) for share in self.patches)
        trimmed = 1 if self.compat else 0
        with full_precision(tower.backbone):
            features = [
                torch.cat([tower.features(batch) for batch in self._batches(tower, image, grids, trimmed=trimmed)])
                for image in pixels
            ]
        return ConceptRanks(
            concepts=self.concepts,
            features=torch.stack(features),
            grids=grids,
            input_size=size,
            weigh_patches=self.compat is not None,
        )

    def _batches(
        self, tower: ImageTower, image: Float[Tensor, "3 H W"], grids: Sequence[Windows], *, trimmed: int
    ) -> Iterator[Float[Tensor, "N 3 H W"]]:
        """Patches of all sizes at the size of the picture, as many at a time as are put through the tower."""
        preprocess, size = tower.backbone.preprocess, (image.shape[-2], image.shape[-1])
        margin = (max(grid.size[0] for grid in grids), max(grid.size[1] for grid in grids))
        framed = _add_noise_frame(image, margin=margin, preprocess=preprocess, seed=self.seed)
        darkest, brightest = (_normalise_rgb(level, preprocess=preprocess).to(image) for level in (0.0, 1.0))
        for grid in grids:
            height, width = (max(1, side - trimmed) for side in grid.size)
            places = [(margin[0] + top, margin[1] + left) for top in grid.tops for left in grid.lefts]
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                patches = torch.stack([framed[:, y : y + height, x : x + width] for y, x in part])
                enlarged = interpolate(patches, size=size, mode="bicubic", antialias=True, align_corners=False)
                yield enlarged.clamp(min=darkest, max=brightest)


def windows_of(size: tuple[int, int], *, share: float, steps: int) -> Windows:
    """Lay all patches of a share of the picture's sides that show some of it, on a grid through its top left corner.

    At 224 pixels these are the reference's, less those that lie wholly in the noise around the picture.

    Args:
        size: H and W of the picture.
        share: side of a patch in shares of the picture's.
        steps: between patches from one side of the picture to the other.
    """
    sides = [max(1, round(share * length)) for length in size]
    starts = []
    for length, side in zip(size, sides, strict=True):
        places = (math.floor(step * length / steps + 0.5) for step in range(-steps - 1, steps + 1))
        starts.append(tuple(place for place in places if -side < place < length))
    return Windows(tops=starts[0], lefts=starts[1], size=(sides[0], sides[1]))


def _add_noise_frame(
    image: Float[Tensor, "3 H W"], *, margin: tuple[int, int], preprocess: Preprocess, seed: int
) -> Float[Tensor, "3 _ _"]:
    """The picture with uniform random RGB around it."""
    height, width = image.shape[-2] + 2 * margin[0], image.shape[-1] + 2 * margin[1]
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    framed = _normalise_rgb(noise, preprocess=preprocess).to(image)
    framed[:, margin[0] : margin[0] + image.shape[-2], margin[1] : margin[1] + image.shape[-1]] = image
    return framed


def _normalise_rgb(rgb: Tensor | float, *, preprocess: Preprocess) -> Float[Tensor, "3 _ _"]:
    """RGB between 0 and 1 as a tower takes it."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return (rgb - mean) / std
