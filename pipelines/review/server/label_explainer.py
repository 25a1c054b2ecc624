"""Explain a label's own category and rationale with a loaded model, whatever vocabulary the model was made with."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from ecor.data.heatmap_codec import Evidence, quantize
from ecor.data.images.preprocessing import image_to_pixels
from ecor.explain.attribution import explain
from ecor.explain.targets import CategoryGivenRationale, Rationale, Target
from ecor.model import NOT_FINITE, Recognizer
from pipelines.reporting.embedded_image import MissingPictureError

_MOST_PAIRS = 64
"""Pairs of names whose text features are kept: neighbours in a group have the same."""


class LabelExplainer:
    """A model with an attribution method. Not safe for several threads at once."""

    def __init__(self, model: Recognizer, *, method: str) -> None:
        """`method` is a key of `ecor.explain.METHODS` that needs nothing prepared and no distractors."""
        self.model_digest = model.digest
        self._method = method
        self._with_names = lru_cache(maxsize=_MOST_PAIRS)(
            lambda category, rationale: model.with_vocabulary({category: [rationale]})
        )

    def __call__(self, picture: Image.Image, *, category: str, rationale: str) -> Evidence:
        """Make two maps: of the category given the rationale, and of the rationale.

        Not in the paper: the model reads no other names than these two, so that a label of any vocabulary costs three
        sentences. The maps do not depend on other names.

        Args:
            picture: decoded.
            category: of the label.
            rationale: of the label.

        Raises:
            MissingPictureError: when the model cannot encode the picture.
            ValueError: for a name that the model cannot read.
        """
        model = self._with_names(category, rationale)
        preprocess, names = model.backbone.preprocess, model.vocabulary
        pixels_13HW = torch.from_numpy(image_to_pixels(picture, preprocess=preprocess))[None]
        targets: list[Target] = [
            CategoryGivenRationale(category=names.categories[0], rationale=names.rationales[0]),
            Rationale(name=names.rationales[0]),
        ]
        scores_2hw = explain(model, pixels_13HW, targets, by=self._method).scores[0].cpu().numpy()
        if not np.isfinite(scores_2hw).all():
            raise MissingPictureError(f"the picture {NOT_FINITE}")
        return Evidence(
            method=self._method,
            category=category,
            input_height=preprocess.image_size[0],
            input_width=preprocess.image_size[1],
            resize_mode=preprocess.resize_mode,
            maps=(quantize(scores_2hw[0], rationale=None), quantize(scores_2hw[1], rationale=rationale)),
        )
