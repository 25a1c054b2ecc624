"""A tiny CLIP with random weights and tokens, and pictures for it: what the tests of several stages start from."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ecor.checkpoint import Checkpoint, save_checkpoint
from ecor.clip.loading import load_backbone
from ecor.clip.prompts import PromptLearner
from ecor.config.model import BackboneConfig, PromptConfig
from ecor.config.scoring import Temperatures
from ecor.data.vocabulary import vocabulary_from_mapping
from ecor.model import Recognizer

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 40, "width": 32, "heads": 2, "layers": 2},
}
NAMES = {
    "fox": ["pointed ears", "a bushy tail"],
    "whale": ["a tail fin", "smooth skin"],
    "owl": ["pointed ears", "large round eyes"],
}
OTHER_NAMES = {"cup": ["a handle"], "plate": ["a flat rim", "a round shape"]}


def tiny_recognizer(folder: Path, *, num_tokens: int = 2, seed: int = 0) -> Recognizer:
    """An untrained model whose numbers are the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny-clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    backbone = load_backbone(BackboneConfig(name=str(path), pretrained="random"))
    config = PromptConfig(rationale_tokens=num_tokens, category_tokens=num_tokens, visual_tokens=num_tokens)
    prompts = PromptLearner(config, backbone, generator=torch.Generator().manual_seed(seed))
    names = vocabulary_from_mapping(NAMES)
    return Recognizer(
        backbone=backbone,
        prompts=prompts,
        vocabulary=names,
        temperatures=Temperatures(rationale=0.5, category_given_rationale=0.25),
        calibrated_on=names.digest,
    )


def tiny_checkpoint(folder: Path, *, num_tokens: int = 2, seed: int = 0) -> Checkpoint:
    """`tiny_recognizer`, saved in `folder`/checkpoint."""
    recognizer = tiny_recognizer(folder, num_tokens=num_tokens, seed=seed)
    return save_checkpoint(recognizer, folder / "checkpoint", parents={"train_manifest": "0" * 64})


def write_pictures(folder: Path, *, num: int, seed: int = 0) -> list[Path]:
    """PNG files of coloured noise, a few in a subfolder."""
    random = np.random.default_rng(seed)
    paths = []
    for number in range(num):
        path = folder / ("deep" if number % 3 == 0 else ".") / f"picture {number:03d}.v1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(20, 60, 2)
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.NEAREST).save(path)
        paths.append(path)
    return sorted(paths)
