"""Heat maps of an image classifier's classes: exact Grad-CAM, RISE and occlusion."""

from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ecor.config.checks import require
from ecor.data.heatmap import Heatmap
from ecor.explain.methods.gradients import GradCam
from ecor.explain.methods.perturbation import FeatureScore, Occlusion, Rise
from ecor.explain.methods.registry import build_method
from ecor.lico.classifier import Classifier


@torch.no_grad()
def class_heatmap(
    classifier: Classifier,
    images: UInt8[Tensor, "B 3 H W"],
    classes: Int[Tensor, "B K"],
    *,
    by: str = "grad_cam",
    **settings: Any,
) -> Heatmap:
    """Make heat maps of a classifier for K classes of each image.

    Args:
        classifier: in evaluation mode.
        images: pixels as `ecor.data.images.preprocessing.image_to_pixels` makes them.
        classes: ids, each image's own.
        by: `grad_cam` of the last feature maps; `rise` or `occlusion` of the class's probability.
        settings: of `rise` and `occlusion`, as the methods of these names have them.

    Raises:
        ValueError: when the method is another one (others compare patches with a text, and a classifier has none), or
            does not have a setting.
    """
    require(by in CLASS_METHODS, f"{by} asks for a text, a classifier has none: choose from {', '.join(CLASS_METHODS)}")
    rule = build_method(by, **settings)
    require(by != "grad_cam" or rule == GradCam(), "grad_cam of a classifier is exact and has no settings")
    pixels = classifier.normalise(images)
    maps = []
    for image, own in zip(pixels, classes, strict=True):
        if isinstance(rule, Rise | Occlusion):
            maps.append(rule.map_of(_probability(classifier, own), image))
        else:
            maps.append(classifier.grad_cam(image.expand(len(own), -1, -1, -1), own))
    return Heatmap(
        scores=torch.stack(maps),
        method=by,
        texts=tuple(f"class {rank + 1}" for rank in range(classes.shape[1])),
        input_size=(images.shape[-2], images.shape[-1]),
    )


def _probability(classifier: Classifier, classes: Int[Tensor, " K"]) -> FeatureScore:
    return lambda altered: classifier(altered).softmax(dim=-1)[:, classes]


CLASS_METHODS = ("grad_cam", "rise", "occlusion")
"""Methods that a classifier's maps can be made by."""
