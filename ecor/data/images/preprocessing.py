"""Resize and crop pictures to the pixels of a tower's input, as open_clip's evaluation transform does."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ecor.config.model import Preprocess
from ecor.data.images.decoding import MAX_PIXELS, ImageError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def image_to_pixels(
    image: Image.Image, *, preprocess: Preprocess, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "3 H W"]:
    """Resize and crop a picture to the pixels of a tower's input.

    (pixels / 255 - mean) / std is then open_clip's evaluation transform of the same RGB picture.

    Args:
        image: RGB.
        preprocess: of the tower.
        max_pixels: most pixels of the resized picture, before it is cropped.

    Raises:
        ImageError: with the reason `too_elongated`, when the resized picture would be larger.
    """
    height, width = preprocess.image_size
    resized_height, resized_width = resized_size((image.height, image.width), preprocess=preprocess)
    if resized_height * resized_width > max_pixels:
        raise ImageError("too_elongated", f"{image.width} x {image.height} would be {resized_width} x {resized_height}")
    if (resized_width, resized_height) != image.size:
        image = image.resize((resized_width, resized_height), _resize_filter(preprocess))
    fill = preprocess.fill_color if preprocess.resize_mode == "longest" else 0
    pixels_HW3 = np.asarray(_crop_or_pad(image, height=height, width=width, fill=fill))
    return np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1))


def resized_size(size: tuple[int, int], *, preprocess: Preprocess) -> tuple[int, int]:
    """Height and width that a picture is resized to, before it is cropped or padded.

    Args:
        size: height and width of the picture.
        preprocess: of the tower.
    """
    (height, width), mode = preprocess.image_size, preprocess.resize_mode
    if mode == "squash":
        return height, width
    if mode == "shortest" and height == width:  # torchvision's Resize cuts off where open_clip's other route rounds
        shorter, longer = sorted(size)
        resized = int(height * longer / shorter)
        return (height, resized) if size[0] <= size[1] else (resized, height)
    ratios = (size[0] / height, size[1] / width)
    ratio = max(ratios) if mode == "longest" else min(ratios)
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _resize_filter(preprocess: Preprocess) -> Image.Resampling:
    height, width = preprocess.image_size
    if preprocess.resize_mode == "shortest" and height != width:
        return Image.Resampling.BICUBIC  # open_clip 3.3 ignores the setting on this route
    return _FILTERS[preprocess.interpolation]


def _crop_or_pad(image: Image.Image, *, height: int, width: int, fill: int) -> Image.Image:
    if image.width < width or image.height < height:
        canvas = Image.new("RGB", (max(image.width, width), max(image.height, height)), (fill,) * 3)
        canvas.paste(image, (max(0, (width - image.width) // 2), max(0, (height - image.height) // 2)))
        image = canvas
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
