"""The image classifier that LICO trains, its encoders, and how to load one."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ecor.clip.backbone import Backbone
from ecor.clip.loading import load_backbone
from ecor.clip.towers.image_forward import feature_maps, freeze_after_maps
from ecor.config.checks import parse_record, require
from ecor.config.model import Preprocess
from ecor.config.systems import LicoConfig
from ecor.storage.artifact import read_tensors
from ecor.storage.model_records import read_artifact

SYSTEM = "lico"


class ClipMaps(nn.Module):
    """The image tower of a CLIP, opened before it pools: an adaptation, for LICO's own encoders are convolutional."""

    def __init__(self, backbone: Backbone) -> None:
        """Copy the tower, with its weights, to be trained.

        Raises:
            ValueError: when the tower has neither patches nor maps.
        """
        super().__init__()
        require(
            backbone.vit is not None or backbone.resnet is not None,
            f"the image tower of {backbone.config.name!r} is neither a ViT nor a ResNet of open_clip: set lico.encoder "
            f"to {TORCHVISION}<name>",
        )
        self.visual: Any = deepcopy(backbone.model.visual).cpu().requires_grad_(True).train()
        freeze_after_maps(self.visual)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        return feature_maps(self.visual, pixels)


def torchvision_maps(name: str) -> nn.Module:
    """Build a model of torchvision with random weights, up to its last feature maps.

    Raises:
        ValueError: when torchvision has no such model, or it is no CNN.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    require(name in known, f"torchvision has no model {name!r}: choose from {', '.join(known)}")
    model: Any = torchvision.models.get_model(name, weights=None)
    if hasattr(model, "layer4"):
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.Sequential(*(getattr(model, part) for part in parts))
    require(hasattr(model, "features"), f"{name} has no feature maps at its end: choose a ResNet, ConvNeXt, VGG, …")
    return model.features


def build_encoder(config: LicoConfig, backbone: Backbone) -> nn.Module:
    """Build the encoder that `config.encoder` names; it maps normalised pixels to its last feature maps.

    Args:
        config: names `clip`, or a model of torchvision.
        backbone: whose image tower is copied for `clip`.

    Raises:
        ValueError: when the encoder is unknown, or has no feature maps.
    """
    if config.encoder == CLIP:
        return ClipMaps(backbone)
    require(
        config.encoder.startswith(TORCHVISION),
        f"unknown encoder {config.encoder!r}: choose {CLIP}, or {TORCHVISION}<name of a model>",
    )
    return torchvision_maps(config.encoder.removeprefix(TORCHVISION))


def encoder_preprocess(config: LicoConfig, backbone: Backbone) -> Preprocess:
    """Return the backbone's preprocessing, with the image size of the config if it is set.

    Args:
        config: names encoder and image size.
        backbone: gives the preprocessing.

    Raises:
        ValueError: when a size is set for the encoder `clip`, which has its own.
    """
    if config.image_size is None:
        return backbone.preprocess
    require(config.encoder != CLIP, f"a tower has its own size: leave lico.image_size, or take {TORCHVISION}<name>")
    return replace(backbone.preprocess, image_size=(config.image_size, config.image_size))


class Classifier(nn.Module):
    """Feature maps, averaged, and a linear layer: so Grad-CAM of the last maps is exact, class activation mapping."""

    _mean: Tensor
    _std: Tensor

    def __init__(self, encoder: nn.Module, *, categories: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__()
        self.encoder, self.categories, self.preprocess = encoder, tuple(categories), preprocess
        for name, values in (("_mean", preprocess.mean), ("_std", preprocess.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.num_channels, *self.grid = self._shape()
        self.head = nn.Linear(self.num_channels, len(categories))

    @torch.no_grad()
    def _shape(self) -> tuple[int, int, int]:
        was_training = self.encoder.training
        maps = self.encoder.eval()(torch.zeros(1, 3, *self.preprocess.image_size))
        self.encoder.train(was_training)
        return maps.shape[1], maps.shape[2], maps.shape[3]

    def normalise(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """8-bit pixels as the encoder takes them."""
        return (images.to(self._mean.device).float() / 255 - self._mean) / self._std

    def maps(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        """The last feature maps."""
        return self.encoder(pixels)

    def logits(self, maps: Float[Tensor, "B F h w"]) -> Float[Tensor, "B C"]:
        """Of feature maps."""
        return self.head(maps.mean(dim=(2, 3)))

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """Logits."""
        return self.logits(self.maps(pixels))

    def grad_cam(self, pixels: Float[Tensor, "B 3 H W"], classes: Int[Tensor, " B"]) -> Float[Tensor, "B h w"]:
        """Grad-CAM of one class per image: ReLU of the maps weighted by the class's mean gradient.

        Args:
            pixels: normalised.
            classes: ids of categories.
        """
        height, width = self.grid
        weights = self.head.weight[classes] / (height * width)
        return torch.einsum("bfhw,bf->bhw", self.maps(pixels), weights).relu()


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClassifierRecord:
    """Settings of a stored classifier."""

    lico: dict[str, Any]
    categories: list[str]


def load_classifier(folder: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Load the classifier that `ecor train --system lico` made, in evaluation mode.

    Args:
        folder: of the classifier, or the run folder that holds it; local, or in a store.
        device: that holds the weights.

    Raises:
        ValueError: when a part is missing or altered, or the backbone cannot be opened.
    """
    record = read_artifact(folder, SYSTEM)
    stored = parse_record(_ClassifierRecord, record.settings)
    config = parse_record(LicoConfig, {**stored.lico, "fit": LicoConfig().fit})
    backbone = load_backbone(record.backbone, digest=record.backbone_digest)
    encoder, preprocess = build_encoder(config, backbone), encoder_preprocess(config, backbone)
    classifier = Classifier(encoder, categories=stored.categories, preprocess=preprocess)
    classifier.load_state_dict(read_tensors(record))
    return classifier.requires_grad_(False).to(device).eval()


CLIP, TORCHVISION = "clip", "torchvision/"
