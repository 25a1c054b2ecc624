"""Load a frozen CLIP by name: from files, from a store, from this package, or from a model hub by open_clip."""

import difflib
import json
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from torch import nn

from ecor.clip.backbone import Backbone
from ecor.clip.construction import ClipParts, architecture_config, build_random_clip, build_tokenizer
from ecor.clip.open_clip_api import load_checkpoint, open_clip, set_model_preprocess_cfg
from ecor.config import BackboneConfig, require
from ecor.storage import filesystem


def load_backbone(config: BackboneConfig, *, device: str | torch.device = "cpu") -> Backbone:
    """Open the CLIP that `config` names, frozen, on `device`.

    Weights come from a file (safetensors, or a checkpoint read without unpickling code; on a disk or in a store), an
    open_clip tag, a hub id, or this package (`embedded`). `pretrained="random"` gives untrained weights, the same each
    time, for tests and timing.

    Args:
        config: which CLIP, and how to run it.
        device: that holds the weights.

    Raises:
        ValueError: when the name or tag is unknown, a file is missing or does not fit, or weights cannot be fetched, or
            hold NaN or infinity.
    """
    found = _find_files(config)
    parts = _from_files(*found) if found else _from_open_clip(config)
    _check_finite(parts.model, config=config)
    return Backbone(parts, config=config, device=device)


def _check_finite(model: nn.Module, *, config: BackboneConfig) -> None:
    for name, values in model.named_parameters():
        require(
            bool(values.isfinite().all()),
            f"the weights {config.pretrained} of {config.name} hold NaN or infinity, in {name}: every label would be "
            "NaN; fetch or train them again",
        )


def _find_files(config: BackboneConfig) -> tuple[str, str | None] | None:
    """Addresses of the architecture JSON and the weights (None: random); None if the config names no files."""
    if config.pretrained == "embedded":
        folder = Path(str(files("ecor") / "demo" / "weights"))
        known = sorted(path.stem for path in folder.glob("*.json"))
        require(config.name in known, f"no embedded model {config.name!r}; embedded are: {', '.join(known) or 'none'}")
        return str(folder / f"{config.name}.json"), str(folder / f"{config.name}.safetensors")
    if not config.name.endswith(".json"):
        return None
    require(filesystem.is_file(config.name), f"no model config at {config.name}")
    if config.pretrained == "random":
        return config.name, None
    weights = config.pretrained
    if weights is None:
        raise ValueError(f"pretrained must name the weights file that goes with {config.name}")
    require(filesystem.is_file(weights), f"no weights file at {weights}")
    return config.name, weights


def _from_files(architecture: str, weights: str | None) -> ClipParts:
    settings = json.loads(filesystem.read(architecture))
    model_cfg = settings.get("model_cfg", settings)
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(model_cfg)
    require(not missing, f"{architecture} is no open_clip model config: it lacks {', '.join(sorted(missing))}")
    model = build_random_clip(model_cfg)
    defaults = open_clip.transform.PreprocessCfg(size=model.visual.image_size)
    preprocess = open_clip.transform.merge_preprocess_dict(defaults, settings.get("preprocess_cfg", {}))
    set_model_preprocess_cfg(model, preprocess)
    if weights is not None:
        _load_weights(model, weights)
    return ClipParts(model=model, model_cfg=architecture_config(model_cfg), tokenizer=build_tokenizer(model_cfg))


def _load_weights(model: nn.Module, weights: str) -> None:
    with filesystem.local_file(weights) as path:
        try:
            load_checkpoint(model, str(path), strict=True, weights_only=True)
        except (RuntimeError, OSError, KeyError, SafetensorError, UnpicklingError) as error:
            raise ValueError(f"{weights} does not fit the architecture: {error}") from error


def _from_open_clip(config: BackboneConfig) -> ClipParts:
    is_hub = config.name.startswith(("hf-hub:", "local-dir:"))
    if not is_hub:
        _check_known(config)
    if config.pretrained == "random" and not is_hub:
        model_cfg = open_clip.get_model_config(config.name)
        model = build_random_clip(model_cfg)
        set_model_preprocess_cfg(model, vars(open_clip.transform.PreprocessCfg(size=model.visual.image_size)))
        return ClipParts(
            model=model, model_cfg=architecture_config(model_cfg), tokenizer=open_clip.get_tokenizer(config.name)
        )
    quick_gelu = not is_hub and needs_quick_gelu(config.name, tag=config.pretrained)
    try:
        with _local_weights(None if is_hub else config.pretrained) as pretrained:
            model = open_clip.create_model(
                config.name,
                pretrained=pretrained,
                weights_only=True,
                require_pretrained=True,
                force_quick_gelu=quick_gelu,
            )
        model_cfg = open_clip.factory.get_model_config(config.name)
        if quick_gelu:
            model_cfg = {**model_cfg, "quick_gelu": True}
        tokenizer = open_clip.get_tokenizer(config.name)
    except Exception as error:  # hubs raise many types; all mean that the weights are unavailable
        raise ValueError(
            f"could not open {config.name!r} with pretrained {config.pretrained!r}: {error}. Without a network, put "
            f"the weights on this machine and set pretrained to the path of the file"
        ) from error
    return ClipParts(model=model, model_cfg=architecture_config(model_cfg), tokenizer=tokenizer)


def needs_quick_gelu(name: str, *, tag: str | None) -> bool:
    """Whether the weights of a tag were trained with QuickGELU, and the model's own settings would build GELU.

    `ViT-B-32` with `openai` is such a pair: features of the wrong activation differ, and open_clip only warns. Such a
    model is built as open_clip's `ViT-B-32-quickgelu` is.
    """
    settings = open_clip.get_model_config(name)
    trained_with = open_clip.get_pretrained_cfg(name, tag or "").get("quick_gelu", False)
    return bool(trained_with) and not settings.get("quick_gelu", False)


def _local_weights(pretrained: str | None) -> AbstractContextManager[str | Path | None]:
    """Download weights of a store to a local file; tags and paths are passed through."""
    return filesystem.local_file(pretrained) if pretrained and "://" in pretrained else nullcontext(pretrained)


def _check_known(config: BackboneConfig) -> None:
    names = open_clip.list_models()
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=3)
        raise ValueError(
            f"unknown model {config.name!r}{': nearest are ' + ', '.join(near) if near else ''}; give an open_clip "
            f"name, a hub id (hf-hub:org/name) or the path of a model config (.json)"
        )
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    is_file = config.pretrained is not None and filesystem.is_file(config.pretrained)
    if config.pretrained not in (*tags, "random") and not is_file:
        raise ValueError(
            f"pretrained {config.pretrained!r} is neither a tag of {config.name} nor a file; tags: "
            f"{', '.join(tags) or 'none'}"
        )
