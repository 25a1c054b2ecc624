"""Draw stored heat maps over the whole image, as small grey pictures for other tools."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ecor.data.heatmap import frame_of
from ecor.data.heatmap_codec import Evidence
from pipelines.reporting.overlays import iterate_maps

MAP_PX = 64
"""Longer side of an exported heat map (ours: maps have at most 32 cells a side)."""


def draw_maps(evidence: Evidence, *, size: tuple[int, int]) -> Iterator[tuple[str | None, bytes]]:
    """Each map over the whole image as a grey PNG, from 0 (least evidence, or not seen) to 255, with its rationale.

    Args:
        evidence: of the image.
        size: height and width of the image, in pixels.
    """
    scale = MAP_PX / max(size)
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    frame = frame_of(small, preprocess=evidence.preprocess)
    for rationale, map_HW in iterate_maps(evidence, frame=frame):
        sink = io.BytesIO()
        Image.fromarray(np.round(255 * map_HW).astype(np.uint8)).save(sink, "png")
        yield rationale, sink.getvalue()
