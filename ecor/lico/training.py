"""Pixels and category names in, an image classifier that was trained beside language out: LICO (arXiv:2310.09821).

Learnable prompts are read by a frozen text tower, and an MLP brings their tokens to the size of the classifier's last
feature maps; two losses align both. The language branch is dropped after training.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ecor.clip.backbone import Backbone
from ecor.clip.causal_text import CausalText, token_features
from ecor.clip.image_forward import feature_maps, freeze_after_maps
from ecor.clip.loading import load_backbone
from ecor.config import LicoConfig, Preprocess, record_of, require
from ecor.storage.artifact import read_saved, read_tensors
from ecor.training.alignment_losses import manifold_matching, transport_cost
from ecor.training.distributed import gather_features, gather_ids, mean_over_ranks
from ecor.training.negative_sampling import distinct, positions

SYSTEM = "lico"
CLIP, TORCHVISION = "clip", "torchvision/"


class ClipMaps(nn.Module):
    """The image tower of a CLIP, opened before it pools: an adaptation, for LICO's own encoders are convolutional."""

    def __init__(self, backbone: Backbone) -> None:
        """A copy of the tower, with its weights, to be trained; ValueError for towers without patches or maps."""
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
    """A model of torchvision with random weights, up to its last feature maps; ValueError for others than CNNs."""
    known = torchvision.models.list_models(module=torchvision.models)
    require(name in known, f"torchvision has no model {name!r}: choose from {', '.join(known)}")
    model: Any = torchvision.models.get_model(name, weights=None)
    if hasattr(model, "layer4"):
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.Sequential(*(getattr(model, part) for part in parts))
    require(hasattr(model, "features"), f"{name} has no feature maps at its end: choose a ResNet, ConvNeXt, VGG, …")
    return model.features


def encoder_of(config: LicoConfig, backbone: Backbone) -> nn.Module:
    """Normalised pixels in, last feature maps out: what `config.encoder` names."""
    if config.encoder == CLIP:
        return ClipMaps(backbone)
    require(
        config.encoder.startswith(TORCHVISION),
        f"unknown encoder {config.encoder!r}: choose {CLIP}, or {TORCHVISION}<name of a model>",
    )
    return torchvision_maps(config.encoder.removeprefix(TORCHVISION))


def preprocess_of(config: LicoConfig, backbone: Backbone) -> Preprocess:
    """How pictures become pixels: as the backbone has it, in another size where that is asked for."""
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
        """Where the evidence for a class of each image is: ReLU of the maps weighted by the class's mean gradient."""
        height, width = self.grid
        weights = self.head.weight[classes] / (height * width)
        return torch.einsum("bfhw,bf->bhw", self.maps(pixels), weights).relu()


class Language(nn.Module):
    """Category names in, one row per prompt token out, as long as a feature map has places (G of the paper)."""

    def __init__(self, backbone: Backbone, *, categories: Sequence[str], length: int, config: LicoConfig) -> None:
        """`length` is of a flattened feature map; ValueError for text towers that are not plain causal ones."""
        super().__init__()
        tower = backbone.causal_text
        require(
            tower is not None,
            f"LICO reads prompts with a plain causal text tower, which that of {backbone.config.name!r} is not: choose "
            f"another backbone",
        )
        assert tower is not None
        words = [ids[1:-1] for ids in backbone.tokenize(list(categories))]
        longest = max(map(len, words))
        require(
            config.num_context + longest + 2 <= backbone.context_length,
            f"{config.num_context} context tokens and a name of {longest} do not fit into {backbone.context_length}: "
            f"set lico.num_context lower",
        )
        self.context = nn.Parameter(0.02 * torch.randn(config.num_context, backbone.text_width))
        width = backbone.embed_dim
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, length)
        self._frozen: tuple[CausalText, list[list[int]], LicoConfig] = (tower, words, config)

    def forward(self, ids: Int[Tensor, " U"], *, generator: torch.Generator | None = None) -> Float[Tensor, "U M F"]:
        """Rows of some categories: the context tokens, then the end token, which has read the name.

        In a causal tower, context before the name cannot know it: those rows are alike for all categories.
        `generator` draws the order of the context and what dropout drops; None: neither.
        """
        tower, words, config = self._frozen
        context: Tensor = self.context
        if generator is not None and config.shuffle:
            order = torch.randperm(len(context), generator=generator)
            context = context[order.to(context.device)]
        features, rows = [], []
        longest = max(len(words[each]) for each in ids.tolist())
        for each in ids.tolist():
            sentence, places = self._sentence(words[each], context, longest=longest)
            features.append(sentence)
            rows.append(places)
        tokens = token_features(tower, torch.stack(features))
        chosen = torch.tensor(rows, device=tokens.device)
        read = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
        hidden = self.inner(read)
        if generator is not None and config.dropout:
            kept = torch.rand(hidden.shape, generator=generator) >= config.dropout
            hidden = hidden * kept.to(hidden) / (1 - config.dropout)
        return self.outer(hidden.relu())

    def _sentence(self, words: list[int], context: Tensor, *, longest: int) -> tuple[Tensor, list[int]]:
        """Embeddings of a prompt, padded with end tokens, and the places that are read."""
        tower, _, config = self._frozen
        ends = [tower.end_token] * (1 + longest - len(words))
        device = context.device
        start, name, end = (
            tower.token_embedding(torch.tensor(ids, dtype=torch.long, device=device))
            for ids in ([tower.start_token], words, ends)
        )
        first = 1 if config.class_position == "end" else 1 + len(words)
        parts = [start, context, name, end] if config.class_position == "end" else [start, name, context, end]
        return torch.cat(parts), [*range(first, first + len(context)), 1 + len(words) + len(context)]


