"""Load a frozen CLIP by name: from files, from a store, from this package, or from a model hub by open_clip."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

import torch

from ecor.clip.backbone import Backbone
from ecor.clip.construction import ClipParts, architecture_config, build_random_clip, build_tokenizer
from ecor.clip.open_clip_api import open_clip, set_model_preprocess_cfg
from ecor.clip.weights.architecture_files import read_architecture
from ecor.clip.weights.named_models import check_known, find_files
from ecor.clip.weights.tag_facts import AS_NAMED, facts_beside, file_facts, tag_facts
from ecor.clip.weights.weight_files import check_values, load_weights, shorten_error
from ecor.config.address_types import HUBS
from ecor.config.checks import require
from ecor.config.model import BackboneConfig
from ecor.storage import filesystem

_Part = TypeVar("_Part")
_SETTINGS_ERRORS = (TypeError, ValueError, KeyError, AttributeError, RuntimeError, AssertionError, ZeroDivisionError)
"""What open_clip raises for settings with an unknown name, a wrong type or sizes that do not fit each other."""


def load_backbone(config: BackboneConfig, *, device: str | torch.device = "cpu", digest: str | None = None) -> Backbone:
    """Open the CLIP that `config` names, frozen, on `device`.

    Weights come from a file (safetensors, or a checkpoint read without unpickling code; on a disk or in a store), an
    open_clip tag, a hub id, or this package (`embedded`). `pretrained="random"` gives untrained weights, the same each
    time, for tests and timing. Weights get the activation and the preprocessing that they were trained with.

    Args:
        config: which CLIP, and how to run it.
        device: that holds the weights.
        digest: of the backbone, if a record knows it. Records of earlier versions name files that were built as the
            name alone says; where this gives the digest, such a file is built so.

    Raises:
        ValueError: when the name or tag is unknown, a file is missing, is no weights or does not fit, nothing says what
            weights were trained with, or weights cannot be fetched, or hold NaN, infinity or mostly zeros.
    """
    config = config.with_absolute_paths()
    if config.compile:
        _check_compiler(torch.device(device))
    is_file = config.pretrained is not None and filesystem.is_file(config.pretrained)
    may_be_earlier = digest is not None and config.preprocess_of is None and is_file
    try:
        found = _open_backbone(config, device=device)
    except ValueError:
        if may_be_earlier and (earlier := _open_as_named(config, device=device, digest=digest)) is not None:
            return earlier
        raise
    if may_be_earlier and found.digest != digest:
        return _open_as_named(config, device=device, digest=digest) or found
    return found


def _open_as_named(config: BackboneConfig, *, device: str | torch.device, digest: str | None) -> Backbone | None:
    """The weights file built as the name alone says; None if that has another digest."""
    try:
        found = _open_backbone(replace(config, preprocess_of=AS_NAMED), device=device)
    except ValueError:
        return None
    return found if found.digest == digest else None


def _open_backbone(config: BackboneConfig, *, device: str | torch.device) -> Backbone:
    files_of = find_files(config)
    parts = _from_files(*files_of, config=config) if files_of else _from_open_clip(config)
    check_values(parts.model, name=f"the weights {config.pretrained} of {config.name}")
    return Backbone(parts, config=config, device=device)


def _check_compiler(device: torch.device) -> None:
    """Raise ValueError where `torch.compile` has no compiler: C++ for a CPU, C for a GPU's launchers."""
    asked, usual = (
        ("CXX", ("clang++",) if sys.platform == "darwin" else ("g++",))
        if device.type == "cpu"
        else ("CC", ("gcc", "clang", "cc"))
    )
    wanted = (os.environ[asked],) if os.environ.get(asked) else usual
    require(
        any(map(shutil.which, wanted)),
        f"--backbone.compile needs a compiler, and none of {', '.join(wanted)} is on this machine: install g++, set "
        f"{asked} to one, or leave --backbone.compile out",
    )


def _from_files(architecture: str, weights: str | None, *, config: BackboneConfig) -> ClipParts:
    found = read_architecture(architecture)
    model_cfg, preprocess = found.model_cfg, found.preprocess
    name = PurePosixPath(architecture).stem
    if weights is not None and preprocess is None and open_clip.list_pretrained_tags_by_model(name):
        return _from_weights(name, model_cfg, weights=weights, config=config)  # a copy of open_clip's own settings
    require(
        config.preprocess_of in (None, AS_NAMED),
        f"preprocess_of {config.preprocess_of}: {architecture} is no name of open_clip, so it has no tags: write the "
        "preprocessing into it, as `preprocess_cfg`",
    )
    is_open = weights is not None and preprocess is None and config.preprocess_of is None
    if is_open and (beside := facts_beside(str(weights), model_cfg=model_cfg)) is not None:
        is_quick = beside.quick_gelu or bool(model_cfg.get("quick_gelu", False))
        model_cfg, preprocess = _with_activation(model_cfg, quick_gelu=is_quick), beside.preprocess
    return _build_parts(model_cfg, preprocess=preprocess or {}, weights=weights, name=architecture)


