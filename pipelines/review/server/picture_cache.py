"""Thumbnails and overlays of labels, made when asked for, and kept in a cache of bounded size."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from PIL import Image

from ecor.data.heatmap_codec import Evidence
from ecor.data.images.decoding import decode_image
from pipelines.reporting.embedded_image import EmbeddedImage, MissingPictureError, explain_missing, make_thumbnail
from pipelines.review.label_index import LabelIndex
from pipelines.review.server.label_details import LabelDetails
from pipelines.review.server.model_maps import ModelMaps
from pipelines.storage.image_source import ImageSource

CACHE_BYTES = 64 * 2**20
"""Encoded thumbnails and overlays that are kept, the last used ones."""
LARGE_PX = 768
"""Longer side of the focused picture."""
_OVERLAY_PX = 512
"""Longer side of the focused picture with a map over it."""
NUM_DECODERS = max(2, os.cpu_count() or 1)
"""Pictures that are decoded at once: each may take 0.3 GB for a moment (`ecor.data.image_decoding.MAX_PIXELS`)."""


class PictureCache:
    """The pictures of one folder of labels; safe for several threads."""

    def __init__(
        self,
        *,
        index: LabelIndex,
        source: ImageSource,
        details: LabelDetails,
        thumbnail_px: int,
        note_digest: Callable[[int, str], None],
        model_maps: ModelMaps | None = None,
    ) -> None:
        """
        Args:
            index: of the labels.
            source: reads their pictures.
            details: reads their maps.
            thumbnail_px: longer side of a thumbnail.
            note_digest: is told label and sha256 of every picture that was read.
            model_maps: makes maps where the labels hold none; None: nothing does.
        """
        self._index = index
        self._source = source
        self._details = details
        self._thumbnail_px = thumbnail_px
        self._note_digest = note_digest
        self._model_maps = model_maps
        self._decoders = threading.Semaphore(NUM_DECODERS)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], EmbeddedImage] = OrderedDict()
        self._num_bytes = 0

    def thumbnail(self, number: int) -> EmbeddedImage:
        """The picture of a label for the grid; MissingPictureError where it cannot be shown."""
        return self._get(number, "small", lambda picture: make_thumbnail(picture, size_px=self._thumbnail_px))

    def large(self, number: int) -> EmbeddedImage:
        """The picture of the focused label; MissingPictureError where it cannot be shown."""
        return self._get(number, "large", lambda picture: make_thumbnail(picture, size_px=LARGE_PX))

    def overlay(self, number: int, place: int) -> EmbeddedImage:
        """The picture with one of its maps over it; MissingPictureError where there is none."""
        return self._get(number, f"map {place}", lambda picture: self._draw(picture, number=number, place=place))

    def explain(self, number: int) -> Evidence:
        """The maps that the given model makes of a label; MissingPictureError where it makes none."""
        if self._model_maps is None:
            raise MissingPictureError("no model was given: start the review with --model")
        index = self._index
        return self._model_maps.explain(
            number, self._decode_in_turn, category=index.category(number), rationale=index.rationale(number)
        )

    def model_overlay(self, number: int, place: int) -> EmbeddedImage:
        """The picture with one of the model's maps over it; MissingPictureError where there is none."""
        kind = f"model's map {place}"
        found = self._find(number, kind)
        if found is not None:
            return found
        evidence = self.explain(number)  # before a decoder is taken: it may wait for the model
        return self._get(number, kind, lambda picture: _draw_overlay(picture, evidence, place=place))

    def _draw(self, picture: Image.Image, *, number: int, place: int) -> EmbeddedImage:
        evidence = self._details.evidence(number)
        if evidence is None:
            raise MissingPictureError("the labels hold no map of this image")
        return _draw_overlay(picture, evidence, place=place)

    def _find(self, number: int, kind: str) -> EmbeddedImage | None:
        with self._lock:
            found = self._kept.get((number, kind))
            if found is not None:
                self._kept.move_to_end((number, kind))
            return found

    def _get(self, number: int, kind: str, make: Callable[[Image.Image], EmbeddedImage]) -> EmbeddedImage:
        found = self._find(number, kind)
        if found is not None:
            return found
        with self._decoders:
            made = make(self._decode(number))
        with self._lock:
            if (number, kind) not in self._kept:
                self._kept[(number, kind)] = made
                self._num_bytes += len(made.data)
            while self._num_bytes > CACHE_BYTES:
                self._num_bytes -= len(self._kept.popitem(last=False)[1].data)
        return made

    def _decode_in_turn(self, number: int) -> Image.Image:
        with self._decoders:
            return self._decode(number)

    def _decode(self, number: int) -> Image.Image:
        place = self._index.place(number)
        with explain_missing(place):
            found = self._source.read(place)
            self._note_digest(number, found.sha256)
            return decode_image(found.data)


def _draw_overlay(picture: Image.Image, evidence: Evidence, *, place: int) -> EmbeddedImage:
    from pipelines.reporting.overlays import draw_overlays  # imports torch: only where there are maps

    if not 0 <= place < len(evidence.maps):
        raise MissingPictureError(f"there is no map {place} of this image, only {len(evidence.maps)}")
    return draw_overlays(picture, replace(evidence, maps=(evidence.maps[place],)), size_px=_OVERLAY_PX)[0].picture
