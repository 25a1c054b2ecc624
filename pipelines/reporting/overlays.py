"""Draw stored heat maps over an image as small overlays for the HTML report."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from ecor.data.heatmap import Frame, Heatmap, frame_of, visible_mask
from ecor.data.heatmap_codec import Evidence
from ecor.explain.overlay import overlay
from pipelines.reporting.embedded_image import encode_webp
from pipelines.reporting.html_page import Overlay

_OVERLAY_PX = 128
"""Longer side of an overlay (our choice)."""
QUALITY = 75
"""WebP quality (our choice: about 2 kB per overlay)."""


def draw_overlays(picture: Image.Image, evidence: Evidence, *, size_px: int = _OVERLAY_PX) -> tuple[Overlay, ...]:
    """Draw one overlay per heat map, in their order, on copies of the image with a longer side of at most `size_px`."""
    image = picture.copy()
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    frame = frame_of((image.height, image.width), preprocess=evidence.preprocess)
    shown = visible_mask(frame).numpy()
    overlays = []
    for words, map_HW in iterate_maps(evidence, frame=frame):
        drawn = Image.fromarray(overlay(np.asarray(image), map_HW, seen=shown))
        overlays.append(Overlay(words=words or evidence.category, picture=encode_webp(drawn, quality=QUALITY)))
    return tuple(overlays)


def iterate_maps(evidence: Evidence, *, frame: Frame) -> Iterator[tuple[str | None, Float[np.ndarray, "H W"]]]:
    """Yield each stored map as numbers from 0 to 1 over the whole image, with its rationale; None: the category's."""
    for each in evidence.maps:
        heatmap = Heatmap(
            scores=torch.from_numpy(each.normalised)[None, None],
            method=evidence.method,
            texts=(each.rationale or evidence.category,),
            input_size=evidence.preprocess.image_size,
        )
        yield each.rationale, heatmap.on_source(0, frame=frame)[0].clamp(0, 1).numpy()
