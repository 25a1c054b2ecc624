"""Find what the name of a model stands for: files, an architecture of open_clip's list, or a model of a hub."""

import difflib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ecor.clip.open_clip_api import open_clip
from ecor.clip.weights.architecture_files import read_architecture
from ecor.config.address_types import HUBS
from ecor.config.checks import name_some, require
from ecor.config.model import BackboneConfig
from ecor.storage import filesystem


def find_files(config: BackboneConfig) -> tuple[str, str | None] | None:
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


def takes_visual_tokens(config: BackboneConfig) -> bool:
    """Whether the image tower is an open_clip ViT by its settings; where these cannot be read, it counts as one.

    No weights are looked at, and nothing is fetched: the machine that asks may have neither. Who loads the model says
    what is wrong with it.

    Raises:
        ValueError: for a file that is no architecture.
    """
    settings = _read_settings(config)
    if settings is None:
        return True
    vision = settings["vision_cfg"]
    return not vision.get("timm_model_name") and not isinstance(vision.get("layers"), list | tuple)


def _read_settings(config: BackboneConfig) -> Mapping[str, Any] | None:
    """open_clip's settings of the architecture; None for one of a hub, an unknown name, and a file that is not here."""
    if config.name.startswith(HUBS) or config.pretrained == "embedded":  # the embedded towers are ViTs
        return None
    if config.name.endswith(".json"):
        return read_architecture(config.name).model_cfg if filesystem.is_file(config.name) else None
    settings: Mapping[str, Any] | None = open_clip.get_model_config(config.name)
    return settings


def check_known(config: BackboneConfig) -> list[str]:
    """The tags of a name; ValueError if open_clip does not know the name, or `pretrained` is neither tag nor file."""
    names = open_clip.list_models()
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=3)
        raise ValueError(
            f"unknown model {config.name!r}{': nearest are ' + ', '.join(near) if near else ''}; give an open_clip "
            f"name, a hub id (hf-hub:org/name) or the path of a model config (.json)"
        )
    tags: list[str] = open_clip.list_pretrained_tags_by_model(config.name)
    is_file = config.pretrained is not None and filesystem.is_file(config.pretrained)
    if config.pretrained not in (*tags, "random") and not is_file:
        near = difflib.get_close_matches(config.pretrained or "", tags, n=8) or tags[:8]
        named = name_some([*near, *(tag for tag in tags if tag not in near)], most=len(near))
        raise ValueError(
            f"pretrained {config.pretrained!r} is neither a tag of {config.name} nor a file; tags: {named or 'none'}"
        )
    require(
        config.preprocess_of is None or config.pretrained not in (*tags, "random"),
        f"preprocess_of {config.preprocess_of} is for files of weights, and {config.pretrained!r} is none: leave it "
        "out",
    )
    return tags
