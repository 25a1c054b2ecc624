"""Heat maps as raw scores per patch, and their resizing to the model's input or to the source image."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from ecor.config.checks import require
from ecor.config.model import Preprocess
from ecor.data.images.preprocessing import resized_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Geometry of a tower's input in its source image: input = source * scale + offset, in pixels from the top left."""

    source_size: tuple[int, int]
    """Height and width of the picture."""
    input_size: tuple[int, int]
    """Height and width of the tower's input."""
    scale: tuple[float, float]
    """Down and across: input pixels per source pixel."""
    offset: tuple[float, float]
    """Down and across: where the picture's corner lies in the input; negative where a crop cuts it off."""


def frame_of(source_size: tuple[int, int], *, preprocess: Preprocess) -> Frame:
    """Compute the frame that `image_to_pixels` gives a picture, in any resize mode.

    Args:
        source_size: height and width of the picture, in pixels.
        preprocess: of the tower.
    """
    resized = resized_size(source_size, preprocess=preprocess)
    offsets = []
    for length, target in zip(resized, preprocess.image_size, strict=True):
        padding = max(0, (target - length) // 2)
        cut = round((max(length, target) - target) / 2)
        offsets.append(float(padding - cut))
    (height, width), (source_height, source_width) = resized, source_size
    return Frame(
        source_size=source_size,
        input_size=preprocess.image_size,
        scale=(height / source_height, width / source_width),
        offset=(offsets[0], offsets[1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Attribution maps of B images and T texts; high values are evidence for the text, in the method's own scale."""

    scores: Float[Tensor, "B T h w"]
    """fp32, raw and signed: compare within a map, not between methods."""
    method: str
    """Name of the method."""
    texts: tuple[str, ...]
    """T names, for people."""
    input_size: tuple[int, int]
    """Height and width of the tower's input, which the maps cover."""

    def __post_init__(self) -> None:
        require(len(self.texts) == self.scores.shape[1], f"{self.scores.shape[1]} maps but {len(self.texts)} texts")

    def part(self, texts: slice) -> "Heatmap":
        """The maps of some texts."""
        return replace(self, scores=self.scores[:, texts], texts=self.texts[texts])

    @property
    def normalised(self) -> Float[Tensor, "B T h w"]:
        """Each map from 0 (least) to 1 (most); a constant map is all zeros."""
        return minmax(self.scores)

    def on_input(self, *, raw: bool = False) -> Float[Tensor, "B T H W"]:
        """Resize the maps to the tower's input.

        Args:
            raw: resize the scores as they are; otherwise each map is normalised before (as the ITSM reference does).
        """
        return resize_maps(self.scores if raw else self.normalised, self.input_size)

    def on_source(self, index: int, *, frame: Frame) -> Float[Tensor, "T H W"]:
        """Place the normalised maps of an image on its source picture; 0 where the tower did not see it.

        Args:
            index: position of the image among the B images.
            frame: of that image, as `frame_of` gives it.

        Raises:
            ValueError: when the frame is of another input size.
        """
        require(
            frame.input_size == self.input_size,
            f"the frame is of an input of {frame.input_size} pixels, the map of {self.input_size}: make it anew",
        )
        places, inside = _input_coordinates(frame, device=self.scores.device)
        maps = grid_sample(
            self.normalised[index][None], places[None], mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        return maps * inside


def visible_mask(frame: Frame) -> Bool[Tensor, "H W"]:
    """Mask of the source pixels that lie inside the tower's input."""
    return _input_coordinates(frame, device=torch.device("cpu"))[1]


def minmax(maps: Float[Tensor, "*leading h w"]) -> Float[Tensor, "*leading h w"]:
    """(m - min) / (max - min) of each map; constant maps become zeros."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def resize_maps(maps: Float[Tensor, "B T h w"], size: tuple[int, int]) -> Float[Tensor, "B T H W"]:
    """Resize maps bilinearly, with pixels as areas (align_corners=False).

    Args:
        maps: of any values.
        size: H and W of the result.
    """
    return interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _input_coordinates(frame: Frame, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """[H W 2] centres of source pixels as grid_sample takes them (-1 to 1, across first), and [H W] whether inside."""
    axes = []
    for source, length, scale, offset in zip(
        frame.source_size, frame.input_size, frame.scale, frame.offset, strict=True
    ):
        axes.append(((torch.arange(source, device=device) + 0.5) * scale + offset) / length * 2 - 1)
    down, across = torch.meshgrid(axes[0], axes[1], indexing="ij")
    return torch.stack([across, down], dim=-1), (down.abs() <= 1) & (across.abs() <= 1)