class LicoModule(nn.Module):
    """Pixels with labels in, LICO's loss terms out; the language branch is there where a loss needs it."""

    def __init__(self, backbone: Backbone, *, categories: Sequence[str], config: LicoConfig, seed: int = 0) -> None:
        """Draw what is new from the seed; the global generators stay as they are."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = Classifier(
                encoder_of(config, backbone), categories=categories, preprocess=preprocess_of(config, backbone)
            )
            self.language: Language | None = None
            if config.alpha or config.beta:
                length = math.prod(self.classifier.grid)
                self.language = Language(backbone, categories=categories, length=length, config=config)
        self.log_temperature: nn.Parameter | None = None
        if config.alpha and config.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        self.config = config

    def forward(
        self,
        pictures: UInt8[Tensor, "B 3 H W"],
        *,
        categories: Int[Tensor, " B"],
        rationales: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """CE + α L_MM + β L_OT, each a mean over the images of all ranks; rationales have no part in it.

        `generator` must be in the same state on all ranks: each encodes the prompts of the whole batch.
        """
        maps = self.classifier.maps(self.classifier.normalise(pictures))
        known = categories >= 0
        nll = cross_entropy(self.classifier.logits(maps), categories, ignore_index=-1, reduction="none")
        terms = {"classification": mean_over_ranks(nll, known)}
        if self.language is None:
            return terms
        rows = maps.flatten(2)
        everyone = gather_ids(categories)
        present = distinct(everyone)
        language = self.language(present, generator=generator if self.training else None)
        if self.config.alpha:
            terms["manifold"] = self.config.alpha * manifold_matching(
                gather_features(rows.flatten(1)),
                language.flatten(1)[positions(present, everyone).clamp(min=0)],
                temperature=self.temperature,
                known=everyone >= 0,
            )
        if self.config.beta:
            cost = transport_cost(
                rows,
                language[positions(present, categories).clamp(min=0)],
                epsilon=self.config.epsilon,
                max_iterations=self.config.max_iterations,
                tolerance=self.config.tolerance,
            )
            terms["transport"] = self.config.beta * mean_over_ranks(cost.masked_fill(~known, 0.0), known)
        return terms

    @property
    def temperature(self) -> Tensor | float:
        """Of both manifolds. Learned, it may grow until all neighbours are alike: watch it."""
        return self.config.temperature if self.log_temperature is None else self.log_temperature.exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What a record says of a classifier, beside its numbers."""

    lico: dict[str, Any]
    categories: list[str]


def load_classifier(folder: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """The classifier that `ecor train --system lico` made, in evaluation mode.

    ValueError when a part is missing or altered.
    """
    record = read_saved(folder, SYSTEM)
    stored = record_of(_Stored, record.settings)
    config = record_of(LicoConfig, {**stored.lico, "fit": LicoConfig().fit})
    backbone = load_backbone(record.backbone)
    encoder, preprocess = encoder_of(config, backbone), preprocess_of(config, backbone)
    classifier = Classifier(encoder, categories=stored.categories, preprocess=preprocess)
    classifier.load_state_dict(read_tensors(record))
    return classifier.requires_grad_(False).to(device).eval()