def _from_weights(name: str, model_cfg: dict[str, Any], *, weights: str, config: BackboneConfig) -> ClipParts:
    """A model of open_clip's list with weights of a file, which does not say what they were trained with."""
    facts = file_facts(name, weights=weights, tag=config.preprocess_of, model_cfg=model_cfg)
    is_quick = facts.quick_gelu or bool(model_cfg.get("quick_gelu", False))
    model_cfg = _with_activation(model_cfg, quick_gelu=is_quick)
    return _build_parts(model_cfg, preprocess=facts.preprocess, weights=weights, name=name)


def _build_parts(
    model_cfg: dict[str, Any], *, preprocess: Mapping[str, Any], weights: str | None, name: str
) -> ClipParts:
    """Build a model; the tokenizer first, because it may be missing and is small."""
    model_cfg = architecture_config(model_cfg)
    text = model_cfg["text_cfg"]
    tokenizer = _open_text_part(lambda: build_tokenizer(model_cfg), of_hub=text.get("hf_tokenizer_name"), name=name)
    model = _open_text_part(lambda: build_random_clip(model_cfg), of_hub=text.get("hf_model_name"), name=name)
    defaults = open_clip.transform.PreprocessCfg(size=model.visual.image_size)
    set_model_preprocess_cfg(model, open_clip.transform.merge_preprocess_dict(defaults, dict(preprocess)))
    if weights is not None:
        with filesystem.local_file(weights) as path:
            load_weights(model, path, name=weights)
    return ClipParts(model=model, model_cfg=model_cfg, tokenizer=tokenizer)


def _open_text_part(open_part: Callable[[], _Part], *, of_hub: str | None, name: str) -> _Part:
    """Open what a text tower may read from a hub (`of_hub`): its tokenizer, and the settings of some towers."""
    try:
        return open_part()
    except Exception as error:  # hubs raise many types
        if of_hub is None and isinstance(error, _SETTINGS_ERRORS):
            raise ValueError(
                f"open_clip builds no model of the settings of {name}: {shorten_error(error)}: correct them"
            ) from error
        if of_hub is None:
            raise
        raise ValueError(
            f"the tokenizer of {name} comes from the Hugging Face hub ({of_hub}), and could not be opened "
            f"({shorten_error(error)}): connect to a network once, or copy the Hugging Face cache (HF_HOME) of a "
            f"machine that has it (`hf download {of_hub}`)"
        ) from error


def _from_open_clip(config: BackboneConfig) -> ClipParts:
    if config.name.startswith(HUBS):
        return _from_hub(config)
    tags = check_known(config)
    model_cfg = open_clip.get_model_config(config.name)
    if config.pretrained == "random":
        return _build_parts(model_cfg, preprocess={}, weights=None, name=config.name)
    if config.pretrained not in tags:
        assert config.pretrained is not None, "a tag or a file"
        return _from_weights(config.name, model_cfg, weights=config.pretrained, config=config)
    facts = tag_facts(config.name, config.pretrained)
    of_hub = model_cfg["text_cfg"].get("hf_tokenizer_name")
    tokenizer = _open_text_part(lambda: open_clip.get_tokenizer(config.name), of_hub=of_hub, name=config.name)
    model = _create_model(config, force_quick_gelu=facts.quick_gelu)
    model_cfg = architecture_config(_with_activation(model_cfg, quick_gelu=facts.quick_gelu))
    return ClipParts(model=model, model_cfg=model_cfg, tokenizer=tokenizer)


def _from_hub(config: BackboneConfig) -> ClipParts:
    """A hub id or a local folder, whose `open_clip_config.json` says all."""
    require(
        config.pretrained is None,
        f"{config.name} has weights of its own, and pretrained names {config.pretrained!r} too: pass "
        "--backbone.pretrained None",
    )
    model = _create_model(config)
    model_cfg = open_clip.factory.get_model_config(config.name)
    of_hub = model_cfg["text_cfg"].get("hf_tokenizer_name", "a folder")
    tokenizer = _open_text_part(lambda: open_clip.get_tokenizer(config.name), of_hub=of_hub, name=config.name)
    return ClipParts(model=model, model_cfg=architecture_config(model_cfg), tokenizer=tokenizer)


def _create_model(config: BackboneConfig, **options: bool) -> Any:
    try:
        return open_clip.create_model(
            config.name, pretrained=config.pretrained, weights_only=True, require_pretrained=True, **options
        )
    except Exception as error:  # hubs raise many types; all mean that the weights are unavailable
        raise ValueError(
            f"could not open {config.name!r} with pretrained {config.pretrained!r}: {shorten_error(error)}. Without a "
            f"network, put the weights on this machine and set pretrained to the path of the file"
        ) from error


def _with_activation(model_cfg: Mapping[str, Any], *, quick_gelu: bool) -> dict[str, Any]:
    """Settings that say QuickGELU where it is used; where they said otherwise, they say nothing, as open_clip's own."""
    if bool(model_cfg.get("quick_gelu", False)) == quick_gelu:
        return dict(model_cfg)
    rest = {key: value for key, value in model_cfg.items() if key != "quick_gelu"}
    return {**rest, "quick_gelu": True} if quick_gelu else rest
