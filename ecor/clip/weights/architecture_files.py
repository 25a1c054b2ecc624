"""Read the JSON files that describe a model: an architecture, and the `open_clip_config.json` beside weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecor.config.checks import require
from ecor.storage import filesystem

_TOWERS = ("vision_cfg", "text_cfg")
_SIZES = ("image_size", "patch_size", "width", "layers", "context_length", "vocab_size", "timm_model_name")
"""Settings of towers in which two architectures are compared."""
_KNOWN = {"interpolation": ("bicubic", "bilinear"), "resize_mode": ("shortest", "longest", "squash")}
_PREPROCESS_KEYS = ("size", "mode", "mean", "std", "fill_color", *_KNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a file says of a model."""

    model_cfg: dict[str, Any]
    """open_clip's architecture settings."""
    preprocess: Mapping[str, Any] | None
    """open_clip's `preprocess_cfg`; None if the file has none."""


def read_architecture(place: str) -> Architecture:
    """Read an architecture in the form of open_clip's model configs, or of its `open_clip_config.json`.

    Raises:
        ValueError: if the file is no JSON, or not of this form; it names the file.
    """
    settings = read_settings(place)
    model_cfg = settings.get("model_cfg", settings)
    _require_object(model_cfg, f"{place}: model_cfg")
    missing = {"embed_dim", *_TOWERS} - set(model_cfg)
    require(not missing, f"{place} is no open_clip model config: it lacks {', '.join(sorted(missing))}")
    for tower in _TOWERS:
        _require_object(model_cfg[tower], f"{place}: {tower}")
    preprocess = settings.get("preprocess_cfg")
    if preprocess is not None:
        check_preprocess(preprocess, place=place)
    return Architecture(model_cfg=model_cfg, preprocess=preprocess)


def read_settings(place: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ValueError: if it holds something else. It says what, and names the file.
    """
    content = filesystem.read(place)
    start = content.lstrip()
    kinds = {b"": "empty", b"version https://git-lfs": "a Git LFS pointer: fetch it by `git lfs pull`"}
    kinds[b"<"] = "a web page: fetch it again, perhaps after a login"
    for head, what in kinds.items():
        require(not (start.startswith(head) if head else not start), f"{place} is {what}, not the settings of a model")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise ValueError(f"{place} is no JSON in UTF-8 ({error}): it must hold the settings of a model") from error
    _require_object(found, place)
    assert isinstance(found, dict)
    return found


def check_preprocess(values: Any, *, place: str) -> None:
    """Raise ValueError for a `preprocess_cfg` that open_clip would misread or pass over.

    Args:
        values: what the file says.
        place: of the file, for messages.
    """
    _require_object(values, f"{place}: preprocess_cfg")
    unknown = sorted(set(values) - set(_PREPROCESS_KEYS))
    require(not unknown, f"{place}: preprocess_cfg has no {unknown}; it has {', '.join(_PREPROCESS_KEYS)}")
    for name, lowest in (("mean", -1.0), ("std", 0.0)):
        if name in values:
            found = values[name]
            is_three = isinstance(found, list) and len(found) == 3 and all(_is_number(each) for each in found)
            require(
                is_three and all(lowest <= each <= 1 and (each or name == "mean") for each in found),
                f"{place}: {name} of preprocess_cfg must be three numbers for RGB values in [0, 1]"
                f"{', none of them 0' if name == 'std' else ''}, got {str(found)[:60]}",
            )
    for name, known in _KNOWN.items():
        require(
            values.get(name) in (None, *known),
            f"{place}: {name} of preprocess_cfg must be {' or '.join(known)}, got {str(values.get(name))[:60]!r}",
        )


def find_difference(model_cfg: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first size in which two architectures differ, as text with both values; None if they agree.

    A size that only one of them gives is not compared, except the tower's own name: without it, it is another one.
    """
    pairs = [("embed_dim", model_cfg.get("embed_dim"), other.get("embed_dim"))]
    for tower in _TOWERS:
        one, two = model_cfg.get(tower), other.get(tower)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            pairs += [(f"{tower}.{name}", one.get(name), two.get(name)) for name in _SIZES]
    for name, mine, theirs in pairs:
        is_name = name.endswith("timm_model_name")  # perhaps with a tag after a dot
        mine, theirs = [str(each).partition(".")[0] if is_name and each else each for each in (mine, theirs)]
        if mine != theirs and (is_name or None not in (mine, theirs)):
            return f"{name} {theirs or 'none'}, not {mine or 'none'}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_object(value: Any, what: str) -> None:
    require(isinstance(value, dict), f"{what} must be a JSON object, got {json.dumps(value)[:60]}")
