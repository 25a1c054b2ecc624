"""Decode JPEG files smaller than they are, where a tower takes far fewer pixels: libjpeg's scaling of the DCT."""

from PIL import Image, JpegImagePlugin

JPEG_MARGIN = 2
"""The smaller side of a reduced JPEG is at least this many times the larger one of the tower's input: a choice of ours.
Bicubic resizing then still averages over neighbours."""


def reduce_jpeg(image: Image.Image, *, smallest_side: int) -> None:
    """Let an opened JPEG be decoded at a half, a quarter or an eighth of its size, where both sides stay large enough.

    Args:
        image: not yet loaded; of another format it stays as it is.
        smallest_side: of what is decoded, in pixels.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (smallest_side, smallest_side))  # type: ignore[arg-type] # None keeps the mode
