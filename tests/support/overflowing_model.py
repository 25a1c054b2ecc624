"""A model whose weights are finite and overflow on white images: it can encode grey ones only."""

from pathlib import Path

import numpy as np
import torch
from open_clip.model import set_model_preprocess_cfg

from ecor.clip.construction import model_preprocess
from ecor.model import Recognizer
from tests.support.tiny_models import tiny_recognizer


def overflowing_recognizer(folder: Path) -> Recognizer:
    """Weights of the first layer are so large that white pixels give infinity, and the mean colour does not."""
    recognizer = tiny_recognizer(folder, num_tokens=0)
    backbone = recognizer.backbone
    model, mean = backbone.model, [128 / 255] * 3
    set_model_preprocess_cfg(model, {**model.visual.preprocess_cfg, "mean": mean})
    backbone.preprocess = model_preprocess(model)
    with torch.no_grad():
        backbone._mean.fill_(mean[0])  # grey becomes 0, also in the saved model
        model.visual.conv1.weight.fill_(3e36)  # a patch has 192 numbers, of about 2 where it is white
    backbone.__dict__.pop("digest", None)
    return recognizer


def white_and_grey() -> np.ndarray:
    """Two images of 32 x 32: a white one, and a grey one."""
    pixels = np.full((2, 3, 32, 32), 255, np.uint8)
    pixels[1] = 128
    return pixels
