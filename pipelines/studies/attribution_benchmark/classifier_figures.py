"""Evaluate an image classifier: accuracy, maps of its classes, and their insertion and deletion."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ecor.explain.methods.perturbation import random_masks, rise_map
from ecor.explain.metrics.faithfulness import deletion, insertion
from ecor.lico.classifier import Classifier

Figures = dict[str, float]


@torch.no_grad()
def accuracy(classifier: Classifier, images: UInt8[Tensor, "N 3 H W"], categories: Int[Tensor, " N"]) -> float:
    """Measure the share of images whose most probable category is the true one."""
    parts = [classifier(classifier.normalise(part)).argmax(dim=-1) for part in images.split(64)]
    return float((torch.cat(parts) == categories).float().mean())


@torch.no_grad()
def classifier_maps(
    classifier: Classifier, images: UInt8[Tensor, "N 3 H W"], classes: Int[Tensor, " N"], *, num_masks: int
) -> dict[str, Float[Tensor, "N H W"]]:
    """Make maps of each image's class, on its pixels, by Grad-CAM and by RISE."""
    pixels = classifier.normalise(images)
    size = (pixels.shape[2], pixels.shape[3])
    coarse = classifier.grad_cam(pixels, classes)[:, None]
    cam = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[:, 0]
    masks = random_masks(num_masks, size=size, cells=7, keep=0.5, generator=torch.Generator().manual_seed(0))
    rise = []
    for image, category in zip(pixels, classes.tolist(), strict=True):

        def score(altered: Tensor, category: int = category) -> Tensor:
            return classifier(altered).softmax(dim=-1)[:, category, None]

        rise.append(rise_map(score, image, masks, keep=0.5)[0])
    return {"grad_cam": cam, "rise": torch.stack(rise)}


def faithfulness(
    classifier: Classifier,
    images: UInt8[Tensor, "N 3 H W"],
    classes: Int[Tensor, " N"],
    maps: Float[Tensor, "N H W"],
) -> Figures:
    """Measure areas under the curves of RISE (arXiv:1806.07421): high insertion and low deletion are good."""
    pixels, rows = classifier.normalise(images), torch.arange(len(images))

    def score(altered: Tensor) -> Tensor:
        return classifier(altered).softmax(dim=-1)[rows, classes]

    inserted = float(insertion(score, pixels, maps).area.mean())
    deleted = float(deletion(score, pixels, maps).area.mean())
    return {"insertion": inserted, "deletion": deleted, "difference": inserted - deleted}
