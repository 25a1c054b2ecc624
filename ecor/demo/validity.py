"""Weights in; a table of what the small CLIP knows of the validation images out (never of test images).

`python -m ecor.demo.validity`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from ecor.demo.dataset import LabelledDrawing, labelled_drawings
from ecor.demo.model import create_clip, image_features, text_features, weights_path
from ecor.demo.scenes import NUM_PIXELS, draw, without
from ecor.demo.world import SETS, vocabulary_of

TEMPLATES = ("{c}", "a {c}", "a photo of a {c}", "This is a photo of a {c}.", "a drawing of a {c}")
RATIONALE_TEMPLATE = "There is {r}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
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
    """What one hand-written category template gets right."""

    template: str
    # share of images whose best category is the true one
    category_accuracy: float
    # share of images whose best rationale is the labelled one
    rationale_accuracy: float
    # share of images whose best rationale can be seen
    visible_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """What weights know of one set; every share is of validation images."""

    set_name: str
    num_categories: int
    num_rationales: int
    # visible rationales per image
    mean_visible: float
    # one row per hand-written template
    zero_shot: tuple[ZeroShotRow, ...]
    # accuracy of a linear classifier on the frozen features
    probe: float
    # share told apart from the same scene without the labelled part
    composition: float
    # share whose separately best category and rationale do not belong together
    dependence: float
    # mean IoU that the best choice of cells reaches on parts
    best_part_iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidityConfig:
    """Which weights to judge on which sets."""

    # of the model `ecor-demo`
    weights: Path = field(default_factory=weights_path)
    # sets of the drawn world
    sets: tuple[str, ...] = tuple(SETS)
    # images of the train split (for the probe) and of the validation split of each set
    num_train: int = 1500
    num_validation: int = 600
    seed: int = 0
    num_threads: int = 2


def images_of(set_name: str, *, split: str, num_images: int, seed: int) -> Images:
    """Draw a split and index its truth."""
    vocabulary = vocabulary_of(set_name)
    categories = tuple(vocabulary)
    rationales = tuple(dict.fromkeys(text for texts in vocabulary.values() for text in texts))
    drawings = tuple(labelled_drawings(set_name=set_name, split=split, num_images=num_images, seed=seed))
    return Images(
        categories=categories,
        rationales=rationales,
        belongs=torch.tensor([[r in vocabulary[c] for r in rationales] for c in categories]),
        pixels=np.stack([np.asarray(item.drawing.image) for item in drawings]),
        category=torch.tensor([categories.index(item.category) for item in drawings]),
        rationale=torch.tensor([rationales.index(item.rationale) for item in drawings]),
        visible=torch.tensor([[r in item.visible_rationales for r in rationales] for item in drawings]),
        drawings=drawings,
    )


def validation_images(set_name: str, *, num_images: int, seed: int = 0) -> Images:
    """Validation images of a set."""
    return images_of(set_name, split="validation", num_images=num_images, seed=seed)


def zero_shot_table(clip: nn.Module, images: Images) -> list[ZeroShotRow]:
    """Zero-shot figures per category template."""
    features_BD = image_features(clip, images.pixels)
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


def probe_accuracy(
    train: Float[Tensor, "N D"], *, labels: Int[Tensor, " N"], features: Float[Tensor, "B D"], truth: Int[Tensor, " B"]
) -> float:
    """Accuracy of a linear classifier on frozen features, its weight penalty chosen on the same (validation) images."""
    return max(
        _share((features @ weight.T + bias).argmax(1) == truth)
        for weight, bias in (_fit_linear(train, labels=labels, penalty=penalty) for penalty in (1e-4, 1e-3, 1e-2))
    )


def _fit_linear(
    features: Float[Tensor, "N D"], *, labels: Int[Tensor, " N"], penalty: float
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    weight = torch.zeros(int(labels.max()) + 1, features.shape[1], requires_grad=True)
    bias = torch.zeros(len(weight), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(features @ weight.T + bias, labels) + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def composition(clip: nn.Module, images: Images) -> float:
    """How often an image is nearer to "There is {part}." than the same scene without that part; chance is a half."""
    lacking = np.stack([np.asarray(draw(without(d.scene, d.rationale)).image) for d in images.drawings])
    texts_BD = _texts(clip, RATIONALE_TEMPLATE, r=images.rationales)[images.rationale]
    similar_B = (image_features(clip, images.pixels) * texts_BD).sum(1)
    return _share(similar_B > (image_features(clip, lacking) * texts_BD).sum(1))


def dependence(clip: nn.Module, images: Images, *, template: str) -> float:
    """Share of images whose best category and best rationale, found separately, do not belong together."""
    features_BD = image_features(clip, images.pixels)
    category_B = (features_BD @ _texts(clip, template, c=images.categories).T).argmax(1)
    rationale_B = (features_BD @ _texts(clip, RATIONALE_TEMPLATE, r=images.rationales).T).argmax(1)
    return _share(~images.belongs[category_B, rationale_B])


def best_grid_iou(images: Images, *, num_cells: int = 8) -> float:
    """The mean IoU with visible parts that the best choice of cells of a num_cells x num_cells grid reaches."""
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
    ((letter, values),) = names.items()
    return text_features(clip, [template.format(**{letter: value}) for value in values])


def _share(right: Bool[Tensor, " B"]) -> float:
    return float(right.float().mean())


def judge(clip: nn.Module, *, set_name: str, config: ValidityConfig) -> Validity:
    """Every figure of one set."""
    images = validation_images(set_name, num_images=config.num_validation, seed=config.seed)
    train = images_of(set_name, split="train", num_images=config.num_train, seed=config.seed)
    rows = zero_shot_table(clip, images)
    best = max(rows, key=lambda row: row.category_accuracy)
    probe = probe_accuracy(
        image_features(clip, train.pixels),
        labels=train.category,
        features=image_features(clip, images.pixels),
        truth=images.category,
    )
    return Validity(
        set_name=set_name,
        num_categories=len(images.categories),
        num_rationales=len(images.rationales),
        mean_visible=float(images.visible.float().sum(1).mean()),
        zero_shot=tuple(rows),
        probe=probe,
        composition=composition(clip, images),
        dependence=dependence(clip, images, template=best.template),
        best_part_iou=best_grid_iou(images),
    )


def as_text(found: Validity) -> str:
    """The figures of a set as lines to print."""
    best = max(found.zero_shot, key=lambda row: row.category_accuracy)
    rows = [(f"zero-shot category by {row.template!r}", row.category_accuracy, "") for row in found.zero_shot]
    rows += [
        ("linear probe of category", found.probe, f"chance {1 / found.num_categories:.1%}"),
        ("best rationale is the labelled one", best.rationale_accuracy, f"chance {1 / found.num_rationales:.1%}"),
        ("best rationale is visible", best.visible_accuracy, f"chance {found.mean_visible / found.num_rationales:.1%}"),
        ("composition: part there or not", found.composition, "chance 50.0%"),
        ("dependence: separate argmaxes misfit", found.dependence, ""),
        ("best part mIoU of an 8 x 8 grid", found.best_part_iou, ""),
    ]
    head = f"{found.set_name}: {found.num_categories} categories, {found.num_rationales} rationales"
    return "\n".join([head, *(f"  {name:<52}{value:7.1%}   {note}".rstrip() for name, value, note in rows)])


def main() -> None:
    config = tyro.cli(ValidityConfig, description=__doc__)
    torch.set_num_threads(config.num_threads)
    clip = create_clip(weights=config.weights)
    for set_name in config.sets:
        print(as_text(judge(clip, set_name=set_name, config=config)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
