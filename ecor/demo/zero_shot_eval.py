"""Measure what a CLIP knows of a drawn set, to check that the set is fit for comparing methods.

Templates and the probe's penalty are chosen on validation images; every figure is of test images of a seed of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.stats import binomtest
from torch import Tensor, nn

from ecor.demo.dataset import LabelledDrawing, labelled_drawings
from ecor.demo.tiny_clip import encode_images, encode_texts
from ecor.demo.worlds.registry import set_vocabulary
from ecor.demo.worlds.scenes import draw_scene, without_part
from ecor.demo.worlds.styles import NUM_PIXELS
from ecor.evaluation.linear_probe import select_probe

TEMPLATES = ("{c}", "a {c}", "a photo of a {c}", "This is a photo of a {c}.", "a drawing of a {c}")
RATIONALE_TEMPLATE = "There is {r}."


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitImages:
    """Images of one split with their truth as ids of the set's vocabulary."""

    categories: tuple[str, ...]
    rationales: tuple[str, ...]
    # which rationale belongs to which category
    belongs: Bool[Tensor, "C R"]
    pixels: UInt8[np.ndarray, "B 64 64 3"]
    category: Int[Tensor, " B"]
    rationale: Int[Tensor, " B"]
    visible: Bool[Tensor, "B R"]
    drawings: tuple[LabelledDrawing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotRow:
    """Zero-shot accuracies with one hand-written category template."""

    template: str
    # share of images whose best category is the true one
    category_accuracy: float
    # share of images whose best rationale is the labelled one
    rationale_accuracy: float
    # share of images whose best rationale can be seen
    visible_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of images with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetValidity:
    """Measurements of a model on one set; every share is of test images."""

    set_name: str
    num_categories: int
    num_rationales: int
    # visible rationales per image
    mean_visible: float
    # the hand-written category template that is best on validation images
    template: str
    # images whose best category, by that template, is the true one
    zero_shot: Share
    # accuracy of a linear classifier on the frozen features
    probe: Share
    # images whose best rationale is the labelled one
    labelled_first: Share
    # images whose best rationale can be seen
    visible_first: Share
    # images nearer to the labelled part's sentence than the same scene without that part; chance is a half
    composition: Share
    # images whose separately best category and rationale are a pair that is not true of the image
    untrue: Share
    # images whose separately best category and rationale belong together in no image
    misfit: Share
    # mean IoU that the best choice of cells reaches on parts
    best_part_iou: float


def draw_split(set_name: str, *, split: str, num_images: int, seed: int) -> SplitImages:
    """Draw a split and index its truth.

    Args:
        set_name: a set of a drawn world.
        split: `train`, `validation` or `test`.
        num_images: in the split.
        seed: of the images.

    Raises:
        ValueError: when there is no such set or split.
    """
    vocabulary = set_vocabulary(set_name)
    categories = tuple(vocabulary)
    rationales = tuple(dict.fromkeys(text for texts in vocabulary.values() for text in texts))
    drawings = tuple(labelled_drawings(set_name=set_name, split=split, num_images=num_images, seed=seed))
    return SplitImages(
        categories=categories,
        rationales=rationales,
        belongs=torch.tensor([[r in vocabulary[c] for r in rationales] for c in categories]),
        pixels=np.stack([np.asarray(item.drawing.image) for item in drawings]),
        category=torch.tensor([categories.index(item.category) for item in drawings]),
        rationale=torch.tensor([rationales.index(item.rationale) for item in drawings]),
        visible=torch.tensor([[r in item.visible_rationales for r in rationales] for item in drawings]),
        drawings=drawings,
    )


def validation_images(set_name: str, *, num_images: int, seed: int = 0) -> SplitImages:
    """Validation images of a set."""
    return draw_split(set_name, split="validation", num_images=num_images, seed=seed)


def zero_shot_table(clip: nn.Module, images: SplitImages) -> list[ZeroShotRow]:
    """Measure zero-shot accuracies for each category template.

    Args:
        clip: the open_clip model.
        images: of one split.
    """
    features_BD = encode_images(clip, images.pixels)
    rationale_B = (features_BD @ _texts(clip, RATIONALE_TEMPLATE, r=images.rationales).T).argmax(1)
    rows = []
    for template in TEMPLATES:
        category_B = (features_BD @ _texts(clip, template, c=images.categories).T).argmax(1)
        rows.append(
            ZeroShotRow(
                template=template,
                category_accuracy=_share(category_B == images.category),
                rationale_accuracy=_share(rationale_B == images.rationale),
                visible_accuracy=_share(images.visible[torch.arange(len(rationale_B)), rationale_B]),
            )
        )
    return rows


def probe_hits(
    clip: nn.Module, *, train: SplitImages, validation: SplitImages, test: SplitImages
) -> Bool[Tensor, " B"]:
    """Return which test images a linear classifier on frozen features gets right.

    Args:
        clip: the open_clip model.
        train: fits the classifier.
        validation: chooses its penalty.
        test: to be classified.
    """
    held_out = (encode_images(clip, validation.pixels), validation.category)
    probe = select_probe(encode_images(clip, train.pixels), train.category, validation=held_out)
    return probe.logits(encode_images(clip, test.pixels)).argmax(1) == test.category


def composition_hits(clip: nn.Module, images: SplitImages) -> Bool[Tensor, " B"]:
    """Return which images are nearer to "There is {part}." than the same scene without that part; chance is a half.

    Args:
        clip: the open_clip model.
        images: of one split.
    """
    lacking = np.stack([np.asarray(draw_scene(without_part(d.scene, d.rationale)).image) for d in images.drawings])
    texts_BD = _texts(clip, RATIONALE_TEMPLATE, r=images.rationales)[images.rationale]
    similar_B = (encode_images(clip, images.pixels) * texts_BD).sum(1)
    return similar_B > (encode_images(clip, lacking) * texts_BD).sum(1)


def best_grid_iou(images: SplitImages, *, num_cells: int = 8) -> float:
    """Mean IoU with visible parts that the best choice of a grid's cells reaches.

    Args:
        images: of one split.
        num_cells: of the grid, per side.
    """
    side = NUM_PIXELS // num_cells
    best = []
    for item in images.drawings:
        labels = np.asarray(item.drawing.labels)
        for label, (owner, text) in item.drawing.legend.items():
            if owner == 0 and text in item.visible_rationales:
                mask = (labels == label).reshape(num_cells, side, num_cells, side)
                best.append(_best_iou(mask.sum((1, 3)).ravel(), cell=side * side))
    return float(np.mean(best))


def _best_iou(inside: Int[np.ndarray, " P"], *, cell: int) -> float:
    """The best cells are always those that hold most of the part."""
    hit = np.sort(inside)[::-1].cumsum()
    return float((hit / (inside.sum() + cell * np.arange(1, len(inside) + 1) - hit)).max())


def _texts(clip: nn.Module, template: str, **names: Sequence[str]) -> Float[Tensor, "T D"]:
    return encode_texts(clip, [template.format(**{key: each}) for key, values in names.items() for each in values])


def _share(right: Bool[Tensor, " B"]) -> float:
    return float(right.float().mean())


def measure_validity(clip: nn.Module, *, set_name: str, num_train: int, num_images: int, seed: int) -> SetValidity:
    """Measure every figure of one set.

    Args:
        clip: the open_clip model to measure with.
        set_name: a set of a drawn world.
        num_train: images to fit the probe on.
        num_images: images to choose template and penalty by, and as many to measure on.
        seed: of the images.

    Raises:
        ValueError: when there is no set of that name.
    """
    numbers = {"train": num_train, "validation": num_images, "test": num_images}
    train, validation, test = (
        draw_split(set_name, split=split, num_images=number, seed=seed) for split, number in numbers.items()
    )
    template = max(zero_shot_table(clip, validation), key=lambda row: row.category_accuracy).template
    features_BD = encode_images(clip, test.pixels)
    category_B = (features_BD @ _texts(clip, template, c=test.categories).T).argmax(1)
    rationale_B = (features_BD @ _texts(clip, RATIONALE_TEMPLATE, r=test.rationales).T).argmax(1)
    seen_B = test.visible[torch.arange(len(rationale_B)), rationale_B]
    return SetValidity(
        set_name=set_name,
        num_categories=len(test.categories),
        num_rationales=len(test.rationales),
        mean_visible=float(test.visible.float().sum(1).mean()),
        template=template,
        zero_shot=_with_interval(category_B == test.category),
        probe=_with_interval(probe_hits(clip, train=train, validation=validation, test=test)),
        labelled_first=_with_interval(rationale_B == test.rationale),
        visible_first=_with_interval(seen_B),
        composition=_with_interval(composition_hits(clip, test)),
        untrue=_with_interval(~(seen_B & (category_B == test.category))),
        misfit=_with_interval(~test.belongs[category_B, rationale_B]),
        best_part_iou=best_grid_iou(test),
    )


def _with_interval(right: Bool[Tensor, " B"]) -> Share:
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Share(value=_share(right), low=float(interval.low), high=float(interval.high))
