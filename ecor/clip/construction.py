"""Build a CLIP model, its tokenizer and its preprocessing from open_clip's architecture settings."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ecor.clip.open_clip_api import HFTokenizer, SimpleTokenizer, open_clip
from ecor.config.model import Preprocess

_TRANSIENT_KEYS = ("timm_model_pretrained", "hf_model_pretrained")  # sources of weights; not architecture
_TEXT_SETTINGS = ("text_cfg", "multimodal_cfg", "custom_text", "init_logit_scale", "init_logit_bias")
"""Settings of open_clip's architectures that have no part in an image's feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipParts:
    """A loaded model with its settings and tokenizer, before it is wrapped in a Backbone."""

    model: Any
    """An open_clip CLIP, CustomTextCLIP or CoCa."""
    model_cfg: dict[str, Any]
    """open_clip's architecture settings."""
    tokenizer: Any


def build_random_clip(model_cfg: dict[str, Any]) -> Any:
    """Build the architecture with random weights of a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_clip(model_cfg)


def build_clip(model_cfg: dict[str, Any]) -> Any:
    settings = json.loads(json.dumps(model_cfg))
    is_hf = "hf_model_name" in settings["text_cfg"]
    custom_text = settings.pop("custom_text", False) or is_hf
    if is_hf:
        settings["text_cfg"]["hf_model_pretrained"] = False
    model_class = open_clip.CLIP
    if custom_text:
        model_class = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    model = model_class(**settings)
    if isinstance(model, open_clip.CoCa):  # open_clip leaves this tensor uninitialised
        torch.nn.init.normal_(model.text_decoder.text_projection, std=model.text_decoder.width**-0.5)
    return model


def architecture_config(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """Settings without the keys that say where weights come from, so that every source gives the same digest."""
    settings: dict[str, Any] = json.loads(json.dumps(model_cfg))
    for tower in ("vision_cfg", "text_cfg"):
        settings[tower] = {key: value for key, value in settings[tower].items() if key not in _TRANSIENT_KEYS}
    return settings


def build_tokenizer(model_cfg: dict[str, Any]) -> Any:
    """Build the tokenizer of an architecture; models with equal settings share CLIP's own, which takes 0.1 s."""
    text = model_cfg["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    context_length = text.get("context_length", 77)
    if name := text.get("hf_tokenizer_name"):
        return HFTokenizer(name, context_length=context_length, tokenizer_mode=text.get("tokenizer_mode"), **options)
    return _clip_tokenizer(context_length, json.dumps(options))


@lru_cache(maxsize=8)
def _clip_tokenizer(context_length: int, options: str) -> SimpleTokenizer:
    return SimpleTokenizer(context_length=context_length, **json.loads(options))


def model_preprocess(model: Any) -> Preprocess:
    facts = model.visual.preprocess_cfg
    size = facts["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocess(
        image_size=(int(height), int(width)),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        interpolation=facts["interpolation"],
        resize_mode=facts["resize_mode"],
        fill_color=facts["fill_color"],
    )


def model_digest(weights: Mapping[str, Any], *, architecture: dict[str, Any]) -> str:
    """sha256 of architecture, preprocessing and weights."""
    hasher = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def image_architecture(architecture: dict[str, Any]) -> dict[str, Any]:
    """The settings of an architecture that have a part in an image's feature."""
    kept = {name: value for name, value in architecture["model_cfg"].items() if name not in _TEXT_SETTINGS}
    return {**architecture, "model_cfg": kept}


def write_clip(
    weights: Mapping[str, Tensor], folder: Path, *, architecture: dict[str, Any], stem: str
) -> tuple[Path, Path]:
    """Write `<stem>.json` and `<stem>.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    json_path, weights_path = folder / f"{stem}.json", folder / f"{stem}.safetensors"
    json_path.write_text(json.dumps(architecture, indent=2, sort_keys=True) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, weights_path)
    return json_path, weights_path
