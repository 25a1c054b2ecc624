"""An image classifier, pictures and classes in, heat maps out: LICO's classifier, or any of its kind."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ecor.config import require
from ecor.explain.heatmap import Heatmap
from ecor.explain.perturbation import Occlusion, Rise, occlusion_map, random_masks, rise_map, sliding_windows
from ecor.lico import Classifier

_Maps = Callable[[Classifier, Float[Tensor, "3 H W"], Int[Tensor, " K"]], Float[Tensor, "K h w"]]


@torch.no_grad()
def class_heatmap(
    classifier: Classifier, images: UInt8[Tensor, "B 3 H W"], classes: Int[Tensor, "B K"], *, by: str = "grad_cam"
) -> Heatmap:
    """Where a classifier finds the evidence for K classes of each image.

    Args:
        classifier: in evaluation mode.
        images: pixels as `ecor.sample.image_to_pixels` makes them.
        classes: ids, each image's own.
        by: `grad_cam` of the last feature maps; `rise` or `occlusion` of the class's probability, with the settings
            that these methods start with.

    Raises:
        ValueError: for other methods: they compare patches with a text, which a classifier has none of.
    """
    require(by in CLASS_METHODS, f"{by} asks for a text, a classifier has none: choose from {', '.join(CLASS_METHODS)}")
    pixels = classifier.normalise(images)
    maps = [CLASS_METHODS[by](classifier, image, own) for image, own in zip(pixels, classes, strict=True)]
    return Heatmap(
        scores=torch.stack(maps),
        method=by,
        texts=tuple(f"class {rank + 1}" for rank in range(classes.shape[1])),
        input_size=(images.shape[-2], images.shape[-1]),
    )


def _grad_cam(
    classifier: Classifier, image: Float[Tensor, "3 H W"], classes: Int[Tensor, " K"]
) -> Float[Tensor, "K h w"]:
    return classifier.grad_cam(image.expand(len(classes), -1, -1, -1), classes)


def _rise(classifier: Classifier, image: Float[Tensor, "3 H W"], classes: Int[Tensor, " K"]) -> Float[Tensor, "K H W"]:
    rule = Rise()
    masks = random_masks(
        rule.num_masks,
        size=(image.shape[-2], image.shape[-1]),
        cells=rule.cells,
        keep=rule.keep,
        generator=torch.Generator().manual_seed(rule.seed),
    )
    score = _probability(classifier, classes)
    return rise_map(score, image, masks.to(image.device), keep=rule.keep, batch_size=rule.batch_size)


def _occlusion(
    classifier: Classifier, image: Float[Tensor, "3 H W"], classes: Int[Tensor, " K"]
) -> Float[Tensor, "K H W"]:
    rule = Occlusion()
    windows = sliding_windows((image.shape[-2], image.shape[-1]), window=rule.window, stride=rule.stride)
    score = _probability(classifier, classes)
    return occlusion_map(score, image, windows.to(image.device), fill=rule.fill, batch_size=rule.batch_size)


def _probability(
    classifier: Classifier, classes: Int[Tensor, " K"]
) -> Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, "N K"]]:
    return lambda altered: classifier(altered).softmax(dim=-1)[:, classes]


CLASS_METHODS: dict[str, _Maps] = {"grad_cam": _grad_cam, "rise": _rise, "occlusion": _occlusion}
"""Methods that a classifier's maps can be made by."""
