"""Laws of heat maps: normalising, and finding the way back to the source picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ecor.config.model import Preprocess
from ecor.data.heatmap import Heatmap, frame_of, minmax, resize_maps
from ecor.data.images.preprocessing import image_to_pixels

SQUARE = Preprocess(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear")
SIZES = [(32, 32), (60, 90), (90, 60), (20, 30), (33, 47), (200, 40)]


def heatmap(scores: torch.Tensor, *, input_size: tuple[int, int] = (32, 32)) -> Heatmap:
    texts = tuple(str(t) for t in range(scores.shape[1]))
    return Heatmap(scores=scores, method="test", texts=texts, input_size=input_size)


def test_normalised_maps_run_from_zero_to_one_and_constant_ones_are_zero() -> None:
    scores = torch.stack([torch.arange(-3.0, 3.0).view(2, 3), torch.full((2, 3), 7.0), torch.full((2, 3), -0.0)])[None]
    normed = heatmap(scores).normalised
    assert_close(normed[0, 0].flatten(), torch.linspace(0, 1, 6))
    assert not normed[0, 1:].any()
    assert_close(minmax(scores * 5 - 2), normed)


def test_maps_on_the_input_are_resized_as_areas() -> None:
    scores = torch.tensor([[[[0.0, 2.0]]]])
    on_input = heatmap(scores, input_size=(2, 4)).on_input()
    assert_close(on_input, torch.tensor([[[[0, 0.25, 0.75, 1]] * 2]]).view(1, 1, 2, 4))
    assert_close(heatmap(scores, input_size=(2, 4)).on_input(raw=True), on_input * 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("image_size", [(32, 32), (24, 48)])
def test_a_frame_leads_from_source_pixels_to_the_towers(
    size: tuple[int, int], mode: str, image_size: tuple[int, int]
) -> None:
    """The picture's own coordinates, painted into its pixels, are found where the frame says."""
    preprocess = replace(SQUARE, resize_mode=mode, image_size=image_size, fill_color=0)
    frame = frame_of(size, preprocess=preprocess)
    down, across = np.meshgrid(np.linspace(20, 220, size[0]), np.linspace(20, 220, size[1]), indexing="ij")
    picture = np.stack([down, across, np.full_like(down, 255)], axis=-1).round().astype(np.uint8)
    pixels = image_to_pixels(Image.fromarray(picture), preprocess=preprocess).astype(float)
    for row in range(2, image_size[0] - 2, 5):
        for column in range(2, image_size[1] - 2, 5):
            at = [
                (place + 0.5 - offset) / scale - 0.5
                for place, offset, scale in zip((row, column), frame.offset, frame.scale, strict=True)
            ]
            inside = all(1 < a < length - 2 for a, length in zip(at, size, strict=True))
            if inside:
                wanted = [20 + 200 * a / (length - 1) for a, length in zip(at, size, strict=True)]
                slack = 3 + 200 / min(size)
                assert abs(pixels[0, row, column] - wanted[0]) < slack, (row, column)
                assert abs(pixels[1, row, column] - wanted[1]) < slack, (row, column)
            elif any(a < -2 or a > length + 1 for a, length in zip(at, size, strict=True)):
                assert pixels[2, row, column] == 0, "beyond the picture is padding"


def test_maps_on_the_source_are_the_maps_on_the_input_where_nothing_was_resized() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = heatmap(scores)
    assert_close(maps.on_source(1, frame=frame_of((32, 32), preprocess=SQUARE)), maps.on_input()[1], atol=1e-5, rtol=0)


def test_what_a_crop_cuts_off_has_no_evidence() -> None:
    scores = torch.ones(1, 1, 4, 4)
    scores[..., 0] = 0.5
    on_source = heatmap(scores).on_source(0, frame=frame_of((64, 128), preprocess=SQUARE))
    assert on_source.shape == (1, 64, 128)
    assert not on_source[..., :32].any() and not on_source[..., 96:].any()
    assert_close(on_source[..., 60:96], torch.ones(1, 64, 36))


def test_padding_has_no_place_on_the_source() -> None:
    preprocess = replace(SQUARE, resize_mode="longest")
    scores = torch.zeros(1, 1, 4, 4)
    scores[..., 1:3, :] = 1  # the rows that hold the picture; above and below is padding
    on_source = heatmap(scores).on_source(0, frame=frame_of((64, 128), preprocess=preprocess))
    assert on_source[0, 16:48].min() == 1


def test_a_frame_of_another_input_is_refused() -> None:
    frame = frame_of((64, 64), preprocess=replace(SQUARE, image_size=(16, 16)))
    with pytest.raises(ValueError, match=r"input of \(16, 16\) pixels, the map of \(32, 32\)"):
        heatmap(torch.zeros(1, 1, 4, 4)).on_source(0, frame=frame)
    with pytest.raises(ValueError, match="2 maps but 1 texts"):
        Heatmap(scores=torch.zeros(1, 2, 3, 3), method="x", texts=("a",), input_size=(9, 9))


def test_resizing_is_torchs_and_keeps_non_square_grids() -> None:
    assert resize_maps(torch.zeros(1, 2, 3, 5), (12, 40)).shape == (1, 2, 12, 40)
