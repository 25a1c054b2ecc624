"""Load the embedded small CLIP with plain open_clip, and encode images and texts with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from ecor.clip.open_clip_api import open_clip

MODEL_NAME = "ecor-demo"
_FOLDER = Path(__file__).parent / "weights"
_MEAN, _STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def config_path() -> Path:
    """open_clip's model config, for `open_clip.add_model_config`."""
    return _FOLDER / f"{MODEL_NAME}.json"


def weights_path() -> Path:
    """The pretrained weights, for `pretrained=`."""
    return _FOLDER / f"{MODEL_NAME}.safetensors"


def create_clip(*, weights: Path | None) -> Any:
    """The small CLIP in fp32, with `weights` or randomly initialised by torch's generator."""
    open_clip.add_model_config(config_path())
    model = open_clip.create_model(MODEL_NAME, pretrained=str(weights) if weights else None, weights_only=True)
    return model.eval()


def normalise_pixels(pixels: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """Pixels as open_clip's transform gives them to a tower of the same size."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
    return images.sub_(mean).div_(std)


@torch.no_grad()
def encode_images(model: nn.Module, pixels: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B D"]:
    """Normalised features of many images, in chunks."""
    chunks = [model.encode_image(normalise_pixels(pixels[k : k + 256])) for k in range(0, len(pixels), 256)]  # type: ignore[operator]
    return functional.normalize(torch.cat(chunks).float(), dim=-1)


@torch.no_grad()
def encode_texts(model: nn.Module, captions: Sequence[str]) -> Float[Tensor, "T D"]:
    """Normalised features of many captions, in chunks, by open_clip's own `encode_text`."""
    open_clip.add_model_config(config_path())
    tokens = open_clip.get_tokenizer(MODEL_NAME)(list(captions), context_length=model.context_length)
    chunks = [model.encode_text(tokens[k : k + 512]) for k in range(0, len(tokens), 512)]  # type: ignore[operator]
    return functional.normalize(torch.cat(chunks).float(), dim=-1)
